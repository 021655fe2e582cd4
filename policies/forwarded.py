"""The addresses that proxies note down: X-Forwarded-For, as everybody writes it, and Forwarded (RFC 7239).

Each proxy adds on the right whom it was asked by, so a line is read from the right, and no further than the proxies of
one's own reach: what stands left of them may be anybody's invention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from policies.tiers import Address, address_of

_MAX_HOPS: Final = 32
_MAX_NODE: Final = 64
_MAX_ELEMENT: Final = 1024
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_PAIR: Final = re.compile(rf"[ \t]*(?:({_WORD})=({_WORD}|{_QUOTED}))?[ \t]*(;|\Z)")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_PORT: Final = re.compile(r"[0-9]{0,5}|_[A-Za-z0-9._-]+")
"""RFC 7239, 6.3: a port may be hidden behind a name."""


def hops(header: str, line: str) -> Iterator[Address | None]:
    """The hops of a line, the last one first; None where one is hidden or cannot be read. `header` is its name."""
    nodes = _forwarded(line) if header.lower() == "forwarded" else _forwarded_for(line)
    return map(_node_address, islice(nodes, _MAX_HOPS))


def _forwarded_for(line: str) -> Iterator[str]:
    """The nodes of X-Forwarded-For, the last one first."""
    return (node.strip() for node in reversed(line.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]))


def _forwarded(line: str) -> Iterator[str]:
    """The `for` of the elements of Forwarded (RFC 7239), the last one first; empty where one says nothing of it.

    Read from the right, and an element as short as it can be, so that an unfinished quotation on the left, which a
    client may have written, cannot swallow what our own proxies have added.
    """
    end = len(line)
    while end >= 0:
        comma, node = end, None
        while node is None and comma >= 0:
            comma = line.rfind(",", 0, comma)
            if end - comma > _MAX_ELEMENT:
                break
            node = _for_of(line[comma + 1 : end])
        yield node or ""
        end = comma


def _for_of(element: str) -> str | None:
    """The `for` of one element, empty if it has none; None for what is no element."""
    found, place = "", 0
    while True:
        pair = _PAIR.match(element, place)
        if pair is None:
            return None
        name, value, end = pair.groups()
        if name is not None and name.lower() == "for":
            if found:
                return None
            found = _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        place = pair.end()
        if end != ";":
            return found


def _node_address(node: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]`, `[2001:db8::1]:4711`, or an IPv6 address without brackets."""
    if len(node) > _MAX_NODE:
        return None
    bracketed = node.startswith("[")
    if bracketed:
        host, closing, port = node[1:].partition("]")
        if not closing or ":" not in host or (port and not port.startswith(":")):
            return None
        port = port[1:]
    elif node.count(":") == 1:
        host, _, port = node.partition(":")
    else:
        host, port = node, ""
    return address_of(host) if _PORT.fullmatch(port) else None

"""Which header lines pass from one side to the other. Names and values are never touched, only lines left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from multidict import CIMultiDict

from policies import bybit
from proxy.errors import Malformed

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_UPSTREAM: Final = _HOP_BY_HOP | {"host", "content-length", "expect"}
"""Host names the upstream, the length is written anew from the same body, 100-continue is answered here."""
_FROM_PROXIES: Final = frozenset(
    {"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"}
)
_HOP_BY_HOP_BYTES: Final = frozenset(name.encode() for name in _HOP_BY_HOP)
_OF_ONE_ANSWER: Final = frozenset(
    {
        *(name.encode() for name in bybit.ENVELOPE_HEADERS),
        *b"age cache-status content-encoding content-length date etag expires ratelimit ratelimit-policy".split(),
        *b"server-timing set-cookie via x-cache x-request-id".split(),
    }
)
_OF_ONE_ANSWER_PREFIXES: Final = (b"x-bapi-", b"x-amz-", b"cf-", b"x-ratelimit-", b"x-gateway")
_LINES: Final = re.compile(rb"HTTP/1\.1 200 [^\r\n\0]*+\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: [^\r\n\0]*+\r\n)*+")
_OURS: Final = "x-gateway-"
"""Headers by which a client speaks to the gateway itself."""


def to_upstream(
    raw_headers: Iterable[tuple[bytes, bytes]], *, behind_proxy: bool, bearer: bool = False
) -> CIMultiDict[str]:
    """What the exchange gets: the client's lines in their order, repeated ones apart, nothing added.

    `behind_proxy`: the client is one of our own trusted proxies, whose notes about addresses are not the exchange's
    business. From any other client they are its own words and pass. `bearer`: Authorization spoke to us. Raises
    Malformed for bytes that aiohttp's client could not write again as they were.
    """
    pairs = [(name.decode("utf-8", "surrogateescape"), value) for name, value in raw_headers]
    named = _named_by_connection(pairs)
    spelling: dict[str, str] = {}
    passed: CIMultiDict[str] = CIMultiDict()
    for name, raw_value in pairs:
        lower = name.lower()
        if lower in _NOT_UPSTREAM or lower in named or lower.startswith(_OURS):
            continue
        if behind_proxy and lower in _FROM_PROXIES:
            continue
        if bearer and lower == "authorization":
            continue
        try:
            value = raw_value.decode()
        except UnicodeDecodeError:
            raise Malformed(400, "bad-header", f"the header {name} holds bytes that are not UTF-8") from None
        # aiohttp's client would let a second spelling of a name replace the line with the first.
        passed.add(spelling.setdefault(lower, name), value)
    return passed


def to_client(raw_headers: Iterable[tuple[bytes, bytes]], *, length_known: bool) -> list[tuple[bytes, bytes]]:
    """What the client gets of the exchange's lines: all but those that speak of the upstream connection.

    `length_known`: the upstream framed its body by Content-Length and so do we; otherwise a length would contradict
    the chunks that we write.
    """
    pairs = list(raw_headers)
    dropped = set(_HOP_BY_HOP_BYTES) if length_known else {*_HOP_BY_HOP_BYTES, b"content-length"}
    for name, value in pairs:
        if name.lower() == b"connection":
            dropped.update(token.strip().lower() for token in value.split(b",") if b"content-" not in token.lower())
    return [pair for pair in pairs if pair[0].lower() not in dropped]


def storable(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What may be said again to another client later: nothing that speaks of one answer, one client or one coding."""
    return [
        (name, value)
        for name, value in pairs
        if (lower := name.lower()) not in _OF_ONE_ANSWER and not lower.startswith(_OF_ONE_ANSWER_PREFIXES)
    ]


def believable(lines: bytes) -> bool:
    """Whether this is the head of a good answer, with such lines as storable() leaves and nothing beside."""
    if _LINES.fullmatch(lines) is None:
        return False
    names = [line.partition(b":")[0] for line in lines.split(b"\r\n")[1:-1]]
    kept = storable((name, b"") for name in names)
    return len(kept) == len(names) and not any(name.lower() in _HOP_BY_HOP_BYTES for name in names)


def fetch_for_all(passed: CIMultiDict[str]) -> None:
    """Leave out of a request to the exchange what is about one client's way to us, and tags of our own making: its
    answer is for everybody."""
    for name in {name for name in passed if name.lower() in _FROM_PROXIES or name.lower().startswith("x-forwarded-")}:
        passed.popall(name)
    passed.popall("If-None-Match", None)


def _named_by_connection(pairs: Iterable[tuple[str, bytes]]) -> set[str]:
    """Headers that the client declares to be for this hop only; never those that frame or sign the message."""
    named: set[str] = set()
    for name, value in pairs:
        if name.lower() == "connection" and value.lower() not in {b"keep-alive", b"close"}:
            named.update(token.strip().lower() for token in value.decode("latin-1").split(","))
    return {name for name in named if not name.startswith(("x-bapi-", "content-"))}

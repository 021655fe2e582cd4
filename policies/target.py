"""Which request targets may be forwarded at all.

The target of a request is forwarded byte for byte behind the configured upstream, so it must not be able to name
another host or mean two things to two parsers. Everything else passes, however odd: the exchange's signature covers
the query as it stands on the wire, and whether `%zz` or `[` is welcome there is the exchange's business.
"""

from __future__ import annotations

import re
from typing import Final

_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\#]|[^\x00-\x7f]")
_NAMES: Final = {"\\": "a backslash", "#": "a fragment (#)", " ": "a blank"}
_NETWORK_PATH: Final = re.compile(r"//+(?!/|v\d+(?:[/?]|$))")


def refusal(method: str, target: str) -> str | None:
    """Why this target is refused, in words for the client; None when it may be forwarded."""
    if method == "CONNECT":
        return "CONNECT is not offered here: this is a reverse proxy, use it as the base URL"
    if not target.startswith("/"):
        if target == "*":
            return "the target * names no resource"
        return "the target must begin with / (absolute-form and authority-form targets are not forwarded)"
    if target.startswith("//") and _NETWORK_PATH.match(target):
        return "the target begins with // and a name: it looks like another host"
    if (bad := _FORBIDDEN.search(target)) is not None:
        character = bad.group()
        name = _NAMES.get(character, f"the character U+{ord(character):04X}")
        return f"the target holds {name} at position {bad.start()}, which must be percent-encoded"
    return None


def split(target: str) -> tuple[str, str]:
    """(path, query) of a target, both raw; repeated leading slashes count as one.

    Several clients join a base URL that ends in / with /v5/...; they mean the endpoint behind one slash.
    """
    path, _, query = target.partition("?")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    return path, query

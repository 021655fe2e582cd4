"""The exchange's WebSocket streams by their paths, and what passes between a client and one of them.

https://bybit-exchange.github.io/docs/v5/ws/connect
"""

from __future__ import annotations

from typing import Final

_PUBLIC: Final = ("spot", "linear", "inverse", "option", "spread", "rfq")
STREAMS: Final = {
    **{f"/v5/public/{kind}": f"stream-{kind}" for kind in _PUBLIC},
    "/v5/public/misc/status": "stream-status",
    "/v5/private": "stream-private",
    "/v5/trade": "stream-trade",
}
"""Names for rules, metrics and logs, by path."""
UNLISTED: Final = "stream-other"
"""A stream of the exchange that this table does not know yet."""
_PREFIX: Final = "/v5/"

NORMAL, GOING_AWAY, INTERNAL = 1000, 1001, 1011
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})
"""Codes that stand for what happened without a word: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1"""


def endpoint_of(path: str) -> str | None:
    """None for what cannot be a stream of the exchange."""
    known = STREAMS.get(path)
    if known is not None:
        return known
    return UNLISTED if path.startswith(_PREFIX) else None


_WITHOUT: Final = 1005


def close_code(heard: int | None) -> int:
    """What one side is told when the other has closed with that code, or without any."""
    if heard in {None, 0, _WITHOUT}:  # aiohttp has 0 for a frame without a code
        return NORMAL
    sendable = 1000 <= heard < 1016 or 3000 <= heard < 5000
    return heard if sendable and heard not in _NEVER_SENT else INTERNAL

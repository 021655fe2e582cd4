"""The words of the exchange's public streams: where they are, what is said to them, what they answer.

https://bybit-exchange.github.io/docs/v5/ws/connect
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from policies import candles
from policies.segments import Series

CATEGORIES: Final = ("spot", "linear", "inverse")
"""Those with traded candles; options have none."""
ENDPOINT: Final = "kline"
"""The only line of candles that is streamed."""
PING: Final = '{"op":"ping"}'
"""A frame of the protocol's own would not count: streams were cut without this text."""
PING_EVERY_US: Final = 20_000_000
SPOT_ARGS: Final = 10
"""Of one request."""
CHARACTERS: Final = 21_000
"""Of all topics of a connection together."""
CONNECTIONS: Final = 500
CONNECTIONS_IN_US: Final = 300_000_000
"""So many new connections in so long a time, from one address."""

_SYMBOL: Final = 40


class Answer(NamedTuple):
    """What the exchange says to a request; a pong is one too."""

    success: bool
    req_id: str
    """As sent; empty where the exchange leaves it out."""
    is_pong: bool


def is_streamed(series: Series) -> bool:
    """Whether there is a topic of it, as far as can be told without asking."""
    return (
        series.endpoint == ENDPOINT
        and series.category in CATEGORIES
        and series.interval in candles.INTERVALS
        and 0 < len(series.symbol) <= _SYMBOL
        and series.symbol.isprintable()
    )


def path_of(category: str) -> str:
    return f"/v5/public/{category}"


def topic_of(series: Series) -> str:
    return f"kline.{series.interval}.{series.symbol}"


def request(op: str, topics: list[str], req_id: str) -> str:
    return json.dumps({"req_id": req_id, "op": op, "args": topics}, ensure_ascii=False, separators=(",", ":"))


def length_of(topic: str) -> int:
    """What a topic takes of a connection's characters: itself, its quotes and a comma."""
    return len(topic) + 3


def answer_of(message: object) -> Answer | None:
    """None for what answers nothing."""
    if not isinstance(message, dict) or "topic" in message:
        return None
    success, req_id, op = message.get("success"), message.get("req_id"), message.get("op")
    if not isinstance(success, bool):
        return None
    return Answer(success, req_id if isinstance(req_id, str) else "", op == "ping")

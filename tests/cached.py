"""Words for conversations with the cache: requests and answers as bytes, and what an answer says of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from proxy.app import App
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import Answer, Seen

CLOSED: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&start=1770000000000&end=1770000600000"
LATEST: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=5"
INFO: Final = "/v5/market/instruments-info?category=linear&symbol=BTCUSDT"

HIT: Final = "bybit-gateway; hit; ttl="
BYPASS: Final = "bybit-gateway; fwd=bypass"
REQUEST: Final = "bybit-gateway; fwd=request"
STORED: Final = "bybit-gateway; fwd=uri-miss; fwd-status=200; stored"
NOT_STORED: Final = "bybit-gateway; fwd=uri-miss; fwd-status=200"


def get(target: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: me", *lines, "", ""]).encode()


async def ask(app: App, target: str, *lines: str, method: str = "GET") -> RawAnswer:
    """On a connection of its own, with these header lines and no others."""
    return await exchange_bytes(app.port, get(target, *lines, method=method))


def status(answer: RawAnswer) -> str:
    return answer.get("Cache-Status") or ""


def was_hit(answer: RawAnswer) -> bool:
    return status(answer).startswith(HIT)


def detail(answer: RawAnswer) -> str:
    """Why it is not as usual; empty for a plain hit and whatever is none."""
    return status(answer).partition("; detail=")[2]


def ttl(answer: RawAnswer) -> int:
    return int(status(answer).removeprefix(HIT).partition(";")[0])


def raw(body: bytes, *lines: str, head: str = "200 OK") -> bytes:
    """An answer on the wire."""
    named = ["Content-Type: application/json; charset=utf-8", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join([f"HTTP/1.1 {head}", *named, "", ""]).encode("latin-1") + body


def envelope(result: Any, *, code: int = 0, now_ms: int = 1_790_000_000_000) -> bytes:
    whole = {"retCode": code, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now_ms}
    return json.dumps(whole, separators=(",", ":")).encode()


def candles(price: str = "1", *, count: int = 11, newest_ms: int = 1_770_000_600_000, **more: Any) -> bytes:
    """A page of BTCUSDT, linear, one minute each."""
    rows = [[str(newest_ms - 60_000 * number), *[price] * 6] for number in range(count)]
    return envelope({"symbol": "BTCUSDT", "category": "linear", "list": rows}, **more)


def unlike(body: bytes) -> bytes:
    """Without its stamp, by which two answers of the exchange always differ."""
    return body[: body.rindex(b'"time":')]


def turning(*answers: bytes) -> Answer:
    """These bytes in turn, and the last of them for ever."""
    left = list(answers)

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answer


def by_request(choose: Callable[[Seen], bytes]) -> Answer:
    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(choose(request))

    return answer

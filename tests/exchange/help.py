"""Hands for the tests: a clock that stands still, raw bytes in and out, an independent signature."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from tests.fake_bybit import FakeBybit

START_US = 1_700_000_000_000_000


@dataclass
class Clock:
    """Stands still until told otherwise; sleeping moves it on and returns at once."""

    now_us: int = START_US
    slept_us: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.slept_us.append(round(seconds * 1_000_000))
        self.now_us += self.slept_us[-1]


@dataclass(frozen=True)
class Seen:
    """An answer as it was on the wire."""

    status: int
    headers: list[tuple[str, str]]
    raw_body: bytes

    def get(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)

    @property
    def body(self) -> bytes:
        return gzip.decompress(self.raw_body) if self.get("Content-Encoding") == "gzip" else self.raw_body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ret_code(self) -> int:
        return int(self.json()["retCode"])


async def talk(port: int, data: bytes, context: ssl.SSLContext | None = None, source: str | None = None) -> bytes:
    """Send these bytes, read until the other side closes."""
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=local)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


async def ask(
    exchange: FakeBybit,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    source: str | None = None,
) -> Seen:
    """One request on a connection of its own, nothing added but Host, Connection and the length of a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: exchange", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
    return parse(await talk(exchange.port, head + body, source=source))


def parse(raw: bytes) -> Seen:
    """Split an answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = [(line.partition(": ")[0], line.partition(": ")[2]) for line in rest]
    return Seen(int(first.split(" ")[1]), pairs, body)


def signed(
    payload: bytes | str,
    *,
    at_ms: int = START_US // 1000,
    key: str = "test-key",
    secret: str = "test-secret",
    recv_window: str | None = "5000",
) -> dict[str, str]:
    """The headers of a signed request, computed here from bybit.md 2.1 and not by the fake's own code."""
    raw = payload.encode() if isinstance(payload, str) else payload
    origin = str(at_ms).encode() + key.encode() + (recv_window or "").encode() + raw
    made = {"X-BAPI-API-KEY": key, "X-BAPI-TIMESTAMP": str(at_ms)}
    made["X-BAPI-SIGN"] = hmac.digest(secret.encode(), origin, "sha256").hex()
    if recv_window is not None:
        made["X-BAPI-RECV-WINDOW"] = recv_window
    return made


async def ask_signed(exchange: FakeBybit, path: str, query: str = "", **how: Any) -> Seen:
    """A signed GET."""
    return await ask(exchange, "GET", f"{path}?{query}" if query else path, signed(query, **how))


async def post_signed(exchange: FakeBybit, path: str, value: Any, **how: Any) -> Seen:
    """A signed POST of a JSON value."""
    body = json.dumps(value).encode()
    return await ask(exchange, "POST", path, signed(body, **how), body)

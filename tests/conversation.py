"""A client of one gateway: what it asks, what it is told, and how long that took."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from proxy.app import App
from tests.fake_bybit import Entry, FakeBybit
from tests.gateway_fixture import url
from tests.signing import signed

TIME: Final = "/v5/market/time"
TICKERS: Final = "/v5/market/tickers?category=linear&symbol=BTCUSDT"
INFO: Final = "/v5/account/info"
CREATE: Final = "/v5/order/create"


@dataclass(frozen=True)
class Told:
    """An answer as its client saw it. Instants are epoch microseconds."""

    status: int
    headers: Any
    body: bytes
    asked_us: int
    told_us: int

    @property
    def gateway(self) -> str | None:
        """By which word the gateway has answered itself; None for an answer of the exchange or of the cache."""
        word = self.headers.get("X-Gateway")
        return None if word is None else str(word)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int | None:
        try:
            return int(self.json["retCode"])
        except (ValueError, KeyError, TypeError):
            return None


class Client:
    """One session. `headers` go with every request."""

    def __init__(self, session: aiohttp.ClientSession, app: App) -> None:
        self.app = app
        self._session = session

    async def get(self, target: str = TIME, **headers: str) -> Told:
        return await self.send("GET", target, headers=headers)

    async def get_signed(self, target: str = INFO, *, key: str = "test-key", secret: str = "test-secret") -> Told:
        return await self.send("GET", target, headers=signed(target.partition("?")[2], key=key, secret=secret))

    async def post(
        self,
        path: str,
        *,
        key: str = "test-key",
        secret: str = "test-secret",
        max_wait: str | None = None,
        **fields: Any,
    ) -> Told:
        body = json.dumps({"category": "linear", **fields}).encode()
        headers = signed(body, key=key, secret=secret)
        if max_wait is not None:
            headers["X-Gateway-Max-Wait"] = max_wait
        return await self.send("POST", path, headers=headers, data=body)

    async def create(self, link: str, **more: Any) -> Told:
        return await self.post(CREATE, **new(link), **more)

    async def send(self, method: str, target: str, *, headers: Any = None, data: bytes | None = None) -> Told:
        asked_us = now_us()
        async with self._session.request(method, url(self.app, target), headers=headers, data=data) as answer:
            body = await answer.read()
            return Told(answer.status, answer.headers, body, asked_us, now_us())

    async def metric(self, line: str) -> float:
        """The value of a line of the metrics page, as it stands now; 0 where it has none."""
        self.app.admin._metrics_pages.clear()  # a page that took long to write is given again for a while
        page = (await self.get("/metrics")).body.decode()
        return next((float(each.rpartition(" ")[2]) for each in page.splitlines() if each.startswith(f"{line} ")), 0.0)

    async def limits(self) -> dict[str, dict[str, Any]]:
        """Rows of the limits page by the names of their rules; the fullest of each."""
        rows = sorted((await self.get("/gateway/limits")).json["limits"], key=lambda row: row["percentage_used"])
        return {str(row["rule"]): row for row in rows}


def new(link: str, symbol: str = "BTCUSDT") -> dict[str, str]:
    """A limit order that rests."""
    return {
        "symbol": symbol,
        "side": "Buy",
        "orderType": "Limit",
        "qty": "0.01",
        "price": "1000",
        "orderLinkId": link,
    }


def new_session() -> aiohttp.ClientSession:
    """As many connections as it takes."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60))


def now_us() -> int:
    return time.time_ns() // 1000


def arrivals(exchange: FakeBybit, path: str, method: str | None = None) -> list[Entry]:
    """What has reached the exchange on a path, in its order."""
    return [
        entry
        for entry in exchange.record.entries
        if entry.target.partition("?")[0] == path and method in {None, entry.method}
    ]


async def until(holds: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    """Wait for a timer or a heartbeat of the gateway, bounded."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)  # bounded polling of what runs beside the test

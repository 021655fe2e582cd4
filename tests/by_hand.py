"""A gateway before the exchange in a box, both by a clock that the test moves: a candle ends when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from proxy.app import App
from tests.conversation import Client, Told, arrivals, new_session
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until

KLINE: Final = "/v5/market/kline"
MINUTE_MS: Final = 60_000
ENDED_S: Final = 0.02
"""So long after its end a candle has ended by everybody's clock."""


@dataclass
class Desk:
    """One gateway, one exchange, one client, one clock."""

    clock: HandClock
    exchange: FakeBybit
    app: App
    client: Client

    @property
    def now_ms(self) -> int:
        return self.clock.now_us // 1000

    @property
    def minute_ms(self) -> int:
        """When the running minute began."""
        return self.now_ms - self.now_ms % MINUTE_MS

    async def ask(self, symbol: str = "BTCUSDT", interval: str = "1", **more: Any) -> Told:
        """For candles of `linear`; `more` are parameters."""
        return await self.client.get(target(symbol, interval, **more))

    async def direct(self, symbol: str = "BTCUSDT", interval: str = "1", **more: Any) -> Any:
        """What the exchange itself says, as JSON; this request counts in asked(), too."""
        return await self.direct_to(target(symbol, interval, **more))

    async def direct_to(self, asked: str) -> Any:
        async with new_session() as session, session.get(self.exchange.url + asked) as told:
            return await told.json()

    def asked(self, path: str = KLINE) -> int:
        """How often the exchange was."""
        return len(arrivals(self.exchange, path))

    def counted(self, name: str, **labels: str) -> int:
        """Of the gateway's metrics."""
        return int(self.app.metrics.registry.get_sample_value(name, labels) or 0)

    def refreshed(self, result: str = "fetched") -> int:
        return self.counted("gateway_boundary_refreshes_total", result=result)

    async def to_the_next(self, minutes: int = 1, *, and_s: float = ENDED_S) -> None:
        """The clock is put a little past the next whole minutes, such as 5 for 12:35, 12:40, ..."""
        length_us = minutes * 60_000_000
        await self.clock.leap((length_us - self.clock.now_us % length_us) / 1e6 + and_s)

    async def settled(self) -> None:
        """What runs on real sockets has come to its end: nothing is under way any more."""
        await until(lambda: not len(self.app.tasks))
        await asyncio.sleep(0)


def target(symbol: str, interval: str = "1", *, path: str = KLINE, category: str = "linear", **more: Any) -> str:
    given = {"category": category, "symbol": symbol, "interval": interval, **more}
    return f"{path}?{'&'.join(f'{name}={value}' for name, value in given.items())}"


def rows(told: Told) -> list[list[str]]:
    found: list[list[str]] = told.json["result"]["list"]
    return found


def opens(told: Told) -> list[int]:
    """Newest first."""
    return [int(row[0]) for row in rows(told)]


def was_hit(told: Told) -> bool:
    return bool(told.headers["Cache-Status"].startswith("bybit-gateway; hit"))


@asynccontextmanager
async def desk(
    clock: HandClock | None = None, *, exchange: Settings | None = None, **overrides: Any
) -> AsyncIterator[Desk]:
    """`overrides` are fields of the configuration by their path. With candles.stream, the exchange's own streams."""
    clock = clock or HandClock()
    async with (
        FakeBybit(clock=clock, sleep=clock.sleep, settings=exchange) as box,
        beside(box, clock, **overrides) as made,
    ):
        yield made


@asynccontextmanager
async def beside(box: FakeBybit, clock: HandClock, **overrides: Any) -> AsyncIterator[Desk]:
    """One more gateway before an exchange that runs."""
    overrides.setdefault("upstream__stream_url", box.stream_url)
    async with (
        gateway(box.url, clock=clock, sleep=clock.sleep, **overrides) as app,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Desk(clock, box, app, Client(session, app))

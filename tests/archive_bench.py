"""An archive at work in front of a real PostgreSQL, and questions to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from policies.archive_schema import ArchiveSection
from policies.coverage import Ranges
from policies.segments import Series
from proxy.archive.archive import Archive
from proxy.archive.line import Line, Ward
from proxy.archive.migrate import migrations
from proxy.metrics import Metrics
from proxy.pulse import Pulse
from tests.postgres_server import SUPERUSER, PostgresServer

NOW_US = 1_800_000_000_000_000
MINUTE_MS = 60_000
FIRST_MS = 1_670_608_800_000
SERIES = Series("kline", "linear", "BTCUSDT", "1")
WRITING = "1652122228, 1"
"""The lock under which candles are written and deleted."""


def row(number: int, close: str = "17055.50") -> bytes:
    """The candle that opens `number` minutes after the first."""
    return b'["%d","17071","17073.00","17027","%s","268611","15.74462667"]' % (at(number), close.encode())


def at(number: int) -> int:
    return FIRST_MS + number * MINUTE_MS


def rows(low: int, high: int, close: str = "17055.50") -> list[bytes]:
    """Newest first, as the exchange sends them."""
    return [row(number, close) for number in reversed(range(low, high))]


def span(low: int, high: int) -> tuple[int, int]:
    return at(low), at(high)


class Bench:
    def __init__(self, url: str, **fields: Any) -> None:
        self.now_us = NOW_US
        self.metrics = Metrics()
        self.section = ArchiveSection.model_validate({"url": url, "flush": "5ms", "timeout": "5s", **fields})
        self.archive = Archive(self.section, lambda: self.now_us, self.metrics, sleep=_never)

    def offer(self, low: int, high: int, series: Series = SERIES, **options: Any) -> None:
        """The candles of these minutes, and that there are no others."""
        self.archive.offer(series, rows(low, high), span(low, high), **options)

    async def read(self, low: int, high: int, series: Series = SERIES) -> tuple[list[bytes], Ranges]:
        return await self.archive.read(series, *span(low, high))

    def count(self, result: str) -> int:
        return int(self.sample("bybit_db_stores_total", result))

    def reads(self, result: str) -> int:
        return int(self.sample("gateway_archive_reads_total", result))

    def sample(self, name: str, result: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0.0

    @property
    def waiting(self) -> int:
        value = self.metrics.registry.get_sample_value("backpressure_db_queue_size")
        assert value == self.archive.status()["waiting_rows"]
        return int(value)

    async def written(self) -> None:
        await until(lambda: self.waiting == 0, "all is written")

    async def line(self) -> Line:
        ward = Ward(Pulse(lambda: self.now_us), self.metrics, self.section.timeout, lambda: None)
        return await Line.open(self.section, migrations(), ward)


@asynccontextmanager
async def running(url: str, **fields: Any) -> AsyncIterator[Bench]:
    bench = Bench(url, **fields)
    bench.archive.start()
    try:
        yield bench
    finally:
        await bench.archive.stop(1.0)


@asynccontextmanager
async def session(postgres: PostgresServer, database: str) -> AsyncIterator[Any]:
    """A connection of the test's own, past the gateway."""
    connection = await asyncpg.connect(postgres.url(database, SUPERUSER))
    try:
        yield connection
    finally:
        await connection.close()


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 20.0) -> None:
    """Ask until it holds: what another process does sets no Event."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = holds()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


def opens(candles: Iterable[bytes]) -> set[int]:
    return {int(candle.split(b'"')[1]) for candle in candles}


async def _never(_: float) -> None:
    """So that nothing is deleted but by the test."""
    await asyncio.Event().wait()

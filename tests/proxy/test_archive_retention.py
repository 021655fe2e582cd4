"""What has become too old is deleted a little at a time, and coverage never tells of what is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.archive.line import Lost
from proxy.archive.retention import Retention
from tests.archive_bench import MINUTE_MS, NOW_US, SERIES, Bench, at, opens, rows, running, session, span, until
from tests.postgres_server import PostgresServer, needs_postgres
from tests.virtual import VirtualLoop, run_virtually

DAY_MINUTES = 1_440
TODAY = (NOW_US // 1000 - at(0)) // MINUTE_MS
"""The number of the minute that it is."""
EDGE = TODAY - DAY_MINUTES
"""The first candle of a retention of a day: it opened a day ago."""


def retention(bench: Bench, at_most: int = 40) -> Retention:
    return Retention(bench.archive._connect, bench.archive.oldest_ms, _at_once, at_most=at_most)


async def _at_once(_: float) -> None:
    await asyncio.sleep(0)


@needs_postgres
async def test_old_candles_go_and_coverage_with_them(postgres: PostgresServer, database: str) -> None:
    """Of every series, in however many steps."""
    others = [SERIES._replace(symbol=f"S{number}") for number in range(5)]
    async with running(postgres.url(database)) as bench:
        for series in (SERIES, *others):
            bench.offer(EDGE - 100, EDGE + 100, series)
        bench.offer(EDGE - 1000, EDGE - 900)
        only_old = SERIES._replace(symbol="OLD")
        bench.archive.offer(only_old, [], span(EDGE - 1000, EDGE - 10))
        await bench.written()

        keeper = Bench(postgres.url(database), retention="1d")
        assert await retention(keeper).trim() == 6 * 100 + 100

        for series in (SERIES, *others):
            known, covered = await bench.read(EDGE - 2000, EDGE + 200, series)
            assert known == rows(EDGE, EDGE + 100)
            assert covered == (span(EDGE, EDGE + 100),)
        assert await bench.read(EDGE - 2000, EDGE + 200, only_old) == ([], ())
        assert await retention(keeper).trim() == 0
    async with session(postgres, database) as sql:
        left = await sql.fetch("SELECT symbol FROM bybit_kline_coverage ORDER BY symbol")
        assert [each["symbol"] for each in left] == sorted(series.symbol for series in (SERIES, *others))


@needs_postgres
async def test_what_is_too_old_already_is_not_archived(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database), retention="1d") as bench:
        bench.offer(EDGE - 50, EDGE + 50)
        bench.offer(EDGE - 100, EDGE - 50)
        bench.archive.offer(SERIES, rows(EDGE - 10, EDGE + 1, "2.00"), span(EDGE - 10, EDGE + 1), revised=True)
        await bench.written()

        known, covered = await bench.read(EDGE - 200, EDGE + 200)
        assert known == [*rows(EDGE + 1, EDGE + 50), *rows(EDGE, EDGE + 1, "2.00")]
        assert covered == (span(EDGE, EDGE + 50),)
        assert (bench.count("stored"), bench.count("revised"), bench.count("expired")) == (50, 1, 110)


@needs_postgres
async def test_only_one_gateway_deletes_at_a_time(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench, session(postgres, database) as sql:
        bench.offer(EDGE - 100, EDGE)
        await bench.written()
        keeper = Bench(postgres.url(database), retention="1d")
        await sql.execute("SELECT pg_advisory_lock(1652122228, 3)")
        assert await retention(keeper).trim() == 0
        await sql.execute("SELECT pg_advisory_unlock(1652122228, 3)")
        assert await retention(keeper).trim() == 100
        assert await retention(keeper).trim() == 0
        await until(lambda: _nobody_deletes(sql), "its connection is closed")


@needs_postgres
async def test_coverage_holds_while_some_write_what_others_delete(postgres: PostgresServer, database: str) -> None:
    """Gateways that disagree on the retention: every minute that is said to be known can be read."""
    url = postgres.url(database)
    keeper = Bench(url, retention="1d")
    low, high = EDGE - 60, EDGE + 5
    async with running(url, batch=20) as one, running(url, batch=30) as other:
        one.offer(low, high)
        await one.written()

        async def write(bench: Bench) -> None:
            for start in [*range(low, high - 10, 3)] * 2:
                bench.offer(start, start + 10)
                await bench.written()

        async def delete() -> None:
            for _ in range(20):
                await retention(keeper, at_most=7).trim()

        async def look() -> None:
            for _ in range(100):
                known, covered = await one.read(low, high)
                claimed = {open_ms for start, end in covered for open_ms in range(start, end) if open_ms in minutes}
                assert claimed <= opens(known)

        minutes = {at(number) for number in range(low, high)}
        async with asyncio.TaskGroup() as group:
            for work in (write(one), write(other), delete(), look()):
                group.create_task(work)
        assert one.reads("failed") == one.reads("skipped") == 0


@needs_postgres
async def test_a_lost_database_ends_the_deleting_and_not_the_gateway(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database), retention="1d") as bench:
        bench.offer(EDGE, EDGE + 10)
        await bench.written()
        await asyncio.to_thread(postgres.kill)
        with pytest.raises(Lost):
            await retention(bench).trim()
        await asyncio.to_thread(postgres.start)
        assert await retention(bench).trim() == 0


def test_it_begins_after_a_minute_and_comes_every_hour_even_after_a_failure() -> None:
    async def passes(loop: VirtualLoop) -> list[float]:
        tried: list[float] = []

        async def refused() -> Any:
            tried.append(loop.time())
            raise Lost("unreachable")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * 3_600):
                await Retention(refused, lambda: 0, asyncio.sleep).run()
        return tried

    assert run_virtually(passes) == [60, 3_660, 7_260]


async def _nobody_deletes(sql: Any) -> bool:
    return bool(await sql.fetchval("SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 3"))

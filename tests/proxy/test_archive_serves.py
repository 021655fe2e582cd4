"""The archive as the gateway uses it: every closed candle that was fetched lands there once, a gateway that has just
started answers from it, and clients feel nothing of a database that is lost."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import pytest

from policies import candles as calendar
from tests.archive_bench import session
from tests.archive_bench import until as until_true
from tests.by_hand import MINUTE_MS, Desk, beside, desk, rows, target, was_hit
from tests.conversation import Told
from tests.fake_bybit import Settings
from tests.hand_clock import HandClock
from tests.postgres_server import PostgresServer, needs_postgres
from tests.proxy.test_candle_streams import listened, streamed

pytestmark = needs_postgres
SETTLE_MS: Final = 5_000
FIRST_MS: Final = 1_790_400_000_000
"""Two days and more before the tests' clock begins; a thousand minutes from there are no segment."""


@pytest.fixture
def archived(postgres: PostgresServer, database: str) -> dict[str, str]:
    """What a gateway is configured with. On a busy machine an answer may take its time."""
    return {"archive__url": postgres.url(database), "archive__flush": "5ms", "archive__timeout": "5s"}


async def landed(here: Desk) -> None:
    """All that was fetched is in the database."""
    await here.settled()
    archive = here.app.caches.archive
    assert archive is not None
    await until_true(lambda: archive.status()["waiting_rows"] == 0, "all is written")


def stored(here: Desk, result: str = "stored") -> int:
    return here.counted("bybit_db_stores_total", result=result)


def looked_up(here: Desk) -> int:
    return sum(
        here.counted("gateway_archive_reads_total", result=result)
        for result in ("whole", "part", "nothing", "failed", "skipped")
    )


async def kept(postgres: PostgresServer, database: str) -> dict[tuple[str, str, str, str, int], list[str]]:
    """Every row of the table: (category, kind, symbol, interval, open time) and the candle."""
    async with session(postgres, database) as sql:
        found = await sql.fetch(
            "SELECT category, kind, symbol, interval, open_time, open, high, low, close, volume, turnover "
            "FROM bybit_kline_audit"
        )
    return {tuple(row)[:5]: [str(value) for value in tuple(row)[4:] if value is not None] for row in found}


# Every closed candle lands once


@pytest.mark.parametrize("odd", [False, True])
async def test_every_closed_candle_that_was_fetched_lands_once(
    postgres: PostgresServer, database: str, archived: dict[str, str], odd: bool
) -> None:
    """Whatever was asked for, while candles end: all rows that had settled when they were told, each as the exchange
    wrote it, and no other; most of them are not even offered twice. `odd`: shapes among them that are not kept row by
    row."""
    draw = random.Random(5)
    given: dict[tuple[str, str, str, str, int], list[str]] = {}
    async with desk(**archived) as here:
        for _ in range(120):
            asked = _drawn(draw, here.now_ms, odd=odd)
            _note(asked, await here.client.get(asked), here.now_ms, given)
            await here.clock.leap(draw.choice([0.1, 2, 6, 30, 61]))
            await here.settled()
        await landed(here)
        found = await kept(postgres, database)
        sizes = (len(found), stored(here), stored(here, "duplicate"), stored(here, "revised"))
        for place in draw.sample(sorted(found), 40):
            category, kind, symbol, interval, open_ms = place
            asked = target(symbol, interval, path=f"/v5/market/{kind}", category=category, start=open_ms, limit=1)
            assert (await here.direct_to(asked))["result"]["list"] == [found[place]]

    assert sizes == (len(found), len(found), sizes[2] if odd else 0, 0)
    assert len(given) > 1_000
    assert {place: found.get(place) for place in given} == given


async def test_shapes_that_are_not_kept_row_by_row_are_archived_too(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    """A start within a candle is the exchange's to answer. What it tells of closed candles is as good as any; that
    there are no others is not claimed."""
    async with desk(**archived) as here:
        await here.ask(start=here.minute_ms - 10 * MINUTE_MS + 1)
        await landed(here)
        found = await kept(postgres, database)
        async with session(postgres, database) as sql:
            covered = await sql.fetchval("SELECT count(*) FROM bybit_kline_coverage")

        assert sorted(place[4] for place in found) == [here.minute_ms - back * MINUTE_MS for back in range(10, 0, -1)]
        assert covered == 0


async def test_without_the_candle_store_they_are_archived_all_the_same(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    async with desk(candles__enabled="false", **archived) as here:
        await here.ask(limit=10)
        await landed(here)

    assert len(await kept(postgres, database)) == 9


async def test_a_history_too_long_to_be_remembered_is_archived_all_the_same(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    """Pages of it pass by the caches, so that they are not flushed; not by the archive."""
    slots = 21_500
    async with desk(**archived) as here:
        start_ms = here.minute_ms - slots * MINUTE_MS
        page = f"/api/v1/marketdata/klines/BTCUSDT?interval=1&start={start_ms}&end={here.minute_ms - 1}&format=ndjson"
        told = await here.client.get(page)
        await landed(here)
        known = here.app.caches.candles
        assert known is not None

        assert told.body.count(b"\n") == slots
        assert len(await kept(postgres, database)) == slots
        assert known.size_bytes < 2_000_000


async def test_what_the_stream_confirms_lands_at_once(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    async with streamed(**archived) as here:
        place, asked = ("linear", "kline", "BTCUSDT", "1", here.minute_ms), here.asked()
        await listened(here, 60 - here.now_ms % MINUTE_MS / 1000 + 0.001)
        await landed(here)
        assert here.asked() == asked
        direct = await here.direct(start=place[4], limit=1)

        assert (await kept(postgres, database))[place] == direct["result"]["list"][0]
        assert stored(here, "duplicate") == 0


async def test_a_row_that_the_exchange_has_changed_is_replaced(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    """It was told five seconds after its end, and changed for twenty."""
    async with desk(exchange=Settings(kline_settle_ms=20_000), **archived) as here:
        await here.to_the_next()
        await here.clock.leap(5.5)
        await here.ask(limit=3)
        await landed(here)
        place = ("linear", "kline", "BTCUSDT", "1", here.minute_ms - MINUTE_MS)
        early = (await kept(postgres, database))[place]
        await here.clock.leap(20)
        await here.ask(limit=3)
        await landed(here)
        found = await kept(postgres, database)
        direct = await here.direct(start=place[4], limit=1)

        assert early != found[place] == direct["result"]["list"][0]
        assert stored(here, "revised") == 1


# A cold start


async def test_a_gateway_that_has_just_started_serves_ranges_from_the_archive(archived: dict[str, str]) -> None:
    """After the exchange's first answer about the series it is not asked for what another gateway has fetched."""
    clock = HandClock()
    async with desk(clock, **archived) as one:
        for page in range(3):
            await one.ask(start=FIRST_MS + page * 1_000 * MINUTE_MS, limit=1000)
        await landed(one)
        async with beside(one.exchange, clock, **archived) as cold:
            await cold.ask(limit=1)
            before = one.asked()
            asked: list[dict[str, Any]] = [
                {"start": FIRST_MS, "end": FIRST_MS + 999 * MINUTE_MS, "limit": 1000},
                {"start": FIRST_MS + 1_500 * MINUTE_MS, "end": FIRST_MS + 1_700 * MINUTE_MS},
                {"end": FIRST_MS + 2_999 * MINUTE_MS, "limit": 1000},
                {"end": FIRST_MS + 2_000 * MINUTE_MS + 1, "limit": 777},
                {"start": FIRST_MS + 700 * MINUTE_MS, "limit": 1000},
            ]
            told = [await cold.ask(**each) for each in asked]
            assert one.asked() == before
            assert all(was_hit(each) for each in told)
            for each, question in zip(told, asked, strict=True):
                assert rows(each) == (await one.direct(**question))["result"]["list"]
            again = looked_up(cold)
            await cold.ask(start=FIRST_MS + 1_200 * MINUTE_MS, end=FIRST_MS + 1_300 * MINUTE_MS)
            assert looked_up(cold) == again, "it is in memory now"


async def test_what_the_archive_lacks_is_fetched(archived: dict[str, str]) -> None:
    """Half of the range is there. The answer is whole, and the next gateway finds all of it."""
    clock = HandClock()
    question = {"start": FIRST_MS, "end": FIRST_MS + 599 * MINUTE_MS, "limit": 1000}
    async with desk(clock, **archived) as one:
        await one.ask(start=FIRST_MS, limit=300)
        await landed(one)
        async with beside(one.exchange, clock, **archived) as cold:
            await cold.ask(limit=1)
            before = one.asked()
            told = await cold.ask(**question)
            await landed(cold)
            assert one.asked() == before + 1
            assert rows(told) == (await one.direct(**question))["result"]["list"]
            assert stored(cold, "duplicate") == 0
        async with beside(one.exchange, clock, **archived) as third:
            await third.ask(limit=1)
            before = one.asked()
            assert rows(await third.ask(**question)) == rows(told)
            assert one.asked() == before


async def test_the_newest_candles_are_not_looked_for_in_the_archive(archived: dict[str, str]) -> None:
    """The running one is not there, so the exchange is asked anyway: no answer waits for the database."""
    async with desk(**archived) as here:
        for limit in (1, 200, 1000, 3):
            await here.ask(limit=limit)
            await here.clock.leap(4)
        for _ in range(2):
            await here.to_the_next()
            await here.clock.leap(1)
            await here.settled()
            await here.ask(limit=200)
        await landed(here)

        assert here.refreshed() == 2
        assert looked_up(here) == 0


async def test_an_archive_that_does_not_serve_is_only_written(archived: dict[str, str]) -> None:
    clock = HandClock()
    question = {"start": FIRST_MS, "limit": 100}
    async with desk(clock, **archived) as one:
        await one.ask(**question)
        await landed(one)
        async with beside(one.exchange, clock, archive__serve="false", **archived) as cold:
            await cold.ask(limit=1)
            before = one.asked()
            await cold.ask(**question)
            await landed(cold)

            assert one.asked() == before + 1
            assert (looked_up(cold), stored(cold, "duplicate")) == (0, 100)


async def test_rows_that_no_exchange_writes_are_not_served(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    """Somebody has put a candle there by hand, which opens within another."""
    clock = HandClock()
    question = {"start": FIRST_MS, "limit": 100}
    async with desk(clock, **archived) as one:
        direct = await one.ask(**question)
        await landed(one)
        async with session(postgres, database) as sql:
            await sql.execute(
                "INSERT INTO bybit_kline_audit (category, symbol, interval, open_time, open, high, low, close, volume, "
                "turnover) VALUES ('linear', 'BTCUSDT', '1', $1, '1', '1', '1', '1', '1', '1')",
                FIRST_MS + 30_000,
            )
        async with beside(one.exchange, clock, **archived) as cold:
            await cold.ask(limit=1)
            before = one.asked()
            assert rows(await cold.ask(**question)) == rows(direct)
            assert one.asked() == before + 1


# A lost database


async def test_a_lost_database_is_not_felt_and_what_waited_is_written_when_it_is_back(
    postgres: PostgresServer, database: str, archived: dict[str, str]
) -> None:
    """Every answer as ever, and as fast as `timeout` at worst, once."""
    clock = HandClock()
    async with desk(clock, **(archived | {"archive__timeout": "50ms"})) as here:
        await here.ask(start=FIRST_MS, limit=50)
        await landed(here)
        await asyncio.to_thread(postgres.kill)
        try:
            asked: list[dict[str, Any]] = [
                {"limit": 5},
                {"start": FIRST_MS + 10 * MINUTE_MS, "end": FIRST_MS + 40 * MINUTE_MS},
                *({"start": FIRST_MS + page * 100 * MINUTE_MS, "limit": 100} for page in range(1, 6)),
            ]
            for question in asked:
                told = await here.ask(**question)
                assert told.status == 200
                assert rows(told) == (await here.direct(**question))["result"]["list"]
                await clock.leap(1)
            ready, health = await here.client.get("/health/ready"), await here.client.get("/health")
            waiting = here.app.caches.archive.status()["waiting_rows"]
        finally:
            await asyncio.to_thread(postgres.start)
        assert ready.status == 200
        assert health.json["archive"]["connected"] is False
        assert waiting == 4 + 500
        await landed(here)

        assert len(await kept(postgres, database)) == stored(here) == 50 + 4 + 500
        assert stored(here, "dropped") == 0


def _drawn(draw: random.Random, now_ms: int, *, odd: bool) -> str:
    kind = draw.choice(["kline", "kline", "mark-price-kline", "index-price-kline"])
    interval = draw.choice(["1", "5", "60", "D", "M"])
    given: dict[str, Any] = {"limit": draw.choice([3, 50, 200])}
    step_ms = {"1": 60_000, "5": 300_000, "60": 3_600_000}.get(interval, 86_400_000)
    at_ms = calendar.open_of(interval, now_ms - draw.randrange(300) * step_ms)
    match draw.choice(["latest", "end", "start", "odd start" if odd else "start", "range"]):
        case "end":
            given["end"] = at_ms
        case "start":
            given["start"] = at_ms
        case "odd start":
            given["start"] = at_ms + 1
        case "range":
            given |= {"start": calendar.open_of(interval, at_ms - 20 * step_ms), "end": at_ms}
    return target(draw.choice(["BTCUSDT", "GAPUSDT"]), interval, path=f"/v5/market/{kind}", **given)


def _note(target_: str, told: Told, now_ms: int, given: dict[tuple[str, str, str, str, int], list[str]]) -> None:
    """The rows of an answer of the exchange that will not change any more."""
    if was_hit(told):
        return
    path, _, query = target_.partition("?")
    asked = dict(pair.split("=") for pair in query.split("&"))
    for row in rows(told):
        if calendar.settled(asked["interval"], int(row[0]), SETTLE_MS, now_ms):
            place = (
                asked["category"],
                path.removeprefix("/v5/market/"),
                asked["symbol"],
                asked["interval"],
                int(row[0]),
            )
            given[place] = row

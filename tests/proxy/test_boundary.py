"""When a candle ends, series that are asked for are fetched once, before everybody asks; and only those, and only where
there is plenty of room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.by_hand import MINUTE_MS, Desk, beside, desk, opens, target, was_hit
from tests.conversation import TICKERS
from tests.fake_bybit import Settings
from tests.hand_clock import HandClock, until
from tests.redis_servers import needs_redis, redis_server


async def test_a_series_is_fetched_once_when_its_candle_ends() -> None:
    """Who asks then finds the candle that has just begun, and the exchange is not asked for it again."""
    async with desk() as here:
        await here.ask(limit=5)
        await here.to_the_next()
        await until(lambda: here.refreshed() == 1)
        asked = here.asked()
        told = [await here.ask(limit=limit) for limit in (5, 3, 1)]

        assert asked == 2
        assert [opens(each)[0] for each in told] == [here.minute_ms] * 3
        assert [len(opens(each)) for each in told] == [5, 3, 1]
        assert all(was_hit(each) for each in told)
        assert here.asked() == 2


async def test_who_asks_while_it_is_fetched_waits_for_the_same_answer() -> None:
    """Twenty bots, with different limits, wake up with the candle's end: one request."""
    async with desk() as here:
        await here.ask(limit=200)
        rule = here.exchange.faults.add({"kind": "delay", "delay_us": 300_000})
        await here.to_the_next()
        await until(lambda: rule.fired == 1)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(here.ask(limit=10 * (1 + number % 20))) for number in range(20)]
            await until(lambda: here.counted("gateway_collapsed_requests_total", endpoint="kline") == 20)
            await here.clock.leap(0.3)

        assert here.asked() == 2
        assert {opens(each.result())[0] for each in asked} == {here.minute_ms}
        assert {each.result().headers["Cache-Status"] for each in asked} == {"bybit-gateway; fwd=partial; collapsed"}
        assert here.refreshed() == 1


async def test_where_somebody_was_faster_nothing_is_fetched() -> None:
    """Even where his answer is too old by now to be given again: who asks next sees to that himself."""
    async with desk(candles__boundary={"spread": "20s"}) as here:
        await here.ask("ETHUSDT")
        await here.ask("BTCUSDT")
        await here.to_the_next(and_s=0.005)  # before the gateway wakes up
        for symbol in ("ETHUSDT", "BTCUSDT"):
            await here.ask(symbol)
        for _ in range(2):
            await here.clock.leap(10.1)
            await here.settled()

        assert here.refreshed("not-needed") == 2
        assert here.asked() == 4


async def test_each_series_has_its_own_end() -> None:
    """12:35 is the end of a minute and of five, not of an hour."""
    async with desk() as here:
        for interval in ("1", "5", "60"):
            await here.ask(interval=interval)
        await here.to_the_next(5)
        await here.clock.leap(1)
        await until(lambda: here.refreshed() == 2)
        fetched = {entry.target.partition("interval=")[2].partition("&")[0] for entry in _since(here, 3)}

        assert fetched == {"1", "5"}


async def test_what_nobody_asks_for_any_more_is_left_alone_and_forgotten() -> None:
    """Once for the candle in which it was asked for, never again; then the gateway does not even wake up."""
    async with desk() as here:
        await here.ask("BTCUSDT", "1")
        await here.ask("ETHUSDT", "1")
        await here.to_the_next()
        await here.clock.leap(1)
        await until(lambda: here.refreshed() == 2)
        await here.ask("ETHUSDT", "1")
        for _ in range(3):
            await here.to_the_next()
            await here.clock.leap(1)
            await here.settled()

        assert [entry.target.count("ETHUSDT") for entry in _since(here, 4)] == [1]
        assert here.refreshed() == 3
        assert here.clock.due_s is None


async def test_a_gateway_that_is_not_asked_for_candles_sleeps() -> None:
    async with desk() as here:
        await here.client.get(TICKERS)
        await here.ask(start=1_700_000_040_000, end=1_700_000_100_000)  # the past is not refreshed

        assert here.clock.due_s is None
        assert not here.refreshed()


@needs_redis
async def test_what_gateways_fetch_by_themselves_is_nobodys_wish() -> None:
    """The second finds in Redis what the first has fetched. Neither keeps the series alive for the other."""
    clock, later = HandClock(), HandClock()
    with redis_server() as redis:
        async with (
            desk(clock, cache__l2__url=redis.url) as one,
            beside(one.exchange, later, cache__l2__url=redis.url) as two,
        ):
            for here in (one, two):
                await here.ask()
            before = one.asked()
            for _ in range(4):
                for here in (one, two):
                    await here.to_the_next()
                    await here.settled()
                    await until(lambda here=here: not _queued(here))  # written to Redis

        assert (one.refreshed(), one.refreshed("not-needed")) == (1, 0)
        assert (two.refreshed(), two.refreshed("not-needed")) == (0, 1)
        assert one.asked() == before + 1


@needs_redis
async def test_gateways_that_share_a_redis_share_the_work() -> None:
    """Each begins in another place, and finds what the other has fetched meanwhile: one request for each series."""
    clock = HandClock()
    shared = {"candles__boundary__spread": "1s", "cache__l2__timeout": "1s"}
    with redis_server() as redis:
        async with (
            desk(clock, cache__l2__url=redis.url, **shared) as one,
            beside(one.exchange, clock, cache__l2__url=redis.url, **shared) as two,
        ):
            two.app.caches.boundary._chance = lambda: 500_000
            one.app.caches.boundary._chance = lambda: 0
            for number in range(10):
                for here in (one, two):
                    await here.ask(f"ALT{number:03d}USDT")
            before = one.asked()
            await one.to_the_next()
            for _ in range(100):
                for here in (one, two):
                    await here.settled()
                    await until(lambda here=here: not _queued(here))
                await clock.leap(0.01)

        assert one.asked() - before == 10
        for here in (one, two):
            assert (here.refreshed(), here.refreshed("not-needed")) == (5, 5)


async def test_the_fetches_are_spread() -> None:
    """Ten series over one second: room for others in between."""
    symbols = [f"ALT{number:03d}USDT" for number in range(10)]
    async with desk(candles__boundary__spread="1s") as here:
        for symbol in symbols:
            await here.ask(symbol)
        await here.to_the_next()
        seen = []
        for _ in range(12):
            await here.settled()
            seen.append(here.asked() - 10)
            for _ in range(10):
                await here.clock.leap(0.01)

        assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]


async def test_nothing_is_fetched_ahead_while_the_budget_is_in_use() -> None:
    """From `below` percent on, for each series by itself: when there is room again, the others are fetched."""
    limits = [{"name": "bybit-ip", "quota": "10/5s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}]
    async with desk(limits=limits, candles__boundary={"spread": "12s", "below": 50}) as here:
        await here.ask("BTCUSDT")
        await here.ask("ETHUSDT")
        await here.to_the_next(and_s=-1.0)
        for _ in range(5):
            await here.client.get(TICKERS)
        await here.clock.leap(1.1)
        await here.settled()
        assert (here.refreshed("busy"), here.asked()) == (1, 2)
        await here.clock.leap(6.1)
        await until(lambda: here.refreshed() == 1)

        assert (here.refreshed("busy"), here.asked()) == (1, 3)


async def test_nothing_is_fetched_while_banned() -> None:
    async with desk(pacing__ban="10m") as here:
        await here.ask()
        here.exchange.faults.add({"kind": "ban", "count": 1})
        await here.client.get(TICKERS)
        before = here.exchange.stats.requests
        await here.to_the_next()
        await until(lambda: here.refreshed("held-back") == 1)

        assert here.exchange.stats.requests == before


async def test_it_can_be_switched_off() -> None:
    async with desk(candles__boundary={"enabled": False}) as here:
        await here.ask()
        await here.to_the_next()
        await here.clock.leap(2)
        await here.settled()

        assert here.asked() == 1


@pytest.mark.parametrize("field", ["cache__enabled", "candles__enabled"])
async def test_without_candles_there_is_nothing_to_fetch(field: str) -> None:
    async with desk(**{field: "false"}) as here:
        await here.ask()
        await here.to_the_next()
        await here.clock.leap(2)
        await here.settled()

        assert here.asked() == 1


async def test_what_does_not_trade_any_more_is_left_alone() -> None:
    async with desk() as here:
        await here.ask("OLDUSDT", limit=5)
        await here.to_the_next()
        await until(lambda: here.refreshed("not-needed") == 1)

        assert here.asked() == 1


@pytest.mark.parametrize("offset_ms", [-20_000, 20_000])
async def test_candles_end_by_the_exchanges_clock(offset_ms: int) -> None:
    """The machine's is twenty seconds off: the fetch is made when the exchange's candle has ended, and in time."""
    async with desk(exchange=Settings(clock_offset_ms=offset_ms)) as here:
        await here.client.get(TICKERS)
        await here.clock.leap(5)
        await here.client.get(TICKERS)  # answers over more than a second agree: the clock is known
        await here.ask(limit=3)
        before = here.asked()
        left_s = 60 - (here.clock.now_us / 1e6 + offset_ms / 1000) % 60
        await here.clock.leap(left_s - 0.1)
        await here.settled()
        assert here.asked() == before
        await here.clock.leap(0.2)
        await until(lambda: here.refreshed() == 1)
        told = await here.ask(limit=3)

        assert here.asked() == before + 1
        assert opens(told)[0] == (here.now_ms + offset_ms) // MINUTE_MS * MINUTE_MS


TROUBLE: dict[str, dict[str, Any]] = {
    "error": {"kind": "ret_code", "ret_code": 10016},
    "status": {"kind": "status", "status": 503},
    "reset": {"kind": "reset_before"},
}


@pytest.mark.parametrize("name", TROUBLE)
async def test_a_fetch_that_fails_is_counted_and_leaves_it_to_who_asks(name: str) -> None:
    async with desk(retry__enabled="false") as here:
        await here.ask(limit=3)
        here.exchange.faults.add({**TROUBLE[name], "count": 1})
        await here.to_the_next()
        await until(lambda: here.refreshed("failed") == 1)
        told = await here.ask(limit=3)

        assert (told.status, opens(told)[0]) == (200, here.minute_ms)
        assert here.refreshed() == 0
        assert not here.counted("gateway_boundary_refreshes_total", result="fetched")


async def test_these_fetches_are_seen_in_the_metrics_as_what_they_are() -> None:
    async with desk() as here:
        await here.ask(limit=3)
        await here.to_the_next()
        await until(lambda: here.refreshed() == 1)
        page = (await here.client.get("/metrics")).body.decode()

        assert 'bybit_api_duration_seconds_count{endpoint="kline"} 2.0' in page
        assert 'endpoint="unknown"' not in page


async def test_a_reload_changes_the_rules_between_two_ends() -> None:
    async with desk() as here:
        await here.ask()
        config = here.app.caches._config
        boundary = config.candles.boundary.model_copy(update={"enabled": False})
        candles = config.candles.model_copy(update={"boundary": boundary})
        here.app.apply(config.model_copy(update={"candles": candles}))
        await here.to_the_next()
        await here.clock.leap(2)
        await here.settled()

        assert here.asked() == 1


def _since(here: Desk, number: int) -> list[Any]:
    """What has reached the exchange after so many requests for candles."""
    return [entry for entry in here.exchange.record.entries if entry.target.startswith(target("")[:16])][number:]


def _queued(here: Desk) -> int:
    two = here.app.caches.two
    return 0 if two is None else two.l2.status().queued

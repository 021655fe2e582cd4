"""An answer just past its time is given for a moment more, while one newer is fetched; never across a candle's end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests.by_hand import Desk, desk, target
from tests.cached import INFO, LATEST, STORED, ask, detail, status, was_hit
from tests.hand_clock import until
from tests.raw_http import RawAnswer

SWR: Final = "stale-while-revalidate"
PARTIAL: Final = "bybit-gateway; fwd=partial; fwd-status=200; stored"
SOON: Final = {"retry__enabled": "false", "cache__open_ttl": "2s", "candles__boundary__enabled": "false"}


@asynccontextmanager
async def counter(**overrides: Any) -> AsyncIterator[Desk]:
    """One try each."""
    async with desk(**{**SOON, **overrides}) as made:
        yield made


async def told(here: Desk, asked: str = LATEST, *lines: str) -> RawAnswer:
    return await ask(here.app, asked, *lines)


@pytest.mark.parametrize(("asked", "life_s"), [(LATEST, 2), (INFO, 60)], ids=["candles", "a rule's"])
async def test_an_answer_just_past_its_time_is_given_while_one_refresh_is_under_way(asked: str, life_s: int) -> None:
    async with counter() as here:
        first = await told(here, asked)
        here.exchange.faults.add({"kind": "delay", "delay_us": 50_000})
        await here.clock.leap(life_s + 0.3)
        stale = [await told(here, asked) for _ in range(20)]
        assert here.exchange.stats.requests == 1, "the refresh is on its way, nobody has waited for it"
        await here.clock.leap(0.05)
        await here.settled()
        fresh = await told(here, asked)

        assert {status(each) for each in stale} == {f"bybit-gateway; hit; ttl=-1; detail={SWR}"}
        assert {each.body for each in stale} == {first.body}
        assert {each.get("Age") for each in stale} == {str(life_s)}
        assert here.exchange.stats.requests == 2
        assert (was_hit(fresh), detail(fresh)) == (True, "")
        assert here.counted("bybit_cache_operations_total", operation="get", result="stale") == 20


async def test_all_pages_of_a_series_are_refreshed_by_one_fetch() -> None:
    pages = [target("BTCUSDT", limit=limit) for limit in (2, 5, 100, 200)]
    async with counter() as here:
        for page in reversed(pages):
            await told(here, page)
        before = here.exchange.stats.requests
        here.exchange.faults.add({"kind": "delay", "delay_us": 50_000})
        await here.clock.leap(2.3)
        assert {detail(await told(here, page)) for page in pages} == {SWR}
        await here.clock.leap(0.05)
        await here.settled()

        assert here.exchange.stats.requests == before + 1
        assert {detail(await told(here, page)) for page in pages} == {""}


async def test_what_is_further_past_its_time_is_waited_for() -> None:
    async with counter() as here:
        await told(here)
        await here.clock.leap(3.001)
        answer = await told(here)

        assert status(answer) == PARTIAL
        assert here.exchange.stats.requests == 2


@pytest.mark.parametrize("seconds", [0.9, 1.9])
async def test_no_answer_is_given_across_the_end_of_a_candle(seconds: float) -> None:
    """Asked for just before the end, fresh or not: whoever asks after it gets what was said after it."""
    async with counter() as here:
        await here.to_the_next(and_s=-seconds)
        await told(here)
        await here.clock.leap(seconds - 0.001)
        before = await told(here)
        await here.clock.leap(0.021)
        after = await told(here)

        assert was_hit(before)
        assert not was_hit(after)
        assert after.body[:200] != before.body[:200]


async def test_a_refresh_does_not_bring_an_answer_across_the_end_either() -> None:
    """It was sent before the end, and its answer comes behind it."""
    async with counter(cache__open_ttl="500ms") as here:
        await here.to_the_next(and_s=-0.9)
        await told(here)
        await here.clock.leap(0.6)
        here.exchange.faults.add({"kind": "delay", "leg": "response", "delay_us": 400_000, "count": 1})
        assert detail(await told(here)) == SWR
        await until(lambda: here.asked() == 2)
        await here.clock.leap(0.4)
        await here.settled()

        assert not was_hit(await told(here))


FUNDING: Final = "/v5/market/funding/history?category=linear&symbol=BTCUSDT"
OPTION: Final = "/v5/market/mark-price-kline?category=option&symbol=BTC-25DEC26-70000-C&interval=1"


@pytest.mark.parametrize("asked", [LATEST, OPTION, FUNDING], ids=["candles", "of an option", "a rule's"])
async def test_an_answer_that_is_overtaken_by_the_end_is_for_those_who_waited(asked: str) -> None:
    """The exchange gave it before the end, and it arrives behind it."""
    async with counter() as here:
        await here.to_the_next(5, and_s=-0.2)
        here.exchange.faults.add({"kind": "delay", "leg": "response", "delay_us": 400_000, "count": 1})
        waiting = asyncio.gather(told(here, asked))
        await until(lambda: here.exchange.stats.requests)
        await here.clock.leap(0.4)
        (first,) = await waiting
        second = await told(here, asked)
        third = await told(here, asked)

        assert first.status == 200
        assert json.loads(first.body)["retCode"] == 0
        assert not was_hit(second)
        assert second.body != first.body
        assert was_hit(third)


async def test_no_rows_are_missed_at_a_boundary() -> None:
    """Of an endpoint with a rule, five minutes."""
    async with counter() as here:
        await here.to_the_next(5, and_s=-60.5)
        await told(here, FUNDING)
        await here.clock.leap(60.2)
        assert detail(await told(here, FUNDING)) == SWR
        await here.settled()
        await here.clock.leap(0.301)

        assert status(await told(here, FUNDING)) == STORED


async def test_it_can_be_switched_off() -> None:
    async with counter(cache__stale_while_revalidate="0s") as here:
        await told(here)
        await here.clock.leap(2.001)

        assert status(await told(here)) == PARTIAL


async def test_a_refresh_that_fails_takes_nothing_away() -> None:
    async with counter() as here:
        await told(here)
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(2.3)
        for _ in range(3):
            assert detail(await told(here)) == SWR
            await here.settled()
        await here.clock.leap(1)

        assert detail(await told(here)) == "stale-if-error"


@pytest.mark.parametrize("line", ["max-age=2", "max-stale=0", "min-fresh=1", "no-cache"])
async def test_who_wants_a_fresh_answer_gets_no_stale_one(line: str) -> None:
    async with counter() as here:
        await told(here)
        await here.clock.leap(2.3)
        answer = await told(here, LATEST, f"Cache-Control: {line}")

        assert not was_hit(answer)


async def test_nothing_is_refreshed_during_a_ban() -> None:
    async with counter() as here:
        await told(here)
        here.app.egress.strike()
        await here.clock.leap(2.3)
        answer = await told(here)
        await here.settled()

        assert detail(answer) == "banned"
        assert here.asked() == 1

"""What an answer says of itself: where it came from, how old it is, what took so long. And that it is documented."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.by_hand import Desk, beside, desk, target
from tests.cached import CLOSED, INFO, LATEST, ask, candles, detail, raw, status, ttl, was_hit
from tests.gateway_fixture import gateway
from tests.hand_clock import until
from tests.raw_http import RawAnswer
from tests.recorder import answering, recorder
from tests.redis_servers import needs_redis, redis_server

PAGE: Final = Path(__file__).parents[2] / "docs" / "cache.md"
QUIET: Final = {"retry__enabled": "false", "candles__boundary__enabled": "false"}


@asynccontextmanager
async def counter(**overrides: Any) -> AsyncIterator[Desk]:
    async with desk(**{**QUIET, **overrides}) as made:
        yield made


def timing(answer: RawAnswer) -> dict[str, float]:
    """Milliseconds by what they went for."""
    parts = (answer.get("Server-Timing") or "").split(", ")
    return {name: float(value) for name, _, value in (part.partition(";dur=") for part in parts)}


async def test_an_answer_of_the_exchange_tells_how_long_it_took() -> None:
    async with counter() as here:
        here.exchange.faults.add({"kind": "delay", "delay_us": 70_000})
        waiting = asyncio.gather(ask(here.app, CLOSED), ask(here.app, CLOSED))
        await until(lambda: here.counted("gateway_collapsed_requests_total", endpoint="kline") == 1)
        await until(lambda: here.clock.due_s == 0.07)
        await here.clock.leap(0.07)
        answers = await waiting
        hit = await ask(here.app, CLOSED)

        assert [timing(each) for each in answers] == [{"queue": 0, "exchange": 70, "gateway": 0}] * 2
        assert timing(hit) == {"cache": 0}
        assert [each.get("Age") for each in (*answers, hit)] == [None, None, "0"]


async def test_the_time_in_the_queue_is_told_apart() -> None:
    limits = [{"name": "slow", "quota": "1/300ms", "when_full": "wait", "counts": "upstream"}]
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url, limits=limits) as app:
        await ask(app, "/v5/market/time")
        answer = await ask(app, CLOSED)
        spent = timing(answer)

        assert set(spent) == {"queue", "exchange", "gateway"}
        assert spent["queue"] > spent["gateway"]
        assert all(each >= 0 for each in spent.values())


async def test_age_and_ttl_follow_the_clock() -> None:
    async with counter() as here:
        await ask(here.app, INFO)
        seen = []
        for _ in range(4):
            await here.clock.leap(14.9)
            answer = await ask(here.app, INFO)
            seen.append((answer.get("Age"), ttl(answer)))

        assert seen == [("14", 45), ("29", 30), ("44", 15), ("59", 0)]


async def test_an_answer_put_together_is_as_old_as_its_oldest_part() -> None:
    async with counter() as here:
        await ask(here.app, target("BTCUSDT", limit=100))
        await here.clock.leap(10)
        partial = await ask(here.app, target("BTCUSDT", limit=50))
        await here.clock.leap(1)
        hit = await ask(here.app, target("BTCUSDT", limit=50))

        assert status(partial) == "bybit-gateway; fwd=partial; fwd-status=200; stored"
        assert was_hit(hit)
        assert 1 <= int(hit.get("Age") or 0) <= 11


async def test_everything_on_a_route_that_is_kept_tells_it_and_nothing_else_does() -> None:
    """Once, and beside the gateway's name for the request."""
    async with counter() as here:
        for asked in (
            CLOSED,
            INFO,
            CLOSED + "&x=1",
            INFO + "&x=1",
            "/v5/market/price-limit?category=linear&symbol=BTCUSDT",
        ):
            for line in ("X: 1", "Cookie: a=b", "Cache-Control: no-store", "X-BAPI-API-KEY: test-key"):
                answer = await ask(here.app, asked, line)
                names = [name.lower() for name, _ in answer.headers]
                assert [names.count(each) for each in ("cache-status", "x-request-id")] == [1, 1], (asked, line)
        for asked in ("/v5/market/time", "/v5/market/tickers?category=linear", "/v5/account/info", "/nothing"):
            assert (await ask(here.app, asked)).get("Cache-Status") is None


# All of them


async def plain() -> AsyncIterator[RawAnswer]:
    async with counter() as here:
        for asked in (LATEST, LATEST, CLOSED + "&x=1", target("NOSUCHUSDT")):
            yield await ask(here.app, asked)
        yield await ask(here.app, LATEST, "Cache-Control: no-cache")
        await here.clock.leap(2.5)
        yield await ask(here.app, LATEST)
        await here.settled()
        await here.clock.leap(10)
        yield await ask(here.app, LATEST, "Cache-Control: max-stale")
        yield await ask(here.app, LATEST)


async def failing() -> AsyncIterator[RawAnswer]:
    limits = [{"name": "few", "quota": "4/1h", "when_full": "refuse", "counts": "upstream"}]
    async with counter(limits=limits, breaker__least_calls="1", breaker__open="1s", breaker__slow="30s") as here:
        await ask(here.app, LATEST)
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "status", "status": 503})
        for _ in range(4):  # the failure itself, what the breaker makes of it, and in the end no budget is left
            yield await ask(here.app, LATEST)
            yield await ask(here.app, LATEST)
            await here.clock.leap(6)
        here.app.egress.strike()
        yield await ask(here.app, LATEST)


async def together(asked: str, faults: list[dict[str, Any]]) -> list[RawAnswer]:
    """Three who ask at the same moment."""
    async with counter() as here:
        await ask(here.app, target("BTCUSDT", limit=100))
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "delay", "delay_us": 50_000, "count": 1})
        for fault in faults:
            here.exchange.faults.add(fault)
        waiting = asyncio.gather(*(ask(here.app, asked) for _ in range(3)))
        await until(lambda: here.counted("gateway_collapsed_requests_total", endpoint="kline") == 2)
        await until(lambda: here.clock.due_s == 0.05)
        await here.clock.leap(0.05)
        return list(await waiting)


async def elsewhere() -> AsyncIterator[RawAnswer]:
    with redis_server() as redis:
        shared = {"cache__l2__url": redis.url, "cache__l2__timeout": "1s", "cache__lock": "always"}
        async with counter(**shared) as here, beside(here.exchange, here.clock, **{**QUIET, **shared}) as other:
            await ask(here.app, CLOSED)
            yield await ask(other.app, CLOSED)


def shape(answer: RawAnswer) -> str:
    """Its Cache-Status without numbers that vary."""
    return re.sub(r"ttl=(-?)[0-9]+", r"ttl=\g<1>N", status(answer)).removeprefix("bybit-gateway; ")


@needs_redis
async def test_every_cache_status_there_is_stands_in_the_documentation_and_no_other() -> None:
    seen = {shape(each) async for each in plain()}
    seen |= {shape(each) async for each in failing()}
    seen |= {shape(each) async for each in elsewhere()}
    ethereum = target("ETHUSDT", limit=5)
    seen |= {shape(each) for each in await together(ethereum, [])}
    seen |= {shape(each) for each in await together(LATEST, [])}
    seen |= {shape(each) for each in await together(ethereum, [{"kind": "geo_block", "count": 1}])}
    seen.discard("fwd=uri-miss; fwd-status=403")  # one of the numbers that vary

    rows = re.findall(r"^\| `((?:hit|fwd)[^`]*)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert seen == set(rows)


@pytest.mark.parametrize("asked", [LATEST, INFO])
async def test_the_reasons_for_a_stale_answer_are_as_they_are_named(asked: str) -> None:
    """One after the other happens to one answer."""
    limits = [{"name": "few", "quota": "3/1h", "when_full": "refuse", "counts": "upstream"}]
    async with counter(limits=limits, cache__rules=[{"endpoint": ["instruments-info"], "ttl": "2s"}]) as here:
        await ask(here.app, asked)
        await here.clock.leap(2.5)
        reasons = [detail(await ask(here.app, asked))]
        await here.settled()
        await here.clock.leap(4)
        here.exchange.faults.add({"kind": "status", "status": 503})
        reasons += [detail(await ask(here.app, asked)), detail(await ask(here.app, asked))]
        here.app.egress.strike()
        reasons.append(detail(await ask(here.app, asked)))

        assert reasons == ["stale-while-revalidate", "stale-if-error", "limited", "banned"]

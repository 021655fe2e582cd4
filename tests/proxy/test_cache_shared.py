"""What one gateway has fetched another gives without asking: as good as its own, and no longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.by_hand import beside, desk, target
from tests.cached import CLOSED, INFO, LATEST, ask, status, unlike, was_hit
from tests.caches_together import shared
from tests.conversation import until
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    """Empty, and running."""
    if not server.running:
        server.restart()
    with server.client() as client:
        client.flushall()
    return server


async def test_what_one_has_fetched_another_gives_without_asking(redis: RedisServer) -> None:
    """The newest candles at once; segments a few seconds later; any part of them."""
    once = shared(redis.url, cache__lock="never")
    with redis.client() as client:
        async with desk(**once) as here, beside(here.exchange, here.clock, **once) as other:
            await here.ask(limit=200)
            await here.ask(start=1_770_000_000_000, end=1_770_006_000_000)
            await until(lambda: [key for key in client.scan_iter() if ":tail@" in key], "the tail")
            newest = await ask(other.app, target("BTCUSDT", limit=7))
            await here.clock.leap(5)
            await until(lambda: len([key for key in client.scan_iter() if ":segment:" in key]) == 2, "the segments")
            await here.clock.leap(0.1)
            before = here.asked()
            parts = [
                target("BTCUSDT", start=1_770_000_600_000, end=1_770_001_200_000),
                target("BTCUSDT", start=1_770_000_600_000, limit=5),
                target("BTCUSDT", end=1_770_005_999_999, limit=3),
                target("BTCUSDT", start=here.minute_ms - 6_000_000, end=here.minute_ms - 600_000),
            ]
            told = [await ask(other.app, part) for part in parts]
            direct = [await ask(here.app, part) for part in parts]

            assert status(newest) == "bybit-gateway; hit; ttl=2; detail=l2"
            assert newest.body.count(b'["') == 7
            assert [was_hit(each) for each in told] == [True] * 4
            assert [unlike(each.body) for each in told] == [unlike(each.body) for each in direct]
            assert here.asked() == before


async def test_the_newest_candles_of_another_are_as_good_as_his_own_and_no_longer(redis: RedisServer) -> None:
    """Two seconds from when the exchange gave them, and not across the end of a candle."""
    once = shared(redis.url, retry__enabled="false", cache__stale_while_revalidate="0s")
    async with desk(**once) as here:
        for wait_s, hits in ((1.9, True), (2.1, False)):
            async with beside(here.exchange, here.clock, **once) as other:
                await ask(here.app, LATEST)
                await here.clock.leap(wait_s)
                answer = await ask(other.app, LATEST)
                assert was_hit(answer) is hits
                assert answer.get("Age") == ("1" if hits else None)
            await here.clock.leap(5)
        await here.to_the_next(and_s=-0.5)
        await ask(here.app, LATEST)
        await here.clock.leap(0.6)
        async with beside(here.exchange, here.clock, **once) as other:
            assert not was_hit(await ask(other.app, LATEST))


async def test_who_wants_a_young_answer_does_not_get_an_old_one_of_another_gateway(redis: RedisServer) -> None:
    once = shared(redis.url)
    async with desk(**once) as here:
        for asked in (INFO, CLOSED):
            await ask(here.app, asked)
        await here.clock.leap(30)
        for asked in (INFO, CLOSED):
            async with beside(here.exchange, here.clock, **once) as other:
                old = await ask(other.app, asked)
            async with beside(here.exchange, here.clock, **once) as other:
                young = await ask(other.app, asked, "Cache-Control: max-age=10")

            assert (was_hit(old), old.get("Age")) == (True, "30")
            assert status(young) == "bybit-gateway; fwd=uri-miss; fwd-status=200; stored"


async def test_an_answer_of_another_gateway_is_stale_for_as_long_as_its_rule_says(redis: RedisServer) -> None:
    rules = [{"endpoint": ["instruments-info"], "ttl": "30s", "stale": "5m"}]
    once = shared(redis.url, cache__rules=rules, retry__enabled="false")
    async with desk(**once) as here, beside(here.exchange, here.clock, **once) as other:
        await ask(here.app, INFO)
        assert was_hit(await ask(other.app, INFO))
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(300)
        assert status(await ask(other.app, INFO)) == "bybit-gateway; hit; ttl=-270; detail=stale-if-error"
        await here.clock.leap(31)
        assert (await ask(other.app, INFO)).status == 503

"""The Redis that gateways share is cut off, silent, killed or wiped: everybody is answered, nothing is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.by_hand import target
from tests.cached import CLOSED, INFO, ask, candles, envelope, raw, unlike
from tests.caches_together import GATEWAYS, KINDS, Gate, answered_alike, asked_by_all, crowd, gateways, slow
from tests.conversation import until
from tests.fake_bybit import FakeBybit
from tests.recorder import recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server
from tests.relay import Relay

pytestmark = [needs_redis, pytest.mark.timeout(90), pytest.mark.usefixtures("warnings_only")]


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


@pytest.mark.parametrize("how", ["cut", "freeze"])
@KINDS
async def test_redis_is_lost_while_all_wait(redis: RedisServer, asked: str, how: str) -> None:
    """Refused, or silent: everybody is answered, by a fetch of each gateway at most."""
    body = {CLOSED: candles(), INFO: envelope({"list": []})}.get(asked, candles(newest_ms=1_790_000_040_000))
    gate = Gate(raw(body))
    async with (
        Relay(redis.port) as way,
        recorder(gate) as upstream,
        gateways(upstream.url, f"redis://127.0.0.1:{way.port}/0", cache__l2__timeout="100ms") as apps,
    ):
        all_of_them = await asked_by_all(apps, upstream, asked)
        await (way.cut() if how == "cut" else way.freeze())
        await until(lambda: len(upstream.seen) == GATEWAYS, "that each fetches for itself")
        gate.open.set()
        first, rest = await all_of_them
        later = [await ask(app, INFO if asked == CLOSED else CLOSED) for app in apps]

        assert {each.status for each in (*first, *rest, *later)} == {200}
        assert {unlike(each.body) for each in (*first, *rest)} == {unlike(body)}
        assert len(upstream.seen) == GATEWAYS * 2


async def test_redis_is_killed_and_comes_back_while_all_ask(redis: RedisServer) -> None:
    """Not one request fails, and they share again when it is there."""
    async with FakeBybit() as exchange, gateways(exchange.url, redis.url, cache__l2__timeout="100ms") as apps:
        ports = [app.port for app in apps]
        for number in range(30):
            if number == 10:
                await asyncio.to_thread(redis.kill)
            if number == 20:
                await asyncio.to_thread(redis.start)
            answered_alike(await crowd(ports, target("BTCUSDT", limit=5 + number), 15))
            answered_alike(await crowd(ports, window(number), 15))
        for app in apps:
            await until(lambda app=app: not app.caches.two.l2._commands.resting, "that Redis is there again")
        before = exchange.stats.requests
        slow(exchange)
        answered_alike(await crowd(ports, window(40), 30))
        assert exchange.stats.requests == before + 1


def window(number: int) -> str:
    """A day of hours, each in a segment of its own."""
    start_ms = 1_600_000_000_000 // 3_600_000_000 * 3_600_000_000 + number * 3_600_000_000
    return target("BTCUSDT", "60", start=start_ms, end=start_ms + 23 * 3_600_000)


async def test_a_redis_that_is_wiped_takes_nothing_away(redis: RedisServer) -> None:
    async with FakeBybit() as exchange, gateways(exchange.url, redis.url) as apps:
        ports = [app.port for app in apps]
        asked = [CLOSED, INFO, window(1), window(2)]
        for each in asked:
            answered_alike(await crowd(ports, each, 30))
        before = exchange.stats.requests
        with redis.client() as client:
            client.flushall()
        for each in asked:
            answered_alike(await crowd(ports, each, 30))
        assert exchange.stats.requests == before, "each has it in its memory"
        answered_alike(await crowd(ports, window(3), 30))
        assert exchange.stats.requests == before + 1
        async with gateways(exchange.url, redis.url, 1) as (new,):
            answered_alike(await crowd([new.port], window(1), 30))
        assert exchange.stats.requests == before + 2


async def test_a_wipe_in_the_middle_of_a_fetch_holds_nobody_up(redis: RedisServer) -> None:
    """The lease is gone with all the rest: others may fetch too, and all are answered."""
    gate = Gate(raw(candles()))
    async with recorder(gate) as upstream, gateways(upstream.url, redis.url) as apps:
        all_of_them = await asked_by_all(apps, upstream, CLOSED)
        with redis.client() as client:
            client.flushall()
        await until(lambda: len(upstream.seen) > 1, "another fetch")
        gate.open.set()
        first, rest = await all_of_them

        assert {each.status for each in (*first, *rest)} == {200}
        assert len(upstream.seen) <= GATEWAYS

"""Gateways that share a Redis: one fetches for all, and whatever happens to it, everybody is answered."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Final

import aiohttp
import pytest

from tests.by_hand import target
from tests.cached import CLOSED, INFO, LATEST, ask, candles, envelope, get, raw, status, unlike
from tests.caches_together import (
    GATEWAYS,
    KINDS,
    Gate,
    answered_alike,
    asked_by_all,
    crowd,
    gateways,
    processes,
    slow,
    standing,
)
from tests.conversation import until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.recorder import Seen, answering, recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server

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


@KINDS
async def test_two_hundred_callers_of_one_gateway_cost_one_request(asked: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[]) as app:
        slow(exchange)
        answered_alike(await crowd([app.port], asked))
        assert exchange.stats.requests == 1


@KINDS
async def test_two_hundred_callers_of_three_gateways_cost_one_request(redis: RedisServer, asked: str) -> None:
    async with FakeBybit() as exchange, gateways(exchange.url, redis.url) as apps:
        slow(exchange)
        answered_alike(await crowd([app.port for app in apps], asked))
        assert exchange.stats.requests == 1


@KINDS
async def test_so_do_those_of_three_processes(redis: RedisServer, asked: str) -> None:
    async with FakeBybit() as exchange, processes(exchange.url, redis) as ports:
        slow(exchange)
        answered_alike(await crowd([*ports], asked))
        assert exchange.stats.requests == 1


async def test_of_a_range_one_fetches_for_all_without_being_told(redis: RedisServer) -> None:
    """`lock: auto`, and nothing else to do. Of the newest candles each gateway fetches its own: to wait for another
    would take longer."""
    for asked, times in ((CLOSED, 1), (target("BTCUSDT", start=1_770_000_000_000), 1), (LATEST, GATEWAYS)):
        async with standing() as exchange, gateways(exchange.url, redis.url, cache__lock="auto") as apps:
            slow(exchange)
            answered_alike(await crowd([app.port for app in apps], asked, 30))
            assert exchange.stats.requests == times, asked


@pytest.mark.parametrize(("above", "times"), [("10", 1), ("90", GATEWAYS)])
async def test_of_everything_while_so_much_of_the_budget_is_used(redis: RedisServer, above: str, times: int) -> None:
    limits = [{"name": "all", "quota": "20/60s", "counts": "upstream"}]
    auto = {"limits": limits, "cache__lock": "auto", "cache__lock_above": above}
    async with standing() as exchange, gateways(exchange.url, redis.url, **auto) as apps:
        for app in apps:
            for _ in range(4):
                await ask(app, "/v5/market/time")
        before = exchange.stats.requests
        slow(exchange)
        answered_alike(await crowd([app.port for app in apps], LATEST, 30))
        assert exchange.stats.requests == before + times


async def test_nobody_waits_where_that_is_switched_off(redis: RedisServer) -> None:
    async with FakeBybit() as exchange, gateways(exchange.url, redis.url, cache__lock="never") as apps:
        slow(exchange)
        answered_alike(await crowd([app.port for app in apps], CLOSED, 30))
        assert exchange.stats.requests == GATEWAYS


async def test_gateways_of_two_exchanges_do_not_wait_for_each_other(redis: RedisServer) -> None:
    """The main and the test network with one Redis."""
    hang = asyncio.Event()

    async def silent(_: Seen, writer: asyncio.StreamWriter) -> None:
        await hang.wait()
        writer.write(raw(candles("2")))

    async with (
        recorder(silent) as one,
        recorder(answering(raw(candles("1")))) as other,
        gateways(one.url, redis.url, 1) as (waiting,),
        gateways(other.url, redis.url, 1) as (quick,),
    ):
        first = asyncio.gather(ask(waiting, CLOSED))
        await until(lambda: one.seen, "the first fetch")
        assert (await ask(quick, CLOSED)).body == candles("1")
        hang.set()
        assert (await first)[0].body == candles("2")


@pytest.mark.parametrize("asked", [CLOSED, INFO], ids=["candles", "a rule's"])
async def test_a_gateway_that_is_killed_while_it_fetches_holds_nobody_up(redis: RedisServer, asked: str) -> None:
    """kill -9: its lease runs out, one of the others fetches, and all of them answer."""
    body = candles() if asked == CLOSED else envelope({"list": []})
    gate = Gate(raw(body))
    async with recorder(gate) as upstream, processes(upstream.url, redis) as started:
        ports = [*started]
        doomed = asyncio.gather(crowd(ports[:1], asked, 5), return_exceptions=True)
        await until(lambda: upstream.seen, "the fetch")
        rest = asyncio.gather(crowd(ports[1:], asked, 20))
        await asyncio.sleep(0.5)  # until they wait; from outside nothing tells
        started[ports[0]].send_signal(signal.SIGKILL)
        started[ports[0]].wait(10)
        await until(lambda: len(upstream.seen) > 1, "another fetch")
        gate.open.set()
        (answers,) = await rest
        (lost,) = await doomed

        assert isinstance(lost, aiohttp.ClientError)
        assert len(answers) == 20
        assert {(code, unlike(told)) for code, told in answers} == {(200, unlike(body))}
        assert len(upstream.seen) == 2


async def test_a_client_that_hangs_up_takes_nothing_from_those_of_other_gateways(redis: RedisServer) -> None:
    """The only one at its gateway: its fetch is given up, and another gateway fetches at once."""
    gate = Gate(raw(candles()))
    async with recorder(gate) as upstream, gateways(upstream.url, redis.url) as apps:
        _, leader = await asyncio.open_connection("127.0.0.1", apps[0].port)
        leader.write(get(CLOSED))
        await until(lambda: upstream.seen, "the fetch")
        rest = asyncio.gather(*(ask(app, CLOSED) for app in apps[1:] for _ in range(5)))
        for app in apps[1:]:
            await until(lambda app=app: app.metrics.l2_operations.counts.get(("lease", "elsewhere")), "the wait")
        leader.close()
        await until(lambda: len(upstream.seen) > 1, "another fetch")
        gate.open.set()

        assert {(each.status, unlike(each.body)) for each in await rest} == {(200, unlike(candles()))}
        assert len(upstream.seen) == 2


async def test_a_client_that_hangs_up_takes_nothing_where_others_wait_beside_it(redis: RedisServer) -> None:
    gate = Gate(raw(candles()))
    async with recorder(gate) as upstream, gateways(upstream.url, redis.url) as apps:
        _, leader = await asyncio.open_connection("127.0.0.1", apps[0].port)
        leader.write(get(CLOSED))
        await until(lambda: upstream.seen, "the fetch")
        rest = asyncio.gather(*(ask(app, CLOSED) for app in apps for _ in range(5)))
        await until(lambda: apps[0].metrics.collapsed.labels("kline")._value.get() == 5, "those beside it")
        for app in apps[1:]:
            await until(lambda app=app: app.metrics.l2_operations.counts.get(("lease", "elsewhere")), "the wait")
        leader.close()
        await asyncio.sleep(0.1)  # nothing to wait for: that nothing happens is the point
        gate.open.set()

        assert {each.status for each in await rest} == {200}
        assert len({unlike(each.body) for each in await rest}) == 1
        assert len(upstream.seen) == 1


UNFIT: Final = {
    "an error": raw(envelope({}, code=10001)),
    "trouble": raw(envelope({}, code=10016)),
    "503": raw(b"", head="503 Busy"),
    "404": raw(b"", head="404 Not Found"),
    "for one": raw(candles(), "Vary: Origin"),
    "no answer": raw(b"<html></html>"),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_what_cannot_be_kept_lets_all_go(redis: RedisServer, name: str) -> None:
    """The others ask for themselves, and whoever comes later asks again."""
    gate = Gate(UNFIT[name], raw(candles()))
    async with (
        recorder(gate) as upstream,
        gateways(upstream.url, redis.url, retry__enabled="false") as apps,
    ):
        all_of_them = await asked_by_all(apps, upstream, CLOSED)
        gate.open.set()
        first, rest = await all_of_them

        assert UNFIT[name].partition(b"\r\n\r\n")[2] in {each.body for each in first}
        assert {unlike(each.body) for each in rest} == {unlike(candles())}
        assert status(await ask(apps[0], CLOSED, "Cache-Control: max-age=0")).endswith("stored")


async def test_an_error_is_nobodys_but_those_who_waited_for_it(redis: RedisServer) -> None:
    """Each gateway's own; none is in Redis."""
    gate = Gate(raw(envelope({}, code=10001)))
    async with recorder(gate) as upstream, gateways(upstream.url, redis.url) as apps:
        all_of_them = await asked_by_all(apps, upstream, CLOSED)
        gate.open.set()
        await all_of_them

        assert len(upstream.seen) == GATEWAYS, "one for all who wait at each"
        with redis.client() as client:
            assert not [key for key in client.scan_iter() if "kline" in key]

"""One address, one ban: three gateways on one Redis stop, ask and go on together, whatever Redis does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from tests.conversation import TICKERS, TIME, Client, new_session, now_us, until
from tests.crowd import BREATH_S, LIMIT, LIMITS, WINDOW_S, Crowd, Seen, asked_once, crowd, exchange_settings, questions
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.integration.trio import skewed
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.usefixtures("warnings_only")]

BAN_US = 2_000_000
THEIR_BAN_US = 1_500_000
"""The exchange's own ban ends a little earlier than we ask."""
ONE_BEAT_S = 1.0
"""Within it every gateway hears what another one knows."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def emptied(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()


@asynccontextmanager
async def three(
    exchange: FakeBybit, redis: RedisServer, *, skew_us: int = 0, **overrides: Any
) -> AsyncIterator[list[App]]:
    """With one budget between them, and clocks that are that much slow, right and fast."""
    settings = {"pacing__ban": "2s", "pacing__ramp": "1s", "queue__max_wait": "30s", **overrides}
    async with AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(
                gateway(
                    exchange.url,
                    clock=skewed(by_us),
                    limits=LIMITS,
                    store__url=redis.url,
                    store__replicas="3",
                    **settings,
                )
            )
            for by_us in (-skew_us, 0, skew_us)
        ]
        await until(lambda: all(app.store.status()["mode"] == "shared" for app in apps), "the shared budget")
        yield apps


@asynccontextmanager
async def banned(
    exchange: FakeBybit, session: aiohttp.ClientSession, apps: Sequence[App]
) -> AsyncIterator[tuple[Crowd, int]]:
    """Sixty clients push, and the exchange has just banned the address. Yields them, and since when all know."""
    async with crowd(session, apps) as people:
        await asyncio.sleep(WINDOW_S)  # until the budget is in use
        exchange.faults.add({"kind": "ban", "count": 1})
        await until(lambda: any(app.egress.banned for app in apps), "the ban")
        first_us = now_us()
        await until(lambda: all(app.egress.banned for app in apps), "that all know")
        assert now_us() - first_us < ONE_BEAT_S * 1e6
        yield people, now_us()


async def lifted(apps: Sequence[App]) -> None:
    await until(lambda: not any(app.egress.banned for app in apps), "the end of the ban")


async def test_three_gateways_stop_and_one_of_them_asks(redis: RedisServer) -> None:
    """Whoever meets the ban, by whatever clock: nothing comes from any of them but one question of one of them. Then
    they begin again together, with a part of the budget.
    """
    async with (
        FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange,
        three(exchange, redis, skew_us=2_000_000) as apps,
        new_session() as session,
    ):
        clients = [Client(session, app) for app in apps]
        async with banned(exchange, session, apps) as (people, known_us):
            live, ready, health = [
                [await client.get(page) for client in clients] for page in ("/health/live", "/health/ready", "/health")
            ]
            counted = [await client.metric("gateway_bans_total") for client in clients]
            order = await clients[2].create("not-now")
            await lifted(apps)
            over_us = now_us()
            await asyncio.sleep(1.5 * WINDOW_S)  # the traffic after it
        part = [await client.metric("gateway_banned") for client in clients]

    seen = Seen(exchange)
    asked_once(seen, BAN_US)
    assert exchange.books.ip.breaches == 0
    assert exchange.books.ip.max_in_window() <= LIMIT
    assert [told.status for told in live] == [200] * 3
    assert [(told.status, told.json["reason"]) for told in ready] == [(503, "banned")] * 3
    assert [told.json["status"] for told in health] == ["banned"] * 3
    assert counted == [1, 1, 1]
    assert (order.status, order.gateway) == (403, "banned")
    meanwhile = [told for told in people.since(known_us) if told.told_us < over_us - ONE_BEAT_S * 1e6]
    assert {(told.status, told.gateway) for told in meanwhile} == {(403, "banned")}
    waiting = [told.told_us - seen.began_us for told in people.waiting_at(seen.began_us)]
    assert max(waiting) < ONE_BEAT_S * 1e6
    assert part == [0, 0, 0]
    assert seen.lifting is not None
    soon = [entry for entry in exchange.record.entries if 0 < entry.time_us - seen.lifting.time_us <= 400_000]
    assert len(soon) <= 0.55 * LIMIT + 3, "a quarter, and what 0.4 of the ramp adds"
    after = {told.status for told in people.told if told.told_us > over_us + BREATH_S * 1e6}
    assert after == {200}


async def test_another_address_is_not_concerned(redis: RedisServer) -> None:
    """A gateway with another egress id shares the Redis and not the ban."""
    async with (
        FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange,
        FakeBybit() as elsewhere,
        gateway(exchange.url, limits=LIMITS, store__url=redis.url, egress__id="a", pacing__ban="60s") as one,
        gateway(elsewhere.url, limits=LIMITS, store__url=redis.url, egress__id="b", pacing__ban="60s") as other,
        new_session() as session,
    ):
        await until(lambda: other.store.status()["mode"] == "shared", "the shared budget")
        exchange.faults.add({"kind": "ban", "count": 1})
        await Client(session, one).get(TICKERS)
        await asyncio.sleep(ONE_BEAT_S)  # until all would know
        told = await Client(session, one).get(TICKERS)
        others = [(await Client(session, other).get(TICKERS)).status for _ in range(10)]
        ready = await Client(session, other).get("/health/ready")

    assert (told.status, told.gateway) == (403, "banned")
    assert others == [200] * 10
    assert ready.status == 200


async def test_a_gateway_that_is_started_anew_during_a_ban_sends_nothing(redis: RedisServer) -> None:
    """All are stopped and another one is started: it finds the ban in Redis, and its end too."""
    settings: dict[str, Any] = {"limits": LIMITS, "store__url": redis.url, "pacing__ban": "2s", "pacing__ramp": "0s"}
    async with FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange, new_session() as session:
        async with gateway(exchange.url, **settings) as before:
            await until(lambda: before.store.status()["mode"] == "shared", "the shared budget")
            exchange.faults.add({"kind": "ban", "count": 1})
            await Client(session, before).get(TICKERS)
            until_us = before.egress.ban.until_us
        async with gateway(exchange.url, **settings) as after:
            at_once = [await Client(session, after).get(TICKERS) for _ in range(3)]
            order = await Client(session, after).create("not-now")
            ready = await Client(session, after).get("/health/ready")
            told_until_us = after.egress.ban.until_us
            async with crowd(session, [after], clients=20):
                await lifted([after])
                await asyncio.sleep(BREATH_S)  # the traffic after it

    asked_once(Seen(exchange), BAN_US)
    assert {(told.status, told.gateway) for told in (*at_once, order)} == {(403, "banned")}
    assert ready.status == 503
    assert abs(told_until_us - until_us) < 500_000


async def test_the_question_of_one_is_answered_with_403_and_all_wait_twice_as_long(redis: RedisServer) -> None:
    async with (
        FakeBybit(settings=exchange_settings(1_800_000)) as exchange,
        three(exchange, redis, pacing__ban="800ms") as apps,
        new_session() as session,
        banned(exchange, session, apps),
    ):
        await until(lambda: all(app.egress.ban.times == 2 for app in apps), "the first question")
        await lifted(apps)

    seen = Seen(exchange)
    assert [entry.target for entry in seen.in_vain] == [TIME]
    assert [entry.target for entry in seen.before_the_answer] == [TIME, TIME]
    first, second = questions(exchange)
    assert first.time_us - seen.began_us >= 800_000
    assert second.time_us - first.time_us >= 1_600_000


async def test_redis_that_forgets_everything_during_a_ban_is_told_again(redis: RedisServer) -> None:
    """Those who know tell it, and a gateway that comes later hears of it."""
    async with (
        FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange,
        three(exchange, redis) as apps,
        new_session() as session,
        banned(exchange, session, apps),
    ):
        with redis.client() as client:
            client.flushall()
        await asyncio.sleep(ONE_BEAT_S)  # until somebody has told it
        async with gateway(exchange.url, limits=LIMITS, store__url=redis.url, pacing__ban="2s") as late:
            told = await Client(session, late).get(TICKERS)
            await lifted([*apps, late])

    asked_once(Seen(exchange), BAN_US)
    assert (told.status, told.gateway) == (403, "banned")


@pytest.mark.parametrize("fails", ["kill", "stop_process"])
async def test_without_redis_a_ban_is_heeded_all_the_same(fails: str) -> None:
    """Redis dies during the ban, or falls silent. Each knows, none sends; each asks for itself, as nobody could tell it
    the answer.
    """
    with redis_server() as redis:
        async with (
            FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange,
            three(exchange, redis) as apps,
            new_session() as session,
            banned(exchange, session, apps),
        ):
            await asyncio.to_thread(getattr(redis, fails))
            await until(lambda: all(app.store.status()["mode"] != "shared" for app in apps), "the loss")
            orders = [await Client(session, app).create(f"not-now-{at}") for at, app in enumerate(apps)]
            await lifted(apps)

    seen = Seen(exchange)
    assert seen.in_vain == []
    assert seen.lifting is not None
    assert seen.lifting.target == TIME
    assert seen.lifting.time_us - seen.began_us >= BAN_US
    assert len(questions(exchange)) == 3
    assert {(told.status, told.gateway) for told in orders} == {(403, "banned")}
    assert exchange.books.ip.breaches == 0


async def test_a_ban_that_redis_could_not_be_told_of_is_told_when_it_is_back() -> None:
    """One gateway meets the ban while Redis is away; the others hear of it with its first word."""
    with redis_server() as redis:
        async with (
            FakeBybit(settings=exchange_settings(60_000_000)) as exchange,
            three(exchange, redis, pacing__ban="60s") as apps,
            new_session() as session,
        ):
            await asyncio.to_thread(redis.kill)
            await until(lambda: all(app.store.status()["mode"] != "shared" for app in apps), "the loss")
            exchange.faults.add({"kind": "ban", "count": 1})
            await Client(session, apps[0]).get(TICKERS)
            alone = [app.egress.banned for app in apps]
            await asyncio.to_thread(redis.start)
            await until(lambda: all(app.egress.banned for app in apps), "that all know")
            told = [(await Client(session, app).get(TICKERS)).gateway for app in apps]
            arrived = exchange.stats.requests

    assert alone == [True, False, False]
    assert told == ["banned"] * 3
    assert arrived == 1


async def test_a_ban_ends_although_nobody_is_left_who_was_told_of_it_by_the_exchange(redis: RedisServer) -> None:
    """The one that was banned has gone, and Redis has forgotten: the others know, a newcomer hears it, one asks."""
    async with (
        FakeBybit(settings=exchange_settings(THEIR_BAN_US)) as exchange,
        gateway(exchange.url, limits=LIMITS, store__url=redis.url, pacing__ban="2s") as one,
        new_session() as session,
    ):
        async with gateway(exchange.url, limits=LIMITS, store__url=redis.url, pacing__ban="2s") as told_first:
            exchange.faults.add({"kind": "ban", "count": 1})
            await Client(session, told_first).get(TICKERS)
            await until(lambda: one.egress.banned, "word of the ban")
        with redis.client() as client:
            client.flushall()
        await asyncio.sleep(ONE_BEAT_S)  # what has been forgotten is told again
        async with gateway(exchange.url, limits=LIMITS, store__url=redis.url, pacing__ban="2s") as newcomer:
            assert newcomer.egress.banned
            await until(lambda: not one.egress.banned and not newcomer.egress.banned, "the end of the ban")
            assert (await Client(session, newcomer).get(TICKERS)).status == 200
        assert len(questions(exchange)) == 1

"""Several gateways on one Redis know together what an account may send, and use it, and no more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conversation import INFO, Client, Told, new_session, until
from tests.crowd import LIMITS, crowd
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.integration.test_ban_together import emptied, redis
from tests.integration.trio import jitter, skewed
from tests.redis_servers import RedisServer, needs_redis

__all__ = ["emptied", "redis"]

pytestmark = [needs_redis, pytest.mark.usefixtures("warnings_only")]

HIDDEN, SECONDS = 40, 6.0
"""What the account may really send in a second, where 50 is published; and how long it is tried."""


async def info(client: Client, _: int) -> Told:
    return await client.get_signed()


async def test_three_gateways_share_what_an_account_may_send(redis: RedisServer) -> None:
    """Thirty clients of one key push, by clocks that differ: hardly a refusal, and little is wasted."""
    settings = Settings(account_limits={f"GET {INFO}": HIDDEN})
    common: dict[str, Any] = {"limits": LIMITS, "store__url": redis.url, "store__replicas": "3"}
    async with AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(FakeBybit(settings=settings))
        jitter(exchange, 5_000)
        apps = [
            await stack.enter_async_context(gateway(exchange.url, clock=skewed(by_us), **common))
            for by_us in (-300_000, 0, 300_000)
        ]
        session = await stack.enter_async_context(new_session())
        await until(lambda: all(app.store.status()["mode"] == "shared" for app in apps), "the shared budget")
        await Client(session, apps[0]).get_signed()  # tells of the limit
        await asyncio.sleep(0.5)  # a heartbeat
        async with crowd(session, apps, clients=30, ask=info) as people:
            await asyncio.sleep(1.5)  # until the account's second is full
            told_before, refused_before = len(people.told), exchange.books.account.refused
            await asyncio.sleep(SECONDS)
            answered = len(people.told) - told_before
            refused = exchange.books.account.refused - refused_before
            limits = [(await Client(session, app).limits())["@account-info"] for app in apps]

    print(f"{answered} answered, {refused} refused, {exchange.books.account.max_in_window()} at most, {limits[0]}")
    assert refused_before <= 3
    assert refused <= 0.005 * answered
    assert answered >= 0.85 * HIDDEN * SECONDS
    assert {told.code for told in people.told} == {0}
    assert [row["limit"] for row in limits] == [HIDDEN] * 3
    assert all(row["learned"]["told_by_exchange"] for row in limits)


async def test_a_limit_that_one_gateway_was_told_of_is_kept_by_another(redis: RedisServer) -> None:
    """It has never seen an answer for this account, and asks for no more than it may all the same."""
    settings = Settings(account_limits={f"GET {INFO}": 6})
    common: dict[str, Any] = {"limits": LIMITS, "store__url": redis.url}
    async with (
        FakeBybit(settings=settings) as exchange,
        gateway(exchange.url, **common) as one,
        gateway(exchange.url, **common) as other,
        new_session() as session,
    ):
        await until(lambda: all(app.store.status()["mode"] == "shared" for app in (one, other)), "the shared budget")
        await Client(session, one).get_signed()
        await asyncio.sleep(0.1)  # the store is told beside the answer, not before it
        told = await asyncio.gather(*(Client(session, other).get_signed() for _ in range(12)))

    assert {each.code for each in told} == {0}
    assert exchange.books.account.refused == 0

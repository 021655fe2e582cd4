"""One gateway fetches for all: exactly one has the lease, and whatever becomes of him or of Redis, none waits long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proxy.clock import system_clock
from proxy.lease import HeldElsewhere, Lease, LeaseTimes, Unavailable
from tests.level import BODY, BRIEF_US, KEY, Level, Standing, level, until
from tests.redis_servers import RedisServer, needs_redis, redis_cluster, redis_server
from tests.relay import Relay

pytestmark = needs_redis
LOCK = f"{KEY}:fetching"
LONG = LeaseTimes(life_us=60_000_000, renewed_us=500_000)
SHORT = LeaseTimes(life_us=400_000, renewed_us=100_000)
"""For tests that wait for Redis' own clock."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisServer]:
    """Empty."""
    with server.client() as client:
        client.flushall()
    return server


async def replicas(stack: AsyncExitStack, url: str, count: int = 3, **given: Any) -> list[Level]:
    return [await stack.enter_async_context(level(url, **given)) for _ in range(count)]


def value(redis: RedisServer, key: str = LOCK) -> Any:
    with redis.client() as client:
        return client.get(key)


async def never_there() -> bytes | None:
    return None


async def test_of_many_takers_in_several_gateways_one_gets_it(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        gateways = await replicas(stack, redis.url, times=LONG)
        taken = await asyncio.gather(*(gateway.leases.take(KEY) for gateway in gateways for _ in range(20)))
        (lease,) = (each for each in taken if isinstance(each, Lease))
        assert [each for each in taken if each is not lease] == [HeldElsewhere()] * 59
        assert lease.held
        assert value(redis) == lease.token
        other = await gateways[0].leases.take("another")
        assert isinstance(other, Lease)

        await lease.release()
        assert not lease.held
        assert value(redis) is None
        assert isinstance(await gateways[1].leases.take(KEY), Lease)


@pytest.mark.parametrize("seed", range(4))
async def test_all_are_answered_by_one_fetch(redis: RedisServer, seed: int) -> None:
    """Whenever each of them comes: before the fetch, during it, in the instant in which the lease is released."""
    dice, fetches = random.Random(seed), 0

    async def answer(gateway: Level, delay_s: float) -> bytes | None:
        nonlocal fetches
        await asyncio.sleep(delay_s)  # spread over the fetch, which lasts as long
        found = await gateway.found()
        if found is not None:
            return found
        taken = await gateway.leases.take(KEY)
        if isinstance(taken, Lease):
            async with taken:
                found = await gateway.found()  # he who held it before may have put it meanwhile
                if found is None:
                    fetches += 1
                    await asyncio.sleep(0.03)
                    assert await gateway.store()
                    found = BODY
                return found
        assert isinstance(taken, HeldElsewhere)
        return await gateway.leases.await_other(KEY, gateway.found, gateway.clock() + 10**10)

    async with AsyncExitStack() as stack:
        gateways = await replicas(stack, redis.url, clock=system_clock(), lease_sleep=asyncio.sleep)
        found = await asyncio.gather(*(answer(each, dice.uniform(0, 0.06)) for each in gateways for _ in range(20)))
        assert found == [BODY] * 60
        assert fetches == 1


async def test_a_holder_who_dies_frees_it(redis: RedisServer) -> None:
    """It expires by itself; who waits is told that there is no result, and fetches."""
    async with AsyncExitStack() as stack:
        one, other, _ = await replicas(stack, redis.url, clock=system_clock(), times=SHORT, lease_sleep=asyncio.sleep)
        lease = await one.leases.take(KEY)
        assert isinstance(lease, Lease)
        assert await other.leases.take(KEY) == HeldElsewhere()
        await one.kill()
        async with asyncio.timeout(20):
            assert await other.leases.await_other(KEY, never_there, other.clock() + 10**9) is None
        assert not lease.held
        assert other.counted("lease")["without-result"] == 1
        assert isinstance(await other.leases.take(KEY), Lease)


async def test_a_holder_who_lives_keeps_it(redis: RedisServer) -> None:
    """Renewed every half second for its whole life, until it is released."""
    async with level(redis.url, times=LONG) as here:
        lease = await here.leases.take(KEY)
        assert isinstance(lease, Lease)
        with redis.client() as client:
            for number in (1, 2, 3):
                client.pexpire(LOCK, 30_000)
                await here.renewals.ended(number)
                await until(lambda: client.pttl(LOCK) > 50_000, "the renewal")
            await until(lambda: len(here.renewals.begun) == 4, "the next pause")
            assert here.renewals.begun == [0.5] * 4
            await lease.release()
            await lease.release()
            assert client.get(LOCK) is None
        await until(lambda: not [task for task in here.tasks._tasks if "lease" in task.get_name()], "the end")
        assert here.counted("lease") == {"taken": 1, "released": 1}


async def test_a_lease_that_was_lost_is_not_released_on_anothers_behalf(redis: RedisServer) -> None:
    async with level(redis.url, times=LONG) as one, level(redis.url, times=LONG) as other:
        lost = await one.leases.take(KEY)
        assert isinstance(lost, Lease)
        with redis.client() as client:
            client.delete(LOCK)  # as if it had expired
        theirs = await other.leases.take(KEY)
        assert isinstance(theirs, Lease)
        with redis.client() as client:
            client.pexpire(LOCK, 30_000)
        await one.renewals.ended(1)
        await until(lambda: not lost.held, "the loss to be noticed")
        with redis.client() as client:
            assert client.pttl(LOCK) <= 30_000
        await lost.release()
        assert value(redis) == theirs.token
        assert one.counted("lease") == {"taken": 1, "lost": 1, "release-late": 1}


async def test_a_holder_who_hangs_does_not_keep_it_for_ever(redis: RedisServer) -> None:
    clock = Standing()
    async with level(redis.url, times=LeaseTimes(60_000_000, 500_000, 5_000_000), clock=clock) as here:
        lease = await here.leases.take(KEY)
        assert isinstance(lease, Lease)
        for number in (1, 2, 3):
            await until(lambda number=number: len(here.renewals.begun) == number, "the next pause")
            clock.now_us += 2_000_000
            await here.renewals.ended(number)
        await until(lease._renewing.done, "the last renewal")
        assert len(here.renewals.begun) == 3


async def test_a_caller_who_goes_while_it_is_taken_leaves_nothing_behind(redis: RedisServer) -> None:
    """Redis has given it to him, and nobody would renew or release it."""
    async with (
        Relay(redis.port, delay_s=0.03) as relay,
        level(f"redis://127.0.0.1:{relay.port}", times=LONG) as here,
    ):
        for _ in range(5):
            taking = here.tasks.spawn(here.leases.take(KEY), "taking")
            await until(lambda: value(redis), "the lease in Redis")
            taking.cancel()
            await until(lambda: value(redis) is None, "its release")
            assert taking.cancelled()


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_may_go_at_any_instant(redis: RedisServer, steps: int) -> None:
    async with level(redis.url, times=LONG) as here:
        taking = here.tasks.spawn(here.leases.take(KEY), "taking")
        for _ in range(steps):
            await asyncio.sleep(0)
        taking.cancel()
        (ended,) = await asyncio.gather(taking, return_exceptions=True)
        if isinstance(ended, Lease):
            await ended.release()
        await asyncio.sleep(0.02)  # a call that was on its way arrives; then nothing may be left
        await until(lambda: value(redis) is None, "its release")


async def test_waiting_for_another_ends_at_the_given_instant(redis: RedisServer) -> None:
    """It looks after 5 ms, and more and more seldom."""
    clock, looks, slept = Standing(), 0, []

    async def look() -> bytes | None:
        nonlocal looks
        looks += 1
        return None

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await clock.sleep(seconds)

    async with (
        level(redis.url, times=LONG) as one,
        level(redis.url, times=LONG, clock=clock, lease_sleep=sleep) as other,
    ):
        assert isinstance(await one.leases.take(KEY), Lease)
        until_us = clock.now_us + 200_000
        assert await other.leases.await_other(KEY, look, until_us) is None
        assert clock.now_us == until_us
        assert slept == pytest.approx([0.005, 0.01, 0.02, 0.04, 0.05, 0.05, 0.025])
        assert looks == len(slept) + 1
        assert other.counted("lease") == {"too-late": 1}


async def test_a_result_that_is_put_just_before_the_release_is_found(redis: RedisServer) -> None:
    looks = iter([None, b"result"])

    async def look() -> bytes | None:
        return next(looks)

    async with level(redis.url) as here:
        assert await here.leases.await_other(KEY, look, here.clock() + 10**9) == b"result"


@pytest.mark.parametrize("kind", ["text", "list", "distant"])
async def test_a_planted_lock_keeps_nobody(redis: RedisServer, kind: str) -> None:
    """One that would never end, or is not of our making."""
    async with level(redis.url) as here:
        with redis.client() as client:
            match kind:
                case "text":
                    client.set(LOCK, "mine")
                case "list":
                    client.rpush(LOCK, "mine")
                case "distant":
                    client.set(LOCK, "mine", ex=3_600)
        assert await here.leases.take(KEY) == HeldElsewhere()
        assert await here.leases.await_other(KEY, never_there, here.clock() + 10**12) is None


async def test_without_redis_everybody_fetches_for_himself(redis: RedisServer) -> None:
    clock = Standing()
    async with level(redis.url, timeout_us=BRIEF_US, times=LONG, clock=clock) as here:
        lease = await here.leases.take(KEY)
        while not isinstance(lease, Lease):  # with a brief timeout on a busy machine it may come too late
            here.pauses.end()
            await asyncio.sleep(0.01)
            lease = await here.leases.take(KEY)
        redis.stop_process()
        try:
            async with asyncio.timeout(10):  # for ever, if nothing bounded it
                assert await here.leases.take("another") == Unavailable("timeout")
                await until(lambda: here.commands.resting, "the loss")
                assert await here.leases.take("another") == Unavailable("resting")
                assert await here.leases.await_other("another", here.found, clock() + 10**12) is None
                await here.renewals.ended(1)
                await until(lambda: len(here.renewals.begun) == 2, "the next renewal")
                assert lease.held
                clock.now_us += LONG.life_us
                assert not lease.held
                await here.renewals.ended(2)
                await until(lease._renewing.done, "the end of renewals")
                await lease.release()
        finally:
            redis.continue_process()
        assert here.counted("lease")["lost"] == 1
        assert here.counted("lease")["release-resting"] == 1


async def test_in_a_cluster_too() -> None:
    with redis_cluster() as cluster:
        async with level(cluster.url, times=LONG) as one, level(cluster.url, times=LONG) as other:
            for number in range(8):  # on several nodes
                lease = await one.leases.take(f"{KEY}:{number}")
                assert isinstance(lease, Lease)
                assert await other.leases.take(f"{KEY}:{number}") == HeldElsewhere()
                await lease.release()
                assert isinstance(await other.leases.take(f"{KEY}:{number}"), Lease)
            await one.renewals.ended(1)
            assert one.counted("lease") == {"taken": 8, "released": 8}

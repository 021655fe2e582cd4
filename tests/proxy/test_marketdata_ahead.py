"""Results in order while some are under way; and none that nobody waits for any more."""

from __future__ import annotations

import asyncio

import pytest

from proxy.marketdata.ahead import Ahead
from proxy.tasks import TaskOwner


async def test_results_come_in_the_order_in_which_they_were_begun() -> None:
    second_done = asyncio.Event()

    async def first() -> int:
        await second_done.wait()
        return 1

    async def second() -> int:
        second_done.set()
        return 2

    with Ahead[int](TaskOwner(), "work") as ahead:
        ahead.begin(first())
        ahead.begin(second())
        assert len(ahead) == 2
        assert [await ahead.next(), await ahead.next()] == [1, 2]
        assert len(ahead) == 0


async def test_what_is_still_under_way_at_the_end_is_cancelled() -> None:
    tasks, begun, ended = TaskOwner(), asyncio.Event(), []

    async def forever(name: int) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
        return name

    async def failing() -> int:
        await begun.wait()
        raise KeyError("x")

    async def reader() -> None:
        with Ahead[int](tasks, "work") as ahead:
            ahead.begin(failing())
            ahead.begin(forever(1))
            ahead.begin(forever(2))
            await ahead.next()

    with pytest.raises(KeyError):
        await reader()
    async with asyncio.timeout(5):
        while len(tasks):
            await asyncio.sleep(0)
    assert ended == [1, 2]


async def test_who_leaves_takes_what_he_waits_for_with_him() -> None:
    tasks = TaskOwner()

    async def reader() -> None:
        with Ahead[int](tasks, "work") as ahead:
            for _ in range(3):
                ahead.begin(asyncio.sleep(3600, 1))
            await ahead.next()

    reading = TaskOwner().spawn(reader(), "reader", reported=False)
    while len(tasks) < 3:
        await asyncio.sleep(0)
    reading.cancel()
    async with asyncio.timeout(5):
        while len(tasks):
            await asyncio.sleep(0)
    assert reading.cancelled()

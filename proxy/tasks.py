"""Every task has an owner. This is the owner of those that outlive the call which began them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")


class TaskOwner:
    """Starts tasks, keeps them from being collected, reports what they raise, ends them with itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> list[str]:
        """Of the tasks that have not ended."""
        return [task.get_name() for task in self._tasks]

    def spawn(self, work: Coroutine[Any, Any, T], name: str, *, reported: bool = True) -> asyncio.Task[T]:
        """Start a task. `reported`: an exception is logged; False when the caller awaits the task and handles it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reported if reported else self._tasks.discard)
        return task

    async def drain(self, seconds: float, *names: str) -> int:
        """Wait for the running tasks whose names begin so; the answer is how many have not ended in time."""
        ends = asyncio.get_running_loop().time() + seconds
        while running := [task for task in self._tasks if task.get_name().startswith(names)]:
            left_s = ends - asyncio.get_running_loop().time()
            if left_s <= 0:
                return len(running)
            await asyncio.wait(running, timeout=left_s)  # what one ends with may be the beginning of another
        return 0

    async def close(self) -> None:
        """Cancel what is left and wait for its end."""
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reported(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger().error("task_failed", task=task.get_name(), error=type(error).__name__)


async def within(seconds: float, hurry: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What it comes to; None when it has taken longer, or somebody is in a hurry: it is cancelled then."""
    loop = asyncio.get_running_loop()
    wanted, hurried = loop.create_task(work), loop.create_task(hurry.wait())
    try:
        await asyncio.wait((wanted, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        wanted.cancel()
        hurried.cancel()
        await asyncio.gather(wanted, hurried, return_exceptions=True)


def noted(task: asyncio.Task[Any]) -> None:
    """A done callback for tasks that may be left: their failure is known, whether anybody awaits them or not."""
    if not task.cancelled():
        task.exception()

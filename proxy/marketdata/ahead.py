"""Results in the order in which they were asked for, while a few of them are under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from proxy.tasks import TaskOwner, noted

T = TypeVar("T")


class Ahead(Generic[T]):
    """`with Ahead(tasks, name) as ahead`: what is still under way at the end is cancelled."""

    def __init__(self, tasks: TaskOwner, name: str) -> None:
        self._owner = tasks
        self._name = name
        self._running: deque[asyncio.Task[T]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            self._running.popleft().cancel()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, work: Coroutine[Any, Any, T]) -> None:
        task = self._owner.spawn(work, self._name, reported=False)
        task.add_done_callback(noted)
        self._running.append(task)

    async def next(self) -> T:
        """The result of what was begun first, or what it raised."""
        task = self._running[0]
        try:
            return await task
        finally:
            if task.done():
                self._running.popleft()

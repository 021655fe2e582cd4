"""A clock that a test moves on by hand, for programs that talk over real sockets: the sockets take the time they take,
and all else waits for the test."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

START_US = 1_790_598_856_789_000
"""A Monday in September 2026, 12:34:16."""
_TURNS = 10
_PATIENCE_S = 20.0


@dataclass
class HandClock:
    """A Clock, and its sleep() is the Sleep that goes with it."""

    now_us: int = START_US
    _sleepers: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    def __call__(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_us + round(seconds * 1e6), next(self._numbers), future))
        await future

    @property
    def due_s(self) -> float | None:
        """How long until the next sleeper wakes up; None when nobody sleeps."""
        waking = [due_us for due_us, _, future in self._sleepers if not future.done()]
        return (min(waking) - self.now_us) / 1e6 if waking else None

    async def leap(self, seconds: float) -> None:
        """So much later, all at once. Who should have woken up in between wakes up now."""
        self.now_us += round(seconds * 1e6)
        while self._sleepers and self._sleepers[0][0] <= self.now_us:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
        for _ in range(_TURNS):  # who has woken up does what it can without waiting for a socket
            await asyncio.sleep(0)

    async def walk(self, seconds: int) -> None:
        """So much later, second by second."""
        for _ in range(seconds):
            await self.leap(1)


async def until(condition: Callable[[], Any]) -> None:
    """The other end of a socket acts in its own time: looked for, for a bounded while."""
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)

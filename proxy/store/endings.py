"""What has ended here and must end in the store: told beside the answers, not before them, and many at a time.

Nothing is lost while the store is away. What it then still holds in flight ends with the next word to it, or by itself
with its lease.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from proxy.store.client import StoreLost
from proxy.store.remote import Ending

_TOGETHER: Final = 128
_KEPT: Final = 100_000
_WAIT_S: Final = 0.002
"""So long an ending waits for a request to go to the store with."""


class Endings:
    def __init__(self, send: Callable[[Sequence[Ending]], Awaitable[None]], *, may_send: Callable[[], bool]) -> None:
        self._send = send
        self._may_send = may_send
        self._waiting: deque[Ending] = deque()
        self._due = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ending: Ending) -> None:
        if len(self._waiting) >= _KEPT:
            return  # the leases end them
        if not self._waiting:
            asyncio.get_running_loop().call_later(_WAIT_S, self._due.set)
        self._waiting.append(ending)

    def hurry(self) -> None:
        """Something else goes to the store now."""
        if self._waiting:
            self._due.set()

    async def run(self, failed: Callable[[StoreLost], None]) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.flush()
            except StoreLost as lost:
                failed(lost)

    async def flush(self) -> None:
        """Send all there are; raises StoreLost, and what was not told is told later."""
        while self._waiting and self._may_send():
            batch = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
            try:
                await self._send(batch)
            except StoreLost as lost:
                if not lost.of_its_own:
                    self._waiting.extendleft(reversed(batch))
                    raise
                await self._send_each(batch)

    async def _send_each(self, batch: list[Ending]) -> None:
        """One of them is refused for what stands under its keys: that one is left to its lease."""
        while batch:
            try:
                await self._send(batch[:1])
            except StoreLost as lost:
                if not lost.of_its_own:
                    self._waiting.extendleft(reversed(batch))
                    raise
            del batch[0]

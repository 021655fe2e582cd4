"""A time-out that counts only time in which this process was awake.

A container that has used up its share of the processor stands still for up to a tenth of a second, and so does a busy
machine. When it goes on, its timers are due at once, and are called before anybody looks for what has come meanwhile:
an answer that lies here would be taken for none. So a timer that is late lets the event loop look first.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

_LATE_S: Final = 0.01
"""A timer that comes later than this was not kept by the loop's usual work."""


class Within:
    """`async with Within(seconds):` raises TimeoutError as asyncio.timeout() does, `seconds` after it was entered.

    Where the loop stood still when that time was over, it goes on once more, for as long as the loop was late, and no
    longer than `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._seconds
        self._timer = loop.call_at(due_s, self._due, loop, due_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def _due(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        late_s = loop.time() - due_s
        if late_s > _LATE_S:
            self._timer = loop.call_later(min(late_s, self._seconds), self._over, loop)
        else:
            self._over(loop)

    def _over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timeout.reschedule(loop.time())

"""What a miss comes to: an answer of the exchange, one of another gateway, or a wait that takes too long."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from policies import bybit
from policies.admission import Refused
from proxy.answers import SharedAnswer
from proxy.cache import Entry


class Brought(NamedTuple):
    """What a miss has come to."""

    answer: SharedAnswer | None
    """Of the exchange; None when it came from another gateway."""
    entry: Entry | None
    """What to give, where that is not the answer as it came."""
    leads: bool
    """This request has caused the fetch."""

    @property
    def failed(self) -> bool:
        """The exchange is in trouble: an older answer is better than this one."""
        answer = self.answer
        return answer is not None and bybit.in_trouble(answer.status, answer.ret_code)

    @property
    def cache_status(self) -> str:
        """As RFC 9211 has it, for an answer of the exchange."""
        forward = "fwd=uri-miss" if self.entry is None else "fwd=partial"
        if not self.leads or self.answer is None:
            return f"{forward}; collapsed"
        stored = self.entry is not None or self.answer.entry is not None
        return f"{forward}; fwd-status={self.answer.status}{'; stored' if stored else ''}"

    def suits(self, accept_encoding: str | None) -> bool:
        """Whether the asker can be given it; if not, he has to send for his own."""
        return self.leads or self.entry is not None or self.answer is None or self.answer.suits(accept_encoding)


class Late:
    """The exchange takes its time."""

    def __init__(self, task: asyncio.Task[Brought | Refused | None]) -> None:
        self._task = task

    async def wait(self) -> Brought | Refused | None:
        """As bring()."""
        try:
            return await self._task
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    def leave(self) -> None:
        """Its answer is of no use any more to who asked."""
        self._task.cancel()

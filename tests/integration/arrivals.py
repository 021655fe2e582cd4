"""How many requests the exchange has seen, over time, and how much of a budget that was."""

from __future__ import annotations

import asyncio
import itertools
import time

from tests.fake_bybit import FakeBybit


class Arrivals:
    """Sampled while `sample` runs; all instants are of time.monotonic()."""

    def __init__(self, exchange: FakeBybit, limit: int, window_s: float) -> None:
        self._exchange = exchange
        self._rate = limit / window_s
        self._counts: list[tuple[float, int]] = []

    async def sample(self) -> None:
        while True:
            self._counts.append((time.monotonic(), self._exchange.stats.requests))
            await asyncio.sleep(0.02)  # a sample of what passes in real time

    def between(self, since: float, until: float) -> int:
        before = [count for when, count in self._counts if when <= since] or [0]
        after = [count for when, count in self._counts if when <= until] or [0]
        return after[-1] - before[-1]

    def share(self, since: float, until: float) -> float:
        """How much of the budget was used in that time."""
        return self.between(since, until) / (self._rate * (until - since))

    def fullest(self, since: float, span_s: float) -> float:
        """How much of the budget was used in the fullest span of that length since then."""
        ends = self._counts[-1][0]
        starts = [when for when, _ in self._counts if since <= when <= ends - span_s]
        return max((self.share(start, start + span_s) for start in starts), default=0.0)

    async def reach(self, least: float, since: float, span_s: float, *, within_s: float) -> float:
        """Wait until one span since then is that full, and say how full the fullest is.

        A machine that stands still for a moment spoils the spans around that moment and no other; a gateway that
        lacks a part of the budget fills none.
        """
        ends = time.monotonic() + within_s
        while (best := self.fullest(since, span_s)) < least and time.monotonic() < ends:
            await asyncio.sleep(span_s / 8)
        return best

    def longest_standstill(self, since: float) -> float:
        """The longest time in which nothing arrived."""
        moves = [since]
        for (_, count), (when, later) in itertools.pairwise(self._counts):
            if later > count and when > since:
                moves.append(when)
        moves.append(self._counts[-1][0])
        return max(later - earlier for earlier, later in itertools.pairwise(moves))

    def timeline(self, since: float, step: float = 0.25) -> str:
        """Arrivals in each quarter of a second, for whoever reads a failure."""
        ends = self._counts[-1][0]
        steps = [since + step * number for number in range(int((ends - since) / step))]
        return " ".join(str(self.between(at, at + step)) for at in steps)

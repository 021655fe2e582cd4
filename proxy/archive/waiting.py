"""What waits to be written: bounded in rows, taken in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from policies.segments import Series


class Offer(NamedTuple):
    """Rows of one series, each as the exchange wrote it: `["...","...",...]`. What is covered, [low, high) of open
    times in ms, holds no other candle. `revised`: it replaces what was known."""

    series: Series
    rows: tuple[bytes, ...]
    covered: tuple[int, int] | None
    revised: bool

    @property
    def weight(self) -> int:
        """In rows. That there are none is something to remember, too."""
        return max(1, len(self.rows))


class Waiting:
    """At most `most` rows, those that have been taken and are not `done` included."""

    def __init__(self, most: int, batch: int) -> None:
        self.rows = 0
        self.closing = asyncio.Event()
        self._most = most
        self._batch = batch
        self._offers: deque[Offer] = deque()
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._ready = 0
        """Rows that have not been taken yet."""

    def put(self, offer: Offer) -> bool:
        """False when there is no room for all of it: then nothing of it is kept."""
        weight = offer.weight
        if self.closing.is_set() or self.rows + weight > self._most:
            return False
        self._offers.append(offer)
        self.rows += weight
        self._ready += weight
        self._some.set()
        if self._ready >= self._batch:
            self._enough.set()
        return True

    async def batch(self, within_s: float) -> list[Offer]:
        """As much as makes a batch, or what there is after so long; nothing after nudge(), or when it is closed and
        empty.

        A revision is the last of its batch, so that batches are written in the order of the offers.
        """
        await self._some.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._enough.wait()
        taken: list[Offer] = []
        rows = 0
        while self._offers and rows < self._batch and not (taken and taken[-1].revised):
            offer = self._offers.popleft()
            rows += offer.weight
            taken.append(offer)
        self._ready -= rows
        if not self.closing.is_set():
            if not self._offers:
                self._some.clear()
            if self._ready < self._batch:
                self._enough.clear()
        return taken

    def done(self, batch: list[Offer]) -> None:
        """Written or given up: there is room again."""
        self.rows -= sum(offer.weight for offer in batch)

    def nudge(self) -> None:
        """There is something else to do than to write what waits."""
        self._some.set()
        self._enough.set()

    def close(self) -> None:
        """Nothing more is taken in, and nothing is waited for."""
        self.closing.set()
        self._some.set()
        self._enough.set()

"""Takes what waits and writes it, batch after batch, for as long as it takes. Nobody waits for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from proxy.archive.line import Line, Lost, Stored
from proxy.archive.waiting import Offer, Waiting
from proxy.metrics import Metrics

Connect = Callable[[], Awaitable[Line]]

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0
_YIELDING_S: Final = 1.0
"""Between two batches, while others need the processor more."""


class Writer:
    """A batch is tried until it is written; only what the database will never take is given up.

    `oldest_ms` gives the instant before which candles are not kept, `yields` whether to take it slowly.
    """

    def __init__(
        self,
        waiting: Waiting,
        connect: Connect,
        metrics: Metrics,
        *,
        flush_s: float,
        oldest_ms: Callable[[], int],
        yields: Callable[[], bool] = lambda: False,
    ) -> None:
        self.failure: str | None = None
        """Why nothing is written at present."""
        self._waiting = waiting
        self._connect = connect
        self._metrics = metrics
        self._flush_s = flush_s
        self._oldest_ms = oldest_ms
        self._yields = yields
        self._line: Line | None = None
        self._failures = 0
        self._log = structlog.get_logger()

    @property
    def connected(self) -> bool:
        return self._line is not None and not self._line.closed

    async def run(self) -> None:
        """Until the queue is closed and empty. Nothing is written, too: what keeps it from writing shows at the start,
        and when any connection has ended, not with the next candle."""
        batch: list[Offer] = []
        try:
            while self._waiting.rows or not self._waiting.closing.is_set():
                await self._write(batch)
                self._waiting.done(batch)
                self._metrics.db_queue.set(self._waiting.rows)
                if self._yields():
                    await self._until_closing(_YIELDING_S)
                batch = await self._waiting.batch(self._flush_s)
            if self._line is not None:
                await self._line.close()
        finally:
            if self._line is not None:
                self._line.drop()

    async def _write(self, batch: list[Offer]) -> None:
        while True:
            try:
                line = await self._opened()
                stored = await line.store(batch, self._oldest_ms())
            except Lost as lost:
                if lost.of_the_data:
                    self._give_up(batch)
                    return
                if self._waiting.closing.is_set() and not self._waiting.rows:
                    return  # at the end there is nothing to try it for
                await self._pause(lost)
            else:
                self._succeed(stored)
                return

    async def _opened(self) -> Line:
        if self._line is None or self._line.closed:
            self._line = await self._connect()
            await self._line.begin_writing()
        return self._line

    def _succeed(self, stored: Stored) -> None:
        if self._failures:
            self._log.info("archive_back", after_attempts=self._failures)
        self._failures, self.failure = 0, None
        for result, rows in stored._asdict().items():
            if rows:
                self._metrics.db_stores.labels(result).inc(rows)

    def _give_up(self, batch: list[Offer]) -> None:
        rows = sum(len(offer.rows) for offer in batch)
        self._metrics.db_stores.labels("failed").inc(rows)
        self._log.error("archive_refused", rows=rows)

    async def _pause(self, lost: Lost) -> None:
        """Ever longer, and not the same for all gateways; short once there is nothing more to come."""
        if lost.reason != self.failure:
            self._log.warning("archive_lost", reason=lost.reason, waiting_rows=self._waiting.rows)
        self.failure = lost.reason
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        if self._waiting.closing.is_set():
            await asyncio.sleep(_FIRST_PAUSE_S)
            return
        await self._until_closing(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # so that not all come at once

    async def _until_closing(self, seconds: float) -> None:
        """Or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.closing.wait()

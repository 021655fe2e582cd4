"""The archive as the rest of the gateway knows it: offer() and read()."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from policies.archive_schema import ArchiveSection
from policies.segments import Series
from proxy.archive.line import NOTHING, Found, Line, Ward
from proxy.archive.migrate import migrations
from proxy.archive.reader import WORKERS, Reader
from proxy.archive.retention import Retention
from proxy.archive.waiting import Offer, Waiting
from proxy.archive.writer import Writer
from proxy.clock import Clock, Sleep
from proxy.metrics import Metrics
from proxy.pulse import Pulse
from proxy.tasks import TaskOwner

DRAIN_S: Final = 5.0
_TELL_EVERY_US: Final = 60_000_000
_YIELDING_PERCENT: Final = 50
"""A queue that is fuller than that must be worked off, whoever else wants the processor."""


class Archive:
    """Nothing is connected before start(), and no database need be there for it."""

    def __init__(
        self, section: ArchiveSection, clock: Clock, metrics: Metrics, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._section = section
        self._clock = clock
        self._metrics = metrics
        self._tasks = TaskOwner()
        self._wanted = migrations()
        self._waiting = Waiting(section.queue, section.batch)
        self.pulse = Pulse(clock)
        self._ward = Ward(self.pulse, metrics, section.timeout, self._waiting.nudge)
        self._writer = Writer(
            self._waiting,
            self._connect,
            metrics,
            flush_s=section.flush / 1e6,
            oldest_ms=self.oldest_ms,
            yields=lambda: self.yields() and self.percent_full < _YIELDING_PERCENT,
        )
        self._reader = Reader(self._connect, metrics, clock, section.timeout / 1e6)
        self._retention = Retention(self._connect, self.oldest_ms, sleep)
        self.yields: Callable[[], bool] = lambda: False
        """Whether others need the processor more: then it is written more slowly."""
        self._dropped = 0
        self._told_us: int | None = None
        self._log = structlog.get_logger()

    def start(self) -> None:
        self._tasks.spawn(self._writer.run(), "archive-writer")
        if self._section.serve:
            for number in range(WORKERS):
                self._tasks.spawn(self._reader.run(), f"archive-reader-{number}")
        if self._section.retention is not None:
            self._tasks.spawn(self._retention.run(), "archive-retention")

    async def stop(self, seconds: float = DRAIN_S) -> None:
        """Write what waits, but not for longer than that; the rest is dropped and counted."""
        self._waiting.close()
        await self._tasks.drain(seconds, "archive-writer")
        await self._tasks.close()
        if self._waiting.rows:
            self._drop(self._waiting.rows)
            self._log.warning("archive_cut_off", rows=self._waiting.rows)

    def offer(
        self,
        series: Series,
        rows: Sequence[bytes],
        covered: tuple[int, int] | None = None,
        *,
        revised: bool = False,
    ) -> None:
        """Have closed candles written, each once; returns at once.

        Rows are `["...","...",...]` as the exchange wrote them. `covered`: [low, high) of open times in ms holds these
        rows and no others. `revised`: what was known of it is replaced; otherwise what is known stays. All of an offer
        is dropped when there is no room for all of it.
        """
        offer = Offer(series, tuple(rows), covered, revised)
        if self._waiting.put(offer):
            self._metrics.db_queue.set(self._waiting.rows)
            return
        self._drop(len(offer.rows))
        now_us = self._clock()
        if self._told_us is None or now_us - self._told_us >= _TELL_EVERY_US:
            self._told_us = now_us
            self._log.warning("archive_queue_full", waiting_rows=self._waiting.rows, dropped_rows=self._dropped)

    async def read(self, series: Series, low_ms: int, high_ms: int) -> Found:
        """The rows that open within [low, high), newest first, and the parts of it that hold no others.

        Both are of one instant. Nothing and no coverage when the archive does not answer in time, when it is lost, and
        when it shall not serve. For some thousands of slots at a time.
        """
        return await self._reader.read(series, low_ms, high_ms) if self._section.serve else NOTHING

    @property
    def percent_full(self) -> int:
        """Of the queue."""
        return 100 * self._waiting.rows // self._section.queue

    @property
    def pressing(self) -> int:
        """How full the queue is, in percent, while it is written; 0 while the database is lost: it would not help it
        to be offered less."""
        return self.percent_full if self._writer.connected else 0

    def oldest_ms(self) -> int:
        """Candles that open before this instant are not kept."""
        retention_us = self._section.retention
        return 0 if retention_us is None else (self._clock() - retention_us) // 1000

    def status(self) -> dict[str, object]:
        """For the health page."""
        return {
            "database": self._section.shown,
            "connected": self._writer.connected,
            "failure": self._writer.failure,
            "waiting_rows": self._waiting.rows,
            "dropped_rows": self._dropped,
            "serves": self._section.serve and not self._reader.left_alone,
        }

    async def _connect(self) -> Line:
        return await Line.open(self._section, self._wanted, self._ward)

    def _drop(self, rows: int) -> None:
        self._dropped += rows
        self._metrics.db_stores.labels("dropped").inc(rows)

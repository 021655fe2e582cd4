"""The memory of this process: how much, how fast it grows, what the collector has done, and a word when it may leak."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from policies import growth
from policies.growth import Growth, Sample
from proxy import heap
from proxy.clock import Clock, Sleep
from proxy.metrics import Metrics

SAMPLE_S: Final = 10.0
LONGEST_TRACE_US: Final = 2 * 3_600_000_000
"""A trace that was forgotten ends by itself: it costs memory, and makes everything slower."""
_STATM: Final = Path("/proc/self/statm")
_TOLD: Final = 5

Kept = Callable[[], Mapping[str, int]]
"""How many of what this process keeps, by type."""


class Used(NamedTuple):
    rss_bytes: int
    vms_bytes: int
    now: bool = True
    """False where the system tells the most that it has ever been, and nothing of the present."""


def used(statm: Path = _STATM) -> Used:
    """Of this process, as the system tells."""
    try:
        pages = statm.read_bytes().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return Used(int(pages[1]) * size, int(pages[0]) * size)
    except (OSError, ValueError, IndexError):
        return Used(_peak_bytes(), 0, now=False)


def _peak_bytes() -> int:
    try:
        import resource  # noqa: PLC0415  # not everywhere
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Memory:
    """`kept_bytes`: what the caches hold, which grows on purpose up to their bounds; `kept`: what else there is."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        kept: Kept,
        kept_bytes: Callable[[], int],
        clock: Clock,
        sleep: Sleep,
        read: Callable[[], Used] = used,
    ) -> None:
        self.kept = kept
        self.growth = Growth()
        self._metrics = metrics
        self._kept_bytes = kept_bytes
        self._clock = clock
        self._sleep = sleep
        self._read = read
        self._traced_since_us: int | None = None
        self._log: Any = structlog.get_logger()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.sample()
                await self._sleep(SAMPLE_S)
        finally:
            self.trace(on=False)

    async def sample(self) -> None:
        now_us, now = self._clock(), self._read()
        if now.now:
            self.growth = growth.noted(self.growth, Sample(now_us, now.rss_bytes, self._kept_bytes()))
            self.growth, suspicion = growth.judged(self.growth, now_us)
            if suspicion is not None:
                where = await asyncio.to_thread(heap.lines) if tracemalloc.is_tracing() else []
                self._log.warning(
                    "memory_growing",
                    **suspicion._asdict(),
                    rss_bytes=now.rss_bytes,
                    kept=dict(self.kept()),
                    lines=where[:_TOLD],
                )
        if self._traced_since_us is not None and now_us - self._traced_since_us >= LONGEST_TRACE_US:
            self.trace(on=False)

    def trace(self, *, on: bool) -> None:
        """Begin to note where memory is allocated, or end it. One that was begun from outside is not ended."""
        if on and not tracemalloc.is_tracing():
            tracemalloc.start()
            self._traced_since_us = self._clock()
            self._log.warning("memory_trace", running=True)
        elif not on and self._traced_since_us is not None:
            tracemalloc.stop()
            self._traced_since_us = None
            self._log.warning("memory_trace", running=False)

    def show(self) -> None:
        """The gauges."""
        metrics, now = self._metrics, self._read()
        metrics.rss.set(now.rss_bytes)
        metrics.vms.set(now.vms_bytes)
        metrics.memory_growth.set(growth.bytes_per_second(self.growth))
        for kind, count in self.kept().items():
            metrics.objects.labels(kind).set(count)
        for number, done in enumerate(gc.get_stats()):
            metrics.gc_collections.counts[str(number),] = done["collections"]
            metrics.gc_collected.counts[str(number),] = done["collected"]

    def state(self) -> dict[str, Any]:
        """All of it that costs nothing to tell."""
        now, pending = self._read(), gc.get_count()
        samples = self.growth.samples
        told_us = self.growth.told_us
        return {
            "rss_bytes": now.rss_bytes,
            "vms_bytes": now.vms_bytes,
            "growth": {
                "bytes_per_second": growth.bytes_per_second(self.growth),
                "over_s": (samples[-1].at_us - samples[0].at_us) // 1_000_000 if samples else 0,
                "suspected_s_ago": None if told_us is None else (self._clock() - told_us) // 1_000_000,
            },
            "gc": [
                {**done, "pending": count, "threshold": threshold}
                for done, count, threshold in zip(gc.get_stats(), pending, gc.get_threshold(), strict=True)
            ],
            "kept": {**self.kept(), "bytes": self._kept_bytes()},
        }

    def tracing(self) -> dict[str, Any]:
        """Whether allocations are traced, since when, and what that costs in memory."""
        if not tracemalloc.is_tracing():
            return {"running": False}
        since_us = self._traced_since_us
        return {
            "running": True,
            "for_s": None if since_us is None else (self._clock() - since_us) // 1_000_000,
            "overhead_bytes": tracemalloc.get_tracemalloc_memory(),
        }

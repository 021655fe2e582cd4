"""Feels this process's pulse: how late the event loop is, and what has piled up. Four times a second, and cheap.

The event loop is late when it comes to a timer later than it should: something has held it up for so long, and every
request with it. Measured by a clock that is real, whatever clock the windows run on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from policies.pressure import Readings
from proxy.attempts import AFTER_THE_CLIENT
from proxy.caches import Caches
from proxy.clock import Clock, Sleep
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.pressure import Pressure
from proxy.store import Store
from proxy.tasks import TaskOwner

PERIOD_US: Final = 250_000
_REMEMBERED: Final = 60
"""Samples: 15 s of them, as far apart as scrapes usually are."""

_TYPES: Final = {
    "send": "send",
    AFTER_THE_CLIENT: "after-the-client",
    "late-completion": "permit",
    "refund-abandoned-permit": "permit",
    "bring": "fetch",
    "fetch": "fetch",
    "revalidate": "refresh",
    "boundary-refresh": "refresh",
    "shadow-comparison": "refresh",
    "lease-renewal": "store",
    "lease-release": "store",
    "announce-ban": "store",
    "tell-accounts": "store",
}
"""By the first word of a task's name."""
_OTHER: Final = "other"
_LOOP: Final = "loop"


class Vitals:
    """`max_waiting` of `queue` bounds the limiter and the door alike. `tasks` come and go, `loops` run for ever."""

    def __init__(
        self,
        *,
        pressure: Pressure,
        limiter: Limiter,
        door: Limiter,
        store: Store,
        caches: Caches,
        tasks: TaskOwner,
        loops: TaskOwner,
        metrics: Metrics,
        max_waiting: int,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self.max_waiting = max_waiting
        self._pressure = pressure
        self._limiter = limiter
        self._door = door
        self._store = store
        self._caches = caches
        self._tasks = tasks
        self._loops = loops
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._lags: deque[int] = deque(maxlen=_REMEMBERED)
        self._cpu_s = (0.0, 0.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due_us = self._clock() + PERIOD_US
            await self._sleep(PERIOD_US / 1e6)
            self.sample(max(0, self._clock() - due_us))

    def sample(self, lag_us: int) -> None:
        self._lags.append(lag_us)
        self._pressure.note(self.readings(lag_us))

    def readings(self, lag_us: int) -> Readings:
        waiting = max(self._limiter.waiting, self._door.waiting)
        archive, way = self._caches.archive, self._store.way
        return Readings(
            lag_us,
            100 * waiting // max(1, self.max_waiting),
            self._caches.calls_waiting + (0 if way is None else way.waiting),
            0 if archive is None else archive.pressing,
            len(self._tasks) + len(self._loops),
        )

    def kept(self) -> dict[str, int]:
        """What this process keeps, by type: what is cheap to count."""
        l1, candles = self._caches.lookup.l1, self._caches.candles
        return {
            "cache_entries": 0 if l1 is None else len(l1),
            "candle_series": 0 if candles is None else len(candles),
            "windows": self._store.windows(),
            "waiting": self._limiter.waiting + self._door.waiting,
            "tasks": len(self._tasks) + len(self._loops),
            "memory_blocks": sys.getallocatedblocks(),
        }

    def kept_bytes(self) -> int:
        """What the caches hold, which is bounded by the configuration."""
        l1, candles = self._caches.lookup.l1, self._caches.candles
        return (0 if l1 is None else l1.size_bytes) + (0 if candles is None else candles.size_bytes)

    def show(self) -> None:
        """The gauges, when somebody looks."""
        metrics = self._metrics
        metrics.loop_lag.set(max(self._lags, default=0) / 1e6)
        counts = Counter(kind_of(self._tasks.names()))
        for kind in (*sorted(set(_TYPES.values())), _OTHER):
            metrics.tasks_pending.labels(kind).set(counts[kind])
        metrics.tasks_pending.labels(_LOOP).set(len(self._loops))
        self._show_cpu()

    def _show_cpu(self) -> None:
        times = os.times()
        now_s = (times.user, times.system)
        for mode, now, before in zip(("user", "system"), now_s, self._cpu_s, strict=True):
            self._metrics.cpu.labels(mode).inc(max(0.0, now - before))
        self._cpu_s = now_s


def kind_of(names: Iterable[str]) -> Iterable[str]:
    """The types of tasks of those names: a bounded set."""
    return (_TYPES.get(name.partition(" ")[0], _OTHER) for name in names)

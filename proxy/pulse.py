"""Where calls of a dependency end, it is noted: whether it answered, how long that took, and whether that was long.

Kept by whoever makes the calls, read by the health pages. policies/health.py concludes.
"""

from __future__ import annotations

from typing import Final

from policies.health import LastMinute, Patience, Status, Vitals
from proxy.clock import Clock
from proxy.metrics import Metrics

SLOW_PART: Final = 2
"""A call that must be answered in time is slow from half of that time on."""
SLOW_WRITE_US: Final = 1_000_000
"""Nobody waits for what is written to the archive: it is slow from here on."""
TIMEOUT: Final = "timeout"
"""The reason of a failure that is one of time."""

_PATIENCE: Final = Patience()
HEARD_SELDOM: Final = Patience(silence_us=300_000_000)
"""Of what nobody asks anything but for clients."""
_UPSTREAM: Final = HEARD_SELDOM._replace(first_counts=False)
"""One request that fails says something of the request, of the path, of the moment: another must agree."""


class Queries:
    """Counts the calls of one type that were slow, or not answered in time."""

    def __init__(self, metrics: Metrics, query_type: str, slow_us: int) -> None:
        self._slow = metrics.slow_queries.labels(query_type)
        self._timeouts = metrics.query_timeouts.labels(query_type)
        self._slow_us = slow_us

    def answered(self, took_us: int, calls: int = 1) -> None:
        """So many together, in that time."""
        if took_us >= self._slow_us:
            self._slow.inc(calls)

    def failed(self, reason: str, calls: int = 1) -> None:
        if reason == TIMEOUT:
            self._timeouts.inc(calls)


class Pulse:
    """answered() or failed() for each call that has ended."""

    def __init__(self, clock: Clock, patience: Patience = _PATIENCE) -> None:
        self.clock = clock
        self.vitals = Vitals(clock(), patience)

    def answered(self, latency_us: int) -> None:
        self.vitals.answered(self.clock(), latency_us)

    def failed(self, reason: str) -> None:
        self.vitals.failed(self.clock(), reason)

    def forget(self) -> None:
        """Nothing is wanted of it any more."""
        self.vitals.forget(self.clock())

    @property
    def status(self) -> Status:
        return self.vitals.status(self.clock())


class UpstreamPulse(Pulse):
    """Of the exchange, with its last minute."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, _UPSTREAM)
        self.minute = LastMinute()

    def answered(self, latency_us: int) -> None:
        super().answered(latency_us)
        self.minute.note(self.clock(), failed=False)

    def failed(self, reason: str) -> None:
        super().failed(reason)
        self.minute.note(self.clock(), failed=True)

"""The last ten minutes as the page's plots show them: one point every two seconds, whether somebody looks or not.

A point is taken in some microseconds, and with a common store by one short call: only the windows of the address are
asked for, never all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from policies.admission import WHOLE, Charge
from proxy.callers import Callers
from proxy.clock import Clock
from proxy.egress import Egress
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.store import Store

STEP_S: Final = 2.0
_POINTS: Final = 300
_HITS: Final = ("hit", "stale", "collapsed", "miss")


class Budget(NamedTuple):
    """The fullest of the windows that count what is sent from the address."""

    rule: str
    used: int
    usable: int
    """What fits in it at present."""
    limit: int
    window_us: int


class Totals(NamedTuple):
    """Since the start."""

    requests: int = 0
    answered: int = 0
    """Requests that the exchange answered, our own included."""
    asked: int = 0
    """Requests of clients for which it was asked, and"""
    failed: int = 0
    """those for which it had no usable answer."""
    hits: int = 0
    stale: int = 0
    shared: int = 0
    misses: int = 0


class _Point(NamedTuple):
    at_us: int
    budget: Budget | None
    waiting: int
    totals: Totals


class Trail:
    """`charges`: of the address; changed by a reload."""

    def __init__(
        self,
        *,
        charges: Sequence[Charge],
        store: Store,
        egress: Egress,
        limiters: Sequence[Limiter],
        callers: Callers,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.charges = tuple(charges)
        self._store = store
        self._egress = egress
        self._limiters = limiters
        self._callers = callers
        self._metrics = metrics
        self._clock = clock
        self._points: deque[_Point] = deque(maxlen=_POINTS)

    async def note(self) -> None:
        budget = await self.budget()
        waiting = sum(limiter.waiting for limiter in self._limiters)
        self._points.append(_Point(self._clock(), budget, waiting, self.totals()))

    async def budget(self) -> Budget | None:
        """As it is now; None where no rule counts the address, or nobody can tell."""
        if not self.charges:
            return None
        part, fullest = self._egress.part(), None
        for usage in await self._store.usage(self.charges):
            quota = usage.quota
            usable = max(1, usage.capacity * part // WHOLE)
            budget = Budget(quota.name, usage.used, usable, quota.burst or quota.limit, quota.window_us)
            if fullest is None or budget.used * fullest.usable > fullest.used * budget.usable:
                fullest = budget
        return fullest

    def totals(self) -> Totals:
        metrics = self._metrics
        looked_up = metrics.cache_operations
        return Totals(
            sum(metrics.requests.counts.values()),
            sum(sum(series) for series in metrics.duration.counts().values()),
            self._callers.asked,
            self._callers.failed,
            *(looked_up.value("get", result) for result in _HITS),
        )

    def lately(self, span_us: int) -> tuple[int, Totals]:
        """What has been counted since the latest point that is so old, or the oldest, and how long ago that was."""
        now_us, now = self._clock(), self.totals()
        then = next((point for point in reversed(self._points) if point.at_us <= now_us - span_us), None)
        if then is None:
            if not self._points:
                return 0, Totals()
            then = self._points[0]
        return now_us - then.at_us, Totals(*(new - old for new, old in zip(now, then.totals, strict=True)))

    def shown(self) -> dict[str, object]:
        """In columns, the oldest first. Null where nobody could tell."""
        now_us = self._clock()
        points, requests, sent = list(self._points), [], []
        for before, point in pairwise(points):
            took_s = max(1, point.at_us - before.at_us) / 1e6
            requests.append(round((point.totals.requests - before.totals.requests) / took_s, 1))
            sent.append(round((point.totals.answered - before.totals.answered) / took_s, 1))
        shown = points[1:]
        return {
            "span_s": int(_POINTS * STEP_S),
            "ago_s": [round((now_us - point.at_us) / 1e6) for point in shown],
            "used": [None if point.budget is None else point.budget.used for point in shown],
            "usable": [None if point.budget is None else point.budget.usable for point in shown],
            "waiting": [point.waiting for point in shown],
            "requests_per_s": requests,
            "sent_per_s": sent,
        }

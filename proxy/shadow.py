"""Asks the exchange too, now and then, for what was put together here, and compares: the counter must stay 0.

Only candles that were final when the answer was made are compared, where both answers reach: the rest may differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from policies import kline_text
from policies.admission import Refused
from policies.caching import CandleQuery
from policies.kline_text import Told
from policies.priority import Priority
from policies.selection import final_before
from proxy.cache import Entry
from proxy.clock import Clock
from proxy.errors import Banned, Broken, Shed, UpstreamError
from proxy.inner import Inner
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner


def draw() -> int:
    """0 to 99."""
    return random.randrange(100)  # noqa: S311  # a sample


class Shadow:
    """`percent` of the answers. `busy`: how much of the budget is in use, in percent; above half of it nothing is
    compared."""

    def __init__(
        self,
        percent: int,
        *,
        inner: Inner,
        settle_us: Callable[[], int],
        busy: Callable[[], int],
        metrics: Metrics,
        tasks: TaskOwner,
        exchange_clock: Clock,
        chance: Callable[[], int] = draw,
    ) -> None:
        self.percent = percent
        self._inner = inner
        self._settle_us = settle_us
        self._busy = busy
        self._metrics = metrics
        self._tasks = tasks
        self._exchange_clock = exchange_clock
        self._chance = chance

    def made(self, query: CandleQuery, entry: Entry) -> None:
        """An answer was put together."""
        if self.percent and self._chance() < self.percent and self._busy() < 50:
            final_ms = final_before(query.interval, self._exchange_clock() // 1000, self._settle_us() // 1000)
            self._tasks.spawn(self._compare(query, entry.body, final_ms), "shadow-comparison")

    async def _compare(self, query: CandleQuery, text: bytes, final_ms: int) -> None:
        result = "not-compared"
        ask, _ = self._inner.asking(f"/v5/market/{query.endpoint}?{query.written()}", priority=Priority.HISTORY)
        try:
            inside = await self._inner.by_itself(ask)
        except (Banned, Broken, Shed, UpstreamError):
            inside = None
        if inside is not None and not isinstance(inside, Refused) and inside.status == 200:
            ours, theirs = kline_text.read(query.series, text), kline_text.read(query.series, inside.body)
            if ours is not None and theirs is not None:
                result = "same" if _same(ours, theirs, final_ms) else "different"
        self._metrics.shadow_compared.labels(result).inc()
        if result == "different":
            structlog.get_logger().error("candles_differ", endpoint=query.endpoint, query=query.written())


def _same(ours: Told, theirs: Told, final_ms: int) -> bool:
    """Where both reach, all that is final is the same."""
    if ours.envelope != theirs.envelope:
        return False
    opens = (ours.rows.opens, theirs.rows.opens)
    if not all(opens):
        return not any(open_ms < final_ms for each in opens for open_ms in each)
    low_ms = max(each[-1] for each in opens)
    high_ms = min(final_ms, max(min(each[0] for each in opens) + 1, low_ms))
    return ours.rows.opening_in(low_ms, high_ms) == theirs.rows.opening_in(low_ms, high_ms)

"""What is done when a candle ends: series that are asked for again and again are fetched once, before everybody asks.

Bots ask when a candle has ended, all at the same moment. Whoever asks while a fetch of ours is under way waits for it;
where somebody was faster than we, there is nothing left to do. The fetches are spread, and made only while there is
plenty of room: they are a courtesy.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from policies import candles as calendar
from policies import selection
from policies.admission import Refused
from policies.pages import Reach
from policies.segments import Series
from proxy.answers import SharedAnswer
from proxy.candles import Candles
from proxy.clock import Clock, Sleep
from proxy.errors import Banned, Broken, Shed, UpstreamError
from proxy.inner import Inner
from proxy.lookup import Lookup
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner

_AFTER_US: Final = 20_000
"""So long after the end, by the exchange's clock, the new candle has begun for certain."""
_MOST_SERIES: Final = 5_000
_MINUTE_US: Final = 60_000_000


class BoundaryRules(NamedTuple):
    enabled: bool
    spread_us: int
    below: int
    """Percent of the budget: while more of it is used, nothing is fetched ahead."""


def _draw() -> int:
    return random.randrange(1_000_000)  # noqa: S311  # so that gateways differ


class Boundary:
    """`busy` tells how much of the budget is in use, in percent; `streamed` whether a series' candles come by
    themselves. `chance`: a draw from 0 to 999_999."""

    def __init__(
        self,
        rules: BoundaryRules,
        *,
        lookup: Lookup,
        inner: Inner,
        busy: Callable[[], int],
        streamed: Callable[[Series], bool],
        metrics: Metrics,
        tasks: TaskOwner,
        exchange_clock: Clock,
        sleep: Sleep,
        chance: Callable[[], int] = _draw,
    ) -> None:
        self.rules = rules
        self._lookup = lookup
        self._inner = inner
        self._busy = busy
        self._streamed = streamed
        self._metrics = metrics
        self._tasks = tasks
        self._exchange_clock = exchange_clock
        self._sleep = sleep
        self._chance = chance
        self._asked: dict[Series, int] = {}
        self._any = asyncio.Event()

    def asked(self, series: Series) -> None:
        """Somebody has asked for its newest candles."""
        if series in self._asked or len(self._asked) < _MOST_SERIES:
            self._asked[series] = self._exchange_clock()
            self._any.set()

    async def run(self) -> None:
        """From one end of a candle to the next, as long as the gateway runs."""
        looked_us = self._exchange_clock()
        while True:
            if not self._asked:
                self._any.clear()
                await self._any.wait()
                looked_us = self._exchange_clock()
            looked_us = min(looked_us, self._exchange_clock())  # it may turn out to be earlier than it seemed
            # All candles end at whole minutes. One that ended while the last fetches were spread is not skipped.
            due_us = looked_us - looked_us % _MINUTE_US + _MINUTE_US + _AFTER_US
            while (left_us := due_us - self._exchange_clock()) > 0:
                await self._sleep(left_us / 1e6)
            ended_since_us, looked_us = looked_us, self._exchange_clock()
            await self._refresh(ended_since_us, looked_us)

    async def _refresh(self, before_us: int, now_us: int) -> None:
        """All series whose candle has ended since then."""
        due = [series for series in self._asked if _end_us(series.interval, before_us) <= now_us]
        due = [series for series in due if self._is_wanted(series, now_us)]
        if self._lookup.two is not None:
            # Gateways that share what they fetch begin in different places: each finds what the others have fetched.
            first = self._chance() * len(due) // 1_000_000
            due = due[first:] + due[:first]
        for series in due if self.rules.enabled else ():
            if self._busy() >= self.rules.below:
                self._metrics.boundary.labels("busy").inc()
            else:
                self._tasks.spawn(self._fetch(series), "boundary-refresh")
            await self._sleep(self.rules.spread_us / 1e6 / len(due))

    def _is_wanted(self, series: Series, now_us: int) -> bool:
        """Asked for during the candle that has ended; others are forgotten."""
        ended_ms = calendar.open_of(series.interval, now_us // 1000)
        begun_us = calendar.open_of(series.interval, ended_ms - 1) * 1000
        if self._asked[series] >= begun_us:
            return True
        del self._asked[series]
        return False

    async def _fetch(self, series: Series) -> None:
        candles = self._lookup.candles
        if candles is None or self._is_served(candles, series):
            self._metrics.boundary.labels("not-needed").inc()
            return
        query = selection.latest(series, 1)
        need = candles.need(query)
        if need is None or need.reach is not Reach.TAIL:
            self._metrics.boundary.labels("not-needed").inc()
            return
        ask, asked = self._inner.asking(f"/v5/market/{series.endpoint}?{query.written()}")
        if not self._lookup.may_send(asked):
            self._metrics.boundary.labels("held-back").inc()
            return
        try:
            got = await self._lookup.refresh(need, ask, self._inner.story(ask))
        except (Banned, Broken, Shed, UpstreamError):
            self._metrics.boundary.labels("failed").inc()
        else:
            self._metrics.boundary.labels(_result(got)).inc()

    def _is_served(self, candles: Candles, series: Series) -> bool:
        """Its candles come by themselves, somebody was faster, or it does not trade."""
        history = candles.known(series)
        now_ms = self._exchange_clock() // 1000
        if history is None or self._streamed(series) or history.dormant(now_ms):
            return True
        return history.tail is not None and history.tail.at_ms >= calendar.open_of(series.interval, now_ms)


def _result(got: SharedAnswer | Refused | None) -> str:
    if got is None:
        return "not-needed"  # another gateway had been faster
    return "fetched" if isinstance(got, SharedAnswer) and got.good else "failed"


def _end_us(interval: str, now_us: int) -> int:
    """When the candle that runs at that instant ends."""
    return calendar.end_of(interval, calendar.open_of(interval, now_us // 1000)) * 1000

"""A client that always has another request, an account whose limit it learns, and the exchange's own books.

Discrete events on one clock. The exchange's stamps are on another clock, which nobody here compares with ours.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final, NamedTuple

from policies.admission import Quota, WindowKind
from policies.bybit import LimitHeaders
from policies.lessons import lesson_of
from policies.pacing import LearnedWindow
from policies.window import IN_FLIGHT
from tests.fake_bybit.books import AccountBook, Grant
from tests.fake_bybit.limits import SECOND_US, find_limit
from tests.fake_bybit.settings import Settings
from tests.virtual import EPOCH_US

REALTIME: Final = "GET /v5/order/realtime"
ASSET_INFO: Final = "GET /v5/asset/transfer/query-asset-info"
AHEAD_US: Final = 90_000_000
"""The exchange's clock, by ours."""

Leg = Callable[[], int]


class Asked(NamedTuple):
    """A request of somebody, as it arrived at the exchange."""

    at_us: int
    cost: int
    allowed: int

    @property
    def refused(self) -> bool:
        return self.allowed < self.cost


class Simulation:
    """`start`, `floor`, `ceiling`: of the learned window; by default nine tenths of what is published, and no bounds.

    `limit`: what the exchange really allows; None: what its table says.
    """

    def __init__(
        self,
        limit: int | None,
        dice: random.Random,
        *,
        leg: Leg | None = None,
        cost: Callable[[], int] = lambda: 1,
        start: int | None = None,
        ceiling: int | None = None,
        place: str = REALTIME,
        window: str = "rolling",
    ) -> None:
        self.settings = Settings(account_window=window)
        self.book = AccountBook(self.settings)
        self.place = place
        if limit is not None:
            self.allow(limit)
        known = find_limit(*place.split(" "), "linear")
        assert known is not None
        began_with = start or (limit or known.number) * 9 // 10 or 1
        self.quota = Quota("@of", began_with, known.window_us, ("api_key",), window=WindowKind.LEARNED, ceiling=ceiling)
        self.window = LearnedWindow(began_with, known.window_us, 1, ceiling)
        self.now_us = EPOCH_US
        self.asked: list[Asked] = []
        self.others: list[Asked] = []
        self.most_seen = 0
        """Of others, by the window's own account."""
        self._dice = dice
        self._leg = leg or partial(one_way, dice)
        self._cost = cost
        self._next_cost = cost()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = count()
        self._wakes_us: int | None = None

    @property
    def passed_us(self) -> int:
        return self.now_us - EPOCH_US

    def allow(self, limit: int) -> None:
        """From now on the exchange allows so many. It tells nobody."""
        self.settings.account_limits = {self.place: limit}

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        self._after(EPOCH_US + int(seconds * SECOND_US) - self.now_us, action)

    def somebody_else(self, per_second: float, burst: int = 1) -> None:
        """Another program of the account, that nobody sees: bursts at random instants."""

        def ask() -> None:
            for _ in range(burst):
                self.others.append(Asked(self.passed_us, 1, self._take(1).allowed))
            self._after(pause(), ask)

        def pause() -> int:
            return int(self._dice.expovariate(per_second / burst) * SECOND_US)

        self._after(pause(), ask)

    def run(self, seconds: float) -> Simulation:
        self._after(0, self._send)
        ends_us = EPOCH_US + int(seconds * SECOND_US)
        while self._events[0][0] <= ends_us:
            self.now_us, _, action = heapq.heappop(self._events)
            action()
        self.now_us = ends_us
        return self

    def refused(self, since_s: float = 0) -> list[float]:
        """When we asked for too much, in seconds."""
        return [each.at_us / SECOND_US for each in self._since(since_s) if each.refused]

    def refused_part(self, since_s: float = 0) -> float:
        return len(self.refused(since_s)) / len(self._since(since_s))

    def accepted_per_s(self, since_s: float = 0) -> float:
        return sum(each.allowed for each in self._since(since_s)) / (self.passed_us / SECOND_US - since_s)

    def most_asked(self) -> int:
        """The most that ever arrived within one window of the exchange, refused or not."""
        return self.book.max_in_window()

    def _since(self, since_s: float) -> list[Asked]:
        return [each for each in self.asked if each.at_us >= since_s * SECOND_US]

    def _after(self, delay_us: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._number), action))

    def _send(self) -> None:
        """As many as may go; for the others there is one timer, that is late by up to a millisecond."""
        while (wait_us := self.window.wait_us(self._next_cost, self.now_us)) == 0:
            self.window.take(self._next_cost, self.now_us)
            self._after(self._leg(), partial(self._arrive, self.now_us, self._next_cost))
            self._next_cost = self._cost()
        if wait_us == IN_FLIGHT:
            return
        wakes_us = self.now_us + wait_us + self._dice.randrange(1_000)
        if self._wakes_us is None or wakes_us < self._wakes_us:
            self._wakes_us = wakes_us
            self._after(wakes_us - self.now_us, partial(self._wake, wakes_us))

    def _wake(self, wakes_us: int) -> None:
        if wakes_us == self._wakes_us:
            self._wakes_us = None
            self._send()

    def _arrive(self, sent_us: int, cost: int) -> None:
        grant = self._take(cost)
        self.asked.append(Asked(self.passed_us, cost, grant.allowed))
        stamp_ms = (self.now_us + AHEAD_US) // 1_000
        self._after(self._leg(), partial(self._hear, sent_us, cost, grant, stamp_ms))

    def _take(self, cost: int) -> Grant:
        method, path = self.place.split(" ")
        return self.book.take("1001", method, path, "linear", cost, self.now_us + AHEAD_US)

    def _hear(self, sent_us: int, cost: int, grant: Grant, stamp_ms: int) -> None:
        refused = cost - grant.allowed
        self.window.complete(grant.allowed, self.now_us)
        self.window.refund(refused)
        told = LimitHeaders(grant.limit, grant.remaining, grant.reset_ms)
        chance = self._dice.randrange(1_000_000)
        lesson = lesson_of(self.quota, told, stamp_ms=stamp_ms, sent_us=sent_us, refused=refused, chance=chance)
        self.window.learn(lesson, self.now_us)
        self.most_seen = max(self.most_seen, self.window.others(self.now_us))
        self._send()


def one_way(dice: random.Random) -> int:
    """20 ms and an exponential 4 ms; two in a thousand take up to 200 ms longer."""
    spike_us = dice.randrange(200_000) if dice.random() < 0.002 else 0
    return 20_000 + int(dice.expovariate(1 / 4_000)) + spike_us

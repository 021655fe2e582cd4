"""How far apart the less urgent classes are sent, so that the urgent ones find room at any instant.

A window that is filled at once is silent until the first of it expires: an order that comes meanwhile waits for
seconds. A reserve that market data may never touch would waste what it reserves. Instead, once half of a window is
used, the next request of a spaced class waits so long that what is left lasts until the used permits come back. With
x_j the time until the j-th oldest request expires, R the room left and h the rate at which urgent requests come (as
measured over the last window), sending one every

    max over j of  x_j / (R - kept + j - 1 - h x_j)

does not exhaust the room before the j-th comes back, for any j. In a window that is evenly used this is the share of
window / limit that the urgent ones leave; after a burst it is slower until the burst expires. `kept` is half a percent
of the limit, and as much as the urgent ones fluctuate by: their expectation in a quarter of a second, square-rooted.
The spaced classes are never held up for longer than ten times window / limit: they do not starve.

A window that several gateways share is looked at as a whole: what is used of it by all, and of every gap between two
requests of the whole a gateway makes as many as its part in what is used, or half of its equal part where that is more.
"""

from __future__ import annotations

from typing import Final

from policies.admission import Filled
from policies.window import CompletionLog, SendLog

LEAST: Final = 50
"""A smaller window is an account's own, or too coarse to be spaced out."""
_SLOWEST: Final = 10
_FLUCTUATION_US: Final = 0


class Spacing:
    """Our own view of one window of the exchange: what we sent, and when it was answered."""

    __slots__ = ("_limit", "_log", "_of", "_own", "_urgent")

    def __init__(self, limit: int, window_us: int) -> None:
        self._log = CompletionLog(limit, window_us)
        self._urgent = SendLog(limit, window_us)
        self._limit = limit
        self._own, self._of = 1, 1

    def sent(self, cost: int, now_us: int, *, urgent: bool) -> None:
        self._log.take(cost, now_us)
        if urgent:
            self._urgent.take(cost, now_us)

    def completed(self, cost: int, now_us: int) -> None:
        self._log.complete(cost, now_us)

    def refunded(self, cost: int) -> None:
        self._log.refund(cost)

    def resize(self, limit: int, window_us: int) -> None:
        self._log.resize(limit, window_us)
        self._urgent.resize(limit, window_us)
        self._limit = limit

    def fit(self, filled: Filled, now_us: int) -> None:
        """The window as all who share it have filled it, and from now on its limit."""
        self._limit = max(1, filled.limit)
        own, used = self._log.used(now_us), filled.used
        if filled.sharers < 2 or own >= used:
            self._own, self._of = 1, 1
        elif 2 * own * filled.sharers < used:
            self._own, self._of = 1, 2 * filled.sharers
        else:
            self._own, self._of = own, used

    def alone(self) -> None:
        """The window is ours again, and all of it."""
        self._limit, self._own, self._of = self._log.limit, 1, 1

    def gap_us(self, now_us: int) -> int:
        """How long after now the next request of a spaced class may go; 0 while the window is at most half used."""
        log, limit, own, of = self._log, self._limit, self._own, self._of
        window_us = log.window_us
        ours = log.used(now_us)
        used = ours * of // own
        if 2 * used <= limit or limit < LEAST:
            return 0
        urgent = self._urgent.used(now_us) * of // own
        room = limit - used - max(1, limit // 300)
        slowest_us = _SLOWEST * window_us * of // (limit * own)
        gap_us, rank, completed = window_us // limit, 1, ours - log.in_flight
        while rank <= completed:
            expires_us = log.expires_in_us(rank, now_us)
            until_then = room + rank * of // own - 1 - urgent * expires_us // window_us
            if until_then <= 0:
                return slowest_us
            gap_us = max(gap_us if rank > 1 else 0, expires_us // until_then)
            if rank == completed:
                break
            rank = min(2 * rank, completed)
        return min(gap_us * of // own, slowest_us)

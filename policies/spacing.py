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
"""

from __future__ import annotations

from typing import Final

from policies.window import CompletionLog, SendLog

_SLOWEST: Final = 10
_FLUCTUATION_US: Final = 0


class Spacing:
    """Our own view of one window of the exchange: what we sent, and when it was answered."""

    __slots__ = ("_log", "_urgent")

    def __init__(self, limit: int, window_us: int) -> None:
        self._log = CompletionLog(limit, window_us)
        self._urgent = SendLog(limit, window_us)

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

    def gap_us(self, now_us: int) -> int:
        """How long after now the next request of a spaced class may go; 0 while the window is at most half used."""
        log = self._log
        limit, window_us = log.limit, log.window_us
        used = log.used(now_us)
        if 2 * used <= limit:
            return 0
        urgent = self._urgent.used(now_us)
        room = limit - used - max(1, limit // 300)
        slowest_us = _SLOWEST * window_us // limit
        gap_us, rank, completed = window_us // limit, 1, used - log.in_flight
        while rank <= completed:
            expires_us = log.expires_in_us(rank, now_us)
            until_then = room + rank - 1 - urgent * expires_us // window_us
            if until_then <= 0:
                return slowest_us
            gap_us = max(gap_us if rank > 1 else 0, expires_us // until_then)
            if rank == completed:
                break
            rank = min(2 * rank, completed)
        return min(gap_us, slowest_us)

"""How far apart the less urgent classes are sent, so that the urgent ones find room at any instant.

A window that market data fills at once is silent until the first of it expires: an order that comes meanwhile waits
for seconds. A reserve that market data may never touch would waste what it reserves. Instead, once half of a window is
used, the next request of a spaced class waits so long that what is left lasts until the used permits come back. With
x_j the time until the j-th oldest request expires and R the room left, sending one every

    max over j of  x_j / (R - kept + j - 1)

never exhausts the room before the j-th comes back, for any j. In a window that is evenly used this is window / limit;
after a burst it is slower until the burst expires. `kept` is half a percent of the limit, at least one.
"""

from __future__ import annotations

from policies.window import CompletionLog


class Spacing:
    """Our own view of one window of the exchange: what we sent, and when it was answered."""

    __slots__ = ("_kept", "_log")

    def __init__(self, limit: int, window_us: int) -> None:
        self._log = CompletionLog(limit, window_us)
        self._kept = max(1, limit // 200)

    def sent(self, cost: int, now_us: int) -> None:
        self._log.take(cost, now_us)

    def completed(self, cost: int, now_us: int) -> None:
        self._log.complete(cost, now_us)

    def refunded(self, cost: int) -> None:
        self._log.refund(cost)

    def resize(self, limit: int, window_us: int) -> None:
        self._log.resize(limit, window_us)
        self._kept = max(1, limit // 200)

    def gap_us(self, now_us: int) -> int:
        """How long after now the next request of a spaced class may go; 0 while the window is at most half used."""
        log = self._log
        used = log.used(now_us)
        if 2 * used <= log.limit:
            return 0
        room = log.limit - used - self._kept
        completed = used - log.in_flight
        if completed <= 0:
            return log.window_us // log.limit
        if room <= 0:
            return max(1, log.expires_in_us(1, now_us))
        gap, rank = 0, 1
        while True:
            gap = max(gap, log.expires_in_us(rank, now_us) // (room + rank - 1))
            if rank == completed:
                return gap
            rank = min(2 * rank, completed)

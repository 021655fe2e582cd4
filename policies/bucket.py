"""`window: bucket`. A steady rate with a burst: `burst` at once, then one every window/limit.

Kept as one instant, the theoretical arrival time of the cell rate algorithm, in units of 1/limit microseconds so that
every rate is a whole number. In any window of length W it admits at most burst + limit: a choice for clients' own
quotas, not for limits that somebody else counts.
"""

from __future__ import annotations

from collections.abc import Sequence


class TokenBucket:
    __slots__ = ("_full_at", "burst", "limit", "window_us")

    def __init__(self, limit: int, window_us: int, burst: int) -> None:
        self.limit = limit
        self.window_us = window_us
        self.burst = burst
        self._full_at = 0
        """When the bucket will be full again, in microseconds times `limit`."""

    def wait_us(self, cost: int, now_us: int) -> int:
        late = max(self._full_at, now_us * self.limit) + (cost - self.burst) * self.window_us - now_us * self.limit
        return 0 if late <= 0 else -(-late // self.limit)

    def take(self, cost: int, now_us: int) -> None:
        self._full_at = max(self._full_at, now_us * self.limit) + cost * self.window_us

    def complete(self, cost: int, now_us: int) -> None:
        """Nothing to do: the tokens were spent when the request was taken."""

    def refund(self, cost: int) -> None:
        """The request was never sent: its tokens go back."""
        self._full_at -= cost * self.window_us

    def used(self, now_us: int) -> int:
        """Tokens that are missing, rounded up."""
        missing = self._full_at - now_us * self.limit
        return 0 if missing <= 0 else -(-missing // self.window_us)

    def idle(self, now_us: int) -> bool:
        return self.used(now_us) == 0

    def snapshot(self, now_us: int) -> list[int]:
        """The time until it is full again, in microseconds times `limit`."""
        missing = self._full_at - now_us * self.limit
        return [missing] if missing > 0 else []

    def restore(self, state: Sequence[int], at_us: int) -> None:
        if state:
            self._full_at = at_us * self.limit + state[0]

    def resize(self, limit: int, window_us: int, burst: int, now_us: int) -> None:
        """Change the quota and keep the tokens that are missing."""
        missing = min(self.used(now_us), burst)
        self.limit, self.window_us, self.burst = limit, window_us, burst
        self._full_at = now_us * limit + missing * window_us

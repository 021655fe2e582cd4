"""`window: slotted`. A long window in a fixed number of slots: an hour costs no more memory than a second.

Time is cut into slots of 1/64 of the window, and only the sum of each is kept. A slot counts until its *last* instant
is one window old, so a request is counted for at least the window and at most 1/64 longer: no window of the declared
length ever holds more than the limit, and at most 1/64 of it is left unused.
"""

from __future__ import annotations

from typing import Final

SLOTS: Final = 64


class SlottedWindow:
    __slots__ = ("_first", "_slot_us", "_sums", "_total", "limit", "window_us")

    def __init__(self, limit: int, window_us: int) -> None:
        self.limit = limit
        self.window_us = window_us
        self._slot_us = max(1, -(-window_us // SLOTS))
        self._first = 0
        self._sums: list[int] = []
        """Sums of consecutive slots, the oldest first; `_first` is the number of the oldest since the epoch."""
        self._total = 0

    def wait_us(self, cost: int, now_us: int) -> int:
        self._forget(now_us)
        over = self._total + cost - self.limit
        if over <= 0:
            return 0
        for position, count in enumerate(self._sums):
            over -= count
            if over <= 0:
                return self._expiry(self._first + position) - now_us
        return self.window_us  # the cost alone is above the limit: the schema refuses such rules

    def take(self, cost: int, now_us: int) -> None:
        self._forget(now_us)
        number = now_us // self._slot_us
        if not self._sums:
            self._first = number
        # A clock that was read a moment earlier than the last one books into the newest slot: counted longer, not less.
        while self._first + len(self._sums) <= number:
            self._sums.append(0)
        self._sums[-1] += cost
        self._total += cost

    def complete(self, cost: int, now_us: int) -> None:
        """Nothing to do: the window was occupied when the request was taken."""

    def refund(self, cost: int) -> None:
        """Keep the charge: over-counting is safe."""

    def used(self, now_us: int) -> int:
        self._forget(now_us)
        return self._total

    def idle(self, now_us: int) -> bool:
        return self.used(now_us) == 0

    def resize(self, limit: int, window_us: int, now_us: int) -> None:
        """Change the quota and keep what is counted; with another length it is counted from now on again."""
        held = self.used(now_us)
        self.limit = limit
        if window_us != self.window_us:
            self.window_us, self._slot_us = window_us, max(1, -(-window_us // SLOTS))
            self._sums, self._total = [], 0
            if held:
                self.take(held, now_us)

    def _expiry(self, number: int) -> int:
        """When the slot stops counting: its last instant lies in (expiry - window - slot, expiry - window]."""
        return (number + 1) * self._slot_us + self.window_us

    def _forget(self, now_us: int) -> None:
        gone = 0
        while gone < len(self._sums) and self._expiry(self._first + gone) <= now_us:
            self._total -= self._sums[gone]
            gone += 1
        if gone:
            del self._sums[:gone]
            self._first += gone

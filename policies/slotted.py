"""`window: slotted`. A long window in a fixed number of slots: an hour costs no more memory than a second.

Time is cut into slots of 1/64 of the window, and only the sum of each is kept. A slot counts until its *last* instant
is one window old, so a request is counted for at least the window and at most 1/64 longer: no window of the declared
length ever holds more than the limit, and at most 1/64 of it is left unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SLOTS: Final = 64
_NEVER: Final = 1 << 63


class SlottedWindow:
    __slots__ = ("_expires_us", "_first", "_last", "_slot_us", "_sums", "_total", "limit", "window_us")

    def __init__(self, limit: int, window_us: int) -> None:
        self.limit = limit
        self.window_us = window_us
        self._slot_us = max(1, -(-window_us // SLOTS))
        self._first = 0
        self._sums: list[int] = []
        """Sums of consecutive slots, the oldest first; `_first` is the number of the oldest since the epoch."""
        self._total = 0
        self._expires_us = _NEVER
        """When the oldest slot stops counting: until then there is nothing to forget."""
        self._last = 0
        """The number of the newest slot."""

    def wait_us(self, cost: int, now_us: int) -> int:
        if now_us >= self._expires_us:
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
        if now_us >= self._expires_us:
            self._forget(now_us)
        number = now_us // self._slot_us
        # A clock that was read a moment earlier than the last one books into the newest slot: counted longer, not less.
        if number > self._last or not self._sums:
            self._begin(number)
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

    def snapshot(self, now_us: int) -> list[int]:
        """How long ago the oldest slot ended (negative: it has not yet), then the sums."""
        self._forget(now_us)
        return [now_us - (self._first + 1) * self._slot_us, *self._sums] if self._sums else []

    def restore(self, state: Sequence[int], at_us: int) -> None:
        """On a clock whose slots begin elsewhere the oldest ends with the next slot to end: never counted shorter."""
        if not state:
            return
        self._first = -(-(at_us - state[0]) // self._slot_us) - 1
        self._sums = list(state[1:])
        self._total = sum(self._sums)
        self._last = self._first + len(self._sums) - 1
        self._expires_us = self._expiry(self._first)

    def resize(self, limit: int, window_us: int, now_us: int) -> None:
        """Change the quota and keep what is counted; with another length it is counted from now on again."""
        held = self.used(now_us)
        self.limit = limit
        if window_us != self.window_us:
            self.window_us, self._slot_us = window_us, max(1, -(-window_us // SLOTS))
            self._sums, self._total, self._expires_us = [], 0, _NEVER
            if held:
                self.take(held, now_us)

    def _begin(self, number: int) -> None:
        """Open a slot, and those between it and the last one."""
        if not self._sums:
            self._first = number
            self._expires_us = self._expiry(number)
        self._sums.extend([0] * (number - self._first - len(self._sums) + 1))
        self._last = number

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
            self._expires_us = self._expiry(self._first) if self._sums else _NEVER

"""Counting in a window of time, the exact way: every arrival is kept until it is too old to matter."""

from __future__ import annotations

from collections import deque


class RollingWindow:
    """How much arrived in the last `window_us`, to the microsecond.

    The window is half open: an arrival at t is inside until just before t + window_us. Times come from the
    caller and never go backwards.
    """

    __slots__ = ("_arrivals", "_total", "peak")

    def __init__(self) -> None:
        self._arrivals: deque[tuple[int, int]] = deque()
        self._total = 0
        self.peak = 0

    def count(self, now_us: int, window_us: int) -> int:
        """What the window that ends now holds."""
        arrivals = self._arrivals
        while arrivals and arrivals[0][0] <= now_us - window_us:
            self._total -= arrivals.popleft()[1]
        return self._total

    def add(self, now_us: int, window_us: int, amount: int = 1) -> int:
        """Book an arrival; returns the window's new content."""
        self.count(now_us, window_us)
        self._arrivals.append((now_us, amount))
        self._total += amount
        self.peak = max(self.peak, self._total)
        return self._total

    def room_at_us(self, limit: int, amount: int, now_us: int, window_us: int) -> int:
        """When `amount` more would fit under `limit`, if nothing else came."""
        if amount > limit:  # never; a whole window from now is the honest "not soon"
            return now_us + window_us
        excess = self.count(now_us, window_us) + amount - limit
        for arrived_us, size in self._arrivals:
            if excess <= 0:
                break
            excess -= size
            now_us = arrived_us + window_us
        return now_us


class FixedWindow:
    """The same questions for windows that start at multiples of their length."""

    __slots__ = ("_index", "_total", "peak")

    def __init__(self) -> None:
        self._index = -1
        self._total = 0
        self.peak = 0

    def count(self, now_us: int, window_us: int) -> int:
        """What the current window holds so far."""
        index = now_us // window_us
        if index != self._index:
            self._index, self._total = index, 0
        return self._total

    def add(self, now_us: int, window_us: int, amount: int = 1) -> int:
        """Book an arrival; returns the window's new content."""
        self.count(now_us, window_us)
        self._total += amount
        self.peak = max(self.peak, self._total)
        return self._total

    def room_at_us(self, limit: int, amount: int, now_us: int, window_us: int) -> int:
        """When `amount` more would fit: now, or at the next window."""
        if self.count(now_us, window_us) + amount <= limit:
            return now_us
        return (now_us // window_us + 1) * window_us

"""For how long something that failed is left alone: a while, and twice as long for each failure in a row."""

from __future__ import annotations

from typing import Final

FIRST_US: Final = 1_000_000
LONGEST_US: Final = 30_000_000


class Respite:
    """failed() or answered() after each try; no try while left_us() is not 0."""

    __slots__ = ("_first_us", "_longest_us", "_pause_us", "_until_us")

    def __init__(self, first_us: int = FIRST_US, longest_us: int = LONGEST_US) -> None:
        self._first_us = first_us
        self._longest_us = longest_us
        self._pause_us = 0
        self._until_us = 0

    def failed(self, now_us: int) -> None:
        self._pause_us = min(2 * self._pause_us or self._first_us, self._longest_us)
        self._until_us = now_us + self._pause_us

    def answered(self) -> None:
        self._pause_us = self._until_us = 0

    def left_us(self, now_us: int) -> int:
        return max(0, self._until_us - now_us)

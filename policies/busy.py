"""How much of a budget is in use, roughly: enough to decide whether what is merely useful may be sent too.

The windows themselves (policies/window.py) are exact; asking them takes a look at all of them, or a call of the store.
"""

from __future__ import annotations

from typing import Final

_SLOTS: Final = 10


class Busy:
    """Counts what is sent in slots of a tenth of the window. Instants are microseconds."""

    def __init__(self, limit: int, window_us: int) -> None:
        self._limit = max(1, limit)
        self._slot_us = max(1, window_us // _SLOTS)
        self._counts: dict[int, int] = {}

    def note(self, now_us: int) -> None:
        """One more has been sent."""
        slot = now_us // self._slot_us
        if slot not in self._counts:
            self._counts = {at: count for at, count in self._counts.items() if slot - _SLOTS < at <= slot}
        self._counts[slot] = self._counts.get(slot, 0) + 1

    def percent(self, now_us: int, sharers: int = 1) -> int:
        """Of the budget, as if all `sharers` used as much as this one."""
        slot = now_us // self._slot_us
        used = sum(count for at, count in self._counts.items() if slot - _SLOTS < at <= slot)
        return 100 * used * max(1, sharers) // self._limit

"""What has been collected of a series of candles: how many, from when to when, and what is missing between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from policies.segments import slot_of


@dataclass(frozen=True, slots=True)
class Collected:
    """`gaps`: runs of candles that are not there although earlier and later ones are; `missing`: how many in all."""

    rows: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    gaps: int = 0
    missing: int = 0
    longest: int = 0
    """Candles in the longest gap."""
    longest_after_ms: int | None = None
    """The candle before it."""

    def further(self, interval: str, opens: list[int]) -> Collected:
        """With candles that follow, in ascending order. They open after all that were collected."""
        if not opens:
            return self
        slots = slot_of(interval, opens[-1]) - slot_of(interval, opens[0]) + 1
        before = [] if self.last_ms is None else [self.last_ms]
        # Most pages are whole: only where candles are missing is it worth looking where.
        bridged = not before or slot_of(interval, opens[0]) == slot_of(interval, before[0]) + 1
        known = self if bridged and slots == len(opens) else self._with_gaps(interval, [*before, *opens])
        first_ms = opens[0] if self.first_ms is None else self.first_ms
        return replace(known, rows=self.rows + len(opens), first_ms=first_ms, last_ms=opens[-1])

    def _with_gaps(self, interval: str, opens: list[int]) -> Collected:
        gaps, missing, longest, after_ms = self.gaps, self.missing, self.longest, self.longest_after_ms
        before = slot_of(interval, opens[0])
        for at, open_ms in enumerate(opens[1:]):
            slot = slot_of(interval, open_ms)
            absent = slot - before - 1
            if absent:
                gaps, missing = gaps + 1, missing + absent
                if absent > longest:
                    longest, after_ms = absent, opens[at]
            before = slot
        return replace(self, gaps=gaps, missing=missing, longest=longest, longest_after_ms=after_ms)

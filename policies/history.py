"""What is known of one series of candles, and what an answer teaches. Pages are made of it in policies/pages.py.

Three kinds of knowledge. *Final* rows lie in segments, and coverage tells where they are complete; a candle becomes
final when an answer shows it that the exchange gave `settle` or more after its end. The *tail* is everything from some
candle on as an answer told it a moment ago: the running candle, and those that have ended but not settled. It is good
for a short time, and never past the end of the running candle. That a stretch is *empty*, as before the first candle
or where an answer has no rows at all, is believed for a while only: history that the exchange has mislaid for a moment
must not stay away for days. For the same reason slots after the last row are unknown until a later row has shown that
trading went on, or until an hour has passed.

Final rows are read once more. The tail reaches back over those that were young when they were learned; a row that has
changed is replaced, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from policies import candles, coverage
from policies.coverage import Ranges
from policies.segments import Cut, Rows, Segment, Series, bounds_of, segment_of, slot_of
from policies.selection import BEGINNING_MS, ENDLESS_MS, Selection, final_before, told_range

_FIRST_US: Final = 3_600_000_000
"""How long it is believed that there are no candles before the first one,"""
_EMPTY_US: Final = 60_000_000
"""and that there are none where an answer had no rows."""
_BELIEFS: Final = 8
_VERIFIED_MS: Final = 120_000
"""A row that was read so long after its end, or later, is not read again."""
REACH: Final = 50
"""How many slots the tail reaches back at most to read young rows again."""
_LATE_MS: Final = 3_600_000
"""Later than that no candle appears any more."""
_DORMANT_SLOTS: Final = 60
_DORMANT_MS: Final = 86_400_000
"""A series without a new candle for so long, in slots and in time, is not trading."""


class Tail(NamedTuple):
    """All rows from `low_ms` on, as they stood when `at_ms` was the exchange's time. Instants `_us` are epoch too."""

    rows: Rows
    low_ms: int
    at_ms: int
    stored_us: int
    expires_us: int
    ends_us: int
    """The end of the running candle: the tail is of no use from then on."""


class Empty(NamedTuple):
    """There are no candles within [low, high), as far as is believed until then."""

    low_ms: int
    high_ms: int
    until_us: int

    def says(self, other: Empty) -> bool:
        """All that the other one says."""
        return self.low_ms <= other.low_ms and other.high_ms <= self.high_ms and other.until_us <= self.until_us


class Lifetimes(NamedTuple):
    """tail_us: how long the tail is good; settle_us: how long after its end a candle may still change; dormant_us: how
    long the tail is good of what does not trade."""

    tail_us: int
    settle_us: int
    dormant_us: int = 0


@dataclass(slots=True)
class Learned:
    """What an answer has changed: all `rows` of [low, high) are final now. `fresh`: where nothing was known before."""

    rows: Rows
    segments: set[int] = field(default_factory=set)
    revised: int = 0
    low_ms: int = 0
    high_ms: int = 0
    fresh: Ranges = ()


class History:
    """All of it is decided from what it is told; `now_us` is the exchange's time throughout."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self.covered: Ranges = ()
        self.segments: dict[int, Segment] = {}
        self.tail: Tail | None = None
        self.empty: tuple[Empty, ...] = ()
        self.verified_ms = BEGINNING_MS

    def learn(
        self, selection: Selection, rows: Rows, joint: bytes, at_ms: int, now_us: int, lifetimes: Lifetimes
    ) -> Learned:
        """Take over what an answer tells. `at_ms` is the exchange's time when it was given."""
        interval = self.series.interval
        low_ms, high_ms = told_range(interval, selection, rows.opens)
        final_ms = min(high_ms, final_before(interval, at_ms, lifetimes.settle_us // 1000))
        learned = Learned(rows)
        lasting_ms = low_ms
        if rows.opens:
            self.empty = tuple(each for each in self.empty if not rows.opening_in(each.low_ms, each.high_ms).opens)
            if low_ms == BEGINNING_MS:
                low_ms = rows.opens[-1]
                self._believe(Empty(BEGINNING_MS, low_ms, now_us + _FIRST_US))
            shown_ms = max(candles.end_of(interval, rows.opens[0]), candles.open_of(interval, at_ms - _LATE_MS))
            lasting_ms = max(low_ms, min(final_ms, shown_ms))
            self._keep(rows, joint, low_ms, lasting_ms, now_us, learned)
            self._verify(low_ms, lasting_ms, at_ms)
            self._believe(Empty(lasting_ms, final_ms, now_us + lifetimes.tail_us))
        elif high_ms < ENDLESS_MS:
            first = low_ms == BEGINNING_MS and coverage.holding(self.covered, high_ms) is not None
            self._believe(Empty(low_ms, final_ms, now_us + (_FIRST_US if first else _EMPTY_US)))
        running_ms = candles.open_of(interval, at_ms)
        if high_ms > running_ms and lasting_ms > BEGINNING_MS and (self.tail is None or at_ms >= self.tail.at_ms):
            newest = rows.opening_in(lasting_ms, ENDLESS_MS)
            self._renew_tail(newest, lasting_ms, at_ms, now_us, lifetimes.tail_us)
            if self.dormant(at_ms):
                self._renew_tail(newest, lasting_ms, at_ms, now_us, max(lifetimes.tail_us, lifetimes.dormant_us))
        return learned

    def reaches(self, open_ms: int) -> bool:
        """All candles before this one are final, as far as this one follows on them."""
        return bool(self.covered) and self.covered[-1][1] == open_ms

    def settle_row(self, open_ms: int, text: bytes, joint: bytes, now_us: int) -> Learned:
        """A candle that the exchange has declared closed, and all before it known: it is final at once."""
        rows = Rows([open_ms], [text])
        learned = Learned(rows)
        self._keep(rows, joint, open_ms, candles.end_of(self.series.interval, open_ms), now_us, learned)
        return learned

    def run(self, open_ms: int, text: bytes, at_ms: int, now_us: int, good_us: int) -> bool:
        """The running candle as the exchange's stream tells it: the tail, where all before it is final."""
        if not self.reaches(open_ms) or (self.tail is not None and self.tail.at_ms > at_ms):
            return False
        self._renew_tail(Rows([open_ms], [text]), open_ms, at_ms, now_us, good_us)
        return True

    def forget(self, segment: int) -> None:
        """Its rows are not kept any more."""
        if self.segments.pop(segment, None) is not None:
            self.covered = coverage.without(self.covered, *bounds_of(self.series.interval, segment))

    def restore(self, number: int, segment: Segment, covered: Ranges) -> None:
        """A segment that was kept elsewhere. What is known here already is newer."""
        low_ms, high_ms = bounds_of(self.series.interval, number)
        known = coverage.within(self.covered, low_ms, high_ms)
        rows = segment.rows()
        for low, high in covered:
            for gap_low, gap_high in coverage.gaps(known, max(low, low_ms), min(high, high_ms)):
                self._keep(
                    rows.opening_in(gap_low, gap_high),
                    segment.joint,
                    gap_low,
                    gap_high,
                    segment.stored_us,
                    Learned(rows),
                )

    def covered_in(self, number: int) -> Ranges:
        """What is known of a segment."""
        return coverage.within(self.covered, *bounds_of(self.series.interval, number))

    def good_tail(self, now_us: int) -> Tail | None:
        """The tail while it can be believed."""
        return self.tail if self.tail is not None and now_us < self.tail.expires_us else None

    def cuts(self, low_ms: int, high_ms: int, limit: int, *, oldest: bool = False) -> list[tuple[Segment, Cut]]:
        """At most `limit` final rows within [low, high), segment by segment: the newest first, or the oldest."""
        found: list[tuple[Segment, Cut]] = []
        if low_ms >= high_ms:
            return found
        for number in sorted(self._numbers(low_ms, high_ms), reverse=not oldest):
            segment = self.segments[number]
            cut = (segment.oldest if oldest else segment.newest)(low_ms, high_ms, limit)
            if cut is not None:
                found.append((segment, cut))
                limit -= cut.length
                if not limit:
                    break
        return found

    def below_empty(self, low_ms: int, high_ms: int, now_us: int) -> tuple[int, int | None]:
        """Down to where [low, high) is believed to hold nothing, seen from above, and until when that is believed."""
        for each in self.empty:
            if each.low_ms < high_ms <= each.high_ms and now_us < each.until_us:
                return max(each.low_ms, low_ms), each.until_us
        return high_ms, None

    def above_empty(self, low_ms: int, now_us: int) -> tuple[int, int | None]:
        """Up to where it is believed to hold nothing, seen from `low_ms`, and until when that is believed."""
        for each in self.empty:
            if each.low_ms <= low_ms < each.high_ms and now_us < each.until_us:
                return each.high_ms, each.until_us
        return low_ms, None

    def slots_since(self, open_ms: int, at_ms: int) -> int:
        """The slots from a candle to the running one, and one more for a clock that is a little behind."""
        interval = self.series.interval
        return slot_of(interval, at_ms) - slot_of(interval, open_ms) + 2

    def dormant(self, at_ms: int) -> bool:
        """No new candle for long: it is not trading. That nobody has looked for one is no sign of it."""
        newest_ms = self._newest()
        if newest_ms is None:
            return False
        interval = self.series.interval
        quiet_slots = slot_of(interval, at_ms) - slot_of(interval, newest_ms)
        return quiet_slots > _DORMANT_SLOTS and at_ms - newest_ms > _DORMANT_MS

    @property
    def size_bytes(self) -> int:
        tail = 0 if self.tail is None else sum(map(len, self.tail.rows.texts))
        return tail + sum(segment.size_bytes for segment in self.segments.values())

    def _numbers(self, low_ms: int, high_ms: int) -> list[int]:
        """The segments in use within [low, high)."""
        interval = self.series.interval
        numbers = range(segment_of(interval, low_ms), segment_of(interval, high_ms - 1) + 1)
        if len(numbers) <= len(self.segments):
            return [number for number in numbers if number in self.segments]
        return [number for number in self.segments if number in numbers]

    def _keep(self, rows: Rows, joint: bytes, low_ms: int, high_ms: int, now_us: int, learned: Learned) -> None:
        """All final rows within [low, high)."""
        if low_ms >= high_ms:
            return
        interval = self.series.interval
        rows = rows.opening_in(low_ms, high_ms)
        told = {segment_of(interval, open_ms) for open_ms in rows.opens}
        for number in told | set(self._numbers(low_ms, high_ms)):
            begin_ms, end_ms = bounds_of(interval, number)
            part_low, part_high = max(low_ms, begin_ms), min(high_ms, end_ms)
            part = rows.opening_in(part_low, part_high)
            known = self.segments.get(number)
            if known is None:
                self.segments[number] = Segment.of(part, joint, now_us)
            else:
                known, revised = known.with_rows(part, part_low, part_high, now_us)
                self.segments[number] = known
                learned.revised += revised
            learned.segments.add(number)
        learned.low_ms, learned.high_ms = low_ms, high_ms
        learned.fresh = coverage.gaps(self.covered, low_ms, high_ms)
        self.covered = coverage.joined(self.covered, low_ms, high_ms)

    def _believe(self, empty: Empty) -> None:
        """Unless final rows tell otherwise. What is believed longest is kept longest: a quiet minute must not drive out
        what is known of the first candle."""
        if empty.low_ms < empty.high_ms and not self._has_rows(empty.low_ms, empty.high_ms):
            others = [each for each in self.empty if not empty.says(each)]
            self.empty = (*sorted(others, key=lambda each: each.until_us)[-_BELIEFS:], empty)

    def _has_rows(self, low_ms: int, high_ms: int) -> bool:
        """Whether a final row opens within [low, high)."""
        if not self.covered:
            return False
        return bool(self.cuts(max(low_ms, self.covered[0][0]), min(high_ms, self.covered[-1][1]), 1))

    def _verify(self, low_ms: int, high_ms: int, at_ms: int) -> None:
        """Rows that had ended long before they were read need no further look."""
        old_ms = min(high_ms, final_before(self.series.interval, at_ms, _VERIFIED_MS))
        reached = low_ms <= self.verified_ms or self.slots_since(low_ms, at_ms) >= REACH
        if reached or self.verified_ms == BEGINNING_MS:
            self.verified_ms = max(self.verified_ms, old_ms)

    def _renew_tail(self, rows: Rows, low_ms: int, at_ms: int, now_us: int, tail_us: int) -> None:
        interval = self.series.interval
        ends_us = candles.end_of(interval, candles.open_of(interval, at_ms)) * 1000
        self.tail = Tail(rows, low_ms, at_ms, now_us, min(now_us + tail_us, ends_us), ends_us)

    def _newest(self) -> int | None:
        """The newest candle, if it is known that there is no newer one."""
        tail = self.tail
        if tail is None or tail.rows.opens:
            return None if tail is None else tail.rows.opens[0]
        known = coverage.holding(self.covered, tail.low_ms - 1)
        cuts = [] if known is None else self.cuts(known[0], tail.low_ms, 1)
        return cuts[0][1].newest_ms if cuts else None

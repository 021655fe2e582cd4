"""Closed candles, a thousand slots at a time, as the bytes that the exchange sent.

A segment is aligned: slot numbers count candles from 1970 on, and a thousand of them make a segment, in minutes as in
months. Rows lie in one blob, newest first, as they stand in an answer; offsets tell where each begins, so that any page
is cut out of it without a row being looked at (1,000 rows out of two segments: 3 us). A segment is a value: what is
learned makes a new one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from operator import neg
from typing import Final, NamedTuple

from policies import candles

SLOTS: Final = 1000
_OVERHEAD_BYTES: Final = 400
"""What a segment costs beside its rows and numbers: the objects that hold it (measured with sys.getsizeof)."""


class Series(NamedTuple):
    """One line of candles: an endpoint of the kline family, a category, a symbol, an interval."""

    endpoint: str
    category: str
    symbol: str
    interval: str

    def key(self) -> str:
        """The readable beginning of all keys of this series."""
        return f"bybit:klines:{self.category}:{self.symbol}:{self.interval}:{self.endpoint}"


class Rows(NamedTuple):
    """Candles, newest first: their open times in epoch milliseconds, and their texts as the exchange wrote them:
    `["...","...",...]`."""

    opens: list[int]
    texts: list[bytes]

    def opening_in(self, low_ms: int, high_ms: int) -> Rows:
        """Those that open within [low, high)."""
        first = bisect_right(self.opens, -high_ms, key=neg)
        last = bisect_right(self.opens, -low_ms, key=neg)
        return Rows(self.opens[first:last], self.texts[first:last])

    def newest(self, limit: int) -> Rows:
        return Rows(self.opens[:limit], self.texts[:limit])

    def oldest(self, limit: int) -> Rows:
        first = max(0, len(self.opens) - limit)
        return Rows(self.opens[first:], self.texts[first:])


class Cut(NamedTuple):
    """Rows cut out of a segment, newest first, joined as the exchange joins them."""

    text: bytes
    length: int
    newest_ms: int
    oldest_ms: int


class Segment:
    """Rows of up to a thousand slots. `opens` ascend; `blob` and `offsets` run from the newest to the oldest."""

    __slots__ = ("blob", "joint", "offsets", "opens", "stored_us")

    def __init__(self, opens: array[int], offsets: array[int], blob: bytes, joint: bytes, stored_us: int) -> None:
        self.opens = opens
        self.offsets = offsets
        self.blob = blob
        self.joint = joint
        """What stands between two rows."""
        self.stored_us = stored_us
        """When the last of them was learned."""

    @classmethod
    def of(cls, rows: Rows, joint: bytes, stored_us: int) -> Segment:
        """Without repetition."""
        begins = accumulate((len(text) + len(joint) for text in rows.texts), initial=0)
        return cls(array("q", reversed(rows.opens)), array("I", begins), joint.join(rows.texts), joint, stored_us)

    def __len__(self) -> int:
        return len(self.opens)

    @property
    def size_bytes(self) -> int:
        return len(self.blob) + 12 * len(self.opens) + _OVERHEAD_BYTES

    def rows(self) -> Rows:
        blob, joint = self.blob, len(self.joint)
        texts = [blob[begin : end - joint] for begin, end in pairwise(self.offsets)]
        return Rows(list(reversed(self.opens)), texts)

    def count(self, low_ms: int, high_ms: int) -> int:
        """How many rows open within [low, high)."""
        return bisect_left(self.opens, high_ms) - bisect_left(self.opens, low_ms)

    def newest(self, low_ms: int, high_ms: int, limit: int) -> Cut | None:
        """At most `limit` rows that open within [low, high), the newest of them."""
        first, last = bisect_left(self.opens, low_ms), bisect_left(self.opens, high_ms)
        return self._cut(max(first, last - limit), last)

    def oldest(self, low_ms: int, high_ms: int, limit: int) -> Cut | None:
        """At most `limit` rows that open within [low, high), the oldest of them."""
        first, last = bisect_left(self.opens, low_ms), bisect_left(self.opens, high_ms)
        return self._cut(first, min(last, first + limit))

    def _cut(self, first: int, last: int) -> Cut | None:
        if first >= last:
            return None
        newest, oldest = len(self.opens) - last, len(self.opens) - first
        text = self.blob[self.offsets[newest] : self.offsets[oldest] - len(self.joint)]
        return Cut(text, last - first, self.opens[last - 1], self.opens[first])

    def with_rows(self, rows: Rows, low_ms: int, high_ms: int, stored_us: int) -> tuple[Segment, int]:
        """[low, high) as it is known now, in place of what was known of it; and how many rows had been different.

        A row that was known and is not there any more counts as different, a new one does not.
        """
        known = self.rows()
        older = bisect_left(self.opens, low_ms)
        newer = len(self.opens) - bisect_left(self.opens, high_ms)
        told = dict(zip(rows.opens, rows.texts, strict=True))
        kept = len(self.opens) - older
        replaced = zip(known.opens[newer:kept], known.texts[newer:kept], strict=True)
        revised = sum(told.get(open_ms) != text for open_ms, text in replaced)
        merged = Rows(
            [*known.opens[:newer], *rows.opens, *known.opens[kept:]],
            [*known.texts[:newer], *rows.texts, *known.texts[kept:]],
        )
        return Segment.of(merged, self.joint, stored_us), revised


def slot_of(interval: str, open_ms: int) -> int:
    """The number of the candle that opens then (or contains the instant), counted from 1970."""
    if interval == "M":
        moment = datetime.fromtimestamp(open_ms / 1000, UTC)
        return (moment.year - 1970) * 12 + moment.month - 1
    if interval == "W":
        return (open_ms - candles.FIRST_MONDAY_MS) // candles.WEEK_MS
    return open_ms // candles.FIXED_MS[interval]


def open_of_slot(interval: str, slot: int) -> int:
    """When the candle of that number opens."""
    if interval == "M":
        return candles.month_ms(1970 + slot // 12, slot % 12 + 1)
    if interval == "W":
        return candles.FIRST_MONDAY_MS + slot * candles.WEEK_MS
    return slot * candles.FIXED_MS[interval]


def segment_of(interval: str, open_ms: int) -> int:
    """The number of the segment that the candle belongs to."""
    return slot_of(interval, open_ms) // SLOTS


def bounds_of(interval: str, segment: int) -> tuple[int, int]:
    """The first open time of a segment, and of the next one."""
    return open_of_slot(interval, segment * SLOTS), open_of_slot(interval, (segment + 1) * SLOTS)

"""Which stretches of time are known: sorted, disjoint half-open ranges of epoch milliseconds.

Coverage is the truth about gaps. Inside it a candle that is not there does not exist at the exchange; outside it nobody
has asked yet.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

Range = tuple[int, int]
Ranges = tuple[Range, ...]

NOTHING: Final[Ranges] = ()


def joined(ranges: Ranges, low: int, high: int) -> Ranges:
    """With [low, high) known too. Ranges that touch become one."""
    if low >= high:
        return ranges
    before = [each for each in ranges if each[1] < low]
    after = [each for each in ranges if each[0] > high]
    between = ranges[len(before) : len(ranges) - len(after)]
    if between:
        low, high = min(low, between[0][0]), max(high, between[-1][1])
    return (*before, (low, high), *after)


def without(ranges: Ranges, low: int, high: int) -> Ranges:
    """With [low, high) forgotten."""
    if low >= high:
        return ranges
    left: list[Range] = []
    for start, end in ranges:
        if start < low:
            left.append((start, min(end, low)))
        if end > high:
            left.append((max(start, high), end))
    return tuple(each for each in left if each[0] < each[1])


def holding(ranges: Ranges, instant: int) -> Range | None:
    """The range that holds an instant."""
    at = bisect_right(ranges, instant, key=lambda each: each[0]) - 1
    return ranges[at] if at >= 0 and instant < ranges[at][1] else None


def within(ranges: Ranges, low: int, high: int) -> Ranges:
    """What is known of [low, high)."""
    return tuple((max(start, low), min(end, high)) for start, end in ranges if max(start, low) < min(end, high))


def gaps(ranges: Ranges, low: int, high: int) -> Ranges:
    """What is not known of [low, high)."""
    unknown: list[Range] = []
    for start, end in within(ranges, low, high):
        if low < start:
            unknown.append((low, start))
        low = end
    return (*unknown, (low, high)) if low < high else tuple(unknown)

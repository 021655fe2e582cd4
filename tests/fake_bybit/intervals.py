"""Candle boundaries: when each of the thirteen intervals opens, as whole milliseconds since 1970 (UTC)."""

from __future__ import annotations

from datetime import date
from typing import Final

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS
WEEK_MS: Final = 7 * DAY_MS

# 1970-01-01 was a Thursday; the first Monday came four days later.
FIRST_MONDAY_MS: Final = 4 * DAY_MS
EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

# bybit.md 3.1: intervals are 1 3 5 15 30 60 120 240 360 720 D W M; no 480, no 1h
INTERVALS: Final = ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W", "M")
FIXED_MS: Final = {name: int(name) * MINUTE_MS for name in INTERVALS if name.isdigit()} | {"D": DAY_MS}


def open_at_or_before(interval: str, time_ms: int) -> int:
    """The opening time of the candle that contains `time_ms`."""
    if interval == "M":
        return _month_open(_month_of(time_ms))
    if interval == "W":
        # bybit.md 3.1: W starts Monday 00:00 UTC
        return time_ms - (time_ms - FIRST_MONDAY_MS) % WEEK_MS
    return time_ms - time_ms % FIXED_MS[interval]


def next_open(interval: str, open_ms: int) -> int:
    """The opening time that follows `open_ms`; also the end of the candle opened at `open_ms`."""
    if interval == "M":
        return _month_open(_month_of(open_ms) + 1)
    return open_ms + (WEEK_MS if interval == "W" else FIXED_MS[interval])


def previous_open(interval: str, open_ms: int) -> int:
    """The opening time before `open_ms`."""
    if interval == "M":
        return _month_open(_month_of(open_ms) - 1)
    return open_ms - (WEEK_MS if interval == "W" else FIXED_MS[interval])


def open_at_or_after(interval: str, time_ms: int) -> int:
    """The first opening time that is not earlier than `time_ms`."""
    open_ms = open_at_or_before(interval, time_ms)
    return open_ms if open_ms == time_ms else next_open(interval, open_ms)


def _month_of(time_ms: int) -> int:
    day = date.fromordinal(EPOCH_ORDINAL + time_ms // DAY_MS)
    return day.year * 12 + day.month - 1


def _month_open(month: int) -> int:
    return (date(month // 12, month % 12 + 1, 1).toordinal() - EPOCH_ORDINAL) * DAY_MS

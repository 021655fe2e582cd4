"""What the exchange's candle intervals mean on the calendar.

A candle is named by its open time. Minutes and hours are aligned to the epoch, `D` to 00:00 UTC, `W` to Monday
00:00 UTC, `M` to the first of the month. All instants are epoch milliseconds, the exchange's own unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
FIRST_MONDAY_MS: Final = 4 * DAY_MS  # 1970-01-05

FIXED_MS: Final = {
    **{str(minutes): minutes * MINUTE_MS for minutes in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)},
    "D": DAY_MS,
}
INTERVALS: Final = frozenset({*FIXED_MS, "W", "M"})


def open_of(interval: str, instant_ms: int) -> int:
    """The open time of the candle that contains the instant."""
    if interval == "M":
        moment = datetime.fromtimestamp(instant_ms / 1000, UTC)
        return month_ms(moment.year, moment.month)
    if interval == "W":
        return instant_ms - (instant_ms - FIRST_MONDAY_MS) % WEEK_MS
    return instant_ms - instant_ms % FIXED_MS[interval]


def end_of(interval: str, open_ms: int) -> int:
    """The first instant after the candle that opens at `open_ms`: its close, and the next one's open."""
    if interval == "M":
        moment = datetime.fromtimestamp(open_ms / 1000, UTC)
        return month_ms(moment.year + moment.month // 12, moment.month % 12 + 1)
    return open_ms + (WEEK_MS if interval == "W" else FIXED_MS[interval])


def on_calendar(interval: str, opens: Iterable[int]) -> bool:
    """Whether each is the open time of a candle."""
    if interval in FIXED_MS:
        length_ms = FIXED_MS[interval]
        return not any(open_ms % length_ms for open_ms in opens)
    return all(open_of(interval, open_ms) == open_ms for open_ms in opens)


def settled(interval: str, open_ms: int, settle_ms: int, now_ms: int) -> bool:
    """Ended long enough ago that it will not change any more."""
    return end_of(interval, open_ms) + settle_ms <= now_ms


def month_ms(year: int, month: int) -> int:
    """When a month begins."""
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000

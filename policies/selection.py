"""Which candles a request selects, as far as the exchange's documents and examples pin it (reference: market/kline).

    start and end    rows that open within them, both included; of more than `limit` the newest
    end alone        the newest `limit` rows that open no later
    start alone      the first `limit` rows from it on
    neither          the newest `limit` rows, the running candle among them

The candle that contains `end` belongs to the answer. A `start` inside a candle selects that candle on spot; what it
does elsewhere nobody has written down, so such requests are the exchange's to answer, as are those that lie in the
future, or whose category is left out (its echo varies), and options, whose limit is another.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from policies import candles
from policies.caching import DEFAULT_ROWS, CandleQuery
from policies.coverage import Range
from policies.segments import SLOTS, Series

ENDLESS_MS: Final = 1 << 62
"""Later than any candle."""
BEGINNING_MS: Final = -(1 << 62)
_CLAMPED: Final = frozenset({200, 500})
"""Numbers of rows that an answer may be cut to, whatever was asked for: it is not the end of history then."""
_CATEGORIES: Final = frozenset({"spot", "linear", "inverse"})


class Selection(NamedTuple):
    """At most `limit` candles of those that open within [low, high): the newest, or the oldest when `forward`."""

    low_ms: int
    high_ms: int
    limit: int
    forward: bool


def select(query: CandleQuery, now_ms: int) -> Selection | None:
    """What a request selects; None when only the exchange can tell. `now_ms` is the exchange's time."""
    if query.category not in _CATEGORIES:
        return None
    limit = query.limit or DEFAULT_ROWS
    low_ms, high_ms = BEGINNING_MS, ENDLESS_MS
    if query.start_ms is not None:
        low_ms = candles.open_of(query.interval, query.start_ms)
        if query.start_ms > now_ms or (low_ms != query.start_ms and query.category != "spot"):
            return None
    if query.end_ms is not None:
        newest_ms = candles.open_of(query.interval, query.end_ms)
        high_ms = candles.end_of(query.interval, newest_ms)
    return Selection(low_ms, high_ms, limit, forward=query.start_ms is not None and query.end_ms is None)


def final_before(interval: str, now_ms: int, settle_ms: int) -> int:
    """Candles that open before this have ended long enough ago that they will not change any more."""
    return candles.open_of(interval, now_ms - settle_ms)


def told_range(interval: str, selection: Selection, opens: list[int]) -> Range:
    """What an answer tells everything about. `opens` are those of its rows, newest first.

    A page that is full tells nothing of what lies beyond it; one that is not reaches to the end of what was asked for.
    """
    full = len(opens) >= selection.limit or len(opens) in _CLAMPED
    if selection.forward:
        return selection.low_ms, (candles.end_of(interval, opens[0]) if full and opens else ENDLESS_MS)
    return (opens[-1] if full and opens else selection.low_ms), selection.high_ms


def fits(interval: str, selection: Selection, opens: list[int]) -> bool:
    """Whether rows are such as were asked for. Nothing is learned from an exchange that answers otherwise."""
    if not opens:
        return True
    asked_for = selection.low_ms <= opens[-1] and opens[0] < selection.high_ms
    return asked_for and len(opens) <= selection.limit and candles.on_calendar(interval, opens)


def latest(series: Series, rows: int) -> CandleQuery:
    """The request for the newest rows."""
    return CandleQuery(*series, None, None, max(1, min(rows, SLOTS)))


def span(series: Series, low_ms: int, high_ms: int) -> CandleQuery:
    """The request for all candles that open within [low, high): a thousand slots at most."""
    return CandleQuery(*series, max(0, low_ms), high_ms - 1, SLOTS)

"""Series with one value per period: funding, open interest, historical volatility."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import noise, symbols
from tests.fake_bybit.decimals import fixed
from tests.fake_bybit.intervals import DAY_MS, MINUTE_MS
from tests.fake_bybit.params import (
    NOT_SUPPORTED_SYMBOLS,
    PARAMETER_ERROR,
    Query,
    Refusal,
    cursor_number,
    decoded_cursor,
    encoded_cursor,
    over_limit,
    wrong,
)

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings
    from tests.fake_bybit.symbols import Instrument

HOUR_MS: Final = 60 * MINUTE_MS
SATOSHIS: Final = 10**8
# bybit.md 3.2: open-interest knows these periods
OPEN_INTEREST_MS: Final = {
    "5min": 5 * MINUTE_MS,
    "15min": 15 * MINUTE_MS,
    "30min": 30 * MINUTE_MS,
    "1h": HOUR_MS,
    "4h": 4 * HOUR_MS,
    "1d": DAY_MS,
}
VOLATILITY_DAYS: Final = ("7", "14", "21", "30", "60", "90", "180", "270")


def funding_result(query: Query, seed: int, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of funding/history, newest first."""
    category = query.category(("linear", "inverse"))
    item = _contract(category, query)
    start_ms, end_ms = query.whole("startTime"), query.whole("endTime")
    # bybit.md 3.2: startTime alone is an error; end alone or neither gives the newest rows
    if start_ms is not None and end_ms is None:
        raise Refusal(PARAMETER_ERROR, "params error: startTime cannot be passed without endTime")
    # bybit.md 3.2: 1..200, default 200
    limit = query.limit(200, 200, over_limit(settings))
    if item.funding_minutes == 0:
        return {"category": category, "list": []}
    times = _newest(
        item,
        item.funding_minutes * MINUTE_MS,
        start_ms=start_ms,
        end_ms=end_ms,
        now_ms=now_ms,
        limit=limit,
    )
    key = noise.key_of(seed, "funding", category, item.symbol)
    rows = [
        {
            "symbol": item.symbol,
            "fundingRate": fixed(noise.wave(key, 5, time_ms // HOUR_MS, 30_000) + 5_000, 8),
            "fundingRateTimestamp": str(time_ms),
        }
        for time_ms in times
    ]
    return {"category": category, "list": rows}


def open_interest_result(query: Query, seed: int, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of open-interest, newest first, with a cursor to older rows."""
    category = query.category(("linear", "inverse"))
    item = _contract(category, query)
    period_ms = OPEN_INTEREST_MS[query.choice("intervalTime", tuple(OPEN_INTEREST_MS))]
    start_ms, end_ms = query.whole("startTime"), query.whole("endTime")
    # bybit.md 3.2: 1..200, default 50
    limit = query.limit(200, 50, over_limit(settings))
    cursor = query.text("cursor")
    if cursor is not None:
        # bybit.md 2.1: lastid%3D19408935%26lasttime%3D1780617600, the time in seconds
        _, last_second = decoded_cursor(cursor, settings, "lastid", "lasttime")
        before_ms = cursor_number(last_second) * 1000 - 1
        end_ms = before_ms if end_ms is None else min(end_ms, before_ms)
    # One row more than asked for tells whether a page follows.
    times = _newest(item, period_ms, start_ms=start_ms, end_ms=end_ms, now_ms=now_ms, limit=limit + 1)
    page = times[:limit]
    more = len(times) > limit
    following = encoded_cursor(lastid=page[-1] // period_ms, lasttime=page[-1] // 1000) if more else ""
    return {
        "symbol": item.symbol,
        "category": category,
        "list": [_interest_row(item, seed, time_ms) for time_ms in page],
        "nextPageCursor": following,
    }


def volatility_answer(query: Query, seed: int, now_ms: int) -> dict[str, Any]:
    """The whole top-level object of historical-volatility: no envelope (bybit.md 2.3)."""
    category = query.category(("option",))
    days = query.choice("period", VOLATILITY_DAYS, default="7")
    base = query.text("baseCoin") or "BTC"
    start_ms, end_ms = query.whole("startTime"), query.whole("endTime")
    # bybit.md 3.2: start and end come as a pair, at most 30 days apart
    if (start_ms is None) != (end_ms is None):
        raise wrong("startTime")
    newest_ms = now_ms - now_ms % HOUR_MS
    if start_ms is None or end_ms is None:
        start_ms = end_ms = newest_ms
    if not 0 <= end_ms - start_ms <= 30 * DAY_MS:
        raise wrong("endTime")
    key = noise.key_of(seed, "volatility", base, days)
    first_ms = -(-start_ms // HOUR_MS) * HOUR_MS
    hours = range(first_ms, min(end_ms, newest_ms) + 1, HOUR_MS)
    rows = [
        {
            "period": int(days),
            "value": fixed(45_000_000 + noise.wave(key, 6, time_ms // HOUR_MS, 20_000_000), 8),
            "time": str(time_ms),
        }
        for time_ms in reversed(hours)
    ]
    return {"retCode": 0, "retMsg": "SUCCESS", "category": category, "result": rows}


def funding_now(item: Instrument, seed: int, now_ms: int) -> tuple[str, int]:
    """The rate shown by the ticker and the time of the next funding."""
    if item.funding_minutes == 0:
        return "", 0
    period_ms = item.funding_minutes * MINUTE_MS
    next_ms = (now_ms // period_ms + 1) * period_ms
    key = noise.key_of(seed, "funding", item.category, item.symbol)
    return fixed(noise.wave(key, 5, next_ms // HOUR_MS, 30_000) + 5_000, 8), next_ms


def interest_units(item: Instrument, seed: int, time_ms: int) -> int:
    """Open interest in units of 10**-8."""
    key = noise.key_of(seed, "interest", item.category, item.symbol)
    share = 1000 + noise.wave(key, 8, time_ms // (5 * MINUTE_MS), 400)
    return item.minute_qty_units * share * SATOSHIS // int(10**item.qty_decimals)


def _interest_row(item: Instrument, seed: int, time_ms: int) -> dict[str, str]:
    units = interest_units(item, seed, time_ms)
    return {
        "openInterest": fixed(units, 8),
        "singleOpenInterest": str(units // 2 // SATOSHIS),
        "timestamp": str(time_ms),
    }


def _contract(category: str, query: Query) -> Instrument:
    item = symbols.find(category, query.symbol())
    if item is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    return item


def _newest(
    item: Instrument, period_ms: int, *, start_ms: int | None, end_ms: int | None, now_ms: int, limit: int
) -> list[int]:
    """The newest `limit` period times in the range, both ends inclusive, inside the instrument's life."""
    newest_ms = min(bound for bound in (now_ms, end_ms, item.ended_ms) if bound is not None)
    oldest_ms = max(item.listed_ms, start_ms or 0)
    last_ms = newest_ms - newest_ms % period_ms
    first_ms = max(oldest_ms, last_ms - (limit - 1) * period_ms)
    return list(range(last_ms, first_ms - 1, -period_ms))

"""What `/v5/market/*kline` answers: which candles a request selects, in which order, with which errors.

The documentation's table is silent about ranges; the rules here are the observed ones (bybit.md 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import candles
from tests.fake_bybit.intervals import (
    INTERVALS,
    next_open,
    open_at_or_after,
    open_at_or_before,
    previous_open,
)
from tests.fake_bybit.params import NOT_SUPPORTED_SYMBOLS, PARAMETER_ERROR, Query, Refusal, wrong

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings

DEFAULT_LIMIT: Final = 200
HIGHEST_LIMIT: Final = 1000
HIGHEST_OPTION_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Page:
    """One of the four kline pages."""

    kind: candles.Kind
    categories: tuple[str, ...]
    bad_interval: str


# bybit.md 3.1: the categories of each page; premium is linear only, option has mark candles since 2026-03
PAGES: Final = {
    # bybit.md Unknown 4: the text of a bad interval on plain kline was never captured
    "/v5/market/kline": Page("kline", ("spot", "linear", "inverse"), "Invalid period"),
    "/v5/market/mark-price-kline": Page("mark", ("linear", "inverse", "option"), "Invalid period"),
    "/v5/market/index-price-kline": Page("index", ("linear", "inverse"), "Invalid period"),
    # bybit.md 3.1: observed on premium
    "/v5/market/premium-index-price-kline": Page("premium", ("linear",), "params error: intervalTime is invalid"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A kline request that passed every check."""

    kind: candles.Kind
    category: str
    symbol: str
    interval: str
    start_ms: int | None
    end_ms: int | None
    limit: int


def kline_result(path: str, query: Query, seed: int, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of a kline page; raises Refusal."""
    request = parse(PAGES[path], query, seed, settings)
    series = candles.series_of(seed, request.kind, request.category, request.symbol)
    if series is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    rows = select(request, series, settings, now_ms)
    category = request.category
    if query.text("category") is None and settings.kline_absent_category_echo == "empty":
        category = ""
    # bybit.md 3.1: docs show symbol first, real spot answers show category first
    if request.category == "spot":
        return {"category": category, "symbol": request.symbol, "list": rows}
    return {"symbol": request.symbol, "category": category, "list": rows}


def parse(page: Page, query: Query, seed: int, settings: Settings) -> Request:
    """Check a query. Names the page does not know, `startTime` among them, are ignored (bybit.md 3.1)."""
    # bybit.md 3.1: default linear
    category = query.category(page.categories, default="linear")
    symbol = query.symbol()
    if candles.series_of(seed, page.kind, category, symbol) is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    interval = query.text("interval")
    if interval not in INTERVALS:
        raise Refusal(PARAMETER_ERROR, page.bad_interval)
    # bybit.md 3.1: limit 1..1000, option 1..500, default 200
    highest = HIGHEST_OPTION_LIMIT if category == "option" else HIGHEST_LIMIT
    limit = query.limit(highest, DEFAULT_LIMIT, settings.kline_limit_over_max)
    start_ms, end_ms = query.whole("start"), query.whole("end")
    if start_ms is not None and end_ms is not None and start_ms > end_ms and settings.kline_start_after_end == "error":
        # bybit.md Unknown 4: start after end
        raise wrong("start")
    return Request(page.kind, category, symbol, interval, start_ms, end_ms, limit)


def select(request: Request, series: candles.Series, settings: Settings, now_ms: int) -> list[list[str]]:
    """The rows of a request, newest first."""
    start_ms, end_ms, interval = request.start_ms, request.end_ms, request.interval
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        return []
    first, last = _life(series, interval, now_ms)
    if start_ms is not None:
        first = max(first, _aligned_start(request, start_ms, settings))
    if end_ms is not None:
        # bybit.md 3.1: end is inclusive on startTime; the candle containing an unaligned end is in
        last = min(last, open_at_or_before(interval, min(end_ms, now_ms)))
    # bybit.md 3.1: start alone runs forward from start; everything else counts back from the newest
    forward = start_ms is not None and end_ms is None
    step = next_open if forward else previous_open
    open_ms = first if forward else last
    rows: list[list[str]] = []
    # bybit.md Unknown 5: candle finality lag
    settle_ms = settings.kline_settle_ms
    while first <= open_ms <= last and len(rows) < request.limit:
        found = candles.row(series, interval, open_ms, now_ms, settle_ms=settle_ms, gap_fill=settings.kline_gap_fill)
        if found is not None:
            rows.append(found)
        open_ms = step(interval, open_ms)
    # bybit.md 3.1: newest first always, whatever start and end
    return rows[::-1] if forward else rows


def _life(series: candles.Series, interval: str, now_ms: int) -> tuple[int, int]:
    instrument = series.instrument
    newest_ms = now_ms if instrument.ended_ms is None else min(now_ms, instrument.ended_ms - 1)
    return open_at_or_before(interval, instrument.listed_ms), open_at_or_before(interval, newest_ms)


def _aligned_start(request: Request, start_ms: int, settings: Settings) -> int:
    # A start beyond any calendar selects nothing either way; the clamp keeps month arithmetic in range.
    start_ms = min(start_ms, 1 << 46)
    # bybit.md 3.1: spot floors an unaligned start to the candle containing it; elsewhere unknown
    if request.category == "spot" or settings.kline_unaligned_start == "floor":
        return open_at_or_before(request.interval, start_ms)
    return open_at_or_after(request.interval, start_ms)

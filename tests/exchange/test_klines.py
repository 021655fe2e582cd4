"""Which candles a kline request selects, checked against a model that filters a full list."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.fake_bybit.candles import candle
from tests.fake_bybit.market import Market
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms

SEED = 7
MINUTE = 60_000
DAY = 86_400_000
NOW = utc_ms(2026, 9, 28, 12, 34) + 56_789
KLINE = "/v5/market/kline"
MARK = "/v5/market/mark-price-kline"
INDEX = "/v5/market/index-price-kline"
PREMIUM = "/v5/market/premium-index-price-kline"
ALL = {KLINE: "kline", MARK: "mark", INDEX: "index", PREMIUM: "premium"}


def answer(path: str = KLINE, *, settings: Settings | None = None, now_ms: int = NOW, **query: Any) -> Any:
    pairs = [(name, str(value)) for name, value in query.items() if value is not None]
    reply = Market(SEED, settings or Settings()).handle(path, pairs, now_ms * 1000)
    assert reply is not None
    return reply


def opens(path: str = KLINE, *, settings: Settings | None = None, now_ms: int = NOW, **query: Any) -> list[int]:
    reply = answer(path, settings=settings, now_ms=now_ms, **query)
    assert reply.ret_code == 0, reply
    return [int(row[0]) for row in reply.result["list"]]


@dataclass(frozen=True)
class Ask:
    """One request around a pivot, in the model's own words."""

    category: str
    symbol: str
    minutes: int
    now_ms: int
    start_ms: int | None
    end_ms: int | None
    limit: int
    unaligned: Literal["floor", "ceil"]
    gap_fill: bool

    def expected(self) -> list[list[str]]:
        """Every candle of a wide window, filtered; nothing is stepped or counted back."""
        step = self.minutes * MINUTE
        centre = self.now_ms // step
        window = [(centre + offset) * step for offset in range(-400, 60)]
        everything = [
            candle(
                SEED, "kline", self.category, self.symbol, str(self.minutes), at, self.now_ms, gap_fill=self.gap_fill
            )
            for at in window
        ]
        low, high = self.start_ms, self.end_ms
        if low is not None and high is not None and low > high:
            return []
        if low is not None and low % step:
            low -= low % step
            if self.category != "spot" and self.unaligned == "ceil":
                low += step
        chosen = [
            row
            for row in everything
            if row is not None and (low is None or int(row[0]) >= low) and (high is None or int(row[0]) <= high)
        ]
        only_start = low is not None and high is None
        chosen = chosen[: self.limit] if only_start else chosen[-self.limit :]
        return sorted(chosen, key=lambda row: -int(row[0]))


PLACES = [
    ("linear", "GAPUSDT", utc_ms(2026, 5, 3)),
    ("spot", "GAPUSDT", utc_ms(2026, 5, 3)),
    ("linear", "BTCUSDT", utc_ms(2026, 5, 3)),
    ("inverse", "BTCUSD", utc_ms(2026, 5, 3)),
    ("linear", "NEWUSDT", NEWUSDT_LISTED_MS),
    ("spot", "NEWUSDT", NEWUSDT_LISTED_MS),
    ("linear", "OLDUSDT", OLDUSDT_DELISTED_MS),
]


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    category, symbol, pivot_ms = draw(st.sampled_from(PLACES))
    minutes = draw(st.sampled_from([1, 3, 5, 60]))
    step = minutes * MINUTE
    now_ms = pivot_ms + draw(st.integers(0, 200 * step))
    # Half of the bounds stand on a boundary.
    aligned = draw(st.booleans())

    def bound() -> int:
        at = now_ms + draw(st.integers(-300 * step, 50 * step))
        return at - at % step if aligned else at

    return Ask(
        category=category,
        symbol=symbol,
        minutes=minutes,
        now_ms=now_ms,
        start_ms=bound() if draw(st.booleans()) else None,
        end_ms=bound() if draw(st.booleans()) else None,
        limit=draw(st.integers(1, 60)),
        unaligned=draw(st.sampled_from(["floor", "ceil"])),
        gap_fill=draw(st.booleans()),
    )


@profile(max_examples=400)
@given(ask=asks())
@example(Ask("spot", "GAPUSDT", 1, utc_ms(2026, 5, 3), utc_ms(2026, 5, 3) - 1, None, 5, "ceil", gap_fill=False))
def test_a_request_selects_what_the_model_selects(ask: Ask) -> None:
    settings = Settings(kline_unaligned_start=ask.unaligned, kline_gap_fill=ask.gap_fill)
    reply = answer(
        settings=settings,
        now_ms=ask.now_ms,
        category=ask.category,
        symbol=ask.symbol,
        interval=ask.minutes,
        start=ask.start_ms,
        end=ask.end_ms,
        limit=ask.limit,
    )
    assert reply.result["list"] == ask.expected()


def test_both_ends_are_inclusive() -> None:
    """bybit.md 3.1: 60-min, start 16:00, end 18:00 gives 16:00, 17:00 and 18:00."""
    start, end = utc_ms(2026, 7, 1, 16), utc_ms(2026, 7, 1, 18)
    found = opens(category="inverse", symbol="BTCUSD", interval=60, start=start, end=end)
    assert found == [end, utc_ms(2026, 7, 1, 17), start]


def test_a_range_wider_than_the_limit_keeps_the_newest() -> None:
    """bybit.md 3.1: 1-min over 2 h with limit=2 gives the last two rows at end."""
    start, end = utc_ms(2026, 7, 1, 16), utc_ms(2026, 7, 1, 18)
    found = opens(INDEX, category="inverse", symbol="BTCUSD", interval=1, start=start, end=end, limit=2)
    assert found == [end, end - MINUTE]


def test_start_alone_runs_forward_and_is_still_listed_newest_first() -> None:
    start = utc_ms(2026, 7, 1, 16)
    found = opens(symbol="BTCUSDT", interval=1, start=start, limit=3)
    assert found == [start + 2 * MINUTE, start + MINUTE, start]


def test_end_alone_counts_back_and_contains_an_unaligned_end() -> None:
    end = utc_ms(2026, 7, 1, 16)
    assert opens(symbol="BTCUSDT", interval=1, end=end + 59_999, limit=2) == [end, end - MINUTE]


def test_no_bounds_give_the_latest_rows_and_the_open_candle_first() -> None:
    """bybit.md 3.1: default limit 200; the open candle is the first row."""
    found = opens(symbol="BTCUSDT", interval=1)
    assert len(found) == 200
    assert found[0] == NOW - NOW % MINUTE
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("switch", ["floor", "ceil"])
def test_spot_always_floors_an_unaligned_start(switch: Literal["floor", "ceil"]) -> None:
    """bybit.md 3.1: spot returns the candle containing start; elsewhere unknown, so it is a switch."""
    settings, start = Settings(kline_unaligned_start=switch), utc_ms(2026, 7, 1, 16)
    asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": 1, "start": start + 1, "limit": 1}
    assert opens(settings=settings, category="spot", **asked) == [start]
    expected = start if switch == "floor" else start + MINUTE
    assert opens(settings=settings, category="linear", **asked) == [expected]


def test_months_and_weeks_walk_the_calendar() -> None:
    start, end = utc_ms(2025, 11, 15), utc_ms(2026, 3, 15)
    months = opens(symbol="BTCUSDT", interval="M", start=start, end=end)
    assert months == [
        utc_ms(2026, 3, 1),
        utc_ms(2026, 2, 1),
        utc_ms(2026, 1, 1),
        utc_ms(2025, 12, 1),
        utc_ms(2025, 11, 1),
    ]
    weeks = opens(symbol="BTCUSDT", interval="W", start=utc_ms(2026, 1, 1), end=utc_ms(2026, 1, 31))
    assert [datetime.fromtimestamp(at / 1000, UTC).strftime("%a %d") for at in weeks] == [
        "Mon 26", "Mon 19", "Mon 12", "Mon 05", "Mon 29",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "category", "symbol"),
    [
        (KLINE, "spot", "BTCUSDT"),
        (KLINE, "linear", "BTCUSDT"),
        (KLINE, "inverse", "BTCUSD"),
        (MARK, "linear", "BTCUSDT"),
        (MARK, "inverse", "BTCUSD"),
        (INDEX, "linear", "BTCUSDT"),
        (INDEX, "inverse", "BTCUSD"),
        (PREMIUM, "linear", "BTCUSDT"),
    ],
)
def test_every_page_serves_up_to_a_thousand_rows_of_its_categories(path: str, category: str, symbol: str) -> None:
    reply = answer(path, category=category, symbol=symbol, interval=5, limit=1000)
    assert len(reply.result["list"]) == 1000
    assert {len(row) for row in reply.result["list"]} == {7 if path == KLINE else 5}
    assert reply.result["symbol"] == symbol
    assert reply.result["category"] == category
    # bybit.md 3.1: real spot answers show category first, the documents show symbol first
    assert next(iter(reply.result)) == ("category" if category == "spot" else "symbol")


def test_option_mark_candles_stop_at_five_hundred() -> None:
    """bybit.md 3.1: option 1..500, default 200."""
    asked: dict[str, Any] = {"category": "option", "symbol": "BTC-25DEC26-60000-C", "interval": 5}
    assert len(opens(MARK, **asked)) == 200
    assert len(opens(MARK, limit=500, **asked)) == 500
    assert len(opens(MARK, limit=501, **asked)) == 500
    assert answer(MARK, settings=Settings(kline_limit_over_max="error"), limit=501, **asked).ret_code == 10001


@pytest.mark.parametrize(("limit", "clamped"), [("1001", 1000), ("0", 1), ("-3", 1), ("many", 200)])
def test_a_limit_out_of_range_is_clamped_or_refused(limit: str, clamped: int) -> None:
    """bybit.md Unknown 4: nobody has written down which."""
    assert len(opens(symbol="BTCUSDT", interval=1, limit=limit)) == clamped
    refused = answer(settings=Settings(kline_limit_over_max="error"), symbol="BTCUSDT", interval=1, limit=limit)
    assert (refused.ret_code, refused.result) == (10001, {})


def test_missing_candles_are_left_out_and_do_not_count_as_rows() -> None:
    """bybit.md 3.1: nothing is promised about gaps; a limit counts the rows that exist."""
    settings, start = Settings(kline_gap_fill=False), utc_ms(2026, 5, 3)
    asked: dict[str, Any] = {"symbol": "GAPUSDT", "interval": 1, "limit": 1000}
    back = opens(settings=settings, end=start, **asked)
    forward = opens(settings=settings, start=start, **asked)
    assert len(back) == len(forward) == 1000
    assert back[0] - back[-1] > 1000 * MINUTE < forward[0] - forward[-1]
    filled = opens(settings=Settings(kline_gap_fill=True), end=start, **asked)
    assert filled[0] - filled[-1] == 999 * MINUTE


def test_start_after_end_is_empty_or_refused() -> None:
    """bybit.md Unknown 4."""
    asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": 1, "start": NOW, "end": NOW - 1}
    assert opens(**asked) == []
    assert answer(settings=Settings(kline_start_after_end="error"), **asked).ret_code == 10001


@pytest.mark.parametrize(
    "asked",
    [
        {"start": NOW + 40 * DAY},
        {"start": NOW + 40 * DAY, "end": NOW + 90 * DAY},
        {"start": 10**17},
        {"end": utc_ms(2019, 1, 1)},
        {"start": 0, "end": 5},
    ],
)
def test_a_range_without_candles_is_an_empty_list(asked: dict[str, Any]) -> None:
    for interval in ("1", "W", "M"):
        assert opens(symbol="BTCUSDT", interval=interval, **asked) == []


def test_history_reaches_the_listing_and_not_further() -> None:
    assert opens(symbol="NEWUSDT", interval="60", start=0, limit=2)[-1] == utc_ms(2026, 6, 15, 10)
    assert opens(symbol="OLDUSDT", interval="D", limit=1) == [OLDUSDT_DELISTED_MS - 86_400_000]


def test_names_the_page_does_not_know_are_ignored() -> None:
    """bybit.md 3.1: `startTime` on v5 kline gets the latest window."""
    plain = answer(symbol="BTCUSDT", interval=1, limit=5)
    odd = answer(symbol="BTCUSDT", interval=1, limit=5, startTime=utc_ms(2024, 1, 1), endTime=5, foo="bar")
    assert odd == plain


def test_empty_values_are_absent_and_the_first_of_two_counts() -> None:
    market = Market(SEED, Settings())
    pairs = [("category", ""), ("symbol", "BTCUSDT"), ("symbol", "ETHUSDT"), ("interval", "1"), ("start", "")]
    reply = market.handle(KLINE, pairs, NOW * 1000)
    assert reply is not None
    assert (reply.result["symbol"], reply.result["category"]) == ("BTCUSDT", "linear")


def test_an_absent_category_is_linear_and_echoed_by_switch() -> None:
    assert answer(symbol="BTCUSDT", interval=1).result["category"] == "linear"
    settings = Settings(kline_absent_category_echo="empty")
    assert answer(settings=settings, symbol="BTCUSDT", interval=1).result["category"] == ""
    assert answer(settings=settings, category="linear", symbol="BTCUSDT", interval=1).result["category"] == "linear"


@pytest.mark.parametrize(
    ("path", "asked", "text"),
    [
        (KLINE, {"category": "option", "symbol": "BTCUSDT", "interval": 1}, "Illegal category"),
        (KLINE, {"category": "Linear", "symbol": "BTCUSDT", "interval": 1}, "Illegal category"),
        (MARK, {"category": "spot", "symbol": "BTCUSDT", "interval": 1}, "Illegal category"),
        (INDEX, {"category": "option", "symbol": "BTCUSDT", "interval": 1}, "Illegal category"),
        (PREMIUM, {"category": "inverse", "symbol": "BTCUSD", "interval": 1}, "Illegal category"),
        (KLINE, {"symbol": "btcusdt", "interval": 1}, "Not supported symbols"),
        (KLINE, {"symbol": "NOSUCHUSDT", "interval": 1}, "Not supported symbols"),
        (KLINE, {"symbol": "BTCUSD", "interval": 1}, "Not supported symbols"),
        (KLINE, {"interval": 1}, "Not supported symbols"),
        (PREMIUM, {"symbol": "BTCUSDT", "interval": "1h"}, "params error: intervalTime is invalid"),
        (KLINE, {"symbol": "BTCUSDT", "interval": "480"}, "Invalid period"),
        (KLINE, {"symbol": "BTCUSDT"}, "Invalid period"),
        (KLINE, {"symbol": "BTCUSDT", "interval": "d"}, "Invalid period"),
        (KLINE, {"symbol": "BTCUSDT", "interval": 1, "start": "now"}, "params error: start is invalid"),
        (KLINE, {"symbol": "BTCUSDT", "interval": 1, "end": "1.5"}, "params error: end is invalid"),
    ],
)
def test_errors_are_code_10001_with_an_empty_result(path: str, asked: dict[str, Any], text: str) -> None:
    reply = answer(path, **asked)
    assert (reply.ret_code, reply.ret_msg, reply.result) == (10001, text, {})


@pytest.mark.parametrize("path", list(ALL))
def test_settling_is_a_setting_of_every_page(path: str) -> None:
    end = utc_ms(2026, 7, 1, 16)
    asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": 1, "start": end - MINUTE, "end": end - 1}

    def row(settings: Settings, now_ms: int) -> list[str]:
        found: list[str] = answer(path, settings=settings, now_ms=now_ms, **asked).result["list"][0]
        return found

    slow = Settings(kline_settle_ms=3000)
    assert row(Settings(), end) == row(Settings(), end + 3000)
    assert row(slow, end) != row(slow, end + 3000)
    assert row(slow, end + 3000) == row(Settings(), end)

"""Candles of the fake exchange: closed ones never change, open ones move the way real ones do."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_bybit.candles import candle
from tests.fake_bybit.intervals import INTERVALS, next_open, open_at_or_after, open_at_or_before, previous_open
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms

SEED = 7
MINUTE = 60_000
JULY = utc_ms(2026, 7, 14, 9, 31)

SERIES: list[tuple[Any, str, str]] = [
    ("kline", "linear", "BTCUSDT"),
    ("kline", "spot", "ETHUSDT"),
    ("kline", "inverse", "BTCUSD"),
    ("mark", "linear", "SOLUSDT"),
    ("mark", "option", "BTC-25DEC26-60000-C"),
    ("index", "inverse", "ETHUSD"),
    ("premium", "linear", "BTCUSDT"),
]
series = st.sampled_from(SERIES)
intervals = st.sampled_from(INTERVALS)
moments = st.integers(utc_ms(2026, 2, 1), utc_ms(2026, 11, 20))


def numbers(row: list[str] | None) -> list[Decimal]:
    assert row is not None
    return [Decimal(text) for text in row[1:]]


@given(which=series, interval=intervals, time_ms=moments, later=st.lists(st.integers(0, 10**11), max_size=4))
def test_a_closed_candle_never_changes_whatever_now_is(
    which: tuple[Any, str, str], interval: str, time_ms: int, later: list[int]
) -> None:
    open_ms = open_at_or_before(interval, time_ms)
    close_ms = next_open(interval, open_ms)
    closed = candle(SEED, *which, interval, open_ms, close_ms)
    assert all(candle(SEED, *which, interval, open_ms, close_ms + more) == closed for more in later)


@given(which=series, interval=intervals, time_ms=moments, ages=st.lists(st.integers(0, 10**6), min_size=2, max_size=12))
def test_an_open_candle_only_widens_and_only_grows(
    which: tuple[Any, str, str], interval: str, time_ms: int, ages: list[int]
) -> None:
    open_ms = open_at_or_before(interval, time_ms)
    close_ms = next_open(interval, open_ms)
    nows = sorted(open_ms + (close_ms - open_ms) * age // 10**6 for age in ages)
    seen = [numbers(candle(SEED, *which, interval, open_ms, now)) for now in [*nows, close_ms]]
    for before, after in pairwise(seen):
        assert after[0] == before[0]
        assert after[1] >= before[1]
        assert after[2] <= before[2]
        assert after[4:] >= before[4:]
    assert all(row[2] <= row[0] <= row[1] and row[2] <= row[3] <= row[1] for row in seen)


@given(which=series, interval=intervals, time_ms=moments, bucket=st.integers(0, 595))
def test_an_open_candle_changes_every_hundred_milliseconds_and_only_then(
    which: tuple[Any, str, str], interval: str, time_ms: int, bucket: int
) -> None:
    open_ms = open_at_or_before(interval, time_ms)
    now = open_ms + bucket * 100
    here = candle(SEED, *which, interval, open_ms, now)
    following = candle(SEED, *which, interval, open_ms, now + 100)
    assert here == candle(SEED, *which, interval, open_ms, now + 99)
    assert numbers(here)[3] != numbers(following)[3], "the close moved"
    assert which[0] != "kline" or numbers(here)[4] < numbers(following)[4], "the volume grew"


def test_the_last_moment_before_the_close_agrees_with_the_close() -> None:
    open_ms = open_at_or_before("60", JULY)
    close_ms = next_open("60", open_ms)
    final = numbers(candle(SEED, "kline", "linear", "BTCUSDT", "60", open_ms, close_ms))
    last = numbers(candle(SEED, "kline", "linear", "BTCUSDT", "60", open_ms, close_ms - 1))
    assert (last[0], last[1], last[2]) == (final[0], final[1], final[2])
    assert last[4] < final[4]
    assert candle(SEED, "kline", "linear", "BTCUSDT", "60", open_ms, open_ms - 1) is None


@given(which=series, interval=intervals, time_ms=moments)
def test_a_candle_opens_where_the_one_before_closed(which: tuple[Any, str, str], interval: str, time_ms: int) -> None:
    open_ms = open_at_or_before(interval, time_ms)
    far = utc_ms(2028, 1, 1)
    before = candle(SEED, *which, interval, previous_open(interval, open_ms), far)
    here = candle(SEED, *which, interval, open_ms, far)
    if before is not None and here is not None:
        assert before[4] == here[1]


def test_settling_candles_may_change_after_their_end_and_not_later() -> None:
    """bybit.md Unknown 5: a candle may still change shortly after its close."""
    open_ms = open_at_or_before("1", JULY)
    end_ms = open_ms + MINUTE

    def at(now_ms: int) -> list[Decimal]:
        return numbers(candle(SEED, "kline", "linear", "BTCUSDT", "1", open_ms, now_ms, settle_ms=3000))

    just_ended, later, final = at(end_ms), at(end_ms + 1500), at(end_ms + 3000)
    assert just_ended[4] < later[4] < final[4]
    assert just_ended[3] != later[3]
    assert (just_ended[1], just_ended[2]) == (final[1], final[2])
    assert at(end_ms + 10**9) == final
    assert final == numbers(candle(SEED, "kline", "linear", "BTCUSDT", "1", open_ms, end_ms))


@given(interval=intervals, time_ms=st.integers(0, utc_ms(2040, 1, 1)))
def test_every_moment_lies_in_exactly_one_candle(interval: str, time_ms: int) -> None:
    open_ms = open_at_or_before(interval, time_ms)
    assert open_ms <= time_ms < next_open(interval, open_ms)
    assert open_at_or_before(interval, open_ms) == open_ms
    assert previous_open(interval, next_open(interval, open_ms)) == open_ms
    assert open_at_or_after(interval, open_ms) == open_ms
    assert open_at_or_after(interval, open_ms + 1) == next_open(interval, open_ms)


@given(time_ms=moments)
def test_days_open_at_midnight_weeks_on_monday_months_on_the_first(time_ms: int) -> None:
    """bybit.md 3.1: D 00:00 UTC, W Monday 00:00 UTC, M calendar months."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    opens = {name: datetime.fromtimestamp(open_at_or_before(name, time_ms) / 1000, UTC) for name in ("D", "W", "M")}
    assert all((each.hour, each.minute, each.second) == (0, 0, 0) for each in opens.values())
    assert opens["D"].date() == moment.date()
    assert opens["W"].weekday() == 0
    assert 0 <= (moment - opens["W"]).days < 7
    assert (opens["M"].year, opens["M"].month, opens["M"].day) == (moment.year, moment.month, 1)


def test_february_is_as_long_as_its_year_says() -> None:
    assert next_open("M", utc_ms(2028, 2, 1)) - utc_ms(2028, 2, 1) == 29 * 86_400_000
    assert next_open("M", utc_ms(2026, 12, 1)) == utc_ms(2027, 1, 1)
    assert previous_open("M", utc_ms(2026, 1, 1)) == utc_ms(2025, 12, 1)


def _missing(interval: str, opens: range) -> list[int]:
    far = utc_ms(2027, 1, 1)
    return [at for at in opens if candle(SEED, "kline", "linear", "GAPUSDT", interval, at, far) is None]


def test_three_percent_of_gapusdt_is_missing_in_runs() -> None:
    first = utc_ms(2026, 5, 1)
    missing = _missing("1", range(first, first + 20_000 * MINUTE, MINUTE))
    assert 0.02 < len(missing) / 20_000 < 0.04
    starts = [at for at in missing if at - MINUTE not in missing]
    assert len(missing) / len(starts) > 3, "misses come in runs"
    threes = _missing("3", range(first, first + 20_001 * MINUTE, 3 * MINUTE))
    assert all({at, at + MINUTE, at + 2 * MINUTE} <= set(missing) for at in threes)
    assert threes
    assert not _missing("15", range(first, first + 20_000 * MINUTE, 15 * MINUTE))


def test_gaps_can_be_filled_with_flat_candles() -> None:
    """bybit.md 3.1: no-trade minutes are normally filled with flat candles."""
    first = utc_ms(2026, 5, 1)
    hole = _missing("1", range(first, first + 600 * MINUTE, MINUTE))[0]
    row = candle(SEED, "kline", "linear", "GAPUSDT", "1", hole, utc_ms(2027, 1, 1), gap_fill=True)
    assert row is not None
    assert row[1] == row[2] == row[3] == row[4]
    assert row[5:] == ["0", "0"]


@pytest.mark.parametrize("category", ["linear", "spot"])
def test_nothing_before_a_listing_and_nothing_after_an_end(category: str) -> None:
    far = utc_ms(2027, 1, 1)
    first_minute = NEWUSDT_LISTED_MS
    assert candle(SEED, "kline", category, "NEWUSDT", "1", first_minute - MINUTE, far) is None
    assert candle(SEED, "kline", category, "NEWUSDT", "1", first_minute, far) is not None
    containing = open_at_or_before("60", first_minute)
    assert candle(SEED, "kline", category, "NEWUSDT", "60", containing, far) is not None
    assert candle(SEED, "kline", category, "NEWUSDT", "60", containing, first_minute - 1) is None
    last_day = OLDUSDT_DELISTED_MS - 86_400_000
    assert candle(SEED, "kline", category, "OLDUSDT", "D", last_day, far) is not None
    assert candle(SEED, "kline", category, "OLDUSDT", "D", OLDUSDT_DELISTED_MS, far) is None
    # The week that holds the end is final at the end, not at the week's own close.
    week = open_at_or_before("W", OLDUSDT_DELISTED_MS - 1)
    at_end = candle(SEED, "kline", category, "OLDUSDT", "W", week, OLDUSDT_DELISTED_MS)
    assert at_end == candle(SEED, "kline", category, "OLDUSDT", "W", week, far)


def test_rows_are_strings_in_the_recorded_forms() -> None:
    """bybit.md 3.1: seven strings or five, all of them decimal, premium now and then negative."""
    far = utc_ms(2026, 8, 1)
    opens = range(utc_ms(2026, 7, 1), utc_ms(2026, 7, 3), 15 * MINUTE)
    for kind, category, symbol in SERIES:
        rows = [candle(SEED, kind, category, symbol, "15", at, far) for at in opens]
        assert {len(row or []) for row in rows} == {7 if kind == "kline" else 5}
        assert all("e" not in text.lower() for row in rows for text in row or [])
    premium = [candle(SEED, "premium", "linear", "BTCUSDT", "D", at, far) for at in range(0, far, 86_400_000)]
    lows = [row[3] for row in premium if row is not None]
    assert any(text.startswith("-0.") for text in lows)
    assert all(len(text.split(".")[1]) == 6 for text in lows)


PINNED = ["1784019600000", "70148.3", "70409.8", "70116", "70359.7", "3629.882", "255029701.5088"]


def test_the_same_seed_gives_the_same_candles_on_every_machine() -> None:
    """Pinned: recordings made against the box stay valid."""
    open_ms = utc_ms(2026, 7, 14, 9)
    assert candle(1, "kline", "linear", "BTCUSDT", "60", open_ms, open_ms + 3_600_000) == PINNED
    assert candle(2, "kline", "linear", "BTCUSDT", "60", open_ms, open_ms + 3_600_000) != PINNED


@settings(max_examples=50)
@given(time_ms=moments)
def test_a_symbol_nobody_listed_has_no_candles(time_ms: int) -> None:
    assert candle(SEED, "kline", "linear", "NOSUCHUSDT", "1", open_at_or_before("1", time_ms), time_ms) is None
    assert candle(SEED, "kline", "linear", "btcusdt", "1", open_at_or_before("1", time_ms), time_ms) is None

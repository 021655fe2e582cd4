"""What a request for candles selects, and what an answer to it tells."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policies import candles
from policies.caching import CandleQuery
from policies.segments import SLOTS, Series
from policies.selection import (
    BEGINNING_MS,
    ENDLESS_MS,
    Selection,
    final_before,
    fits,
    latest,
    select,
    span,
    told_range,
)

MINUTE = candles.MINUTE_MS
HOUR = 60 * MINUTE
DAY = candles.DAY_MS


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


T = ms(2026, 3, 5, 12)  # a Thursday
NOW = T + 30_500


def query(
    start: int | None = None,
    end: int | None = None,
    limit: int | None = None,
    *,
    category: str | None = "linear",
    interval: str = "1",
) -> CandleQuery:
    return CandleQuery("kline", category, "BTCUSDT", interval, start, end, limit)


@pytest.mark.parametrize(
    ("asked", "selected"),
    [
        pytest.param(query(), Selection(BEGINNING_MS, ENDLESS_MS, 200, False), id="neither: the newest 200"),
        pytest.param(query(limit=1000), Selection(BEGINNING_MS, ENDLESS_MS, 1000, False), id="as many as asked for"),
        pytest.param(
            query(T - HOUR, T - MINUTE), Selection(T - HOUR, T, 200, False), id="both: both included, newest first"
        ),
        pytest.param(query(T, T), Selection(T, T + MINUTE, 200, False), id="both the same: one candle"),
        pytest.param(query(T - HOUR), Selection(T - HOUR, ENDLESS_MS, 200, True), id="start alone: forward"),
        pytest.param(query(end=T), Selection(BEGINNING_MS, T + MINUTE, 200, False), id="end alone: up to it"),
        pytest.param(
            query(end=T + 59_999), Selection(BEGINNING_MS, T + MINUTE, 200, False), id="the candle that contains end"
        ),
        pytest.param(query(end=T - 1), Selection(BEGINNING_MS, T, 200, False), id="right before a candle"),
        pytest.param(query(end=NOW + DAY), Selection(BEGINNING_MS, ms(2026, 3, 6, 12, 1), 200, False), id="later end"),
        pytest.param(
            query(T - 1, category="spot"), Selection(T - MINUTE, ENDLESS_MS, 200, True), id="spot floors the start"
        ),
        pytest.param(
            query(ms(2026, 3, 4), ms(2026, 3, 4), category="spot", interval="W"),
            Selection(ms(2026, 3, 2), ms(2026, 3, 9), 200, False),
            id="a week from Monday on",
        ),
        pytest.param(
            query(ms(2026, 2, 1), ms(2026, 2, 28), interval="M"),
            Selection(ms(2026, 2, 1), ms(2026, 3, 1), 200, False),
            id="a month by the calendar",
        ),
        pytest.param(query(0), Selection(0, ENDLESS_MS, 200, True), id="from the beginning"),
    ],
)
def test_what_the_documents_pin_is_selected_here(asked: CandleQuery, selected: Selection) -> None:
    assert select(asked, NOW) == selected


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(query(T - 1), id="a start within a candle, elsewhere than on spot"),
        pytest.param(query(T - 1, T, category="inverse"), id="the same with an end"),
        pytest.param(query(ms(2026, 3, 4), interval="W"), id="a start within a week"),
        pytest.param(query(NOW + 1, category="spot"), id="a start in the future"),
        pytest.param(query(T + MINUTE, T + HOUR), id="a range in the future"),
        pytest.param(query(category=None), id="no category: its echo varies"),
        pytest.param(query(category="option"), id="options: another limit"),
    ],
)
def test_what_nobody_has_written_down_is_the_exchanges_to_answer(asked: CandleQuery) -> None:
    assert select(asked, NOW) is None


@pytest.mark.parametrize(
    ("interval", "now_ms", "first_open"),
    [
        ("1", T + 4_999, T - MINUTE),
        ("1", T + 5_000, T),
        ("D", ms(2026, 3, 5) + 4_999, ms(2026, 3, 4)),
        ("W", ms(2026, 3, 2) + 5_000, ms(2026, 3, 2)),
        ("M", ms(2026, 3, 1) + 4_999, ms(2026, 2, 1)),
    ],
)
def test_a_candle_is_final_only_when_it_has_settled(interval: str, now_ms: int, first_open: int) -> None:
    assert final_before(interval, now_ms, 5_000) == first_open


def opens(newest: int, count: int) -> list[int]:
    return [newest - number * MINUTE for number in range(count)]


BACK = Selection(BEGINNING_MS, ENDLESS_MS, 300, False)
RANGE = Selection(T - 24 * HOUR, T, 300, False)
FORWARD = Selection(T - 24 * HOUR, ENDLESS_MS, 300, True)


@pytest.mark.parametrize(
    ("selection", "rows", "told"),
    [
        pytest.param(BACK, opens(T, 300), (T - 299 * MINUTE, ENDLESS_MS), id="full: nothing of what lies below"),
        pytest.param(BACK, opens(T, 299), (BEGINNING_MS, ENDLESS_MS), id="short: there is nothing below"),
        pytest.param(BACK, [], (BEGINNING_MS, ENDLESS_MS), id="nothing at all"),
        pytest.param(RANGE, opens(T - MINUTE, 300), (T - 300 * MINUTE, T), id="a full range"),
        pytest.param(RANGE, opens(T - HOUR, 7), (T - 24 * HOUR, T), id="a short range"),
        pytest.param(RANGE, [], (T - 24 * HOUR, T), id="an empty range"),
        pytest.param(RANGE, opens(T - MINUTE, 200), (T - 200 * MINUTE, T), id="200 may be all that is ever given"),
        pytest.param(RANGE._replace(limit=1000), opens(T - MINUTE, 500), (T - 500 * MINUTE, T), id="and so may 500 be"),
        pytest.param(
            FORWARD,
            opens(T - 24 * HOUR + 299 * MINUTE, 300),
            (T - 24 * HOUR, T - 24 * HOUR + 300 * MINUTE),
            id="full, forward: nothing of what comes later",
        ),
        pytest.param(FORWARD, opens(T, 12), (T - 24 * HOUR, ENDLESS_MS), id="short, forward: that is all up to now"),
        pytest.param(
            FORWARD, opens(T, 200), (T - 24 * HOUR, T + MINUTE), id="200, forward, may be all that is ever given"
        ),
        pytest.param(FORWARD, [], (T - 24 * HOUR, ENDLESS_MS), id="nothing, forward"),
    ],
)
def test_an_answer_tells_everything_about_a_stretch(
    selection: Selection, rows: list[int], told: tuple[int, int]
) -> None:
    assert told_range("1", selection, rows) == told


@pytest.mark.parametrize(
    ("rows", "fit"),
    [
        ([], True),
        (opens(T - MINUTE, 300), True),
        (opens(T - MINUTE, 301), False),
        (opens(T, 3), False),
        ([T - MINUTE, T - 24 * HOUR], True),
        ([T - MINUTE, T - 24 * HOUR - MINUTE], False),
        ([T - MINUTE, T - HOUR - 1], False),
    ],
)
def test_rows_that_were_not_asked_for_teach_nothing(rows: list[int], fit: bool) -> None:
    """Too many, too new, too old, or of no candle's time."""
    assert fits("1", RANGE, rows) is fit


def test_weeks_and_months_must_be_on_their_calendar() -> None:
    assert fits("W", BACK, [ms(2026, 3, 2), ms(2026, 2, 23)])
    assert not fits("W", BACK, [ms(2026, 3, 3)])
    assert fits("M", BACK, [ms(2026, 3, 1), ms(2026, 2, 1)])
    assert not fits("M", BACK, [ms(2026, 3, 1), ms(2026, 2, 2)])


def test_requests_of_ones_own() -> None:
    series = Series("kline", "linear", "BTCUSDT", "1")

    assert latest(series, 7).written() == "category=linear&symbol=BTCUSDT&interval=1&limit=7"
    assert latest(series, 0).limit == 1
    assert latest(series, 5000).limit == SLOTS
    assert span(series, T, T + HOUR) == CandleQuery(*series, T, T + HOUR - 1, SLOTS)
    assert span(series, -5, T).start_ms == 0

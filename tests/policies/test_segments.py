"""Segments against plain lists, and their calendar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import candles
from policies.segments import (
    SLOTS,
    Cut,
    Rows,
    Segment,
    Series,
    bounds_of,
    open_of_slot,
    segment_of,
    slot_of,
)

ROW = st.binary(min_size=1, max_size=6).filter(lambda text: b"," not in text)
OPENS = st.integers(-30, 30)
TABLE = st.dictionaries(OPENS, ROW, max_size=20)
JOINT = st.sampled_from([b",", b", "])
LIMIT = st.integers(1, 25)


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


def rows_of(table: dict[int, bytes]) -> Rows:
    opens = sorted(table, reverse=True)
    return Rows(opens, [table[open_ms] for open_ms in opens])


def cut_of(rows: Rows, joint: bytes) -> Cut | None:
    return Cut(joint.join(rows.texts), len(rows.opens), rows.opens[0], rows.opens[-1]) if rows.opens else None


@given(TABLE, JOINT)
def test_a_segment_holds_what_was_put_into_it(table: dict[int, bytes], joint: bytes) -> None:
    rows = rows_of(table)
    segment = Segment.of(rows, joint, 7)

    assert segment.rows() == rows
    assert len(segment) == len(table)
    assert segment.blob == joint.join(rows.texts)
    assert segment.size_bytes >= len(segment.blob) + 12 * len(table)
    assert segment.stored_us == 7


@given(TABLE, JOINT, OPENS, OPENS, LIMIT)
def test_a_cut_is_a_slice_of_the_list(table: dict[int, bytes], joint: bytes, low: int, high: int, limit: int) -> None:
    low, high = min(low, high), max(low, high)
    segment = Segment.of(rows_of(table), joint, 0)
    within = rows_of({open_ms: text for open_ms, text in table.items() if low <= open_ms < high})

    assert segment.count(low, high) == len(within.opens)
    assert segment.newest(low, high, limit) == cut_of(Rows(within.opens[:limit], within.texts[:limit]), joint)
    assert segment.oldest(low, high, limit) == cut_of(Rows(within.opens[-limit:], within.texts[-limit:]), joint)


@given(TABLE, TABLE, JOINT, OPENS, OPENS)
def test_what_is_known_now_takes_the_place_of_what_was(
    table: dict[int, bytes], told: dict[int, bytes], joint: bytes, low: int, high: int
) -> None:
    """Within the stretch, and nowhere else; rows that had been different, or are gone, are counted."""
    low, high = min(low, high), max(low, high)
    told = {open_ms: text for open_ms, text in told.items() if low <= open_ms < high}
    replaced = {open_ms: text for open_ms, text in table.items() if low <= open_ms < high}
    kept = {open_ms: text for open_ms, text in table.items() if open_ms not in replaced}
    before = Segment.of(rows_of(table), joint, 1)

    segment, revised = before.with_rows(rows_of(told), low, high, 2)

    assert segment.rows() == rows_of({**kept, **told})
    assert revised == sum(told.get(open_ms) != text for open_ms, text in replaced.items())
    assert (segment.joint, segment.stored_us) == (joint, 2)
    assert before.rows() == rows_of(table)  # a segment is a value


@given(TABLE, OPENS, OPENS, st.integers(0, 25))
def test_rows_are_a_list_newest_first(table: dict[int, bytes], low: int, high: int, limit: int) -> None:
    rows = rows_of(table)
    low, high = min(low, high), max(low, high)

    assert rows.opening_in(low, high) == rows_of({at: text for at, text in table.items() if low <= at < high})
    assert rows.newest(limit) == rows_of(dict(sorted(table.items(), reverse=True)[:limit]))
    assert rows.oldest(limit) == rows_of(dict(sorted(table.items())[:limit]))


@given(st.sampled_from(sorted(candles.INTERVALS)), st.integers(ms(1900, 1, 1), ms(2250, 1, 1)))
def test_every_instant_has_a_slot_and_every_slot_its_candle(interval: str, instant: int) -> None:
    """Before 1970 too: a week may open there that ends later."""
    slot = slot_of(interval, instant)
    opens = open_of_slot(interval, slot)

    assert opens == candles.open_of(interval, instant)
    assert slot_of(interval, opens) == slot
    assert open_of_slot(interval, slot + 1) == candles.end_of(interval, opens)
    assert slot_of(interval, opens - 1) == slot - 1


@given(st.sampled_from(sorted(candles.INTERVALS)), st.integers(ms(1960, 1, 1), ms(2200, 1, 1)))
def test_segments_follow_each_other_without_gap_or_overlap(interval: str, instant: int) -> None:
    number = segment_of(interval, instant)
    low, high = bounds_of(interval, number)

    assert low <= instant < high
    assert bounds_of(interval, number + 1)[0] == high
    assert slot_of(interval, high) - slot_of(interval, low) == SLOTS
    assert segment_of(interval, low - 1) == number - 1


@pytest.mark.parametrize(
    ("interval", "instant", "slot"),
    [
        ("1", ms(1970, 1, 1), 0),
        ("1", ms(1970, 1, 1) - 1, -1),
        ("D", ms(1970, 1, 2), 1),
        ("W", ms(1970, 1, 5), 0),
        ("W", ms(1970, 1, 4, 23, 59), -1),
        ("W", ms(1970, 1, 12), 1),
        ("M", ms(1970, 1, 31), 0),
        ("M", ms(1969, 12, 1), -1),
        ("M", ms(1971, 2, 28), 13),
    ],
)
def test_slots_are_counted_from_1970(interval: str, instant: int, slot: int) -> None:
    assert slot_of(interval, instant) == slot


def test_the_keys_of_a_series_begin_alike_and_can_be_read() -> None:
    series = Series("mark-price-kline", "linear", "BTCUSDT", "15")

    assert series.key() == "bybit:klines:linear:BTCUSDT:15:mark-price-kline"

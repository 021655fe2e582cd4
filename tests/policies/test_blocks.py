"""A range of candles in blocks: nothing is left out, nothing asked twice."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import candles
from policies.blocks import Span, slot_at_or_after, span_of
from policies.segments import SLOTS, bounds_of, open_of_slot, segment_of

INTERVALS = sorted(candles.INTERVALS)


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


INSTANTS = st.integers(ms(2018, 1, 1), ms(2030, 1, 1))


@given(interval=st.sampled_from(INTERVALS), low=INSTANTS, slots=st.integers(0, 5_000), tail=st.integers(0, 59_999))
def test_blocks_cover_exactly_the_candles_that_open_within_the_range(
    interval: str, low: int, slots: int, tail: int
) -> None:
    first = slot_at_or_after(interval, low)
    high = open_of_slot(interval, first + slots) + tail
    span = span_of("linear", interval, low, high)
    opens = [open_ms for block in span.blocks() for open_ms in block.opens()]

    expected = []
    slot = first
    while (open_ms := open_of_slot(interval, slot)) < high:
        expected.append(open_ms)
        slot += 1
    assert opens == [open_ms for open_ms in expected if open_ms >= low]
    assert all(open_ms == candles.open_of(interval, open_ms) for open_ms in opens)
    assert span.block_count == len(list(span.blocks()))


@given(interval=st.sampled_from(INTERVALS), low=INSTANTS, slots=st.integers(1, 5_000))
def test_a_block_never_reaches_beyond_one_segment_of_a_gateway_that_keeps_candles(
    interval: str, low: int, slots: int
) -> None:
    first = slot_at_or_after(interval, low)
    for block in Span(interval, first, first + slots).blocks():
        assert block.slots <= SLOTS
        below, above = bounds_of(interval, segment_of(interval, block.low_ms))
        assert below <= block.low_ms < block.high_ms <= above


@given(interval=st.sampled_from(INTERVALS), low=INSTANTS, slots=st.integers(1, 3_000), at=st.integers(0, 2_999))
def test_what_is_left_after_a_block_continues_it(interval: str, low: int, slots: int, at: int) -> None:
    """Whoever stops after a block and goes on later asks for the same blocks as one who never stopped."""
    first = slot_at_or_after(interval, low)
    span = Span(interval, first, first + slots)
    blocks = list(span.blocks())
    stop = at % len(blocks)

    assert list(span.after(blocks[stop].end).blocks()) == blocks[stop + 1 :]
    assert span.block_of(blocks[stop].first) == span.block_of(blocks[stop].end - 1) == blocks[stop]


@pytest.mark.parametrize(
    ("interval", "start", "first"),
    [
        ("1", ms(2026, 3, 5, 12, 34), ms(2026, 3, 5, 12, 34)),
        ("1", ms(2026, 3, 5, 12, 34, 1), ms(2026, 3, 5, 12, 35)),
        ("D", ms(2026, 3, 5, 0, 1), ms(2026, 3, 6)),
        ("W", ms(2026, 3, 3), ms(2026, 3, 9)),
        ("W", ms(2026, 3, 2), ms(2026, 3, 2)),
        ("M", ms(2026, 12, 2), ms(2027, 1, 1)),
    ],
)
def test_a_range_begins_with_the_first_candle_that_opens_in_it(interval: str, start: int, first: int) -> None:
    assert span_of("linear", interval, start, start + 400 * candles.DAY_MS).block_of(
        slot_at_or_after(interval, start)
    ).low_ms == (first)


def test_options_are_asked_for_in_shorter_blocks() -> None:
    low, high = ms(2026, 1, 1), ms(2026, 1, 3)
    assert {block.slots for block in span_of("option", "1", low, high).blocks()} >= {500}
    assert max(block.slots for block in span_of("option", "1", low, high).blocks()) == 500


def test_an_empty_range_has_no_blocks() -> None:
    span = span_of("linear", "60", ms(2026, 1, 1, 0, 1), ms(2026, 1, 1, 0, 59))
    assert (span.block_count, list(span.blocks())) == (0, [])

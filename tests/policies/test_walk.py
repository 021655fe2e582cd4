"""Walks through a range of candles: every slot once, and what is empty is crossed in few steps."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.blocks import Span
from policies.walk import Asking, Walk

SIZE = 1000


def led(seeking: Asking, slots: list[int]) -> tuple[int | None, int]:
    """Answered from a sorted list of slots that hold a candle; and how many questions that took."""
    questions = 0
    try:
        slot = next(seeking)
        while True:
            questions += 1
            at = bisect_right(slots, slot) - 1
            slot = seeking.send(slots[at] if at >= 0 else None)
    except StopIteration as ended:
        found: int | None = ended.value
        return found, questions


@pytest.mark.parametrize("newest_first", [False, True])
@given(first=st.integers(0, 10**6), length=st.integers(0, 12_345), size=st.sampled_from([500, 1000]))
def test_pages_cover_the_range_once_and_in_order(first: int, length: int, size: int, newest_first: bool) -> None:
    walk = Walk(Span("1", first, first + length, size), newest_first=newest_first)
    blocks = []
    while (block := walk.next()) is not None:
        assert 0 < block.slots <= size
        blocks.append(block)
    slots = [slot for block in blocks for slot in range(block.first, block.end)]
    assert sorted(slots) == list(range(first, first + length))
    assert blocks == sorted(blocks, reverse=newest_first)
    assert len(blocks) == ceil(length / size)


def test_a_page_may_be_asked_to_be_shorter() -> None:
    walk = Walk(Span("1", 0, 5000, SIZE), newest_first=True)
    assert [walk.next(10), walk.next(5000)] == [("1", 4990, 5000), ("1", 3990, 4990)]
    assert walk.slots == 3990


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**7),
    st.lists(st.integers(0, 2 * 10**7), max_size=20, unique=True).map(sorted),
)
def test_what_is_empty_is_crossed_without_leaving_out_a_candle(first: int, length: int, slots: list[int]) -> None:
    """Forward: at most a question for each halving of the range, and one more."""
    span = Span("1", first, first + length, SIZE)
    within = [slot for slot in slots if first <= slot < first + length]
    walk = Walk(span, newest_first=False)
    found, questions = led(walk.seek(), slots)
    if not within:
        assert (found, walk.next()) == (None, None)
        return
    assert questions <= 2 + max(0, ceil(log2(length / SIZE)))
    block = walk.next()
    assert block is not None
    assert block.first <= within[0] < block.end


def test_the_next_candle_is_never_passed_by() -> None:
    """Wherever it lies, and however few slots a page has."""
    for length in range(1, 20):
        for candle in range(5, 5 + length):
            for size in (1, 2, 3):
                walk = Walk(Span("1", 5, 5 + length, size), newest_first=False)
                led(walk.seek(), [2, candle, 30])
                block = walk.next()
                assert block is not None
                assert block.first <= candle < block.end


@given(st.integers(1, 10**7), st.lists(st.integers(0, 2 * 10**7), max_size=20, unique=True).map(sorted))
def test_backward_the_next_candle_is_found_with_one_question(length: int, slots: list[int]) -> None:
    walk = Walk(Span("1", 0, length, SIZE), newest_first=True)
    within = [slot for slot in slots if slot < length]
    found, questions = led(walk.seek(), slots)
    assert questions == 1
    block = walk.next()
    if not within:
        assert (found, block) == (None, None)
    else:
        assert block is not None
        assert block.end == within[-1] + 1 == (found or 0) + 1

"""What a file holds, and what is missing in it, told truly however the blocks were cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies import candles
from policies.collected import Collected
from policies.segments import open_of_slot, slot_of

BEGIN = 1_735_689_600_000


def looked_at_whole(interval: str, slots: list[int]) -> Collected:
    """Another way to the same: the runs between neighbours."""
    opens = [open_of_slot(interval, slot) for slot in slots]
    runs = [(high - low - 1, low) for low, high in pairwise(slots) if high - low > 1]
    longest = max((length for length, _ in runs), default=0)
    after = next((open_of_slot(interval, low) for length, low in runs if length == longest), None)
    return Collected(
        rows=len(slots),
        first_ms=opens[0] if opens else None,
        last_ms=opens[-1] if opens else None,
        gaps=len(runs),
        missing=sum(length for length, _ in runs),
        longest=longest,
        longest_after_ms=after,
    )


@given(
    interval=st.sampled_from(sorted(candles.INTERVALS)),
    steps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 5]), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_gaps_are_counted_within_blocks_and_across_them(interval: str, steps: list[int], cuts: list[int]) -> None:
    slots = [slot_of(interval, candles.open_of(interval, BEGIN))]
    for step in steps:
        slots.append(slots[-1] + step)
    edges = sorted({0, *(min(cut, len(slots)) for cut in cuts), len(slots)})

    collected = Collected()
    for low, high in pairwise(edges):
        collected = collected.further(interval, [open_of_slot(interval, slot) for slot in slots[low:high]])

    assert collected == looked_at_whole(interval, slots)


def test_what_is_missing_before_the_first_candle_and_after_the_last_is_no_gap() -> None:
    """The exchange had not listed it yet, or not any more: who counts the range can tell."""
    assert Collected().further("1", []) == Collected()
    assert Collected().further("1", [BEGIN]).gaps == 0

"""Stretches of known time against plain sets of instants."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies import coverage
from policies.coverage import NOTHING, Ranges

INSTANTS = range(-12, 13)
INSTANT = st.sampled_from(INSTANTS)
STEPS = st.lists(st.tuples(st.sampled_from(["learn", "forget"]), INSTANT, INSTANT), max_size=12)


def after(steps: list[tuple[str, int, int]]) -> tuple[Ranges, set[int]]:
    """What is known after some learning and forgetting, and the same as a set."""
    ranges, known = NOTHING, set[int]()
    for what, low, high in steps:
        ranges = (coverage.joined if what == "learn" else coverage.without)(ranges, low, high)
        known = known | set(range(low, high)) if what == "learn" else known - set(range(low, high))
    return ranges, known


def instants(ranges: Ranges) -> set[int]:
    return {instant for low, high in ranges for instant in range(low, high)}


def is_tidy(ranges: Ranges) -> bool:
    """Sorted, nowhere empty, and with something unknown between any two."""
    return all(low < high for low, high in ranges) and all(one[1] < other[0] for one, other in pairwise(ranges))


@given(STEPS)
def test_what_is_known_is_what_was_learned_and_not_forgotten(steps: list[tuple[str, int, int]]) -> None:
    ranges, known = after(steps)

    assert instants(ranges) == known
    assert is_tidy(ranges)


@given(STEPS, INSTANT, INSTANT)
def test_known_and_unknown_make_up_any_stretch(steps: list[tuple[str, int, int]], low: int, high: int) -> None:
    ranges, known = after(steps)
    within, gaps = coverage.within(ranges, low, high), coverage.gaps(ranges, low, high)

    assert instants(within) == known & set(range(low, high))
    assert instants(gaps) == set(range(low, high)) - known
    assert is_tidy(within)
    assert is_tidy(gaps)


@given(STEPS, INSTANT)
def test_the_range_around_an_instant(steps: list[tuple[str, int, int]], instant: int) -> None:
    """The whole of it, so that its ends are where knowledge ends."""
    ranges, known = after(steps)
    found = coverage.holding(ranges, instant)

    assert (found is not None) == (instant in known)
    if found is not None:
        low, high = found
        assert set(range(low, high)) <= known
        assert low - 1 not in known
        assert high not in known

"""A quantile of a histogram lies where it can, and where Prometheus says it lies."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.quantile import quantile_us

BOUNDS = (10, 100, 1_000, 10_000)


def bucketed(values: list[int]) -> list[int]:
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    return counts


@given(st.lists(st.integers(1, 20_000), min_size=1), st.integers(1, 100))
def test_it_lies_in_the_bucket_of_the_value_that_it_stands_for(values: list[int], percent: int) -> None:
    place = -(-len(values) * percent // 100) - 1
    true_bucket = bisect_left(BOUNDS, sorted(values)[place])
    found = quantile_us(BOUNDS, bucketed(values), percent)

    assert found is not None
    if true_bucket == len(BOUNDS):
        assert found == BOUNDS[-1]
    else:
        assert (0, *BOUNDS)[true_bucket] <= found <= BOUNDS[true_bucket]


@given(st.lists(st.integers(1, 20_000), min_size=1))
def test_a_higher_one_is_never_lower(values: list[int]) -> None:
    found = [quantile_us(BOUNDS, bucketed(values), percent) or 0 for percent in range(1, 101)]

    assert found == sorted(found)


@pytest.mark.parametrize(
    ("counts", "percent", "expected"),
    [
        ([0, 0, 0, 0, 0], 95, None),
        ([0, 100, 0, 0, 0], 50, 55),
        ([90, 10, 0, 0, 0], 95, 55),
        ([0, 0, 0, 10, 0], 100, 10_000),
        ([0, 0, 0, 0, 7], 50, 10_000),
    ],
)
def test_within_a_bucket_values_lie_evenly(counts: list[int], percent: int, expected: int | None) -> None:
    assert quantile_us(BOUNDS, counts, percent) == expected

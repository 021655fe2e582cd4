"""How much is sent while the exchange protects itself: halved at once, back by a twentieth a second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import WHOLE
from policies.throttle import Throttle

SECOND = 1_000_000
NOW = 1_800_000_000_000_000
LEAST = 100_000


def test_nothing_is_held_back_without_need() -> None:
    assert Throttle().now(0) == Throttle().now(NOW) == WHOLE


@pytest.mark.parametrize(
    ("after_us", "part"),
    [
        (-SECOND, 500_000),  # a clock that was read a moment earlier
        (0, 500_000),
        (SECOND // 2, 525_000),
        (SECOND, 550_000),
        (10 * SECOND - 1, 999_999),
        (10 * SECOND, WHOLE),
        (3_600 * SECOND, WHOLE),
    ],
)
def test_a_half_comes_back_in_ten_seconds(after_us: int, part: int) -> None:
    assert Throttle().cut(NOW, NOW).now(NOW + after_us) == part


def test_answers_to_what_had_left_before_do_not_halve_it_again() -> None:
    once = Throttle().cut(NOW - 50_000, NOW)

    assert once.cut(NOW - 1, NOW + 50_000) is once
    assert once.cut(NOW, NOW + 50_000).part == 251_250


def test_a_tenth_is_always_sent() -> None:
    """Else nobody would notice that it is over."""
    throttle, parts = Throttle(), []
    for number in range(6):
        throttle = throttle.cut(NOW + number, NOW + number)
        parts.append(throttle.part)
    assert parts == [500_000, 250_000, 125_000, LEAST, LEAST, LEAST]


@given(
    answers=st.lists(st.tuples(st.integers(0, 30 * SECOND), st.integers(0, 5 * SECOND)), max_size=30),
)
def test_it_is_halved_once_for_each_round_trip_and_never_below_a_tenth(answers: list[tuple[int, int]]) -> None:
    throttle, now, cut_us = Throttle(), NOW, 0
    for pause, trip in answers:
        now += pause
        before = throttle.now(now)
        throttle = throttle.cut(now - trip, now)
        if now - trip < cut_us:
            assert throttle.now(now) == before
        else:
            assert throttle.now(now) == max(LEAST, before // 2)
            cut_us = now
        assert LEAST <= throttle.now(now) <= throttle.now(now + SECOND) <= WHOLE

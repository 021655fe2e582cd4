"""Memory that grows and goes on is told from memory that is put to use."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.growth import (
    AGAIN_US,
    LEAST_BYTES,
    WARM_UP_US,
    WINDOW_US,
    Growth,
    Sample,
    Suspicion,
    bytes_per_second,
    judged,
    noted,
)

STEP_US = 10_000_000
MIB = 1 << 20
BASE = 200 * MIB
MINUTE = 60


def told(rss: Callable[[int], float], minutes: int, kept: Callable[[int], float] = lambda _: 0) -> list[int]:
    """The minutes at which a leak was suspected; `rss` and `kept` are in MiB, by the second."""
    growth, found = Growth(), []
    for at_s in range(0, minutes * 60, 10):
        sample = Sample(at_s * 1_000_000, BASE + round(rss(at_s) * MIB), round(kept(at_s) * MIB))
        growth, suspicion = judged(noted(growth, sample), sample.at_us)
        if suspicion is not None:
            found.append(at_s // 60)
    return found


def noise(size: float) -> Callable[[int], float]:
    return lambda at_s: random.Random(at_s).uniform(-size, size)


def test_steady_growth_is_told_once_an_hour_and_not_before_the_window_is_full() -> None:
    """Two MiB a minute: after ten minutes of warming up and half an hour, and then once an hour."""
    found = told(lambda at_s: at_s / 30, 180)
    assert found == [39, 99, 159]


def test_noise_does_not_hide_it() -> None:
    jitter = noise(8)
    assert told(lambda at_s: at_s / 30 + jitter(at_s), 60) != []


def test_a_leak_in_steps_is_told() -> None:
    """The allocator asks the system for large pieces."""
    assert told(lambda at_s: 8 * (at_s // 240), 90) != []


@pytest.mark.parametrize(
    "rss",
    [
        pytest.param(lambda _: 0.0, id="nothing"),
        pytest.param(lambda at_s: at_s / 120, id="too little: 15 MiB in the window"),
        pytest.param(lambda at_s: 500.0 * (at_s > 45 * MINUTE), id="one large answer"),
        pytest.param(lambda at_s: 300 * (1 - math.exp(-at_s / 600)), id="a pool that fills up"),
        pytest.param(lambda at_s: min(at_s / 4, 300), id="a start that takes twenty minutes"),
        pytest.param(lambda at_s: 200 * math.sin(at_s / 300), id="waves"),
        pytest.param(lambda at_s: 300.0 * (at_s // 600 % 2), id="work now and then"),
        pytest.param(lambda at_s: -at_s / 20, id="less and less"),
        pytest.param(noise(150), id="noise"),
    ],
)
def test_what_ends_is_no_leak(rss: Callable[[int], float]) -> None:
    assert told(rss, 180) == []


def test_what_is_kept_on_purpose_is_taken_off() -> None:
    """Caches that fill up slowly, to bounds that the configuration names."""
    assert told(lambda at_s: at_s / 30, 120, kept=lambda at_s: at_s / 30) == []
    assert told(lambda at_s: at_s / 15, 120, kept=lambda at_s: at_s / 30) != []


def test_the_first_minutes_do_not_count() -> None:
    """What was steep while it warmed up is not seen as growth afterwards."""
    assert told(lambda at_s: min(at_s, WARM_UP_US // 1_000_000) / 2, 120) == []


@given(
    st.integers(-(1 << 24), 1 << 24),
    st.integers(1 << 20, 1 << 34),
    st.lists(st.integers(1, 60_000_000), min_size=2, max_size=100),
)
def test_the_slope_of_a_line_is_its_slope(slope: int, base: int, steps: list[int]) -> None:
    """To the byte, however unevenly it is sampled."""
    growth, at_us = Growth(), 0
    for step_us in steps:
        at_us += step_us
        growth = noted(growth, Sample(at_us, base + slope * at_us // 1_000_000))
    assert abs(bytes_per_second(growth) - slope) <= 1 + 1_000_000 // min(steps)


@given(st.lists(st.tuples(st.integers(0, 600_000_000), st.integers(0, 1 << 40)), max_size=300))
def test_what_is_remembered_is_bounded_in_number_and_time(samples: list[tuple[int, int]]) -> None:
    """Also when samples come too often, too late, or not in their order."""
    growth, at_us = Growth(), 0
    for step_us, rss in samples:
        at_us += step_us
        growth = noted(growth, Sample(at_us, rss))
        judged(growth, at_us)
    stamps = [each.at_us for each in growth.samples]
    assert len(stamps) <= 256
    assert stamps == sorted(set(stamps))
    assert not stamps or stamps[-1] - stamps[0] <= WINDOW_US


@given(st.lists(st.integers(0, 400), min_size=181, max_size=240))
def test_a_suspicion_says_by_how_much_and_is_not_repeated(values: list[int]) -> None:
    """Whatever the memory does: what is told of is large, positive, and told once."""
    growth, found = Growth(), list[tuple[int, Suspicion]]()
    for number, value in enumerate([0] * 61 + values):
        at_us = number * STEP_US
        growth, suspicion = judged(noted(growth, Sample(at_us, value * MIB + number * 4 * MIB)), at_us)
        if suspicion is not None:
            found.append((at_us, suspicion))
    for _, each in found:
        assert each.grown_bytes >= LEAST_BYTES
        assert each.bytes_per_second > 0
        assert each.over_us <= WINDOW_US
    assert all(later - earlier >= AGAIN_US for (earlier, _), (later, _) in pairwise(found))

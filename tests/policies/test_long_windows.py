"""Slotted windows and token buckets against models that keep everything."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from policies.bucket import TokenBucket
from policies.slotted import SLOTS, SlottedWindow

STEPS = st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 4)), max_size=150)


@given(limit=st.integers(1, 30), window_us=st.sampled_from([640, 1_000, 6_400, 9_999]), steps=STEPS)
def test_no_window_ever_holds_more_than_the_limit(limit: int, window_us: int, steps: list[tuple[int, int]]) -> None:
    """Wherever a window of the declared length begins; and the wait that is told is enough, and not a slot too long."""
    window, now = SlottedWindow(limit, window_us), 10**6
    taken: list[tuple[int, int]] = []
    slot_us = -(-window_us // SLOTS)
    for step, cost in steps:
        now += step
        if cost > limit:
            continue
        exact = sum(size for when, size in taken if when > now - window_us)
        loose = sum(size for when, size in taken if when > now - window_us - slot_us)
        wait = window.wait_us(cost, now)
        assert window.used(now) >= exact
        assert window.used(now) <= loose
        if wait == 0:
            window.take(cost, now)
            taken.append((now, cost))
            assert exact + cost <= limit
        else:
            assert loose + cost > limit
            assert deepcopy(window).wait_us(cost, now + wait) == 0  # a look ahead forgets what has passed by then
            assert wait <= window_us + slot_us


def test_at_most_one_sixty_fourth_is_left_unused() -> None:
    """Saturated for a long time, the rate is that of the limit over the window and one slot."""
    window, taken, now = SlottedWindow(1_000, 3_600_000_000), 0, 0
    hours = 50
    while now < hours * 3_600_000_000:
        wait = window.wait_us(1, now)
        if wait:
            now += wait
            continue
        window.take(1, now)
        taken += 1
        now += 1_000

    assert taken >= hours * 1_000 * SLOTS / (SLOTS + 1) * 0.999


def test_memory_does_not_grow_with_requests() -> None:
    window = SlottedWindow(50_000, 3_600_000_000)
    for number in range(50_000):
        window.take(1, number * 100_000)

    assert len(window._sums) <= SLOTS + 2


@given(limit=st.integers(1, 20), smaller=st.integers(1, 20), steps=STEPS)
def test_a_new_limit_forgets_nothing(limit: int, smaller: int, steps: list[tuple[int, int]]) -> None:
    window, now = SlottedWindow(limit, 6_400), 10**6
    for step, cost in steps:
        now += step
        if window.wait_us(cost, now) == 0 and cost <= limit:
            window.take(cost, now)
    before = window.used(now)
    window.resize(smaller, 6_400, now)

    assert window.used(now) == before
    assert (window.wait_us(1, now) == 0) == (before + 1 <= smaller)


@given(limit=st.integers(1, 20), window_us=st.integers(1_000, 10_000), burst=st.integers(1, 30), steps=STEPS)
def test_a_bucket_agrees_with_exact_arithmetic(
    limit: int, window_us: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    """Tokens as fractions that fill at limit/window up to the burst: the same decisions, the exact first instant."""
    bucket, now = TokenBucket(limit, window_us, burst), 10**6
    tokens, at = Fraction(burst), now
    for step, cost in steps:
        now += step
        tokens, at = min(Fraction(burst), tokens + Fraction((now - at) * limit, window_us)), now
        if cost > burst:
            continue
        wait = bucket.wait_us(cost, now)
        assert (wait == 0) == (tokens >= cost)
        if wait == 0:
            bucket.take(cost, now)
            tokens -= cost
        else:
            assert tokens + Fraction(wait * limit, window_us) >= cost
            assert tokens + Fraction((wait - 1) * limit, window_us) < cost
        assert bucket.used(now) == -((tokens - burst) // 1)


def test_an_idle_bucket_holds_its_burst_and_no_more() -> None:
    bucket = TokenBucket(5, 1_000_000, 10)
    for _ in range(10):
        assert bucket.wait_us(1, 10**9) == 0
        bucket.take(1, 10**9)

    assert bucket.wait_us(1, 10**9) == 200_000
    assert bucket.wait_us(5, 10**9) == 1_000_000

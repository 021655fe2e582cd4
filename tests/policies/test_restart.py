"""What a restart must not change: the windows go on as if nothing had happened, or start as full as they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Counts, Quota, WindowKind
from policies.bucket import TokenBucket
from policies.restart import (
    BELIEVABLE_US,
    LATE_US,
    Beginning,
    ColdStart,
    Found,
    beginning,
    longest_us,
    restored,
    snapshot,
)
from policies.sharing import exact
from policies.window import CompletionLog, Window

WINDOW_US = 1_000
BEGAN_US = 10**9

Step = tuple[int, int, str]
"""Time that passes, a cost, and what becomes of the request: complete, refund or fly."""

steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 15, 16, 200, 999, 1_000, 1_001, 1_400]),
        st.integers(1, 6),
        st.sampled_from(["complete", "complete", "refund", "fly"]),
    ),
    max_size=60,
)
quotas = st.builds(
    lambda kind, limit, burst: Quota(
        "q", limit, WINDOW_US, (), window=kind, burst=min(burst, limit) if kind is WindowKind.BUCKET else 0
    ),
    st.sampled_from([kind for kind in WindowKind if kind is not WindowKind.LEARNED]),
    st.integers(1, 30),
    st.integers(1, 30),
)


def play(window: Window, script: list[Step], now_us: int) -> tuple[int, list[tuple[int, ...]]]:
    """What the window answers to all that can be asked, step by step."""
    answers = []
    for step, wanted, fate in script:
        now_us, cost = now_us + step, min(wanted, window.burst if isinstance(window, TokenBucket) else window.limit)
        waits = tuple(window.wait_us(each, now_us) for each in (1, cost))
        if waits[1] == 0:
            window.take(cost, now_us)
            if fate == "complete":
                window.complete(cost, now_us)
            elif fate == "refund":
                window.refund(cost)
        answers.append((*waits, window.used(now_us), int(window.idle(now_us))))
    return now_us, answers


@given(quota=quotas, before=steps, away=st.integers(0, 2_500), after=steps, cold=st.booleans())
def test_a_window_goes_on_as_if_nothing_had_happened(
    quota: Quota, before: list[Step], away: int, after: list[Step], cold: bool
) -> None:
    """Every later question gets the same answer, at once and after any time away."""
    window = ColdStart(BEGAN_US).new_window(quota, BEGAN_US) if cold else quota.new_window()
    now_us, _ = play(window, before, BEGAN_US)
    taken = snapshot(window, now_us)
    if isinstance(window, CompletionLog):
        window.complete(window.in_flight, now_us)  # what was still in flight is completed at that instant
    later = restored(quota, taken, now_us, now_us + away)
    assert later.used(now_us + away) == window.used(now_us + away)

    assert play(later, after, now_us + away) == play(window, after, now_us + away)


@given(
    quota=quotas, before=steps, shift=st.integers(-(10**6), 10**6), cost=st.integers(1, 6), away=st.integers(0, 2_500)
)
def test_on_another_clock_nothing_counts_for_a_shorter_time(
    quota: Quota, before: list[Step], shift: int, cost: int, away: int
) -> None:
    """The next process has a clock of its own. Only slots begin elsewhere there, and are counted up to one longer."""
    window = quota.new_window()
    now_us, _ = play(window, before, BEGAN_US)
    taken = snapshot(window, now_us)
    if isinstance(window, CompletionLog):
        window.complete(window.in_flight, now_us)
    cost = min(cost, quota.burst or quota.limit)
    wait = window.wait_us(cost, now_us + away)
    later = restored(quota, taken, now_us + shift, now_us + shift + away).wait_us(cost, now_us + shift + away)

    slot_us = -(-WINDOW_US // 64) if quota.window is WindowKind.SLOTTED else 0
    assert wait <= later <= wait + slot_us


@given(limit=st.integers(1, 60), wider=st.integers(1, 60), before=steps)
def test_a_rule_with_other_numbers_takes_over_what_counts(limit: int, wider: int, before: list[Step]) -> None:
    old, new = (
        Quota("q", limit, WINDOW_US, (), window=WindowKind.HELD),
        Quota("q", wider, 2 * WINDOW_US, (), window=WindowKind.HELD),
    )
    window = old.new_window()
    now_us, _ = play(window, before, BEGAN_US)
    used = window.used(now_us)
    later = restored(new, snapshot(window, now_us), now_us, now_us)

    assert (later.limit, later.window_us) == (wider, 2 * WINDOW_US)
    assert later.used(now_us) == used


SECOND = 1_000_000
NEVER_SO_LONG = BELIEVABLE_US + 1


@pytest.mark.parametrize(
    ("found", "away_us", "expected"),
    [
        (Found.NOTHING, None, Beginning.EMPTY),
        (Found.CLEAN, 0, Beginning.RESTORED),
        (Found.CLEAN, 3_600 * SECOND, Beginning.RESTORED),
        (Found.CLEAN, -1, Beginning.HELD),  # saved in the future: a clock was set back
        (Found.CLEAN, NEVER_SO_LONG, Beginning.HELD),  # or forward, by far
        (Found.CLEAN, None, Beginning.HELD),
        (Found.RUNNING, 0, Beginning.HELD),
        (Found.RUNNING, 5 * SECOND + LATE_US - 1, Beginning.HELD),
        (Found.RUNNING, 5 * SECOND + LATE_US, Beginning.EMPTY),
        (Found.RUNNING, -1, Beginning.HELD),
        (Found.RUNNING, NEVER_SO_LONG, Beginning.HELD),
        (Found.RUNNING, None, Beginning.HELD),
        (Found.UNREADABLE, None, Beginning.HELD),
        (Found.LOCKED, None, Beginning.HELD),
        (Found.NOWHERE, None, Beginning.HELD),
    ],
)
def test_how_a_gateway_begins(found: Found, away_us: int | None, expected: Beginning) -> None:
    """Empty only where nothing can count, restored only where it is known, else held."""
    assert beginning(found, away_us, 5 * SECOND) is expected


HELD = Quota("held", 600, 5 * SECOND, ("egress",), window=WindowKind.HELD)
SMALL = Quota("small", 49, SECOND, ("api_key",), window=WindowKind.HELD)
OTHERS = [
    Quota("sent", 120, SECOND, ("egress",)),
    Quota("slotted", 1_000, 60 * SECOND, ("ip",), window=WindowKind.SLOTTED),
    Quota("bucket", 10, SECOND, ("ip",), window=WindowKind.BUCKET, burst=10),
    Quota("own", 10, SECOND, ("ip",), window=WindowKind.SENT, counts=Counts.REQUESTS),
]


def test_a_cold_window_lets_the_emergency_share_through_and_frees_itself_one_window_later() -> None:
    window = ColdStart(BEGAN_US).new_window(HELD, BEGAN_US + SECOND)

    assert window.used(BEGAN_US + SECOND) == 588
    assert window.wait_us(12, BEGAN_US + SECOND) == 0
    assert window.wait_us(13, BEGAN_US + SECOND) == 4 * SECOND
    assert window.wait_us(600, BEGAN_US + 5 * SECOND - 1) == 1
    assert window.wait_us(600, BEGAN_US + 5 * SECOND) == 0
    assert window.idle(BEGAN_US + 5 * SECOND)


def test_a_small_limit_has_no_share() -> None:
    window = ColdStart(BEGAN_US).new_window(SMALL, BEGAN_US)

    assert window.wait_us(1, BEGAN_US) == SECOND


def test_a_window_that_is_first_used_after_its_length_is_empty() -> None:
    assert ColdStart(BEGAN_US).new_window(SMALL, BEGAN_US + SECOND).used(BEGAN_US + SECOND) == 0
    assert ColdStart(BEGAN_US).new_window(HELD, BEGAN_US + SECOND).used(BEGAN_US + SECOND) == 588


@pytest.mark.parametrize("quota", OTHERS, ids=[quota.name for quota in OTHERS])
def test_what_we_count_ourselves_is_not_held(quota: Quota) -> None:
    assert ColdStart(BEGAN_US).new_window(quota, BEGAN_US).used(BEGAN_US) == 0
    assert not exact(quota)


def test_only_the_rules_that_nothing_is_known_of_can_be_held() -> None:
    cold = ColdStart(BEGAN_US, frozenset({"small"}))

    assert cold.new_window(SMALL, BEGAN_US).used(BEGAN_US) == 49
    assert cold.new_window(HELD, BEGAN_US).used(BEGAN_US) == 0


def test_the_longest_held_window_says_how_long_the_exchange_remembers() -> None:
    assert longest_us([*OTHERS, SMALL, HELD]) == 5 * SECOND
    assert longest_us(OTHERS) == 0


def test_a_cold_window_of_three_million_costs_no_memory() -> None:
    big = Quota("big", 3_000_000, 3_600 * SECOND, (), window=WindowKind.HELD)
    window = ColdStart(BEGAN_US).new_window(big, BEGAN_US)

    assert isinstance(window, CompletionLog)
    assert window.used(BEGAN_US) == 2_940_000
    assert len(window._stamps.ring) == 4


@given(limit=st.integers(1, 30), count=st.integers(0, 30), script=steps)
def test_requests_that_nobody_remembers_count_like_those_that_somebody_does(
    limit: int, count: int, script: list[Step]
) -> None:
    count = min(count, limit)
    remembered, born = CompletionLog(limit, WINDOW_US), CompletionLog(limit, WINDOW_US)
    remembered.take(count, BEGAN_US)
    remembered.complete(count, BEGAN_US)
    born.begin_with(count, BEGAN_US)

    assert play(born, script, BEGAN_US) == play(remembered, script, BEGAN_US)

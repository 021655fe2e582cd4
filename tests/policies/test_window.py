"""The windows against a model that keeps everything and counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.window import IN_FLIGHT, CompletionLog, SendLog, Window

SECOND_US = 1_000_000


class HeldWindow(RuleBasedStateMachine):
    """A completion log never forgets a request, never invents one, and says exactly when there is room."""

    limit = 5
    window_us = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.window = CompletionLog(self.limit, self.window_us)
        self.now = 10_000
        self.in_flight: list[int] = []
        self.completed: list[tuple[int, int]] = []

    def occupied(self, at: int) -> int:
        return sum(self.in_flight) + sum(cost for when, cost in self.completed if when > at - self.window_us)

    @rule(cost=st.integers(1, 5))
    def ask(self, cost: int) -> None:
        wait = self.window.wait_us(cost, self.now)
        if wait == 0:
            assert self.occupied(self.now) + cost <= self.limit
            self.window.take(cost, self.now)
            self.in_flight.append(cost)
        elif wait == IN_FLIGHT:
            assert sum(self.in_flight) + cost > self.limit
        else:
            assert self.occupied(self.now + wait) + cost <= self.limit
            assert self.occupied(self.now + wait - 1) + cost > self.limit

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), sent=st.booleans())
    def end(self, data: st.DataObject, *, sent: bool) -> None:
        cost = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if sent:
            self.window.complete(cost, self.now)
            self.completed.append((self.now, cost))
        else:
            self.window.refund(cost)

    @rule(step=st.integers(0, 1_500))
    def pass_time(self, step: int) -> None:
        self.now += step

    @invariant()
    def counts_what_is_there(self) -> None:
        assert self.window.used(self.now) == self.occupied(self.now)
        assert self.window.idle(self.now) == (self.occupied(self.now) == 0)


TestHeldWindow = HeldWindow.TestCase


@given(
    limit=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 4)), max_size=200),
)
def test_a_sent_window_admits_all_it_may_and_no_more(limit: int, steps: list[tuple[int, int]]) -> None:
    """Every window of the declared length holds at most the declared number, and no request waits needlessly."""
    window_us, now = 1_000, 0
    window = SendLog(limit, window_us)
    taken: list[tuple[int, int]] = []
    for step, cost in steps:
        now += step
        if cost > limit:
            continue
        held = sum(size for when, size in taken if when > now - window_us)
        wait = window.wait_us(cost, now)
        assert (wait == 0) == (held + cost <= limit)
        if wait == 0:
            window.take(cost, now)
            taken.append((now, cost))
            assert sum(size for when, size in taken if when > now - window_us) <= limit
        assert window.used(now) == sum(size for when, size in taken if when > now - window_us)


@pytest.mark.parametrize("kind", [CompletionLog, SendLog])
def test_a_large_quota_costs_only_what_is_used_of_it(kind: type[Window]) -> None:
    """3,000,000 per hour does not allocate three million places."""
    window = kind(3_000_000, 3_600 * SECOND_US)
    for number in range(100):
        assert window.wait_us(1, number) == 0
        window.take(1, number)
        window.complete(1, number)

    assert window.used(100) == 100
    assert len(window._stamps.ring) <= 128


def test_old_instants_make_room_without_growing() -> None:
    """A slow trickle through a large quota stays in the smallest ring."""
    window = SendLog(10_000, SECOND_US)
    for number in range(1_000):
        window.take(1, number * SECOND_US)

    assert len(window._stamps.ring) == 4


def test_the_ring_wraps_at_its_limit() -> None:
    """The n-th newest completion is found across the seam of the ring."""
    window = CompletionLog(3, 100)
    for now in (0, 10, 20, 130, 140):
        assert window.wait_us(1, now) == 0
        window.take(1, now)
        window.complete(1, now)

    assert window.used(140) == 2
    assert window.wait_us(2, 140) == 90
    assert window.wait_us(3, 140) == 100

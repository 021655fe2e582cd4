"""The breaker: when it opens, whom it lets try, and when it closes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.circuit import Circuit, CircuitRules, State

SECOND = 1_000_000
RULES = CircuitRules(
    window_us=10 * SECOND,
    least_calls=4,
    failures_percent=50,
    slow_us=5 * SECOND,
    slow_percent=75,
    open_us=5 * SECOND,
    probes=3,
)
QUICK, SLOW = 1_000, RULES.slow_us
NOW = 1_800_000_000_000_000


def call(circuit: Circuit, now_us: int, *, failed: bool = False, took_us: int = QUICK) -> None:
    assert circuit.take(now_us)
    circuit.ended(now_us, took_us, failed=failed)


def opened(now_us: int = NOW) -> Circuit:
    circuit = Circuit(RULES)
    for _ in range(RULES.least_calls):
        call(circuit, now_us, failed=True)
    assert circuit.state(now_us) is State.OPEN
    return circuit


class Calls(RuleBasedStateMachine):
    """It opens with enough calls only, never lets more than a few try it, and closes when all of those succeeded."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(RULES)
        self.now = NOW
        self.recent: list[tuple[int, bool]] = []
        """Of every call since it was closed: when it ended, and whether it was a good one."""
        self.calls: list[int] = []
        """When those were made that have not ended."""
        self.tries: list[int] = []
        """The same of those that try whether it works again."""
        self.succeeded = 0
        self.times = 0
        self.state = State.CLOSED
        self.until = 0

    def opens(self) -> None:
        longer = min(2**self.times, 12)
        self.state, self.until, self.times = State.OPEN, self.now + longer * RULES.open_us, self.times + 1
        self.calls += self.tries
        self.tries, self.recent = [], []

    def closes(self) -> None:
        self.state, self.times, self.recent = State.CLOSED, 0, []
        self.calls += self.tries
        self.tries = []

    @rule()
    def ask(self) -> None:
        may = self.circuit.take(self.now)
        match self.state:
            case State.CLOSED:
                assert may
                self.calls.append(self.now)
            case State.HALF_OPEN:
                assert may == (len(self.tries) + self.succeeded < RULES.probes)
                if may:
                    self.tries.append(self.now)
            case State.OPEN:
                assert not may
        self.now += 1  # nothing else happens at that very instant

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), failed=st.booleans())
    def one_ends(self, data: st.DataObject, *, failed: bool) -> None:
        """One that was made while it was closed. What it says counts while it is closed only."""
        sent = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        good = not failed and self.now - sent < RULES.slow_us
        self.circuit.ended(self.now, self.now - sent, failed=failed)
        if self.state is State.CLOSED:
            self.recent.append((self.now, good))
            if self.circuit.state(self.now) is State.OPEN:
                looked_at = [good for at, good in self.recent if at > self.now - RULES.window_us]
                assert len(looked_at) >= RULES.least_calls
                assert not good
                self.opens()

    @precondition(lambda self: self.state is State.CLOSED)
    @rule(bad=st.integers(1, RULES.least_calls))
    def some_fail_at_once(self, bad: int) -> None:
        for _ in range(bad):
            if not self.circuit.take(self.now):
                break
            self.circuit.ended(self.now, QUICK, failed=True)
            self.recent.append((self.now, False))
        if self.circuit.state(self.now) is State.OPEN:
            assert len(self.recent) >= RULES.least_calls
            self.opens()

    @precondition(lambda self: self.tries)
    @rule(data=st.data(), failed=st.booleans())
    def one_try_ends(self, data: st.DataObject, *, failed: bool) -> None:
        sent = self.tries.pop(data.draw(st.integers(0, len(self.tries) - 1)))
        self.circuit.ended(self.now, self.now - sent, failed=failed)
        if failed or self.now - sent >= RULES.slow_us:
            self.opens()
        else:
            self.succeeded += 1
            if self.succeeded == RULES.probes:
                self.closes()

    @precondition(lambda self: self.tries)
    @rule()
    def one_try_is_not_made_after_all(self) -> None:
        self.circuit.given_back(self.tries.pop())

    @precondition(lambda self: self.calls and self.state is State.CLOSED)
    @rule()
    def one_is_not_made_after_all(self) -> None:
        self.circuit.given_back(self.calls.pop())

    @rule(step=st.integers(0, 3 * SECOND) | st.integers(0, 70 * SECOND))
    def pass_time(self, step: int) -> None:
        self.now += step

    @invariant()
    def stands_as_it_should(self) -> None:
        if self.state is State.OPEN and self.now >= self.until:
            self.state, self.succeeded = State.HALF_OPEN, 0
        assert self.circuit.state(self.now) is self.state
        wait = self.circuit.wait_us(self.now)
        match self.state:
            case State.CLOSED:
                assert wait == 0
            case State.OPEN:
                assert wait == self.until - self.now
            case State.HALF_OPEN:
                assert (wait == 0) == (len(self.tries) + self.succeeded < RULES.probes)


TestCalls = Calls.TestCase


@pytest.mark.parametrize(
    ("bad", "good", "state"),
    [(3, 0, State.CLOSED), (4, 0, State.OPEN), (2, 2, State.OPEN), (1, 3, State.CLOSED), (4, 5, State.CLOSED)],
)
def test_it_opens_when_half_of_enough_calls_fail(bad: int, good: int, state: State) -> None:
    circuit = Circuit(RULES)
    for _ in range(good):
        call(circuit, NOW)
    for _ in range(bad):
        call(circuit, NOW, failed=True)
    assert circuit.state(NOW) is state


@pytest.mark.parametrize(("slow", "quick", "state"), [(3, 1, State.OPEN), (2, 2, State.CLOSED), (3, 0, State.CLOSED)])
def test_it_opens_when_most_of_enough_calls_are_slow(slow: int, quick: int, state: State) -> None:
    """They need not fail."""
    circuit = Circuit(RULES)
    for took_us in [QUICK] * quick + [SLOW] * slow:
        call(circuit, NOW, took_us=took_us)
    assert circuit.state(NOW) is state


def test_a_call_is_slow_from_its_bound_on() -> None:
    circuit = Circuit(RULES)
    for _ in range(RULES.least_calls):
        call(circuit, NOW, took_us=SLOW - 1)
    assert circuit.state(NOW) is State.CLOSED


def test_a_good_call_never_opens_it() -> None:
    """Bad ones that were too few to conclude anything are judged when the next bad one comes."""
    circuit = Circuit(RULES)
    for _ in range(3):
        call(circuit, NOW, failed=True)
    call(circuit, NOW)
    assert circuit.state(NOW) is State.CLOSED
    call(circuit, NOW, failed=True)
    assert circuit.state(NOW) is State.OPEN


@given(ages=st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=30))
def test_calls_are_looked_at_for_a_window_and_hardly_less(ages: list[int]) -> None:
    """Not longer than the window, and nine tenths of it at least."""
    circuit = Circuit(RULES._replace(least_calls=len(ages) + 1))
    for age in sorted(ages, reverse=True):
        call(circuit, NOW - age, failed=True)
    call(circuit, NOW, failed=True)

    if max(ages) < RULES.window_us * 9 // 10:
        assert circuit.state(NOW) is State.OPEN
    if max(ages) >= RULES.window_us:
        assert circuit.state(NOW) is State.CLOSED


def test_it_is_open_for_twice_as_long_each_time_it_fails_again_up_to_twelve_times() -> None:
    circuit, now, lengths = opened(), NOW, []
    for _ in range(12):
        lengths.append(circuit.wait_us(now) // RULES.open_us)
        now += circuit.wait_us(now)
        call(circuit, now, failed=True)
    assert lengths == [1, 2, 4, 8, 12, 12, 12, 12, 12, 12, 12, 12]


def test_once_it_has_closed_it_begins_anew() -> None:
    circuit = opened()
    now = NOW + RULES.open_us
    call(circuit, now, failed=True)
    now += 2 * RULES.open_us
    for _ in range(RULES.probes):
        call(circuit, now)
    assert circuit.state(now) is State.CLOSED
    for _ in range(RULES.least_calls - 1):
        call(circuit, now, failed=True)
    assert circuit.state(now) is State.CLOSED, "what was before is forgotten"
    call(circuit, now, failed=True)
    assert circuit.wait_us(now) == RULES.open_us


def test_a_slow_answer_to_one_that_tries_it_opens_it_again() -> None:
    circuit = opened()
    now = NOW + RULES.open_us
    assert circuit.take(now)
    circuit.ended(now + SLOW, SLOW, failed=False)
    assert circuit.state(now + SLOW) is State.OPEN


def test_a_place_that_is_given_back_is_free_for_another() -> None:
    """A client that went away while it waited has tried nothing."""
    circuit = opened()
    now = NOW + RULES.open_us
    for _ in range(RULES.probes):
        assert circuit.take(now)
    assert not circuit.take(now)
    assert circuit.wait_us(now) == RULES.open_us
    circuit.given_back(now)
    assert circuit.take(now)
    assert not circuit.take(now)


def test_what_is_given_back_twice_makes_no_room() -> None:
    circuit = opened()
    now = NOW + RULES.open_us
    circuit.state(now)
    circuit.given_back(now)
    assert [circuit.take(now) for _ in range(RULES.probes + 1)] == [True] * RULES.probes + [False]


def test_calls_that_were_made_before_it_opened_prove_nothing_afterwards() -> None:
    """An upstream that hung is reported by their time-outs for long: those who try it now know better."""
    circuit = Circuit(RULES)
    for _ in range(2 * RULES.probes):
        assert circuit.take(NOW)
    for _ in range(RULES.least_calls):
        call(circuit, NOW + SECOND, failed=True)
    now = NOW + SECOND + RULES.open_us
    assert circuit.state(now) is State.HALF_OPEN
    for failed in [False, True] * RULES.probes:
        circuit.ended(now, now - NOW, failed=failed)
        assert circuit.state(now) is State.HALF_OPEN

    for _ in range(RULES.probes):
        call(circuit, now)
    assert circuit.state(now) is State.CLOSED


def test_a_call_that_was_made_at_the_instant_of_the_opening_proves_nothing_either() -> None:
    circuit = Circuit(RULES)
    assert circuit.take(NOW)
    for _ in range(RULES.least_calls):
        call(circuit, NOW, failed=True)
    now = NOW + RULES.open_us
    circuit.ended(now, now - NOW, failed=True)
    assert circuit.state(now) is State.HALF_OPEN


def test_a_call_from_before_that_is_given_back_makes_no_room() -> None:
    circuit = Circuit(RULES)
    assert circuit.take(NOW)
    for _ in range(RULES.least_calls):
        call(circuit, NOW, failed=True)
    now = NOW + RULES.open_us
    for _ in range(RULES.probes):
        assert circuit.take(now)
    circuit.given_back(NOW)
    assert not circuit.take(now)

"""A learned limit: what is never exceeded, what a header may change, and what is forgotten when."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.pacing import (
    FORGET_US,
    LONGEST_TRIP_US,
    SELDOM,
    SUSPICIOUS_US,
    YIELD_US,
    LearnedWindow,
    Lesson,
)
from policies.window import IN_FLIGHT
from tests.policies.saturated import Simulation

SECOND = 1_000_000
NOW = 1_800_000_000_000_000
STAMP_MS = NOW // 1_000
FOR_EVER = 1 << 62


def learned(start: int = 10, window_us: int = SECOND, floor: int = 1, ceiling: int | None = None) -> LearnedWindow:
    return LearnedWindow(start, window_us, floor, ceiling)


def asked(window: LearnedWindow, now_us: int, cost: int = 1) -> int:
    """How long to wait, as a number that can be compared."""
    wait_us = window.wait_us(cost, now_us)
    return FOR_EVER if wait_us == IN_FLIGHT else wait_us


def burst(window: LearnedWindow, now_us: int) -> int:
    """How many may go at one instant. They are answered at once, and nothing is learned of it."""
    went = 0
    while window.wait_us(1, now_us) == 0:
        window.take(1, now_us)
        went += 1
    for _ in range(went):
        window.complete(1, now_us)
    return went


def refuse(window: LearnedWindow, now_us: int, **fields: int) -> None:
    """One request goes and is refused, all at one instant."""
    window.take(1, now_us)
    window.refund(1)
    window.learn(Lesson(now_us, refused=1, **fields), now_us)


def accept(window: LearnedWindow, now_us: int, **fields: int) -> None:
    window.take(1, now_us)
    window.complete(1, now_us)
    window.learn(Lesson(now_us, **fields), now_us)


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, int, int | None]:
    """Start, floor and ceiling, as the schema lets them be."""
    floor = draw(st.integers(1, 8))
    ceiling = draw(st.none() | st.integers(floor, 16))
    return draw(st.integers(1, 12 if ceiling is None else ceiling)), floor, ceiling


class Learning(RuleBasedStateMachine):
    """At every instant at which a request leaves, what is in flight and what was completed within a window fits into
    the limit of the answer with the newest stamp, and the ceiling. What is told comes in any order and makes no sense.
    """

    window_us = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.floor, self.ceiling, self.start = 2, 12, 6
        self.window = LearnedWindow(self.start, self.window_us, self.floor, self.ceiling)
        self.now = NOW
        self.in_flight: list[tuple[int, int]] = []
        self.completed: list[tuple[int, int]] = []
        self.told: list[tuple[int, int]] = []

    def occupied(self, at: int) -> int:
        return sum(cost for _, cost in self.in_flight) + sum(
            cost for when, cost in self.completed if when > at - self.window_us
        )

    def limit(self) -> int:
        """By the newest stamp, by the smallest of those that bear it."""
        newest = max((stamp for stamp, _ in self.told), default=None)
        limit = min((limit for stamp, limit in self.told if stamp == newest), default=self.start)
        return max(min(limit, self.ceiling), self.floor)

    @rule(cost=st.integers(1, 5))
    def ask(self, cost: int) -> None:
        wait = self.window.wait_us(cost, self.now)
        if wait == 0:
            fits = self.occupied(self.now) + cost <= self.limit()
            assert fits or (self.occupied(self.now) == 0 and cost > self.window.room(self.now))
            self.window.take(cost, self.now)
            self.in_flight.append((self.now, cost))
        elif wait == IN_FLIGHT:
            assert self.in_flight
        else:
            later = copy.deepcopy(self.window)
            assert later.wait_us(cost, self.now + wait) == 0, "the wait that is told is enough"

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        limit=st.none() | st.integers(0, 20),
        used=st.none() | st.integers(0, 12),
        late_ms=st.integers(0, 30_000),
        refused=st.integers(0, 5),
        reset_us=st.none() | st.integers(0, 20_000),
        chance=st.integers(0, 999_999),
    )
    def answer(
        self,
        data: st.DataObject,
        limit: int | None,
        used: int | None,
        late_ms: int,
        refused: int,
        reset_us: int | None,
        chance: int,
    ) -> None:
        sent, cost = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        refused = min(refused, cost)
        self.window.complete(cost - refused, self.now)
        self.window.refund(refused)
        self.completed.append((self.now, cost - refused))
        remaining = None if limit is None or used is None else max(0, limit - used)
        stamp_ms = STAMP_MS + 30_000 - late_ms
        self.window.learn(Lesson(sent, limit, remaining, stamp_ms, refused, reset_us, chance), self.now)
        if limit is not None:
            self.told.append((stamp_ms, limit))

    @rule(step=st.integers(0, 1_500) | st.integers(0, 70 * SECOND))
    def pass_time(self, step: int) -> None:
        self.now += step

    @rule(floor=st.integers(1, 5), more=st.integers(0, 15), start=st.integers(1, 20))
    def reload(self, floor: int, more: int, start: int) -> None:
        self.floor, self.ceiling, self.start = floor, floor + more, start
        self.window.resize(start, self.window_us, floor, floor + more)

    @invariant()
    def knows_what_is_there(self) -> None:
        assert self.window.used(self.now) == self.occupied(self.now)
        assert self.window.limit == self.limit()
        assert self.floor <= self.window.limit <= self.ceiling
        assert 1 <= self.window.room(self.now) <= self.window.limit

    @invariant()
    def says_what_is_known(self) -> None:
        known = self.window.learned(self.now)
        assert (known.limit, known.told) == (self.limit(), bool(self.told))
        assert known.others == self.window.others(self.now)
        assert 0 <= known.blocked_us <= 8 * self.window_us


TestLearning = Learning.TestCase


@given(
    within=bounds(),
    answers=st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 20)), min_size=1, max_size=8),
    shuffled=st.randoms(use_true_random=False),
)
def test_answers_may_be_learned_from_in_any_order(
    within: tuple[int, int, int | None], answers: list[tuple[int, int]], shuffled: random.Random
) -> None:
    """The limit is that of the newest stamp of the exchange; of two with one stamp the smaller."""

    def after(told: Sequence[tuple[int, int]]) -> int:
        window = LearnedWindow(within[0], SECOND, within[1], within[2])
        for number, (ms, limit) in enumerate(told):
            accept(window, NOW + number, limit=limit, stamp_ms=STAMP_MS + ms)
        return window.limit

    other = list(answers)
    shuffled.shuffle(other)

    assert after(answers) == after(other)


def test_an_answer_without_a_stamp_counts_until_one_has_come_that_has_it() -> None:
    window = learned()
    accept(window, NOW, limit=20)
    assert window.limit == 20
    accept(window, NOW, limit=15, stamp_ms=STAMP_MS)
    accept(window, NOW, limit=30)
    assert window.limit == 15


def test_a_clock_of_the_exchange_that_was_set_back_is_believed() -> None:
    """A minute is more than any answer is late."""
    window = learned()
    accept(window, NOW, limit=20, stamp_ms=STAMP_MS)
    accept(window, NOW, limit=15, stamp_ms=STAMP_MS - 60_000)
    assert window.limit == 20
    accept(window, NOW, limit=15, stamp_ms=STAMP_MS - 60_001)
    assert window.limit == 15


Step = tuple[str, int, int, int]
"""What happens, after how long, and two numbers to make something of."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "accept", "accept", "refuse", "wait"]),
        st.integers(0, 400_000) | st.integers(0, 15 * SECOND),
        st.integers(0, 12),
        st.integers(0, 999_999),
    ),
    max_size=60,
)


@given(steps=steps)
def test_what_is_said_to_remain_never_gives_credit(steps: list[Step]) -> None:
    """Of two that send and hear the same, the one that hears of a remaining number too never waits for less."""
    plain, told = learned(6), learned(6)
    in_flight: list[int] = []
    now = NOW
    for what, pause, number, chance in steps:
        now += pause
        if what == "send":
            in_flight.append(now)
            for window in (plain, told):
                window.take(1, now)
        elif what != "wait" and in_flight:
            sent, refused = in_flight.pop(number % len(in_flight)), what == "refuse"
            lesson = Lesson(sent, 6 + number % 3, None, now // 1_000, int(refused), chance=chance)
            for window, remaining in ((plain, None), (told, number)):
                window.refund(1) if refused else window.complete(1, now)
                reset_us = chance if remaining == 0 or refused else None
                window.learn(lesson._replace(remaining=remaining, reset_us=reset_us), now)
        for cost in (1, 2, 5, 20):
            assert asked(told, now, cost) >= asked(plain, now, cost)


@given(
    limit=st.integers(1, 30),
    start=st.integers(1, 30),
    rounds=st.sampled_from(["rolling", "fixed"]),
    legs=st.lists(
        st.integers(0, 3_000) | st.integers(0, 400_000) | st.integers(0, 9 * SECOND), min_size=1, max_size=40
    ),
    costs=st.lists(st.integers(1, 20), min_size=1, max_size=10),
)
def test_alone_nobody_else_is_seen_and_nothing_refused(
    limit: int, start: int, rounds: str, legs: list[int], costs: list[int]
) -> None:
    """What is put down to others is a lower bound that is certain: nothing where there is nobody, whatever the network
    does."""
    one = Simulation(
        limit,
        random.Random(1),
        leg=_in_turn(legs),
        cost=_in_turn([min(cost, limit) for cost in costs]),
        start=min(start, limit),
        window=rounds,
    )
    one.run(10)

    assert one.asked
    assert one.refused() == []
    assert one.most_seen == 0
    assert one.most_asked() <= limit or rounds == "fixed"


def test_a_batch_that_is_dearer_than_the_ceiling_is_still_ours() -> None:
    window = learned(3, ceiling=3)
    window.take(20, NOW)
    window.complete(20, NOW + 50_000)
    window.learn(Lesson(NOW, 20, 0, STAMP_MS), NOW + 50_000)

    assert window.others(NOW + 50_000) == 0


def _in_turn(values: Sequence[int]) -> Callable[[], int]:
    turn = 0

    def following() -> int:
        nonlocal turn
        turn += 1
        return values[turn % len(values)]

    return following


@given(within=bounds(), limits=st.lists(st.integers(0, 1_000), max_size=10))
def test_floor_and_ceiling_hold_whatever_the_exchange_says(
    within: tuple[int, int, int | None], limits: list[int]
) -> None:
    start, floor, ceiling = within
    window = LearnedWindow(start, SECOND, floor, ceiling)
    for number, limit in enumerate(limits):
        assert floor <= window.limit <= (ceiling or 1_000_000)
        accept(window, NOW + number, limit=limit, stamp_ms=STAMP_MS + number)
    assert floor <= window.limit <= (ceiling or 1_000_000)


def test_what_is_dearer_than_all_there_is_goes_when_nothing_else_is_in_it() -> None:
    """A batch of more orders than the limit would else wait for ever; what is too much of it the exchange refuses."""
    window = learned(5)
    assert asked(window, NOW, 20) == 0
    window.take(1, NOW)
    assert asked(window, NOW, 20) == FOR_EVER
    window.complete(1, NOW)
    assert asked(window, NOW, 20) == SECOND
    window.take(20, NOW + SECOND)
    window.complete(20, NOW + SECOND)
    assert asked(window, NOW + SECOND) == SECOND
    assert asked(window, NOW + 2 * SECOND, 20) == 0


class TestOthers:
    """What the headers betray of other programs of the account."""

    def test_what_we_cannot_have_used_is_left_to_them_for_ten_seconds(self) -> None:
        window = learned(10)
        accept(window, NOW, limit=10, remaining=5)  # one of the five is ours

        assert window.others(NOW) == 4
        assert window.others(NOW + YIELD_US - 1) == 4
        assert window.others(NOW + YIELD_US) == 0

    def test_the_most_that_was_seen_within_ten_seconds_counts(self) -> None:
        """A smaller number is remembered for when the larger is too old; what a larger one outlasts is not."""
        window = learned(10)
        for after, remaining in ((0, 3), (2, 7), (4, 5), (6, 9)):
            accept(window, NOW + after * SECOND, limit=10, remaining=remaining)

        seen = [window.others(NOW + after * SECOND) for after in (6, 9, 10, 13, 14, 16)]
        assert seen == [6, 6, 4, 4, 0, 0]
        assert not window._foreign

    def test_what_is_ours_is_what_was_in_flight_or_completed_since_a_window_before_it_left(self) -> None:
        window = learned(10)
        for _ in range(3):
            window.take(1, NOW)
        window.complete(1, NOW)
        window.complete(1, NOW + 1)
        window.take(1, NOW + SECOND)
        window.complete(1, NOW + SECOND + 50_000)

        assert window.own(NOW + SECOND) == 3
        window.learn(Lesson(NOW + SECOND, 10, 7), NOW + SECOND + 50_000)
        assert window.others(NOW + SECOND + 50_000) == 0
        window.learn(Lesson(NOW + SECOND, 10, 6), NOW + SECOND + 50_000)
        assert window.others(NOW + SECOND + 50_000) == 1

    def test_an_answer_that_took_for_ever_tells_nothing_of_others(self) -> None:
        """What was in the window when it left is remembered no more."""
        window = learned(10)
        for trip_us, seen in ((LONGEST_TRIP_US + 1, 0), (LONGEST_TRIP_US, 7)):
            window.learn(Lesson(NOW, 10, 3), NOW + trip_us)
            assert window.others(NOW + LONGEST_TRIP_US + 1) == seen

    def test_one_at_a_time_goes_where_they_leave_nothing(self) -> None:
        """Who never asks never learns that there is room again."""
        window = learned(10)
        window.learn(Lesson(NOW, 10, 0), NOW)
        assert window.room(NOW) == 1
        assert asked(window, NOW) == 0
        window.take(1, NOW)
        assert asked(window, NOW) == FOR_EVER

    def test_after_a_sign_of_them_requests_are_spaced_out_from_half_on(self) -> None:
        """For others are seen between requests only. What a timer is late by is made up for, up to one gap."""
        window = learned(10)
        window.learn(Lesson(NOW, 10, 8), NOW)  # room for 8: a gap of 125 ms
        now = NOW
        for _ in range(4):
            assert asked(window, now) == 0
            window.take(1, now)
        assert asked(window, now) == 375_000  # what went at once is waited for, too
        window.take(1, NOW + 400_000)
        assert asked(window, NOW + 400_000) == 100_000
        window.take(1, NOW + 800_000)
        assert asked(window, NOW + 800_000) == 0
        window.take(1, NOW + 800_000)
        assert asked(window, NOW + 800_000) == 125_000

    def test_what_is_used_up_waits_until_it_is_reset(self) -> None:
        """Nobody has refused anything yet; the next request would be."""
        window = learned(10)
        accept(window, NOW, limit=10, remaining=0, reset_us=400_000)
        assert window.learned(NOW).blocked_us == 400_000
        accept(window, NOW, limit=10, remaining=1, reset_us=900_000)
        assert window.learned(NOW).blocked_us == 400_000


class TestRefused:
    """What follows when the exchange says: too many visits."""

    @given(
        reset_us=st.integers(0, 8 * SECOND),
        later=st.lists(
            st.tuples(st.integers(0, 2 * SECOND), st.booleans(), st.none() | st.integers(0, SECOND)), max_size=8
        ),
    )
    def test_nothing_is_sent_before_the_reset(self, reset_us: int, later: list[tuple[int, bool, int | None]]) -> None:
        """Whatever other answers say meanwhile."""
        window = learned(10)
        refuse(window, NOW, reset_us=reset_us)
        now = NOW
        for pause, accepted, other in later:
            assert asked(window, now) >= NOW + reset_us - now
            now += pause
            lesson = Lesson(NOW - 50_000, 10, None, now // 1_000, int(not accepted), other)
            window.learn(lesson, now)
        assert asked(window, now) >= NOW + reset_us - now

    @pytest.mark.parametrize(("reset_us", "waited_us"), [(-1, 0), (0, 0), (300_000, 300_000), (10**12, 8 * SECOND)])
    def test_a_reset_is_believed_up_to_eight_windows(self, reset_us: int, waited_us: int) -> None:
        window = learned(10)
        refuse(window, NOW, reset_us=reset_us)
        assert window.learned(NOW).blocked_us == waited_us

    @pytest.mark.parametrize(
        ("chance", "waits_s"), [(0, [1, 1, 1, 1, 1]), (500_000, [1, 2.5, 4.5, 4.5, 4.5]), (999_999, [1, 4, 8, 8, 8])]
    )
    def test_without_a_reset_the_wait_begins_at_a_window_and_grows(self, chance: int, waits_s: list[float]) -> None:
        """Drawn between a window and a bound of at most eight, so that nobody comes back together."""
        window, now, waits = learned(10), NOW, []
        for _ in waits_s:
            refuse(window, now, chance=chance)
            waits.append(window.learned(now).blocked_us)
            now += waits[-1]
        assert waits == pytest.approx([wait * SECOND for wait in waits_s], abs=10)

    @given(chances=st.lists(st.integers(0, 999_999), max_size=20))
    def test_the_wait_is_never_shorter_than_a_window_or_longer_than_eight(self, chances: list[int]) -> None:
        window, now = learned(10), NOW
        for chance in chances:
            refuse(window, now, chance=chance)
            blocked_us = window.learned(now).blocked_us
            assert SECOND <= blocked_us <= 8 * SECOND
            now += blocked_us

    def test_what_is_accepted_ends_the_growth(self) -> None:
        window = learned(10)
        refuse(window, NOW)
        refuse(window, NOW + SECOND, chance=999_999)
        accept(window, NOW + 6 * SECOND)
        refuse(window, NOW + 7 * SECOND, chance=999_999)
        assert window.learned(NOW + 7 * SECOND).blocked_us == SECOND

    def test_refusals_of_one_moment_are_one(self) -> None:
        """What had been sent before the first was heard proves nothing more."""
        window = learned(10)
        for _ in range(5):
            window.take(1, NOW)
        window.refund(5)
        for after in range(5):
            window.learn(Lesson(NOW, refused=1, chance=999_999), NOW + after + 1)

        assert window.learned(NOW + 5).blocked_us == SECOND + 1 - 5
        assert window.others(NOW + 5) == 1

    def test_an_acceptance_from_before_a_refusal_does_not_end_the_growth(self) -> None:
        window = learned(10)
        refuse(window, NOW)
        window.learn(Lesson(NOW - 1), NOW + 1)
        refuse(window, NOW + SECOND, chance=999_999)
        assert window.learned(NOW + SECOND).blocked_us == pytest.approx(4 * SECOND, abs=10)

    def test_what_was_refused_does_not_count_as_used(self) -> None:
        """The exchange has not counted it. Only one of the limit is left free from now on, for fear of others."""
        window = learned(10)
        for _ in range(10):
            window.take(1, NOW)
        window.complete(4, NOW)
        window.refund(6)
        window.learn(Lesson(NOW, refused=6, reset_us=0), NOW)

        assert window.used(NOW) == 4
        assert window.room(NOW) == 9

    def test_a_refusal_that_a_lowered_limit_explains_frightens_nobody(self) -> None:
        window = learned(10)
        for _ in range(2):
            window.take(1, NOW)
        window.refund(2)
        window.learn(Lesson(NOW, 5, 0, STAMP_MS, 1, 100), NOW + 10)
        window.learn(Lesson(NOW, 5, 0, STAMP_MS, 1, 100), NOW + 20)
        assert window._caution == 0

    def test_caution_grows_with_every_refusal_up_to_half_and_shrinks_with_many_acceptances(self) -> None:
        """So about one request in so many is refused, however the others behave."""
        window, now = learned(10), NOW
        for number in range(8):
            refuse(window, now, reset_us=0)
            assert window.others(now) == min(number + 1, 5)
            now += 1
        for _ in range(SELDOM - 1):
            window.learn(Lesson(now), now)
        assert window.others(now) == 5
        window.learn(Lesson(now), now)
        assert window.others(now) == 4
        for _ in range(6 * SELDOM):
            window.learn(Lesson(now), now)
        assert window.others(now) == 0


@given(steps=steps)
def test_a_minute_after_the_last_sign_of_others_nothing_remains_of_it(steps: list[Step]) -> None:
    """Whatever was told and refused: the whole limit may go at one instant again."""
    window = learned(8)
    now = NOW
    for what, pause, number, chance in steps:
        now += pause
        match what:
            case "send":
                window.take(1, now)
                window.complete(1, now)
            case "accept":
                accept(window, now, limit=8, remaining=min(number, 8), stamp_ms=now // 1_000)
            case "refuse":
                refuse(window, now, reset_us=chance)
            case _:
                pass
    now += SUSPICIOUS_US

    assert window.others(now) == 0
    assert window.learned(now).blocked_us == 0
    assert burst(window, now) == 8


def test_caution_and_spacing_last_a_minute_and_no_longer() -> None:
    window = learned(8)
    refuse(window, NOW, reset_us=0)
    assert window.others(NOW + SUSPICIOUS_US - 1) == 1
    assert burst(copy.deepcopy(window), NOW + SUSPICIOUS_US - 1) == 4  # half of the room; then one by one
    assert window.others(NOW + SUSPICIOUS_US) == 0
    assert burst(window, NOW + SUSPICIOUS_US) == 8


def test_what_was_learned_is_forgotten_when_the_account_is_used_no_more() -> None:
    window = learned()
    assert window.idle(NOW), "nothing was learned yet"
    window.take(1, NOW)
    assert not window.idle(NOW + 2 * FORGET_US), "in flight"
    window.complete(1, NOW)
    assert window.idle(NOW + SECOND), "still nothing"
    for told in (Lesson(NOW, limit=10), Lesson(NOW, refused=1)):
        window.learn(told, NOW)
        window.learn(Lesson(NOW), NOW + SECOND)  # says nothing
        assert not window.idle(NOW + FORGET_US)
        assert window.idle(NOW + FORGET_US + 1)


class TestReload:
    """New rules, and what was learned under the old ones."""

    def test_what_was_learned_stays_within_the_new_bounds(self) -> None:
        window = learned(10)
        accept(window, NOW, limit=20, stamp_ms=STAMP_MS)
        for floor, ceiling, limit in ((1, None, 20), (1, 15, 15), (30, None, 30), (1, None, 20)):
            window.resize(5, SECOND, floor, ceiling)
            assert window.limit == limit
        accept(window, NOW, limit=12, stamp_ms=STAMP_MS - 1)
        assert window.limit == 20, "older answers are still older"

    def test_where_nothing_was_told_it_begins_anew(self) -> None:
        window = learned(10)
        window.resize(20, SECOND, 1, None)
        assert (window.limit, window.learned(NOW).told) == (20, False)

    def test_what_counts_and_what_blocks_stays(self) -> None:
        window = learned(10)
        for _ in range(6):
            window.take(1, NOW)
        window.complete(4, NOW)
        window.refund(1)
        window.learn(Lesson(NOW, 10, 2, refused=1, reset_us=300_000), NOW)
        before = window.learned(NOW)
        window.resize(10, SECOND, 2, 40)

        assert window.used(NOW) == 5
        assert window.learned(NOW) == before
        assert (before.others, before.blocked_us) == (4, 300_000)

    @given(counts=st.lists(st.integers(0, 300_000), max_size=10), aside=st.integers(0, 5))
    def test_a_window_that_goes_on_elsewhere_holds_what_counted(self, counts: list[int], aside: int) -> None:
        """What is in flight counts as completed at that instant."""
        window, now = learned(20), NOW
        for pause in counts:
            now += pause
            window.take(1, now)
            window.complete(1, now)
        window.take(aside, now)
        used = window.used(now)
        other = learned(20)
        other.restore(window.snapshot(now), now + 5)

        assert other.used(now + 5) == used
        assert other.used(now + 5 + SECOND) == 0

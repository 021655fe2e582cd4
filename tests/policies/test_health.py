"""What is concluded from answers and failures: states, not accidents; and they stand until something else is heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.circuit import State
from policies.health import LastMinute, Observed, Patience, Status, Vitals, exchange_status, overall, unready

S = 1_000_000
UP, DOWN, UNKNOWN = Status.UP, Status.DOWN, Status.UNKNOWN


def after(*told: tuple[float, str], at_s: float, patience: Patience = Patience()) -> tuple[Status, float]:  # noqa: B008
    """The status, and since when. `told`: seconds, and "ok" or why not."""
    vitals = Vitals(0, patience)
    for seconds, word in told:
        if word == "ok":
            vitals.answered(round(seconds * S), 1_000)
        else:
            vitals.failed(round(seconds * S), word)
    return vitals.status(round(at_s * S)), vitals.since_us / S


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], (UNKNOWN, 0)),
        ([(1, "ok")], (UP, 1)),
        ([(1, "ok"), (5, "ok")], (UP, 1)),
        ([(1, "ok"), (5, "timeout")], (UP, 1)),  # an accident
        ([(1, "ok"), (5, "timeout"), (5.1, "timeout"), (5.2, "timeout")], (UP, 1)),  # a bad moment
        ([(1, "ok"), (5, "timeout"), (6, "timeout")], (DOWN, 5)),  # a state
        ([(1, "ok"), (5, "timeout"), (5.5, "ok"), (6.2, "timeout")], (UP, 1)),  # between answers
        ([(1, "ok"), (5, "timeout"), (6, "timeout"), (7, "ok")], (UP, 7)),
        ([(1, "timeout")], (DOWN, 1)),  # nothing speaks for it
        ([(1, "timeout"), (2, "ok")], (UP, 2)),
    ],
)
def test_failures_alone_for_a_while_are_a_state(told: list[tuple[float, str]], expected: tuple[Status, float]) -> None:
    assert after(*told, at_s=10) == expected


def test_where_a_failure_says_all_it_counts_at_once() -> None:
    assert after((1, "ok"), (5, "lost"), at_s=5, patience=Patience(failing_us=0)) == (DOWN, 5)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([(1, "timeout")], (UNKNOWN, 0)),
        ([(1, "timeout"), (1.9, "timeout")], (UNKNOWN, 0)),  # a bad moment
        ([(1, "timeout"), (2, "timeout")], (DOWN, 1)),
        ([(1, "timeout"), (1.5, "ok")], (UP, 1.5)),
        ([(1, "timeout"), (1.5, "ok"), (2.1, "timeout")], (UP, 1.5)),
        ([(1, "timeout"), (301, "timeout")], (UNKNOWN, 0)),  # the first is forgotten
    ],
)
def test_where_one_failure_says_little_two_are_needed_at_the_beginning_as_well(
    told: list[tuple[float, str]], expected: tuple[Status, float]
) -> None:
    assert after(*told, at_s=301, patience=Patience(silence_us=300 * S, first_counts=False)) == expected


def test_whether_the_latest_word_was_a_failure_is_known_until_it_says_nothing_any_more() -> None:
    vitals = Vitals(0, Patience(silence_us=300 * S, first_counts=False))
    assert not vitals.failing(0)
    vitals.failed(1 * S, "timeout")
    assert vitals.failing(300 * S)
    assert not vitals.failing(301 * S)
    vitals.failed(400 * S, "timeout")
    vitals.answered(401 * S, 1_000)
    assert not vitals.failing(401 * S)


def test_what_was_heard_long_ago_says_nothing_of_now() -> None:
    """And the first word after the silence is believed."""
    quiet = Patience(silence_us=300 * S)
    assert after((1, "ok"), at_s=300.9, patience=quiet) == (UP, 1)
    assert after((1, "ok"), at_s=500, patience=quiet) == (UNKNOWN, 301)
    assert after((1, "ok"), (5, "timeout"), (6, "timeout"), at_s=306, patience=quiet) == (UNKNOWN, 306)
    assert after((1, "ok"), (400, "timeout"), at_s=400, patience=quiet) == (DOWN, 400)
    assert after((1, "ok"), (400, "ok"), at_s=400, patience=quiet) == (UP, 400)


def test_what_nobody_wants_any_more_is_unknown() -> None:
    vitals = Vitals(0, Patience(failing_us=0))
    vitals.answered(1 * S, 1_000)
    vitals.forget(2 * S)
    assert (vitals.status(3 * S), vitals.since_us) == (UNKNOWN, 2 * S)


def test_a_reason_stands_beside_what_is_down_only() -> None:
    vitals = Vitals(0)
    vitals.failed(1 * S, "timeout")
    assert (vitals.reason, vitals.failed_us, vitals.latency_us) == ("timeout", 1 * S, None)
    vitals.answered(2 * S, 1_500)
    assert (vitals.reason, vitals.failed_us, vitals.latency_us) == ("", 1 * S, 1_500)


@given(st.lists(st.tuples(st.integers(0, 3 * S), st.booleans()), min_size=1, max_size=40))
def test_the_latest_word_bounds_what_is_said(steps: list[tuple[int, bool]]) -> None:
    """Whoever answered last is up. Whoever is down has failed since then and has not answered. A status that is asked
    for twice has begun once."""
    vitals, now_us, answered_us = Vitals(0), 0, -1
    for step_us, answers in steps:
        now_us += step_us
        if answers:
            vitals.answered(now_us, 1)
            answered_us = now_us
        else:
            vitals.failed(now_us, "lost")
        status, since_us = vitals.status(now_us), vitals.since_us
        assert (vitals.status(now_us), vitals.since_us) == (status, since_us)
        assert 0 <= since_us <= now_us
        assert status is UP or not answers
        if status is DOWN:
            assert since_us >= answered_us
            assert vitals.reason == "lost"


@given(st.lists(st.tuples(st.integers(0, 20 * S), st.booleans()), max_size=60), st.integers(0, 90 * S))
def test_the_last_minute_is_a_minute_to_within_five_seconds(steps: list[tuple[int, bool]], later_us: int) -> None:
    minute, now_us, noted = LastMinute(), 0, []
    for step_us, failed in steps:
        now_us += step_us
        minute.note(now_us, failed=failed)
        noted.append((now_us, failed))
    now_us += later_us
    counted = minute.counted(now_us)
    for place, kind in enumerate((False, True)):
        surely = sum(at > now_us - 55 * S and failed is kind for at, failed in noted)
        perhaps = sum(at > now_us - 60 * S and failed is kind for at, failed in noted)
        assert surely <= counted[place] <= perhaps


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (Observed(UP), UP),
        (Observed(UNKNOWN), UNKNOWN),
        (Observed(DOWN), DOWN),
        (Observed(UP, banned=True), Status.BANNED),
        (Observed(DOWN, banned=True, breaker=State.OPEN), Status.BANNED),
        (Observed(UP, breaker=State.OPEN), DOWN),
        (Observed(UP, breaker=State.HALF_OPEN), Status.DEGRADED),
        (Observed(UP, answers=8, failures=1), UP),  # one is an accident
        (Observed(UP, answers=18, failures=2), Status.DEGRADED),
        (Observed(UP, answers=19, failures=2), UP),
    ],
)
def test_what_nobody_may_send_to_is_not_up(observed: Observed, expected: Status) -> None:
    assert exchange_status(observed, UP) is expected
    assert expected.serves is (expected in {UP, UNKNOWN, Status.DEGRADED})


def test_degraded_does_not_flicker() -> None:
    """It begins at a tenth and ends at a twentieth."""
    between = Observed(UP, answers=93, failures=7)
    assert exchange_status(between, UP) is UP
    assert exchange_status(between, Status.DEGRADED) is Status.DEGRADED
    assert exchange_status(Observed(UP, answers=96, failures=4), Status.DEGRADED) is UP


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        ((True, False, False, False), []),
        ((False, False, False, False), ["starting"]),
        ((False, True, False, False), ["draining"]),
        ((True, False, True, False), ["banned"]),
        ((True, False, False, True), ["store-lost"]),
        ((False, True, True, True), ["draining", "banned", "store-lost"]),
    ],
)
def test_readiness_names_all_that_is_wrong(facts: tuple[bool, bool, bool, bool], reasons: list[str]) -> None:
    ready, draining, banned, closed = facts
    assert unready(ready=ready, draining=draining, banned=banned, closed=closed) == reasons
    assert overall(reasons, ["redis"]) == (reasons[0] if reasons else "degraded")
    assert overall(reasons, []) == (reasons[0] if reasons else "ok")

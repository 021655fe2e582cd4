"""What may be sent again, spelled out: this table is the other copy of the one in the code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import bybit
from policies.retry import TABLE, Failure, RetryBudget, RetryRules, failure_of, may_repeat, pause_us

RULES = RetryRules(attempts=3, backoff_us=100_000, max_backoff_us=2_000_000, budget_percent=10)
RESERVE = 10
"""Repetitions that are there from the start."""
YES, NO = True, False

SPELLED_OUT = [
    # what went wrong, may a read be repeated, may a write, is there a pause, is it paid for
    ("not-sent", YES, YES, YES, YES),  # not one byte left: nobody can have carried it out
    ("idle-connection", YES, NO, NO, NO),  # the bytes left for a socket that was closed, most likely; and no trouble
    ("no-answer", YES, NO, YES, YES),  # an order may have been placed: only its client can find out
    ("broken-answer", YES, NO, YES, YES),  # it was carried out: the answer had begun
    ("too-many", YES, YES, YES, YES),  # the exchange says so before it does anything
    ("too-many-in-batch", YES, NO, YES, YES),  # some orders of it may have been placed
    ("protected", YES, NO, YES, YES),  # nobody says at which point it was turned away
    ("failing", YES, NO, YES, YES),  # "may have been executed", by the exchange's own word
]


@pytest.mark.parametrize(("failure", "read", "write", "paused", "costs"), SPELLED_OUT)
def test_what_may_be_sent_again(failure: str, *, read: bool, write: bool, paused: bool, costs: bool) -> None:
    which = Failure(failure)

    assert may_repeat(which, read=True) is read
    assert may_repeat(which, read=False) is write
    assert (pause_us(which, 1, RULES, 999_999) > 0) is paused
    assert (_spent(which) > 0) is costs


def _spent(failure: Failure) -> int:
    """How many repetitions one such repetition takes away."""
    budget = RetryBudget()
    budget.spend(failure)
    left = 0
    while budget.spend(Failure.FAILING):
        left += 1
    return RESERVE - left


def test_nothing_that_can_go_wrong_is_left_out() -> None:
    assert [row[0] for row in SPELLED_OUT] == [str(failure) for failure in Failure] == [str(row) for row in TABLE]


def test_a_write_is_repeated_only_where_nobody_can_have_carried_it_out() -> None:
    """The two rows that cost money if they are wrong."""
    assert {failure for failure in Failure if may_repeat(failure, read=False)} == {Failure.NOT_SENT, Failure.TOO_MANY}


@pytest.mark.parametrize(
    ("status", "ret_code", "batch", "failure"),
    [
        (200, 0, False, None),
        (200, 0, True, None),
        (200, None, False, None),  # not in the usual envelope
        (200, 10001, False, None),  # a wrong parameter stays wrong
        (200, 10002, False, None),  # a bad clock: only the client can sign again
        (200, 110007, False, None),  # not enough balance
        (200, 10006, False, Failure.TOO_MANY),
        (200, 10006, True, Failure.TOO_MANY_IN_BATCH),
        (200, 429, False, Failure.PROTECTED),
        (200, 10429, False, Failure.PROTECTED),
        (200, 10018, False, Failure.PROTECTED),
        (200, 10000, False, Failure.FAILING),
        (200, 10016, True, Failure.FAILING),
        (429, None, False, Failure.PROTECTED),
        (429, 10006, False, Failure.PROTECTED),  # not what it says of an account, which comes with 200
        (500, None, False, Failure.FAILING),
        (502, None, False, Failure.FAILING),
        (503, 0, True, Failure.FAILING),
        (504, None, False, Failure.FAILING),
        (501, None, False, None),  # it will not be implemented a moment later
        (400, 10006, False, None),
        (400, 10016, False, None),
        (401, None, False, None),
        (403, None, False, None),  # a ban: everything stops
        (403, 10018, False, None),
        (404, None, False, None),
        (301, None, False, None),
    ],
)
def test_what_an_answer_says_of_its_attempt(
    status: int, ret_code: int | None, *, batch: bool, failure: Failure | None
) -> None:
    assert failure_of(status, ret_code, batch=batch) is failure


@pytest.mark.parametrize("code", sorted(bybit.NOTABLE_CODES))
def test_the_codes_that_say_something_of_an_attempt_are_few(code: int) -> None:
    expected = code in {10006, 10000, 10016, 429, 10018}
    assert (failure_of(200, code, batch=False) is not None) is expected


@given(
    failure=st.sampled_from(Failure),
    attempts=st.integers(1, 100),
    chance=st.integers(0, 999_999),
    backoff=st.integers(1, 10_000_000),
    most=st.integers(1, 10_000_000),
)
def test_a_pause_lies_between_nothing_and_a_bound_that_doubles(
    failure: Failure, attempts: int, chance: int, backoff: int, most: int
) -> None:
    pause = pause_us(failure, attempts, RetryRules(3, backoff, most, 10), chance)

    assert 0 <= pause < max(1, min(most, backoff * 2 ** (attempts - 1)))
    assert pause == 0 or TABLE[failure].paused


@pytest.mark.parametrize(("attempts", "longest"), [(1, 100), (2, 200), (3, 400), (5, 1_600), (6, 2_000), (99, 2_000)])
def test_the_longest_pause_after_so_many_attempts(attempts: int, longest: int) -> None:
    assert pause_us(Failure.NO_ANSWER, attempts, RULES, 999_999) // 1_000 == longest - 1
    assert pause_us(Failure.NO_ANSWER, attempts, RULES, 0) == 0


@given(
    percent=st.integers(0, 100),
    events=st.lists(st.tuples(st.booleans(), st.sampled_from(Failure)), max_size=400),
)
def test_no_more_is_sent_again_than_so_many_per_cent_and_the_reserve(
    percent: int, events: list[tuple[bool, Failure]]
) -> None:
    """After any sequence of requests and failures; and what can be afforded is never denied before that."""
    budget, requests, repeated = RetryBudget(), 0, 0
    for arrives, failure in events:
        if arrives:
            budget.pay_in(percent)
            requests += 1
            continue
        allowed = RESERVE + requests * percent / 100
        spent = budget.spend(failure)
        if TABLE[failure].costs:
            assert spent == (repeated + 1 <= allowed)  # so few requests never fill it up
            repeated += spent
        else:
            assert spent
        assert repeated <= allowed


def test_a_quiet_month_buys_a_hundred_repetitions_and_no_more() -> None:
    budget = RetryBudget()
    for _ in range(1_000_000):
        budget.pay_in(10)
    repeated = 0
    while budget.spend(Failure.FAILING):
        repeated += 1

    assert repeated == 10 * RESERVE

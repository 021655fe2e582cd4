"""May this be sent again? A table to be checked line by line, and how often and how soon.

A read changes nothing, so it may always be asked again. A write may only where it is certain that the exchange has not
carried it out: not one byte was sent, or the exchange said "too many visits", which it says before it does anything. A
batch that was refused so is left to its client: it may have been carried out in part.

The pause before another attempt is drawn from nothing up to a bound that doubles, so that those who failed together do
not come back together. What the exchange refuses as too many waits besides until its window has room. All attempts
together are bounded by the deadline of the request and by a budget: of all requests only so many per cent are sent
again, so that an exchange in trouble is not asked twice as much. A connection that had died while it lay idle is no
sign of trouble and costs nothing of the budget.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from policies import bybit


class Failure(StrEnum):
    """What went wrong with an attempt; labels of the metric `gateway_retries`."""

    NOT_SENT = "not-sent"  # no connection, no TLS, no name: not one byte left
    IDLE_CONNECTION = "idle-connection"  # a pooled connection was dead when it was used
    NO_ANSWER = "no-answer"  # reset or silent after the request left
    BROKEN_ANSWER = "broken-answer"  # the answer began and did not end
    TOO_MANY = "too-many"  # the exchange refused it as too many, before it did anything
    TOO_MANY_IN_BATCH = "too-many-in-batch"  # the same of a whole batch
    PROTECTED = "protected"  # 429: the exchange protects itself
    FAILING = "failing"  # 5xx, or a code for an error or a time-out of its own


_YES: Final = True
_NO: Final = False


class Again(NamedTuple):
    """Whether an attempt may be repeated."""

    read: bool
    write: bool
    paused: bool
    """After a pause; else its turn in the queue is pause enough."""
    costs: bool
    """Paid from the budget."""


TABLE: Final = {
    # read, write; paused, costs
    Failure.NOT_SENT: Again(_YES, _YES, _YES, _YES),
    Failure.IDLE_CONNECTION: Again(_YES, _NO, _NO, _NO),
    Failure.NO_ANSWER: Again(_YES, _NO, _YES, _YES),
    Failure.BROKEN_ANSWER: Again(_YES, _NO, _YES, _YES),
    Failure.TOO_MANY: Again(_YES, _YES, _YES, _YES),
    Failure.TOO_MANY_IN_BATCH: Again(_YES, _NO, _YES, _YES),
    Failure.PROTECTED: Again(_YES, _NO, _YES, _YES),
    Failure.FAILING: Again(_YES, _NO, _YES, _YES),
}

_OWN_ERRORS: Final = frozenset({bybit.SERVER_TIMEOUT, bybit.SERVER_ERROR})
_TIMES_OF_TROUBLE: Final = frozenset({500, 502, 503, 504})


class RetryRules(NamedTuple):
    attempts: int
    backoff_us: int
    max_backoff_us: int
    budget_percent: int


def failure_of(status: int, ret_code: int | None, *, batch: bool) -> Failure | None:
    """What an answer says of its attempt; None for one that nothing would be gained by repeating."""
    if ret_code == bybit.TOO_MANY_VISITS and status == 200:
        return Failure.TOO_MANY_IN_BATCH if batch else Failure.TOO_MANY
    if status == 429 or (status == 200 and ret_code in bybit.PROTECTING_CODES):
        return Failure.PROTECTED
    if status in _TIMES_OF_TROUBLE or (status == 200 and ret_code in _OWN_ERRORS):
        return Failure.FAILING
    return None


def may_repeat(failure: Failure, *, read: bool) -> bool:
    row = TABLE[failure]
    return row.read if read else row.write


def pause_us(failure: Failure, attempts: int, rules: RetryRules, chance: int) -> int:
    """How long to wait before the next attempt after so many. `chance`: a draw from 0 to 999_999."""
    if not TABLE[failure].paused:
        return 0
    longest_us = min(rules.max_backoff_us, rules.backoff_us << min(attempts - 1, 32))
    return longest_us * chance // 1_000_000


class RetryBudget:
    """Every request pays in a part of an attempt, a repetition costs a whole one. Counted in hundredths."""

    _RESERVE: Final = 10
    """So many repetitions are there from the start, and saved up at most by the tenfold."""

    def __init__(self) -> None:
        self._hundredths = 100 * self._RESERVE

    def pay_in(self, percent: int) -> None:
        self._hundredths = min(self._hundredths + percent, 1_000 * self._RESERVE)

    def spend(self, failure: Failure) -> bool:
        """False: it is used up."""
        if not TABLE[failure].costs:
            return True
        if self._hundredths < 100:
            return False
        self._hundredths -= 100
        return True

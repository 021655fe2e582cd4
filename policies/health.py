"""How something that the gateway depends on fares, concluded from what it answers and what it does not.

One failure among answers is an accident; failures and nothing else, for a second, are a state. Whoever has never been
heard, or not for long, is taken by the first word about him, where that word says as much as any. What is concluded
stands until something is heard that says otherwise, so that it does not flicker.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final, NamedTuple

from policies.circuit import State

_PARTS: Final = 12
_PART_US: Final = 5_000_000
"""A minute, in so many parts of this length."""
_LEAST_FAILURES: Final = 2
_WORSE_PERCENT: Final = 10
_BETTER_PERCENT: Final = 5
"""Of its answers: from so many failures on it is degraded, and below so many it no longer is."""


class Status(StrEnum):
    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    BANNED = "banned"
    UNKNOWN = "unknown"

    @property
    def serves(self) -> bool:
        """As far as is known."""
        return self not in {Status.DOWN, Status.BANNED}


class Patience(NamedTuple):
    """`failing_us`: failures alone for so long, and two at least, are a state. `silence_us`: what was heard so long ago
    says nothing of now; 0: it does. `first_counts`: of what is unknown the first failure is a state by itself."""

    failing_us: int = 1_000_000
    silence_us: int = 0
    first_counts: bool = True


class Vitals:
    """answered() and failed() for all that is heard of one dependency. Instants are epoch microseconds."""

    def __init__(self, now_us: int, patience: Patience = Patience()) -> None:  # noqa: B008  # frozen
        self.latency_us: int | None = None
        """Of the latest answer."""
        self.answered_us: int | None = None
        self.failed_us: int | None = None
        self._patience = patience
        self._status = Status.UNKNOWN
        self._since_us = now_us
        self._reason = ""
        self._failures = 0
        """Since the latest answer."""
        self._failing_us = 0
        """When the first of them was."""

    def answered(self, now_us: int, latency_us: int) -> None:
        self._look(now_us)
        self.answered_us, self.latency_us = now_us, latency_us
        self._failures = 0
        self._become(Status.UP, now_us)

    def failed(self, now_us: int, reason: str) -> None:
        """`reason`: one word, for people."""
        self._look(now_us)
        if not self._failures:
            self._failing_us = now_us
        self._failures += 1
        self.failed_us, self._reason = now_us, reason
        unheard = self._patience.first_counts and self._status is Status.UNKNOWN
        lasts = self._failures >= _LEAST_FAILURES and now_us - self._failing_us >= self._patience.failing_us
        if unheard or lasts or not self._patience.failing_us:
            self._become(Status.DOWN, self._failing_us)

    def forget(self, now_us: int) -> None:
        """Nothing is wanted of it any more: nobody will know."""
        self._failures = 0
        self._become(Status.UNKNOWN, now_us)

    def status(self, now_us: int) -> Status:
        self._look(now_us)
        return self._status

    @property
    def since_us(self) -> int:
        """Since when it is what status() said last."""
        return self._since_us

    @property
    def reason(self) -> str:
        """Why it is down; empty when it is not."""
        return self._reason if self._status is Status.DOWN else ""

    def failing(self, now_us: int) -> bool:
        """Whether the latest word was a failure: what is down, and what may be."""
        self._look(now_us)
        return self._failures > 0

    @property
    def heard_us(self) -> int | None:
        """The latest sign of any kind."""
        return max((at for at in (self.answered_us, self.failed_us) if at is not None), default=None)

    def _look(self, now_us: int) -> None:
        heard_us, silence_us = self.heard_us, self._patience.silence_us
        if silence_us and heard_us is not None and now_us - heard_us >= silence_us:
            self._failures = 0
            self._become(Status.UNKNOWN, heard_us + silence_us)

    def _become(self, status: Status, since_us: int) -> None:
        if status is not self._status:
            self._status, self._since_us = status, since_us


class _Part:
    __slots__ = ("answers", "failures", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers = self.failures = 0


class LastMinute:
    """How many answers and failures there were, to within five seconds."""

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()

    def note(self, now_us: int, *, failed: bool) -> None:
        number = now_us // _PART_US
        if not self._parts or self._parts[-1].number < number:
            self._forget(number)
            self._parts.append(_Part(number))
        if failed:
            self._parts[-1].failures += 1
        else:
            self._parts[-1].answers += 1

    def counted(self, now_us: int) -> tuple[int, int]:
        """Answers, failures."""
        self._forget(now_us // _PART_US)
        return sum(part.answers for part in self._parts), sum(part.failures for part in self._parts)

    def _forget(self, number: int) -> None:
        while self._parts and self._parts[0].number <= number - _PARTS:
            self._parts.popleft()


class Observed(NamedTuple):
    """All that the exchange's status is concluded from."""

    heard: Status
    """By its answers alone."""
    answers: int = 0
    failures: int = 0
    """Of the last minute."""
    banned: bool = False
    breaker: State = State.CLOSED


def exchange_status(observed: Observed, before: Status) -> Status:
    """What nobody may send to, or what answers nobody, is not up, whatever was heard of it last."""
    if observed.banned:
        return Status.BANNED
    if observed.breaker is State.OPEN or observed.heard is Status.DOWN:
        return Status.DOWN
    if observed.breaker is State.HALF_OPEN:
        return Status.DEGRADED
    if observed.heard is Status.UNKNOWN:
        return Status.UNKNOWN
    share = _BETTER_PERCENT if before is Status.DEGRADED else _WORSE_PERCENT
    attempts = observed.answers + observed.failures
    failing = observed.failures >= _LEAST_FAILURES and observed.failures * 100 >= share * attempts
    return Status.DEGRADED if failing else Status.UP


def unready(*, ready: bool, draining: bool, banned: bool, closed: bool) -> list[str]:
    """Why no requests should be sent here, the gravest first; nothing when they should. `closed`: the store is lost,
    and the operator wants nothing sent without it. Whatever else is lost, the gateway goes on."""
    reasons = []
    if not ready:
        reasons.append("draining" if draining else "starting")
    if banned:
        reasons.append("banned")
    if closed:
        reasons.append("store-lost")
    return reasons


def overall(reasons: list[str], lost: list[str]) -> str:
    """One word for the gateway. `lost`: of what it can do without, what does not answer."""
    if reasons:
        return reasons[0]
    return "degraded" if lost else "ok"

"""The circuit breaker of an upstream: closed, open, half-open, moved by outcomes.

Closed, calls are counted over a sliding window: when too many of them fail, or too many are slow, it opens and nothing
is sent. After a while it is half-open: a few calls go through, and if all succeed it closes; if one fails it opens for
twice as long as before. Answers that blame the client are successes here: the upstream works.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

_PARTS: Final = 10
"""The window moves in so many steps."""
_LONGEST: Final = 12
"""It never stays open for more than so many times the configured time."""


class State(IntEnum):
    """The values of the metric `circuit_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitRules(NamedTuple):
    window_us: int
    least_calls: int
    failures_percent: int
    slow_us: int
    slow_percent: int
    open_us: int
    probes: int


class _Part:
    __slots__ = ("began_us", "calls", "failed", "slow")

    def __init__(self, began_us: int) -> None:
        self.began_us = began_us
        self.calls = self.failed = self.slow = 0


class Circuit:
    """take() before a call; exactly one of ended() and given_back() after it."""

    def __init__(self, rules: CircuitRules) -> None:
        self.rules = rules
        self._parts: deque[_Part] = deque()
        self._opened_us = 0
        self._open_until_us = 0
        self._state = State.CLOSED
        self._times_open = 0
        self._trying = 0
        self._tried = 0

    def state(self, now_us: int) -> State:
        if self._state is State.OPEN and now_us >= self._open_until_us:
            self._state, self._trying, self._tried = State.HALF_OPEN, 0, 0
        return self._state

    def wait_us(self, now_us: int) -> int:
        """0: a call may be made now. Else how long until one can hope to be."""
        match self.state(now_us):
            case State.CLOSED:
                return 0
            case State.OPEN:
                return self._open_until_us - now_us
            case State.HALF_OPEN:
                return 0 if self._trying + self._tried < self.rules.probes else self.rules.open_us

    def take(self, now_us: int) -> bool:
        """Whether this call may be made; one of a few while it is half-open."""
        if self.wait_us(now_us):
            return False
        if self._state is State.HALF_OPEN:
            self._trying += 1
        return True

    def given_back(self, taken_us: int) -> None:
        """The call that was taken then was not made after all, or says nothing of the upstream."""
        if self._state is State.HALF_OPEN and self._trying and taken_us > self._opened_us:
            self._trying -= 1

    def ended(self, now_us: int, took_us: int, *, failed: bool) -> None:
        slow = took_us >= self.rules.slow_us
        match self.state(now_us):
            case State.CLOSED:
                self._count(now_us, failed=failed, slow=slow)
            case State.HALF_OPEN:
                if now_us - took_us <= self._opened_us:
                    return  # sent before it opened: what it says is known
                self._trying = max(0, self._trying - 1)
                if failed or slow:
                    self._open(now_us)
                else:
                    self._tried += 1
                    if self._tried >= self.rules.probes:
                        self._close()
            case State.OPEN:
                pass  # it was sent before, or is exempt

    def _count(self, now_us: int, *, failed: bool, slow: bool) -> None:
        rules, parts = self.rules, self._parts
        while parts and parts[0].began_us <= now_us - rules.window_us:
            parts.popleft()
        if not parts or parts[-1].began_us <= now_us - rules.window_us // _PARTS:
            parts.append(_Part(now_us))
        newest = parts[-1]
        newest.calls += 1
        newest.failed += failed
        newest.slow += slow
        if not failed and not slow:
            return
        calls = sum(part.calls for part in parts)
        if calls < rules.least_calls:
            return
        too_many_failed = 100 * sum(part.failed for part in parts) >= rules.failures_percent * calls
        too_many_slow = 100 * sum(part.slow for part in parts) >= rules.slow_percent * calls
        if too_many_failed or too_many_slow:
            self._open(now_us)

    def _open(self, now_us: int) -> None:
        times = min(1 << self._times_open, _LONGEST)
        self._state, self._opened_us, self._open_until_us = State.OPEN, now_us, now_us + times * self.rules.open_us
        self._times_open = min(self._times_open + 1, 8)
        self._parts.clear()

    def _close(self) -> None:
        self._state, self._times_open = State.CLOSED, 0
        self._parts.clear()

"""When a stream may be connected to, after it was lost or could not be had.

The pause doubles with each failure in a row, and half of it is drawn, so that those who lost their streams together do
not come back together. A connection counts as had once it has stood for a while: one that breaks at once, again and
again, is a failure too. All streams of a gateway together open only so many connections in the exchange's window, a
small part of what it allows to an address; who is told that it has opened too many stays away for a whole window.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from policies import stream_words as words


class ReconnectRules(NamedTuple):
    backoff_us: int = 1_000_000
    max_backoff_us: int = 60_000_000
    steady_us: int = 60_000_000
    """A connection that has stood so long was one."""
    connections: int = 50
    """New ones in the exchange's window, of all categories together."""


class Opened:
    """The connections that were opened lately, of all categories."""

    def __init__(self, connections: int) -> None:
        self._times: deque[int] = deque(maxlen=connections)

    def note(self, now_us: int) -> None:
        self._times.append(now_us)

    def wait_us(self, now_us: int) -> int:
        """0: one may be opened now."""
        if len(self._times) != self._times.maxlen:
            return 0
        return max(0, self._times[0] + words.CONNECTIONS_IN_US - now_us)


class Reconnects:
    """Of one category: opening() before an attempt, failed() or ended() after it."""

    def __init__(self, rules: ReconnectRules, opened: Opened) -> None:
        self._rules = rules
        self._opened = opened
        self._failures = 0
        self._not_before_us = 0
        self._opened_us = 0

    def wait_us(self, now_us: int) -> int:
        """0: a connection may be tried now."""
        return max(0, self._not_before_us - now_us, self._opened.wait_us(now_us))

    def opening(self, now_us: int) -> None:
        self._opened_us = now_us
        self._opened.note(now_us)

    def ended(self, now_us: int, chance: int, *, refused: bool = False) -> None:
        """It was lost, or was not had; `refused`: as one too many. `chance`: a draw from 0 to 999_999."""
        rules = self._rules
        self._failures = 1 if now_us - self._opened_us >= rules.steady_us else self._failures + 1
        longest_us = min(rules.max_backoff_us, rules.backoff_us << min(self._failures - 1, 32))
        pause_us = longest_us // 2 + (longest_us - longest_us // 2) * chance // 1_000_000
        self._not_before_us = now_us + pause_us + (words.CONNECTIONS_IN_US if refused else 0)

    def closed(self, now_us: int) -> None:
        """By us, because nobody wanted it any more."""
        if now_us - self._opened_us >= self._rules.steady_us:
            self._failures = 0

"""What an account may really send, learned from the exchange's answers: `window: learned`.

The exchange meters each account, endpoint and business line by itself, tells in headers how many it allows and how many
are left, and counts what other programs of the account send as well. Let request i leave at s_i and be answered at r_i
with a limit L_i and R_i left. What we ourselves can have had in the exchange's window then is at most

    own_i = in flight + completed after s_i - W,

so of the L_i - R_i that were used at least L_i - R_i - own_i belong to somebody else: F, a lower bound that is certain,
and kept for ten seconds. A request is admitted while

    in flight + completed within W + F + caution  <  min(L, ceiling),

one at a time where that leaves nothing. The limit is that of the answer with the newest stamp of the exchange, so that
answers may be learned from in any order. Nothing else in a header gives credit: the remaining number only shows what
others use.

What the exchange has refused it has not counted, and neither do we. It says until when to wait, as a difference of two
of its own stamps; r_i is later than the instant at which it said so. Where it does not say, the wait begins at a window
and doubles. What others use is seen only between requests that are sent one by one: for a minute after a sign of them
requests are spaced out. `caution` grows by one with every refusal that a lowered limit does not explain, and shrinks by
one with every so many accepted requests, which fixes how often we are refused, whatever the others do. An account that
nobody else uses pays for none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.window import IN_FLIGHT, CompletionLog

YIELD_US: Final = 10_000_000
"""How long a use by others is reckoned with after it was seen: the price of politeness is paid in throughput."""
SUSPICIOUS_US: Final = 60_000_000
"""So long after a sign of others requests are spaced out."""
LONGEST_TRIP_US: Final = 3_000_000
"""Answers that took longer tell nothing of others: what was in the window then is remembered no more."""
FORGET_US: Final = 600_000_000
"""What was learned of an account that is not used any more is forgotten."""
SELDOM: Final = 150
"""One refusal in so many requests is put up with."""
_MOST_WINDOWS: Final = 8
"""The longest wait, in windows."""
_MOST_STRIKES: Final = 8
_SAME_CLOCK_MS: Final = 60_000
"""A stamp that is older than the newest by more is not late: the clock was set."""
_CROWDED: Final = 2
"""Spacing begins where a window is filled to one part in so many."""


class Lesson(NamedTuple):
    """What one answer says. Instants and durations are microseconds on the clock of the windows."""

    sent_us: int
    limit: int | None = None
    remaining: int | None = None
    stamp_ms: int | None = None
    """The exchange's own clock when it answered."""
    refused: int = 0
    """So many of what was asked for were refused as too many."""
    reset_us: int | None = None
    """How long after its answer the exchange will accept again, by its own word."""
    chance: int = 0
    """A draw from 0 to 999_999, for the waits that nobody tells us."""


class Learned(NamedTuple):
    """What is known of a limit, for people."""

    limit: int
    told: bool
    """By the exchange; else it is what we began with."""
    others: int
    """What other programs use of it, at least, and what is left free for fear of them."""
    blocked_us: int


class LearnedWindow:
    """A window whose limit is what the exchange says. `start`: what holds until it says anything."""

    __slots__ = (
        "_accepted",
        "_blocked_until_us",
        "_caution",
        "_ceiling",
        "_due_us",
        "_floor",
        "_foreign",
        "_heard_us",
        "_log",
        "_lowered_us",
        "_stamp_ms",
        "_start",
        "_strike_us",
        "_strikes",
        "_suspicious_until_us",
        "_told",
        "window_us",
    )

    def __init__(self, start: int, window_us: int, floor: int, ceiling: int | None) -> None:
        self.window_us = window_us
        self._start, self._floor, self._ceiling = start, floor, ceiling
        self._log = CompletionLog(self._bounded(start), window_us, history_us=LONGEST_TRIP_US)
        self._told: int | None = None
        self._stamp_ms = 0
        self._foreign: list[tuple[int, int]] = []
        """(until when, how many), the largest first: those that a later, larger one has made pointless are gone."""
        self._blocked_until_us = 0
        self._suspicious_until_us = 0
        self._strikes = 0
        self._strike_us = 0
        """When we last took it for refused: what had been sent before proves nothing more."""
        self._lowered_us = 0
        self._caution = 0
        self._accepted = 0
        self._due_us = 0
        self._heard_us = 0

    @property
    def limit(self) -> int:
        return self._log.limit

    def room(self, now_us: int) -> int:
        """What of the limit is left to us."""
        return max(1, self._log.limit - self.others(now_us))

    def others(self, now_us: int) -> int:
        """What others use, at least, and what is left to them besides."""
        seen = self._foreign
        while seen and seen[0][0] <= now_us:
            del seen[0]
        if self._caution and now_us >= self._suspicious_until_us:
            self._caution = 0
        return (seen[0][1] if seen else 0) + self._caution

    def wait_us(self, cost: int, now_us: int) -> int:
        log = self._log
        room = self.room(now_us)
        # What is dearer than the room goes when nothing else is in it.
        wait = log.wait_us(min(cost, room) + log.limit - room, now_us)
        if wait == IN_FLIGHT:
            return wait
        wait = max(wait, self._blocked_until_us - now_us)
        if now_us < self._suspicious_until_us and _CROWDED * log.used(now_us) >= room:
            wait = max(wait, self._due_us - now_us)
        return max(wait, 0)

    def take(self, cost: int, now_us: int) -> None:
        self._log.take(cost, now_us)
        if now_us < self._suspicious_until_us:
            gap_us = cost * self.window_us // self.room(now_us)
            self._due_us = max(self._due_us, now_us - gap_us) + gap_us  # a late timer does not add up

    def complete(self, cost: int, now_us: int) -> None:
        self._log.complete(cost, now_us)

    def refund(self, cost: int) -> None:
        self._log.refund(cost)

    def used(self, now_us: int) -> int:
        return self._log.used(now_us)

    def own(self, sent_us: int) -> int:
        """What can have been of us in the exchange's window of a request that was sent then."""
        return self._log.since(sent_us - self.window_us)

    def idle(self, now_us: int) -> bool:
        """Nothing is in it, and nothing is known of it that is worth keeping: keys can be made up."""
        return self._log.used(now_us) == 0 and now_us - self._heard_us > FORGET_US

    def learn(self, lesson: Lesson, now_us: int) -> None:
        """Once for each answer, after its request was completed or, as far as it was refused, given back."""
        if lesson.limit is not None or lesson.refused:
            self._heard_us = now_us
        self.others(now_us)  # what has run out is forgotten first
        if lesson.limit is not None:
            self._hear_limit(lesson.limit, lesson.stamp_ms, now_us)
        if lesson.refused:
            self._hear_refusal(lesson, now_us)
        else:
            self._hear_acceptance(lesson)
            if lesson.remaining == 0 and lesson.reset_us is not None:
                self._block(min(lesson.reset_us, self.window_us), now_us)
        if lesson.limit is not None and lesson.remaining is not None and now_us - lesson.sent_us <= LONGEST_TRIP_US:
            own = self.own(lesson.sent_us)
            if lesson.limit - lesson.remaining > own:
                self._see_others(lesson.limit - lesson.remaining - own, now_us)

    def learned(self, now_us: int) -> Learned:
        blocked_us = max(0, self._blocked_until_us - now_us)
        return Learned(self._log.limit, self._told is not None, self.others(now_us), blocked_us)

    def resize(self, start: int, window_us: int, floor: int, ceiling: int | None) -> None:
        """The rules have changed. What was learned stays, within the new bounds."""
        self.window_us = window_us
        self._start, self._floor, self._ceiling = start, floor, ceiling
        self._log.resize(self._bounded(start if self._told is None else self._told), window_us)

    def snapshot(self, now_us: int) -> list[int]:
        return self._log.snapshot(now_us)

    def restore(self, state: Sequence[int], at_us: int) -> None:
        self._log.restore(state, at_us)

    def _bounded(self, limit: int) -> int:
        bounded = limit if self._ceiling is None else min(limit, self._ceiling)
        return max(bounded, self._floor, 1)

    def _hear_limit(self, limit: int, stamp_ms: int | None, now_us: int) -> None:
        """By the newest stamp; of two answers with one stamp by the smaller limit, so that their order is the same."""
        if self._told is not None:
            if stamp_ms is None or self._stamp_ms - _SAME_CLOCK_MS <= stamp_ms < self._stamp_ms:
                return
            if stamp_ms == self._stamp_ms:
                limit = min(limit, self._told)
        self._stamp_ms = stamp_ms or 0
        self._told, bounded = limit, self._bounded(limit)
        if bounded < self._log.limit:
            self._lowered_us = now_us
        self._log.resize(bounded, self.window_us)

    def _hear_refusal(self, lesson: Lesson, now_us: int) -> None:
        news = lesson.sent_us >= self._strike_us
        if news and lesson.sent_us >= self._lowered_us:
            self._suspicious_until_us = now_us + SUSPICIOUS_US
            self._caution = min(self._caution + 1, self._log.limit // 2)
            self._accepted = 0
        if lesson.reset_us is not None:
            wait_us = lesson.reset_us
        elif news:
            longest_us = self.window_us * (min(2 << self._strikes, _MOST_WINDOWS) - 1) if self._strikes else 0
            wait_us = self.window_us + longest_us * lesson.chance // 1_000_000
            self._strikes = min(self._strikes + 1, _MOST_STRIKES)
        else:
            return
        if news:
            self._strike_us = now_us
        self._block(wait_us, now_us)

    def _block(self, wait_us: int, now_us: int) -> None:
        wait_us = min(max(wait_us, 0), _MOST_WINDOWS * self.window_us)
        self._blocked_until_us = max(self._blocked_until_us, now_us + wait_us)

    def _hear_acceptance(self, lesson: Lesson) -> None:
        if lesson.sent_us >= self._strike_us:
            self._strikes = 0
        self._accepted += 1
        if self._accepted >= SELDOM:
            self._accepted = 0
            self._caution = max(0, self._caution - 1)

    def _see_others(self, others: int, now_us: int) -> None:
        self._suspicious_until_us = now_us + SUSPICIOUS_US
        seen = self._foreign
        while seen and seen[-1][1] <= others:
            seen.pop()
        seen.append((now_us + YIELD_US, others))

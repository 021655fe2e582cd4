"""Has the gateway too much to do? A level out of several signals, and what is turned away at it.

A level rises when one signal has been at its threshold in most of the last few samples: a machine that stands still for
a second gives one bad sample, and that is none. It falls by one step when all signals have been clearly below it, in
most of those samples again, for a longer time. So a signal that swings around a threshold changes the level once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from policies.priority import Priority

_OF_LAST: Final = 4
_MOST: Final = 3
_CLEARLY_PERCENT: Final = 80
"""Of the threshold: what is below that counts as calm."""


class Level(IntEnum):
    NORMAL = 0
    HIGH = 1
    CRITICAL = 2


class Readings(NamedTuple):
    """Of one instant; or, one for each signal, the thresholds of a level."""

    lag_us: int = 0
    """How late the event loop comes to its work."""
    queue_percent: int = 0
    """Requests that wait, of as many as may."""
    redis_calls: int = 0
    """Calls that wait to be sent to Redis."""
    archive_percent: int = 0
    """Rows that wait to be written, of as many as may."""
    tasks: int = 0


NAMES: Final = ("lag", "queue", "redis", "archive", "tasks")
"""Of the signals, in the order of Readings."""
NEVER: Final = 1 << 62
"""A threshold that nothing reaches."""


class Rules(NamedTuple):
    """Thresholds of `critical` are above those of `high`. `calm_us`: how long all must be calm before a step down."""

    high: Readings
    critical: Readings
    calm_us: int

    def threshold(self, level: Level) -> Readings:
        return self.critical if level is Level.CRITICAL else self.high


class State(NamedTuple):
    level: Level = Level.NORMAL
    because: str = ""
    """The signal that has raised it; empty when it is normal."""
    recent: tuple[Readings, ...] = ()
    calm_since_us: int | None = None


def judged(state: State, now: Readings, rules: Rules, now_us: int) -> State:
    """With one more sample."""
    recent = (*state.recent, now)[-_OF_LAST:]
    for level in (Level.CRITICAL, Level.HIGH):
        if level <= state.level:
            break
        because = _reached(recent, rules.threshold(level), 100)
        if because:
            return State(level, because, recent)
    if not _is_calm(recent, rules, state.level):
        return State(state.level, state.because, recent)
    since_us = now_us if state.calm_since_us is None else state.calm_since_us
    if now_us - since_us < rules.calm_us:
        return State(state.level, state.because, recent, since_us)
    lower = Level(state.level - 1)
    because = "" if lower is Level.NORMAL else state.because
    return State(lower, because, recent, now_us if _is_calm(recent, rules, lower) else None)


def sheds(level: Level, priority: Priority) -> bool:
    """History first, then live market data. Accounts, orders and cancels never: only the queue bounds them."""
    match level:
        case Level.NORMAL:
            return False
        case Level.HIGH:
            return priority >= Priority.HISTORY
        case Level.CRITICAL:
            return priority >= Priority.LIVE


def _is_calm(recent: tuple[Readings, ...], rules: Rules, level: Level) -> bool:
    """Nothing keeps it at that level; nor, at the lowest, is there anything to fall to."""
    return level is not Level.NORMAL and not _reached(recent, rules.threshold(level), _CLEARLY_PERCENT)


def _reached(recent: tuple[Readings, ...], thresholds: Readings, percent: int) -> str:
    """The first signal that was there, or at so many percent of it, in most of the samples."""
    for place, (name, threshold) in enumerate(zip(NAMES, thresholds, strict=True)):
        if sum(100 * each[place] >= percent * threshold for each in recent) >= _MOST:
            return name
    return ""

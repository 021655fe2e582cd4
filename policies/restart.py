"""What the windows hold when a gateway begins: what its predecessor left, or all there may be, or nothing.

The exchange goes on counting while a gateway restarts. One that ended in peace left a snapshot of its windows, which go
on where they stopped. One that died left none: what it had sent is unknown, but no more than each limit. So each held
window starts as if that much had been completed at the instant of the start, but for an emergency share, and frees
itself one window later by the rule that frees it always. Nothing else needs to know of it.

The share is a bet on the time that a start takes: it is sound unless the gateway that died filled more than the rest of
a window within the seconds just before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from policies.admission import Quota, WindowKind
from policies.bucket import TokenBucket
from policies.pacing import LearnedWindow
from policies.sharing import exact, set_aside
from policies.slotted import SlottedWindow
from policies.window import CompletionLog, SendLog, Window

LATE_US: Final = 5_000_000
"""A sign of life may be that much older than the life: signs come once a second, and a machine may be busy."""
BELIEVABLE_US: Final = 30 * 86_400_000_000
"""A gateway that seems to have been away for longer was away, or the clock of the machine is not to be believed."""


class Found(StrEnum):
    """What is known of a gateway that ran here before."""

    NOTHING = "first-start"  # none did
    CLEAN = "stopped"  # it ended in peace and left its windows
    RUNNING = "crashed"  # it left signs of life, and no more
    UNREADABLE = "unreadable"  # something is there, and cannot be understood
    LOCKED = "in-use"  # it runs still
    NOWHERE = "no-place"  # it could not have left anything


class Beginning(StrEnum):
    EMPTY = "empty"
    RESTORED = "restored"
    HELD = "held"


def beginning(found: Found, away_us: int | None, longest_us: int) -> Beginning:
    """How to begin. `away_us`: since the last sign of life, None where clocks cannot tell; `longest_us`: of all windows
    that would be held."""
    if found is Found.NOTHING:
        return Beginning.EMPTY
    if away_us is None or not 0 <= away_us <= BELIEVABLE_US:
        return Beginning.HELD
    if found is Found.CLEAN:
        return Beginning.RESTORED
    if found is Found.RUNNING and away_us >= longest_us + LATE_US:
        return Beginning.EMPTY
    return Beginning.HELD


def longest_us(quotas: Iterable[Quota]) -> int:
    """How long the exchange may remember, by the rules that model it."""
    return max((quota.window_us for quota in quotas if exact(quota)), default=0)


def new_exact(before: Mapping[str, Quota], rules: Mapping[str, Quota]) -> frozenset[str]:
    """The rules that begin now, by name, though the exchange has counted before: what was sent under another rule, or
    under none, is in none of their windows."""
    return frozenset(
        name
        for name, rule in rules.items()
        if exact(rule) and (name not in before or before[name].partition != rule.partition)
    )


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Held windows are born full for as long as what was sent before `since_us` may count."""

    since_us: int
    rules: frozenset[str] | None = None
    """The names of those that it concerns; None: all."""

    def new_window(self, quota: Quota, now_us: int) -> Window:
        concerned = exact(quota) and (self.rules is None or quota.name in self.rules)
        if not concerned or now_us - self.since_us >= quota.window_us:
            return quota.new_window()
        window = CompletionLog(quota.limit, quota.window_us)
        window.begin_with(quota.limit - set_aside(quota), self.since_us)
        return window


class Snapshot(NamedTuple):
    """A window at one instant, apart from any clock."""

    kind: WindowKind
    limit: int
    window_us: int
    burst: int
    state: Sequence[int]


def snapshot(window: Window, now_us: int) -> Snapshot:
    burst = window.burst if isinstance(window, TokenBucket) else 0
    return Snapshot(_kind(window), window.limit, window.window_us, burst, window.snapshot(now_us))


def restored(quota: Quota, taken: Snapshot, at_us: int, now_us: int) -> Window:
    """The window that goes on under a quota of today as it was at `at_us`, an instant of our own clock."""
    before = Quota(quota.name, taken.limit, taken.window_us, (), window=taken.kind, burst=taken.burst)
    window = before.new_window()
    window.restore(taken.state, at_us)
    same = (quota.limit, quota.window_us, quota.window, quota.burst) == (*taken[1:3], taken.kind, taken.burst)
    return window if same else quota.fitted(window, now_us)


def _kind(window: Window) -> WindowKind:
    match window:
        case CompletionLog():
            return WindowKind.HELD
        case SendLog():
            return WindowKind.SENT
        case SlottedWindow():
            return WindowKind.SLOTTED
        case LearnedWindow():
            return WindowKind.LEARNED
        case _:
            return WindowKind.BUCKET

"""What each gateway may send when several share a budget and their common store is lost. Nobody may add it up wrong.

Let L be a limit that the exchange counts, W its window, and R gateways share it. While the store answers, all together
stay below L - E; E, a fiftieth of L, is set aside. Each gateway has a share s_i of the whole, and the s_i that are
written in the store never add up to more than one.

*At once* after a failure a gateway may send s_i E: all of them together E, which nobody else touches. More than that
would be a breach: the load shifts at the moment of a failure, and what a gateway sends beyond E adds to what all of
them sent through the store within the last W.

*Later* it may send s_i (L - E) + s_i E. That is safe once what was sent through the store is older than W. If the
store is gone for everybody, it is after W. If only this gateway is cut off, the others go on through the store: they
notice that its sign of life is missing after H and leave s_i (L - E) alone from then on, so what they sent before is
older than W after H + W. From inside the two cases look alike, so H + W it is.

*Back again* it goes on by s_i (L - E) for one more W and enters in the store what it sends: then everything that counts
is written there, and what was set aside is whole again. If it never came to use more than s_i E, nothing is missing in
the store and it is back at once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from policies.admission import WHOLE, Counts, Quota, WindowKind

_SET_ASIDE: Final = 50
"""One in so many is set aside for the moment of a failure."""
_SLACK_US: Final = 500_000
"""A sign of life is missed by whoever gives the next one: so much later than it could be at the latest."""


class Mode(StrEnum):
    """By which book a gateway spends. The metric `gateway_store_mode` has these as labels."""

    SHARED = "shared"  # the windows in the store
    HOLDING = "holding"  # the store is there and has lost its memory: what was set aside, until a window has passed
    EMERGENCY = "emergency"  # the store has just been lost: what was set aside
    DIVIDED = "divided"  # the store is lost: the gateway's own share
    RETURNING = "returning"  # it is back: the own share, entered in the store
    CLOSED = "closed"  # the store is lost, and nothing is sent, because the operator wants it so
    OPEN = "open"  # the store is lost, and everybody goes up to the limit, because the operator wants it so


def exact(quota: Quota) -> bool:
    """Whether somebody else counts, who bans: such a quota is never exceeded, whatever it costs."""
    return quota.window is WindowKind.HELD and quota.counts is Counts.UPSTREAM


def set_aside(quota: Quota) -> int:
    return quota.limit // _SET_ASIDE if exact(quota) else 0


def spare(quota: Quota, share: int) -> int:
    """What one gateway may send of a quota at once after a failure."""
    return set_aside(quota) * share // WHOLE


def divided(quota: Quota, share: int) -> int:
    """What one gateway may send of a quota while there is no common book. Small limits may leave nothing to some."""
    return handed_back(quota, share) + spare(quota, share)


def handed_back(quota: Quota, share: int) -> int:
    """The same while the store is back and the share is handed over: what was set aside is left for another failure."""
    if exact(quota):
        return (quota.limit - set_aside(quota)) * share // WHOLE
    return max(1, quota.limit * share // WHOLE)


class Standing:
    """One gateway's relation to the store, moved by what it hears. All instants are on its own clock."""

    def __init__(self, replicas: int, lost_after_us: int, now_us: int) -> None:
        self._lost_after_us = lost_after_us
        self.share = WHOLE // replicas
        """In millionths; the store's word as soon as there is one."""
        self.up = False
        self._known = replicas == 1
        """Whether the others know of us, or there are none: else nobody would leave our share alone."""
        self._alone_since_us = now_us + lost_after_us + _SLACK_US
        """From then on the others know that we spend by our own book."""
        self._said_us = now_us
        """When the last sign of life was given that says we spend from the shared windows, heard or not."""
        self._hold_until_us = 0
        self._returning_until_us = 0

    def says(self, now_us: int) -> bool:
        """A sign of life is about to be given: whether it says that we spend from the shared windows."""
        shared = self.shared(now_us)
        if shared:
            self._said_us = now_us  # also when its answer is lost: the others may have heard it
        return shared

    def heard(self, share: int, now_us: int) -> None:
        """A sign of life was answered. The answer names our share."""
        if not self._known:
            self._known, self._alone_since_us = True, now_us + self._lost_after_us + _SLACK_US
        self.share = share

    def lost(self, now_us: int) -> None:
        """The store has failed."""
        if self.shared(now_us):
            self._alone_since_us = max(self._said_us + self._lost_after_us, now_us) + _SLACK_US
        self.up = False
        self._hold_until_us = self._returning_until_us = 0

    def found(self, windows_us: list[int], now_us: int) -> None:
        """The store answers again. `windows_us`: of the exact quotas."""
        if self.up:
            return
        used_own = [window_us for window_us in windows_us if self.divides(window_us, now_us)]
        self.up = True
        self._returning_until_us = now_us + max(used_own) if used_own else 0

    def holds(self, until_us: int) -> None:
        """The store is there, and grants nothing that is exact until then."""
        self._hold_until_us = max(self._hold_until_us, until_us)

    def shared(self, now_us: int) -> bool:
        """Whether the store decides."""
        return self.up and now_us >= self._returning_until_us

    def returning(self, now_us: int) -> bool:
        return self.up and now_us < self._returning_until_us

    def divides(self, window_us: int, now_us: int) -> bool:
        """Whether the own share of an exact quota may be used, and not only what was set aside."""
        alone = not self.up or now_us < self._returning_until_us
        return alone and self._known and now_us >= self._alone_since_us + window_us

    def mode(self, windows_us: list[int], now_us: int) -> Mode:
        if self.shared(now_us):
            return Mode.HOLDING if now_us < self._hold_until_us else Mode.SHARED
        if self.up:
            return Mode.RETURNING
        return Mode.DIVIDED if all(self.divides(window_us, now_us) for window_us in windows_us) else Mode.EMERGENCY

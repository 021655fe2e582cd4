"""What we know of the exchange's clock and of the way to it, learned from the stamps in its answers.

A stamp was made between the instants of sending and of receiving. Of the recent answers the one with the shortest round
trip tells the offset best, to within half of that trip; the longest tells what a trip may take. Nothing is known before
two answers agree, and nothing is refused on the ground of what is not known.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final, NamedTuple

_SAMPLES: Final = 64
_BLIND_MARGIN_US: Final = 250_000
"""What a trip may take as long as none has been measured."""
_MARGIN_US: Final = 50_000
_LONGEST_TRIP_US: Final = 2_000_000
_LARGEST_OFFSET_US: Final = 600_000_000
"""A clock that is wrong by more is not one."""
_AGREEMENT_US: Final = 1_000_000
_FRESH_US: Final = 30_000_000
"""Nobody is refused on the word of an older answer: who is refused causes none, and clocks are set meanwhile."""
_DRIFT_PPM: Final = 500
AHEAD_US: Final = 1_000_000
"""The exchange accepts `timestamp < server_time + 1000 ms`, whatever the receive window."""


class _Sample(NamedTuple):
    """Ordered by the round trip: the shortest is the best."""

    trip_us: int
    offset_us: int
    at_us: int

    def contradicts(self, other: _Sample) -> bool:
        """No clock that goes as clocks do could have made both stamps."""
        drift_us = abs(self.at_us - other.at_us) * _DRIFT_PPM // 1_000_000
        return abs(self.offset_us - other.offset_us) > (self.trip_us + other.trip_us) // 2 + 2_000 + drift_us


class Clock(StrEnum):
    """What can be said of a request's timestamp on arrival."""

    GOOD = "good"
    AHEAD = "ahead"
    EXPIRED = "expired"


class Skew:
    """Believed once answers over at least a second agree: a clock goes on, a recorded stamp does not."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)

    def observe(self, sent_us: int, received_us: int, server_ms: int) -> None:
        """An answer: when its request was sent and it was received, on our clock, and the exchange's stamp in it."""
        trip_us = received_us - sent_us
        sample = _Sample(trip_us, server_ms * 1000 + 500 - (sent_us + trip_us // 2), received_us)
        if not 0 <= trip_us <= _LONGEST_TRIP_US or abs(sample.offset_us) > _LARGEST_OFFSET_US:
            return
        if self._samples and sample.contradicts(min(self._samples)):
            self._samples.clear()  # one of the clocks was set, or a stamp did not come from a clock
        self._samples.append(sample)

    @property
    def known(self) -> bool:
        return bool(self._samples) and self._samples[-1].at_us - self._samples[0].at_us >= _AGREEMENT_US

    @property
    def offset_us(self) -> int:
        """The exchange's clock less ours."""
        return min(self._samples).offset_us if self.known else 0

    @property
    def uncertainty_us(self) -> int:
        """The offset is right to within this."""
        return min(self._samples).trip_us // 2 + 1_000 if self.known else 0

    @property
    def one_way_us(self) -> int:
        """What the way to the exchange may take."""
        return max(self._samples).trip_us // 2 + _MARGIN_US if self.known else _BLIND_MARGIN_US

    def latest_send_us(self, expiry_us: int) -> int:
        """The last instant on our clock at which a request leaves in time for an expiry on the exchange's clock."""
        return expiry_us - self.offset_us - self.uncertainty_us - self.one_way_us

    def judge(self, timestamp_us: int, expiry_us: int, now_us: int) -> Clock:
        """A request that leaves now: is its timestamp certainly too far ahead, or certainly expired?"""
        if not self.known or now_us - self._samples[-1].at_us > _FRESH_US:
            return Clock.GOOD
        server_us = now_us + self.offset_us
        longest_us = max(self._samples).trip_us
        if timestamp_us >= server_us + self.uncertainty_us + longest_us + AHEAD_US:
            return Clock.AHEAD
        if expiry_us < server_us - self.uncertainty_us:
            return Clock.EXPIRED
        return Clock.GOOD

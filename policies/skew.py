"""What we know of the exchange's clock and of the way to it, learned from the stamps in its answers.

A stamp was made between the instants of sending and of receiving. Of the recent answers the one with the shortest round
trip tells the offset best, to within half of that trip; the longest tells what a trip may take. Nothing is known before
the first answer, and nothing is refused on the ground of what is not known.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

_SAMPLES: Final = 64
_BLIND_MARGIN_US: Final = 250_000
"""What a trip may take as long as none has been measured."""
_MARGIN_US: Final = 50_000
_LONGEST_TRIP_US: Final = 2_000_000
AHEAD_US: Final = 1_000_000
"""The exchange accepts `timestamp < server_time + 1000 ms`, whatever the receive window."""


class Clock(StrEnum):
    """What can be said of a request's timestamp on arrival."""

    GOOD = "good"
    AHEAD = "ahead"
    EXPIRED = "expired"


class Skew:
    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)

    def observe(self, sent_us: int, received_us: int, server_ms: int) -> None:
        """An answer: when its request was sent and it was received, on our clock, and the exchange's stamp in it."""
        trip_us = received_us - sent_us
        if 0 <= trip_us <= _LONGEST_TRIP_US:
            middle_us = sent_us + trip_us // 2
            self._samples.append((trip_us, server_ms * 1000 + 500 - middle_us))

    @property
    def known(self) -> bool:
        return bool(self._samples)

    @property
    def offset_us(self) -> int:
        """The exchange's clock less ours."""
        return min(self._samples)[1] if self._samples else 0

    @property
    def uncertainty_us(self) -> int:
        """The offset is right to within this."""
        return min(self._samples)[0] // 2 + 1_000 if self._samples else 0

    @property
    def one_way_us(self) -> int:
        """What the way to the exchange may take."""
        return max(self._samples)[0] // 2 + _MARGIN_US if self._samples else _BLIND_MARGIN_US

    def latest_send_us(self, expiry_us: int) -> int:
        """The last instant on our clock at which a request leaves in time for an expiry on the exchange's clock."""
        return expiry_us - self.offset_us - self.uncertainty_us - self.one_way_us

    def judge(self, timestamp_us: int, expiry_us: int, now_us: int) -> Clock:
        """A request that leaves now: is its timestamp certainly too far ahead, or certainly expired?"""
        if not self._samples:
            return Clock.GOOD
        server_us = now_us + self.offset_us
        longest_us = max(self._samples)[0]
        if timestamp_us >= server_us + self.uncertainty_us + longest_us + AHEAD_US:
            return Clock.AHEAD
        if expiry_us < server_us - self.uncertainty_us:
            return Clock.EXPIRED
        return Clock.GOOD

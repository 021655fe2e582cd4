"""Who asks, and how the exchange fares: told by every request at its end, so it does next to nothing then."""

from __future__ import annotations

import re
from typing import Final

from policies.busiest import EVERYBODY_ELSE, Busiest
from proxy.clock import Clock
from proxy.telemetry import Story

_SLICE_US: Final = 60_000_000
_SLICES: Final = 5
_NAMES: Final = 500
_SHOWN: Final = 40
_HASH: Final = re.compile(r"[0-9a-f]{16}")
_FAILING: Final = 500


class Callers:
    """`tell` is a listener of Telemetry; turn() is called every few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._busiest = Busiest(_SLICE_US, _SLICES, _NAMES)
        self._find = self._busiest.find
        self._clock = clock
        self.asked = 0
        """Requests for which the exchange was asked, and"""
        self.failed = 0
        """those for which it had no usable answer."""
        self.answered_us = 0
        self.failed_us = 0
        """When the latest of each ended; 0: never."""
        self.failure = ""
        """What went wrong with that."""

    @property
    def span_us(self) -> int:
        return self._busiest.span_us

    def tell(self, story: Story) -> None:
        of = story.descriptor
        row = self._find("nobody" if of is None else of.client or of.ip)
        row[0] += 1
        if story.source == "cache":
            row[1] += 1
        elif story.rule or story.status == 401:
            row[2] += 1
        if story.attempts:
            self._asked(story)

    def turn(self) -> None:
        self._busiest.turn(self._clock())

    def top(self, most: int) -> list[dict[str, object]]:
        return [
            {
                "name": "everybody else" if asker.name == EVERYBODY_ELSE else short_name(asker.name),
                "requests": asker.requests,
                "cached": asker.cached,
                "refused": asker.refused,
            }
            for asker in self._busiest.top(most)
        ]

    def _asked(self, story: Story) -> None:
        if story.outcome == "client-gone":
            return  # it says nothing of the exchange
        self.asked += 1
        ended_us = story.began_us + story.took_us
        if story.source != "exchange" or story.outcome or story.status >= _FAILING:
            self.failed += 1
            self.failed_us = ended_us
            self.failure = story.outcome or (f"HTTP {story.upstream_status}" if story.upstream_status else "no answer")
        else:
            self.answered_us = ended_us


def short_name(name: str) -> str:
    """For a narrow column: accounts by the beginning of their hash, the rest by its beginning."""
    if _HASH.fullmatch(name):
        return f"account {name[:8]}"
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…"

"""The books of the streams: who connected how often, who subscribed to what, what was pushed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fake_bybit.windows import RollingWindow

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings


@dataclass(slots=True)
class StreamCounts:
    """Of one category."""

    connections: int = 0  # opened since the start
    peak: int = 0  # the most at one time
    refused: int = 0  # handshakes that a limit refused
    pings: int = 0
    pushes: int = 0
    subscribed: Counter[str] = field(default_factory=Counter)  # how often, by topic
    unsubscribed: Counter[str] = field(default_factory=Counter)
    refused_topics: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)
    largest_request: int = 0  # topics

    def as_dict(self) -> dict[str, Any]:
        """JSON for the control port."""
        return {
            "connections": self.connections,
            "peak": self.peak,
            "refused": self.refused,
            "pings": self.pings,
            "pushes": self.pushes,
            "subscribed": dict(self.subscribed),
            "unsubscribed": dict(self.unsubscribed),
            "refused_topics": dict(self.refused_topics),
            "confirmed": dict(self.confirmed),
            "largest_request": self.largest_request,
        }


class StreamBook:
    """Counts, and the two limits on connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.categories: dict[str, StreamCounts] = {}
        self._opened: dict[str, RollingWindow] = {}

    def of(self, category: str) -> StreamCounts:
        """The counts of a category."""
        return self.categories.setdefault(category, StreamCounts())

    def admit(self, ip: str, category: str, active: int, now_us: int) -> bool:
        """Book a handshake. `active`: the connections that this address has in this category now."""
        settings, counts = self._settings, self.of(category)
        opened = self._opened.setdefault(ip, RollingWindow())
        window_us = settings.stream_connect_window_us
        # bybit.md 4.3: 500 new connections in 5 minutes, per domain; 1000 at a time, counted by category
        full = opened.count(now_us, window_us) >= settings.stream_connect_limit
        if full or active >= settings.stream_concurrent_limit:
            counts.refused += 1
            return False
        opened.add(now_us, window_us)
        counts.connections += 1
        counts.peak = max(counts.peak, active + 1)
        return True

    def max_in_window(self) -> int:
        """The most connections that any address opened in one window."""
        return max((window.peak for window in self._opened.values()), default=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON for the control port."""
        return {
            "connections": sum(counts.connections for counts in self.categories.values()),
            "refused": sum(counts.refused for counts in self.categories.values()),
            "max_in_window": self.max_in_window(),
            "categories": {name: counts.as_dict() for name, counts in self.categories.items()},
        }

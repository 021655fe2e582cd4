"""From a method and a path to the endpoint that the rest of the gateway speaks of.

The table is built once from the exchange's published tables. Names of endpoints are the only thing that rules,
metrics and logs may use to tell requests apart, so there are as many of them as rows in the table and no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policies import stream_paths
from policies.quantities import Rate

UNKNOWN: Final = "unknown"
"""The endpoint of everything that the table does not list."""


OWN: Final = frozenset({"marketdata-batch", "marketdata-klines", "openapi", "prices"})
"""Pages that the gateway makes itself of public data (docs/marketdata.md). Rules that count requests may name them."""

STREAMS: Final = frozenset({*stream_paths.STREAMS.values(), stream_paths.UNLISTED})
"""WebSocket streams of the exchange. Rules that count requests may name them: a connection is one."""


class Access(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Route:
    endpoint: str
    group: str
    """market, order, account, ...: the section of the exchange's documentation."""
    access: Access
    method: str
    path: str
    candles: bool = False
    """Answers are candles and may be cached as such."""
    params: tuple[str, ...] = ()
    """The parameters that the exchange documents, where answers may be kept by them."""
    limits: tuple[tuple[str, Rate | None], ...] = ()
    """What the exchange publishes for an account: by business line, or one for all, whose line is empty. None where
    it gives no figure."""

    @property
    def by_line(self) -> bool:
        """Each business line has a limit of its own."""
        return bool(self.limits) and self.limits[0][0] != ""


@dataclass(frozen=True, slots=True)
class RouteTable:
    routes: tuple[Route, ...]
    unknown: Route
    by_place: dict[tuple[str, str], Route]

    @classmethod
    def of(cls, routes: Iterable[Route]) -> RouteTable:
        """Build the table; two routes with one name or one place are a mistake in it."""
        listed = tuple(routes)
        by_place: dict[tuple[str, str], Route] = {}
        names: set[str] = {UNKNOWN, *OWN, *STREAMS}
        for route in listed:
            place = (route.method, route.path)
            if place in by_place:
                raise ValueError(f"{route.method} {route.path} is listed twice")
            if route.endpoint in names:
                raise ValueError(f"the endpoint name {route.endpoint!r} is used twice")
            by_place[place] = route
            names.add(route.endpoint)
        unknown = Route(UNKNOWN, "other", Access.PRIVATE, "", "")
        return cls(listed, unknown, by_place)

    def match(self, method: str, path: str) -> Route:
        """The route of a request; HEAD is looked up as GET, what is not listed is `unknown`."""
        return self.by_place.get(("GET" if method == "HEAD" else method, path), self.unknown)

    def endpoints(self) -> frozenset[str]:
        """All names that a rule may use."""
        return frozenset(route.endpoint for route in self.routes) | {UNKNOWN} | OWN | STREAMS

    def groups(self) -> frozenset[str]:
        return frozenset(route.group for route in self.routes) | {self.unknown.group}

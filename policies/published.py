"""From the exchange's published limits to the quotas of accounts, whose limits are then learned (pacing.py).

A published figure is where learning begins: the documentation contradicts itself, and levels of accounts raise it.
Until an answer has told the account's own limit a part of the figure is left unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from policies import bybit
from policies.admission import Counts, Quota, RefuseWith, WhenFull, WindowKind
from policies.quantities import Rate
from policies.routing import Access, Route, RouteTable

AS_GOOD_AS_NONE: Final = 1_000_000
"""Where nothing is published, this holds until an answer tells."""
_SECOND_US: Final = 1_000_000
_MARK: Final = "@"
"""No rule of an operator begins so."""


_REFUSED: Final = ".refused"
_REFUSED_ACCOUNT: Final = ".refused-account"


class Bounds(NamedTuple):
    """What an operator says of the limits of some endpoints; None for a line that means all."""

    endpoints: frozenset[str]
    line: str | None
    start: int | None
    floor: int
    ceiling: int | None


Learned = Mapping[tuple[str, str], Quota]
"""Quotas by endpoint and business line."""


def learned_quotas(routes: RouteTable, headroom_percent: int, bounds: Iterable[Bounds]) -> Learned:
    """Of every private endpoint that the table lists. The first of the bounds that fits counts."""
    stated = tuple(bounds)
    return {
        (route.endpoint, line): _quota(route, line, rate, headroom_percent, stated)
        for route in routes.routes
        if route.access is Access.PRIVATE
        for line, rate in route.limits
    }


def refused_without_headers(endpoint: str, *, of_account: bool = False) -> Quota:
    """The quota of everybody, or of an account, on an endpoint that has refused and whose limit is not known."""
    name = f"{_MARK}{endpoint}{_REFUSED_ACCOUNT if of_account else _REFUSED}"
    return _of_account(name, AS_GOOD_AS_NONE, _SECOND_US, ("api_key",) if of_account else ("egress",))


def is_for_refusals_only(quota: Quota) -> bool:
    """Nothing is known of its limit, and nothing learned: it only keeps the waits after refusals."""
    return quota.name.endswith((_REFUSED, _REFUSED_ACCOUNT))


def place_of(rule: str) -> tuple[str, str]:
    """Endpoint and business line of a learned rule."""
    plain = rule.removeprefix(_MARK).removesuffix(_REFUSED).removesuffix(_REFUSED_ACCOUNT)
    endpoint, _, line = plain.partition(".")
    return endpoint, line


def lines_of(by_category: Mapping[str, Rate]) -> tuple[tuple[str, Rate | None], ...]:
    """Figures by category become figures by business line. A category that the table does not offer is answered with an
    error, and gets the smallest of the others."""
    least = min(by_category.values(), key=lambda rate: rate.limit / rate.window_us)
    lines: dict[str, Rate | None] = {}
    for category, line in bybit.LINES.items():
        rate = by_category.get(category)
        known = lines.get(line)
        if rate is not None and (known is None or rate.limit < known.limit):
            lines[line] = rate
        else:
            lines.setdefault(line, None)
    return tuple((line, rate or least) for line, rate in lines.items())


def _quota(route: Route, line: str, rate: Rate | None, headroom_percent: int, stated: tuple[Bounds, ...]) -> Quota:
    name = f"{_MARK}{route.endpoint}.{line}" if line else f"{_MARK}{route.endpoint}"
    start = AS_GOOD_AS_NONE if rate is None else max(1, rate.limit * (100 - headroom_percent) // 100)
    window_us = _SECOND_US if rate is None else rate.window_us
    for bound in stated:
        if route.endpoint in bound.endpoints and bound.line in {None, line}:
            return _of_account(name, bound.start or start, window_us, ("api_key",), bound.floor, bound.ceiling)
    return _of_account(name, start, window_us, ("api_key",))


def _of_account(
    name: str, start: int, window_us: int, partition: tuple[str, ...], floor: int = 1, ceiling: int | None = None
) -> Quota:
    return Quota(
        name=name,
        limit=start,
        window_us=window_us,
        partition=partition,
        counts=Counts.UPSTREAM,
        window=WindowKind.LEARNED,
        when_full=WhenFull.WAIT,
        refuse_with=RefuseWith.BYBIT,
        floor=floor,
        ceiling=ceiling,
    )

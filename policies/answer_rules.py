"""Answers of public endpoints other than candles: which may be kept, under which key, for how long.

An allow-list twice over: the operator names the endpoint, and the exchange's table the parameters that it knows. A
request with anything else in it, or with something twice, empty or written otherwise than plainly, passes by the cache,
as with candles (caching.py). Values are part of the key as they stand and never interpreted, so two requests share a
key only if they say the same in another order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from policies.caching import Life
from policies.routing import Access, Route

LIVE: Final = frozenset(
    {
        "orderbook",
        "rpi-orderbook",
        "full-orderbook",
        "tickers",
        "recent-trade",
        "index-price-components",
        "price-limit",
        "spread-orderbook",
        "spread-tickers",
        "spread-recent-trade",
    }
)
"""What changes with every order or trade."""
LONGEST_LIVE_US: Final = 5_000_000
LONGEST_US: Final = 86_400_000_000

SERVER_TIME: Final = "server-time"

_PLAIN: Final = re.compile(r"[A-Za-z0-9._,-]{1,64}")
_CURSOR: Final = re.compile(r"(?:[A-Za-z0-9._,-]|%[0-9A-Fa-f]{2}){1,256}")
_LONGEST_KEY: Final = 400


class AnswerRule(NamedTuple):
    """How long answers of an endpoint are kept. All but the first may be switched off."""

    ttl_us: int
    boundary_us: int | None
    """New rows appear at multiples of this since the epoch."""
    settle_us: int
    """So long after it they may still be missing."""
    stale_us: int
    """How much longer an answer may be given while the exchange cannot be asked."""


class AnswerQuery(NamedTuple):
    """A request whose every parameter is known to its endpoint; `parameters` in order of their names."""

    endpoint: str
    parameters: tuple[tuple[str, str], ...]
    rule: AnswerRule

    def key(self) -> str:
        """Readable, the same for every order of parameters; what is left out is told from what is given."""
        return _key(self.endpoint, self.parameters)


def understand(route: Route, method: str, query: str, rules: Mapping[str, AnswerRule]) -> AnswerQuery | None:
    """The query of an unsigned request, or None when it must pass by the cache. Signed requests always do.

    `query` is raw, `rules` are by endpoint.
    """
    rule = rules.get(route.endpoint)
    if rule is None or method != "GET" or why_never_kept(route) is not None:
        return None
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        written = _CURSOR if name == "cursor" else _PLAIN
        if name not in route.params or name in given or written.fullmatch(value) is None:
            return None
        given[name] = value
    asked = AnswerQuery(route.endpoint, tuple(sorted(given.items())), rule)
    return asked if len(asked.key()) <= _LONGEST_KEY else None


def lifetime_us(rule: AnswerRule, now_us: int) -> int:
    """How long an answer may be kept from now on, by the exchange's clock.

    Where rows appear at boundaries: never past the next one, and when one has just been, not past the end of the
    settle time behind it, because the new row may come late.
    """
    if rule.boundary_us is None:
        return rule.ttl_us
    since_us = now_us % rule.boundary_us
    left_us = (rule.settle_us if since_us < rule.settle_us else rule.boundary_us) - since_us
    return min(rule.ttl_us, left_us, rule.boundary_us - since_us)


def life(rule: AnswerRule, now_us: int, revalidate_us: int, given_us: int | None = None) -> Life:
    """As caching.life(), for an answer of an endpoint with a rule. New rows must not be missed at a boundary."""
    given_us = now_us if given_us is None else given_us
    boundary_us = rule.boundary_us
    fresh_us = lifetime_us(rule, now_us)
    longest_us = fresh_us + revalidate_us
    if boundary_us is not None:
        left_us = boundary_us - given_us % boundary_us - (now_us - given_us)
        fresh_us, longest_us = min(fresh_us, left_us), min(longest_us, left_us)
    return Life(fresh_us, longest_us, fresh_us + rule.stale_us)


def why_never_kept(route: Route) -> str | None:
    """Why no rule may keep the answers of an endpoint, in words for the operator; None when one may."""
    if route.candles:
        return f"{route.endpoint} is of candles, which are cached without a rule (cache.open_ttl, cache.closed_ttl)"
    if route.endpoint == SERVER_TIME:
        return f"{route.endpoint} tells the time, and clients set their clocks by it"
    if not route.path:
        return f"{route.endpoint} is whatever the table does not list, and may be private"
    if route.access is not Access.PUBLIC:
        return f"{route.endpoint} is private, its answers are for one account only"
    if route.method != "GET":
        return f"{route.endpoint} changes something"
    return None


def _key(endpoint: str, parameters: tuple[tuple[str, str], ...]) -> str:
    return ":".join(("bybit:market", endpoint, *(f"{name}={value}" for name, value in parameters)))

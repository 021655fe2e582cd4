"""Can any request that the exchange would answer meet this rule? One that nothing meets is a mistake, not a choice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from policies import target
from policies.admission import Match
from policies.routing import OWN, STREAMS, UNKNOWN, Access, Route, RouteTable

_FEW: Final = 4


def never_matches(match: Match, routes: RouteTable) -> str | None:
    """Why no request can match, in words for the operator; None when one can."""
    if match.method == frozenset({"CONNECT"}):
        return "CONNECT is refused before any rule is asked"
    if match.path is not None and all(_unreachable(path) for path in match.path):
        return f"{_some(match.path)} is no path that a forwarded request can have"
    if match.endpoint is None or UNKNOWN in match.endpoint or not (OWN | STREAMS).isdisjoint(match.endpoint):
        return None
    named = [route for route in routes.routes if route.endpoint in match.endpoint]
    names = _some(route.endpoint for route in named)
    there = [route for route in named if match.path is None or route.path in match.path]
    if not there:
        return f"the path of {names} is {_some(route.path for route in named)}, not {_some(match.path or ())}"
    asked = [route for route in there if match.method is None or not _methods(route).isdisjoint(match.method)]
    if not asked:
        known = frozenset().union(*(_methods(route) for route in there))
        return f"{names} is asked with {_some(known)}, not {_some(match.method or ())}"
    if match.signed is False and all(route.access is Access.PRIVATE for route in asked):
        return f"{names} is private, the exchange answers signed requests only"
    return None


def only_own(endpoints: Iterable[str] | None) -> str | None:
    """Why nothing of that is ever sent to the exchange, in words for the operator; None when something is."""
    named = frozenset(endpoints or ())
    if named and named <= STREAMS:
        return (
            f"{_some(named)} is a WebSocket stream: the exchange's bounds on those stand in streams.new and .concurrent"
        )
    if not named or not named <= OWN:
        return None
    return (
        f"{_some(named)} is a page of the gateway's own; what it asks of the exchange are kline, tickers and the like"
    )


def _unreachable(path: str) -> bool:
    return target.refusal("GET", path) is not None or target.split(path)[0] != path


def _methods(route: Route) -> frozenset[str]:
    """HEAD is looked up as GET."""
    return frozenset({"GET", "HEAD"}) if route.method == "GET" else frozenset({route.method})


def _some(words: Iterable[str]) -> str:
    known = sorted(set(words))
    shown = " or ".join(known[:_FEW])
    return shown if len(known) <= _FEW else f"{shown} or {len(known) - _FEW} more"

"""The route table and the published tables behind it."""

from __future__ import annotations

import pytest

from policies.routing import UNKNOWN, Access, Route, RouteTable
from proxy.config import load_routes


def route(endpoint: str, path: str, method: str = "GET") -> Route:
    return Route(endpoint, "market", Access.PUBLIC, method, path)


def test_a_route_is_found_by_method_and_path() -> None:
    table = RouteTable.of([route("a", "/v5/a"), route("a-post", "/v5/a", "POST")])

    assert table.match("GET", "/v5/a").endpoint == "a"
    assert table.match("HEAD", "/v5/a").endpoint == "a"
    assert table.match("POST", "/v5/a").endpoint == "a-post"
    assert table.match("DELETE", "/v5/a").endpoint == UNKNOWN
    assert table.match("GET", "/v5/a/").endpoint == UNKNOWN


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (route("a", "/v5/a"), route("b", "/v5/a")),
        (route("a", "/v5/a"), route("a", "/v5/b")),
        (route("a", "/v5/a"), route(UNKNOWN, "/v5/b")),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(first: Route, second: Route) -> None:
    with pytest.raises(ValueError, match="twice"):
        RouteTable.of([first, second])


def test_the_published_table_is_whole() -> None:
    """Every endpoint has a name of its own; the ones that rules and dashboards speak of are there."""
    table = load_routes()

    assert {"kline", "orderbook", "tickers", "recent-trade", "order-create", "order-cancel"} <= table.endpoints()
    assert [r.endpoint for r in table.routes if r.candles] == [
        "kline",
        "mark-price-kline",
        "index-price-kline",
        "premium-index-price-kline",
    ]
    assert all(r.access is Access.PUBLIC for r in table.routes if r.group == "market")
    assert table.match("GET", "/v5/account/instruments-info").access is Access.PRIVATE

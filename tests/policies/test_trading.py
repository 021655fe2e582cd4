"""The trade switch: what would place or change an order, over everything that the exchange publishes."""

from __future__ import annotations

import pytest

from policies.routing import UNKNOWN, Route
from policies.trading import TradingMode, places_orders
from proxy.config import load_routes

ROUTES = load_routes().routes

STOPPED = {
    "order-create",
    "order-amend",
    "order-create-batch",
    "order-amend-batch",
    "fcombobot-create",
    "fgridbot-create",
    "fmartingalebot-create",
    "grid-create-grid",
    "dca-create-bot",
    "strategy-create",
}
"""All of the published table that begins to trade, written down by hand."""


def stopped(route: Route) -> bool:
    return places_orders(route.method, route.path, route.endpoint)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.endpoint)
def test_what_places_orders_is_stopped_and_nothing_else(route: Route) -> None:
    assert stopped(route) is (route.endpoint in STOPPED)


def test_every_name_of_the_list_is_one_of_the_table() -> None:
    assert {route.endpoint for route in ROUTES} >= STOPPED


@pytest.mark.parametrize("word", ["cancel", "close", "stop"])
def test_whatever_ends_trading_passes(word: str) -> None:
    """Cancels above all: the switch must never keep anybody in a position."""
    ending = [route for route in ROUTES if word in route.endpoint]
    assert ending
    assert not any(stopped(route) for route in ending)


def test_reading_passes() -> None:
    assert not any(stopped(route) for route in ROUTES if route.method == "GET")
    for method in ("GET", "HEAD", "OPTIONS"):
        assert not places_orders(method, "/v5/order/create", "order-create")


@pytest.mark.parametrize(
    ("path", "halted"),
    [
        ("/v5/spread/order/create", True),
        ("/v5/spread/order/amend", True),
        ("/v5/spread/order/cancel", False),
        ("/v5/rfq/create-quote", True),
        ("/v5/rfq/execute-quote", True),
        ("/v5/rfq/cancel-all-quotes", False),
        ("/v5//order/create", True),
        ("//v5/order/create/", True),
        ("/v5//order//cancel", False),
        ("/v5/spread/order/cancel-all", False),
        ("/v5/order/create-with-something-new", True),
        ("/v5/order/cancel-and-replace", True),  # it would place one
        ("/v5/order/", False),  # nothing lies there
        ("/v5/order/create/", True),
        ("/v5/orders/create", False),
        ("/v5/order", False),
        ("/v5/account/set-margin-mode", False),
    ],
)
def test_what_the_table_does_not_list_is_judged_by_its_place(path: str, *, halted: bool) -> None:
    """Beside the known cancels everything below the orders is taken for a new one."""
    assert places_orders("POST", path, UNKNOWN) is halted


def test_the_switch_has_two_positions() -> None:
    assert [str(mode) for mode in TradingMode] == ["normal", "halt-new"]

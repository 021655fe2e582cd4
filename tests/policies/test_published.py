"""From the exchange's published table to the quotas of accounts: where learning begins, and within which bounds."""

from __future__ import annotations

import pytest

from policies.admission import Counts, Quota, RefuseWith, WhenFull, WindowKind
from policies.pacing import LearnedWindow
from policies.published import (
    AS_GOOD_AS_NONE,
    Bounds,
    learned_quotas,
    lines_of,
    place_of,
    refused_without_headers,
)
from policies.quantities import Rate
from policies.routing import Access
from proxy.config import load_routes

SECOND, MINUTE = 1_000_000, 60_000_000
ROUTES = load_routes()
PRIVATE = [route for route in ROUTES.routes if route.access is Access.PRIVATE]


def published(endpoint: str, line: str) -> Rate | None:
    """The figure of the table."""
    return next((dict(route.limits).get(line) for route in ROUTES.routes if route.endpoint == endpoint), None)


def quota(endpoint: str, line: str = "", headroom: int = 10, *stated: Bounds) -> Quota:
    return learned_quotas(ROUTES, headroom, stated)[endpoint, line]


def bounds(
    *endpoints: str, line: str | None = None, start: int | None = None, floor: int = 1, ceiling: int | None = None
) -> Bounds:
    return Bounds(frozenset(endpoints), line, start, floor, ceiling)


@pytest.mark.parametrize(
    ("endpoint", "line", "figure"),
    [
        ("order-create", "futures", Rate(10, SECOND)),
        ("order-create", "spot", Rate(20, SECOND)),
        ("order-create", "option", Rate(10, SECOND)),
        ("order-cancel-all", "option", Rate(1, SECOND)),  # far less than the 10 of futures
        ("order-realtime", "spot", Rate(50, SECOND)),  # one figure for all, and a window for each
        ("order-spot-borrow-check", "futures", Rate(50, SECOND)),  # not offered: an error is answered within the figure
        ("account-info", "", Rate(50, SECOND)),
        ("asset-transfer-inter-transfer", "", Rate(60, MINUTE)),
        ("asset-deposit-query-record", "", Rate(100, MINUTE)),
        ("account-mmp-state", "", None),
        ("account-info", "spot", None),  # it has no lines
        ("order-create", "", None),
        ("kline", "", None),
        ("no-such-endpoint", "", None),
    ],
)
def test_the_figures_are_those_of_the_table(endpoint: str, line: str, figure: Rate | None) -> None:
    assert published(endpoint, line) == figure


def test_every_private_endpoint_has_a_window_for_each_of_its_lines() -> None:
    """And no public one: nobody's account is known there."""
    quotas = learned_quotas(ROUTES, 10, ())
    lines: dict[str, set[str]] = {}
    for endpoint, line in quotas:
        lines.setdefault(endpoint, set()).add(line)

    assert set(lines) == {route.endpoint for route in PRIVATE}
    assert all(found in ({""}, {"futures", "spot", "option"}) for found in lines.values())
    assert {route.endpoint for route in PRIVATE if route.by_line} == {
        route.endpoint for route in PRIVATE if route.group in {"order", "position"}
    }


def test_the_names_of_quotas_lead_back_to_their_place() -> None:
    for (endpoint, line), each in learned_quotas(ROUTES, 10, ()).items():
        assert each.name.startswith("@")
        assert place_of(each.name) == (endpoint, line)
    assert quota("order-create", "spot").name == "@order-create.spot"
    assert quota("account-info").name == "@account-info"


def test_a_quota_of_an_account_is_learned_and_answers_as_the_exchange_would() -> None:
    one = quota("order-create", "futures")

    assert (one.partition, one.counts, one.window) == (("api_key",), Counts.UPSTREAM, WindowKind.LEARNED)
    assert (one.when_full, one.refuse_with) == (WhenFull.WAIT, RefuseWith.BYBIT)
    assert (one.shadow, one.spaces, one.of_address) == (False, False, False)
    assert isinstance(one.new_window(), LearnedWindow)


@pytest.mark.parametrize(
    ("endpoint", "line", "headroom", "start", "window_us"),
    [
        ("order-create", "futures", 10, 9, SECOND),
        ("order-create", "spot", 10, 18, SECOND),
        ("order-create", "futures", 0, 10, SECOND),
        ("order-create", "futures", 15, 8, SECOND),  # rounded down: never more than is published
        ("order-create", "futures", 90, 1, SECOND),
        ("order-cancel-all", "option", 10, 1, SECOND),  # never nothing
        ("asset-transfer-inter-transfer", "", 10, 54, MINUTE),
        ("asset-exchange-order-record", "", 50, 300, MINUTE),
        ("account-mmp-state", "", 10, AS_GOOD_AS_NONE, SECOND),  # nothing is published: an answer will tell
    ],
)
def test_a_part_of_the_figure_is_left_unused_to_begin_with(
    endpoint: str, line: str, headroom: int, start: int, window_us: int
) -> None:
    one = quota(endpoint, line, headroom)
    assert (one.limit, one.window_us, one.floor, one.ceiling) == (start, window_us, 1, None)


@pytest.mark.parametrize("headroom", [0, 10, 90])
def test_nothing_begins_with_more_than_is_published(headroom: int) -> None:
    for (endpoint, line), one in learned_quotas(ROUTES, headroom, ()).items():
        figure = published(endpoint, line)
        assert one.limit >= 1
        assert figure is None or (one.limit <= figure.limit and one.window_us == figure.window_us)


class TestBounds:
    """What an operator says of the limits of some endpoints."""

    def test_the_first_that_fits_counts(self) -> None:
        stated = (
            bounds("order-create", line="spot", start=30, floor=5, ceiling=60),
            bounds("order-create", "order-amend", start=7, ceiling=9),
            bounds("order-create", start=1),
        )

        spot, futures = (quota("order-create", line, 10, *stated) for line in ("spot", "futures"))
        assert (spot.limit, spot.floor, spot.ceiling) == (30, 5, 60)
        assert (futures.limit, futures.floor, futures.ceiling) == (7, 1, 9)
        assert quota("order-amend", "option", 10, *stated).ceiling == 9
        assert quota("order-cancel", "spot", 10, *stated) == quota("order-cancel", "spot")

    def test_without_a_start_it_begins_with_the_published_figure(self) -> None:
        assert quota("order-create", "spot", 10, bounds("order-create", ceiling=60)).limit == 18
        assert quota("account-mmp-state", "", 10, bounds("account-mmp-state", floor=3)).limit == AS_GOOD_AS_NONE

    def test_a_ceiling_below_the_figure_holds_from_the_start(self) -> None:
        one = quota("order-create", "spot", 10, bounds("order-create", ceiling=5))
        assert one.new_window().limit == 5

    def test_a_floor_above_the_figure_holds_from_the_start(self) -> None:
        one = quota("order-create", "futures", 10, bounds("order-create", floor=40))
        assert one.new_window().limit == 40

    def test_numbers_are_per_the_published_window(self) -> None:
        one = quota("asset-transfer-inter-transfer", "", 10, bounds("asset-transfer-inter-transfer", start=30))
        assert (one.limit, one.window_us) == (30, MINUTE)

    def test_one_for_a_line_says_nothing_of_an_endpoint_without_lines(self) -> None:
        assert quota("account-info", "", 10, bounds("account-info", line="spot", start=1)) == quota("account-info")


def test_categories_become_lines_and_the_smaller_of_two_counts() -> None:
    """Linear and inverse probably share a limit."""
    two, three, four = (Rate(limit, SECOND) for limit in (2, 3, 4))

    assert dict(lines_of({"linear": three, "inverse": two, "spot": four, "option": three})) == {
        "futures": two,
        "spot": four,
        "option": three,
    }
    assert dict(lines_of({"linear": two, "inverse": three, "spot": four, "option": three}))["futures"] == two
    assert dict(lines_of({"inverse": four})) == {"futures": four, "spot": four, "option": four}
    assert dict(lines_of({"spot": four, "option": three}))["futures"] == three, "the smallest of what is offered"
    assert dict(lines_of({"spot": Rate(4, MINUTE), "option": three}))["futures"] == Rate(4, MINUTE)


def test_an_endpoint_that_refused_without_a_word_has_a_window_for_everybody() -> None:
    one = refused_without_headers("kline")

    assert (one.name, one.partition, one.limit) == ("@kline.refused", ("egress",), AS_GOOD_AS_NONE)
    assert one.window is WindowKind.LEARNED
    assert place_of(one.name) == ("kline", "")

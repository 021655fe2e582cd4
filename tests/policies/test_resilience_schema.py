"""What an operator may write under `pacing`, `retry` and `breaker`, and what the rooms behind are given."""

from __future__ import annotations

from policies.admission import Match
from policies.circuit import CircuitRules
from policies.published import Bounds
from policies.resilience_schema import BreakerSection, PaceSection, PacingSection, RetrySection
from policies.retry import RetryRules
from proxy.config import Config, load_routes

ROUTES = load_routes()
CONTEXT = {"endpoints": ROUTES.endpoints(), "routes": ROUTES}


def test_bounds_are_what_was_written() -> None:
    text = {"endpoint": ["order-create", "order-amend"], "category": "spot", "start": 20, "floor": 5, "ceiling": 20}
    section = PaceSection.model_validate(text, context=CONTEXT)
    assert section.compiled() == Bounds(frozenset({"order-create", "order-amend"}), "spot", 20, 5, 20)

    assert PaceSection.model_validate({"endpoint": "order-create"}, context=CONTEXT).compiled() == Bounds(
        frozenset({"order-create"}), None, None, 1, None
    )


def test_a_start_may_lie_below_the_floor() -> None:
    """The floor holds from the start, so that nothing is lost."""
    section = PaceSection.model_validate({"endpoint": "order-create", "start": 2, "floor": 5, "ceiling": 5})
    assert (section.start, section.floor) == (2, 5)


def test_what_is_not_enabled_is_sent_once_and_learned_from_no_answer() -> None:
    assert RetrySection(enabled=False, attempts=5).compiled().attempts == 1
    assert Config(pacing=PacingSection(enabled=False)).learned(ROUTES) == {}
    assert Config().learned(ROUTES)


def test_the_longest_pause_is_never_shorter_than_the_first() -> None:
    section = RetrySection.model_validate({"backoff": "5s", "max_backoff": "1s"})
    assert section.compiled() == RetryRules(3, 5_000_000, 5_000_000, 10)


def test_the_breaker_is_what_was_written_and_leaves_orders_alone() -> None:
    section = BreakerSection()

    assert section.compiled() == CircuitRules(10_000_000, 20, 50, 5_000_000, 80, 5_000_000, 3)
    (match,) = section.exempted()
    assert match.endpoint is not None
    assert match == Match(endpoint=match.endpoint)
    assert match.endpoint <= ROUTES.endpoints()
    assert {"order-create", "order-cancel", "order-cancel-all", "position-trading-stop"} <= match.endpoint


def test_whatever_places_or_cancels_an_order_is_exempt() -> None:
    (match,) = BreakerSection().exempted()
    posted = (route for route in ROUTES.routes if route.method == "POST")
    of_orders = {route.endpoint for route in posted if route.path.startswith("/v5/order/")}
    assert match.endpoint is not None
    assert of_orders - match.endpoint == {"order-pre-check"}


def test_nothing_may_be_exempt() -> None:
    assert BreakerSection.model_validate({"exempt": []}).exempted() == ()

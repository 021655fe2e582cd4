"""Three opinions on one limit, and what an operator is told to write down."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from policies.admission import Match, Quota
from policies.drift import Opinions, as_yaml, opinions
from policies.pacing import Learned
from policies.published import learned_quotas, refused_without_headers
from policies.quantities import Rate
from proxy.config import load, load_routes

SECOND, MINUTE = 1_000_000, 60_000_000
ROUTES = load_routes()
QUOTAS = learned_quotas(ROUTES, 10, ())
SPOT, FUTURES = QUOTAS["order-create", "spot"], QUOTAS["order-create", "futures"]
INFO, MINUTES = QUOTAS["account-info", ""], QUOTAS["asset-transfer-inter-transfer", ""]
UNPUBLISHED = QUOTAS["account-mmp-state", ""]


def told(limit: int) -> Learned:
    return Learned(limit, told=True, others=0, blocked_us=0)


def rule(limit: int, window_us: int = SECOND, *endpoints: str, **fields: object) -> Quota:
    match = Match(endpoint=frozenset(endpoints)) if endpoints else Match()
    mine = Quota("mine", limit, window_us, ("api_key",), match)
    return dataclasses.replace(mine, **fields)


def about(quota: Quota, limit: int, *rules: Quota) -> Opinions:
    (found,) = opinions([(quota, told(limit))], rules, ROUTES)
    return found


def test_what_is_published_is_beside_what_is_learned() -> None:
    assert about(SPOT, 25) == Opinions("order-create", "spot", None, Rate(20, SECOND), Rate(25, SECOND))
    assert about(MINUTES, 30) == Opinions("asset-transfer-inter-transfer", "", None, Rate(60, MINUTE), Rate(30, MINUTE))


@pytest.mark.parametrize(
    ("quota", "limit", "ratio", "drifts"),
    [
        (SPOT, 20, 1.0, False),
        (SPOT, 25, 1.25, True),
        (SPOT, 10, 0.5, True),
        (MINUTES, 60, 1.0, False),
        (MINUTES, 6, 0.1, True),
        (UNPUBLISHED, 50, None, False),  # nothing to differ from
    ],
)
def test_another_limit_than_the_published_one_is_a_drift(
    quota: Quota, limit: int, ratio: float | None, *, drifts: bool
) -> None:
    found = about(quota, limit)
    assert (found.ratio, found.drifts) == (ratio, drifts)


@pytest.mark.parametrize(
    ("limit", "window_us", "drifts"),
    [
        (20, SECOND, False),
        (21, SECOND, True),  # the exchange would refuse what the rule lets through
        (5, SECOND, False),  # a rule may be stricter
        (1_200, MINUTE, False),  # the same in another window
        (1_201, MINUTE, True),
    ],
)
def test_a_rule_that_allows_more_than_the_exchange_is_a_drift(limit: int, window_us: int, *, drifts: bool) -> None:
    found = about(SPOT, 20, rule(limit, window_us, "order-create"))
    assert (found.stated, found.drifts) == (Rate(limit, window_us), drifts)


def test_a_rule_of_an_unpublished_limit_may_drift_too() -> None:
    assert about(UNPUBLISHED, 50, rule(60)).drifts
    assert not about(UNPUBLISHED, 50, rule(50)).drifts


def test_the_tightest_of_the_rules_that_an_account_meets_is_the_operators_opinion() -> None:
    rules = (
        rule(100, 5 * SECOND, "order-create"),
        rule(19, SECOND, "order-create", "order-amend"),
        rule(40),
        rule(1, SECOND, "order-amend"),  # of another endpoint
        rule(2, partition=("egress",)),  # of everybody
        rule(3, shadow=True),  # not enforced
    )
    assert about(SPOT, 20, *rules).stated == Rate(19, SECOND)
    assert about(SPOT, 20, *rules[3:]).stated is None


@pytest.mark.parametrize("match", [Match(path=frozenset({"/v5/account/info"})), Match(method=frozenset({"GET"}))])
def test_a_rule_of_other_requests_is_no_opinion(match: Match) -> None:
    assert about(SPOT, 20, rule(30, match=match)).stated is None


def test_of_several_accounts_the_one_that_is_allowed_the_least_speaks() -> None:
    """A ceiling that is right for all of them."""
    for order in ([40, 12, 25], [12, 40], [40, 12]):
        found = opinions([(SPOT, told(limit)) for limit in order], (), ROUTES)
        assert [each.learned.limit for each in found] == [12]


def test_what_nobody_has_told_is_no_opinion() -> None:
    begun = Learned(9, told=False, others=0, blocked_us=0)
    assert opinions([(FUTURES, begun)], (), ROUTES) == []
    assert opinions([(refused_without_headers("no-such-endpoint"), told(5))], (), ROUTES) == []


def test_a_public_endpoint_that_tells_of_a_limit_has_nothing_published() -> None:
    (found,) = opinions([(refused_without_headers("kline"), told(50))], (), ROUTES)
    assert (found.endpoint, found.published, found.drifts) == ("kline", None, False)


def test_what_differs_can_be_pasted(tmp_path: Path) -> None:
    """And the gateway that reads it begins with what was learned; what rises later it follows."""
    found = opinions([(SPOT, told(25)), (FUTURES, told(10)), (INFO, told(40)), (MINUTES, told(100))], (), ROUTES)
    text = as_yaml(found)
    assert text == (
        "pacing:\n"
        "  accounts:\n"
        "    - {endpoint: account-info, start: 40}  # in 1s\n"
        "    - {endpoint: asset-transfer-inter-transfer, start: 100}  # in 1m\n"
        "    - {endpoint: order-create, category: spot, start: 25}  # in 1s\n"
    )

    path = tmp_path / "c.yaml"
    path.write_text(text)
    quotas = load(path, {}, ROUTES).learned(ROUTES)
    bounds = {(quota.limit, quota.ceiling) for quota in (quotas["order-create", "spot"], quotas["account-info", ""])}
    assert bounds == {(25, None), (40, None)}
    assert quotas["order-create", "futures"] == FUTURES


def test_where_nothing_differs_there_is_nothing_to_paste() -> None:
    assert as_yaml(opinions([(SPOT, told(20))], (), ROUTES)) == ""

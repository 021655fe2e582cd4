"""What an account loses by a limit that is learned: hardly a request, and hardly a refusal, whoever else uses it.

A saturated client on a virtual clock against the exchange's own books (saturated.py).
"""

from __future__ import annotations

import random

import pytest

from tests.policies.saturated import ASSET_INFO, Simulation

SEEDS = (1, 2, 3, 4)
USED = 0.92
"""Of a limit, at least: the rest is the round trip, limit / (window + round trip)."""
CHANGED_S = 20


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_that_is_lowered_costs_refusals_for_two_seconds(seed: int) -> None:
    """The first answer that tells of it is enough; nothing of the fright remains."""
    one = Simulation(20, random.Random(seed))
    one.at(CHANGED_S, lambda: one.allow(10))
    one.run(140)

    after = [instant - CHANGED_S for instant in one.refused()]
    rate = one.accepted_per_s(CHANGED_S + 2)
    print(
        f"20/s -> 10/s: {len(after)} refused, the last {max(after, default=0):.2f} s after the change; "
        f"{one.refused_part():.2%} of all; then {rate / 10:.1%} used"
    )
    assert all(0 <= instant <= 2 for instant in after)
    assert rate >= USED * 10
    assert one.refused_part(CHANGED_S) < 0.005


@pytest.mark.parametrize("raised", [20, 200])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_that_is_raised_is_used_within_five_seconds(raised: int, seed: int) -> None:
    one = Simulation(10, random.Random(seed))
    one.at(CHANGED_S, lambda: one.allow(raised))
    one.run(40)

    rate = one.accepted_per_s(CHANGED_S + 5)
    print(f"10/s -> {raised}/s: {rate / raised:.1%} used from 5 s after the change, {len(one.refused())} refused")
    assert rate >= USED * raised
    assert one.refused() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ceiling_holds_however_much_the_exchange_allows(seed: int) -> None:
    one = Simulation(10, random.Random(seed), ceiling=50)
    one.at(CHANGED_S, lambda: one.allow(200))
    one.run(40)

    rate = one.accepted_per_s(CHANGED_S + 5)
    print(
        f"10/s -> 200/s under a ceiling of 50: {rate / 50:.1%} of the ceiling, at most {one.most_asked()} in a window"
    )
    assert one.most_asked() <= 50
    assert rate >= USED * 50
    assert one.refused() == []


@pytest.mark.parametrize("window", ["rolling", "fixed"])
@pytest.mark.parametrize("limit", [10, 20, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_account_that_nobody_else_uses_pays_nothing(limit: int, window: str, seed: int) -> None:
    one = Simulation(limit, random.Random(seed), window=window).run(40)

    print(f"alone at {limit}/s, {window}: {one.accepted_per_s(5) / limit:.1%} used, {len(one.refused())} refused")
    assert one.refused() == []
    assert one.most_seen == 0
    assert one.accepted_per_s(5) >= USED * limit


@pytest.mark.parametrize(
    ("limit", "others", "burst"),
    [(50, 2, 1), (50, 5, 1), (50, 10, 1), (50, 20, 1), (20, 2, 1), (20, 5, 1), (10, 2, 1), (50, 15, 5)],
)
def test_beside_somebody_unseen_hardly_anything_is_refused(limit: int, others: int, burst: int) -> None:
    """Less than one request in a hundred, from the very first on; what remains of the limit is used for the most."""
    refused = []
    for seed in SEEDS:
        one = Simulation(limit, random.Random(seed))
        one.somebody_else(others, burst)
        one.run(15_000 / limit)
        refused.append(one.refused_part())
        theirs = sum(not each.refused for each in one.others) / one.passed_us * 1e6
        their_loss = sum(each.refused for each in one.others) / len(one.others)
        print(
            f"{limit}/s beside {others}/s{f' in bursts of {burst}' if burst > 1 else ''}: {one.refused_part():.2%} of "
            f"{len(one.asked)} refused, {their_loss:.1%} of theirs; {one.accepted_per_s():.1f}/s of ours and "
            f"{theirs:.1f}/s of theirs are {(one.accepted_per_s() + theirs) / limit:.0%} of the limit"
        )
    assert max(refused) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_per_minute_is_used_as_well(seed: int) -> None:
    """Those of the asset endpoints. What is published is 60 in a minute, and an answer confirms it."""
    one = Simulation(None, random.Random(seed), place=ASSET_INFO).run(1_810)

    rate = one.accepted_per_s(5) * 60
    print(
        f"alone at 60/min: {rate / 60:.1%} used, {len(one.refused())} refused, {one.most_asked()} in a window at most"
    )
    assert one.window.limit == 60
    assert one.refused() == []
    assert one.most_asked() <= 60
    assert rate >= USED * 60


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_per_minute_may_be_shared_with_somebody_unseen(seed: int) -> None:
    one = Simulation(None, random.Random(seed), place=ASSET_INFO)
    one.somebody_else(0.2)
    one.run(7_200)

    rate = one.accepted_per_s() * 60
    print(f"60/min beside 12/min: {one.refused_part():.2%} of {len(one.asked)} refused, {rate:.1f}/min")
    assert one.refused_part() < 0.01

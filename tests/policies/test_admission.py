"""All quotas of a request, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import (
    Admitted,
    Charge,
    Counts,
    Deferred,
    Match,
    Quota,
    RefuseWith,
    Rulebook,
    WhenFull,
    WindowKind,
    admit,
)
from policies.descriptor import Descriptor
from policies.window import IN_FLIGHT, Window


def quota(name: str, limit: int = 2, window_us: int = 1_000, **fields: object) -> Quota:
    return Quota(name, limit, window_us, ("egress",), **fields)


def states(*quotas: Quota, cost: int = 1) -> list[tuple[Charge, Window]]:
    return [(Charge(each, (each.name, "x"), cost), each.new_window()) for each in quotas]


def request(**fields: object) -> Descriptor:
    base = Descriptor(method="GET", path="/v5/market/kline", query="", endpoint="kline", egress="e", ip="192.0.2.1")
    return base._replace(**fields)


@given(
    limits=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 3)), max_size=60),
)
def test_all_or_none(limits: list[int], steps: list[tuple[int, int]]) -> None:
    """A request that meets a full quota takes nothing from the others, and the wait it is told is exact."""
    rules = [quota(str(number), limit) for number, limit in enumerate(limits)]
    windows = [rule.new_window() for rule in rules]
    now = 0
    for step, cost in steps:
        now += step
        if cost > min(limits):
            continue
        pairs = [(Charge(rule, (rule.name,), cost), window) for rule, window in zip(rules, windows, strict=True)]
        before = [window.used(now) for window in windows]
        waits = [window.wait_us(cost, now) for window in windows]
        answer = admit(pairs, now)
        after = [window.used(now) for window in windows]
        if isinstance(answer, Admitted):
            assert max(waits) == 0
            assert after == [used + cost for used in before]
        else:
            assert after == before
            assert answer.wait_us == max(waits)


def test_a_rule_that_refuses_is_the_answer_even_beside_a_longer_wait() -> None:
    """The client must hear of the rule that refuses it, not of one that it could have waited for."""
    pairs = states(quota("long", 1, 10_000), quota("strict", 1, 100, when_full=WhenFull.REFUSE))
    assert isinstance(admit(pairs, 0), Admitted)

    answer = admit(pairs, 1)

    assert isinstance(answer, Deferred)
    assert (answer.binding.quota.name, answer.wait_us) == ("strict", 99)


def test_a_wait_for_a_completion_outranks_any_known_wait() -> None:
    """Asking again before a reply has come would be in vain."""
    pairs = states(quota("held", 1, window=WindowKind.HELD), quota("sent", 1, 10_000))
    assert isinstance(admit(pairs, 0), Admitted)

    answer = admit(pairs, 1)

    assert isinstance(answer, Deferred)
    assert answer.wait_us == IN_FLIGHT
    assert answer.in_flight


def test_a_shadow_rule_reports_and_never_stands_in_the_way() -> None:
    """Evaluated and counted, not enforced; what it would have refused does not fill it."""
    shadow = quota("trial", 1, shadow=True)
    pairs = states(quota("real", 3), shadow)
    assert isinstance(admit(pairs, 0), Admitted)

    answer = admit(pairs, 1)

    assert isinstance(answer, Admitted)
    assert [charge.quota.name for charge in answer.over] == ["trial"]
    assert [window.used(1) for _, window in pairs] == [2, 1]


@pytest.mark.parametrize(
    ("match", "accepted"),
    [
        (Match(), True),
        (Match(endpoint=frozenset({"kline", "tickers"})), True),
        (Match(endpoint=frozenset({"tickers"})), False),
        (Match(path=frozenset({"/v5/market/kline"})), True),
        (Match(path=frozenset({"/v5/market/time"})), False),
        (Match(method=frozenset({"POST"})), False),
        (Match(tier=frozenset({"FREE"})), False),
        (Match(signed=False), True),
        (Match(signed=True), False),
        (Match(endpoint=frozenset({"kline"}), signed=False), True),
    ],
)
def test_a_match_names_what_it_applies_to(match: Match, *, accepted: bool) -> None:
    assert match.accepts(request()) is accepted


def test_the_windows_of_a_rule_are_told_apart_by_its_partition() -> None:
    """Two clients have two windows of a rule per ip, and share one of a rule per egress."""
    book = Rulebook([Quota("mine", 5, 1_000, ("ip", "endpoint")), Quota("ours", 5, 1_000, ("egress",))])

    one = [charge.key for charge in book.charges(request(ip="192.0.2.1"))]
    two = [charge.key for charge in book.charges(request(ip="192.0.2.2"))]

    assert one == [("mine", "192.0.2.1", "kline"), ("ours", "e")]
    assert two == [("mine", "192.0.2.2", "kline"), ("ours", "e")]


def test_a_request_without_an_api_key_does_not_meet_a_rule_per_api_key() -> None:
    book = Rulebook([Quota("key", 5, 1_000, ("api_key",))])

    assert book.charges(request()) == ()
    assert [charge.key for charge in book.charges(request(api_key="k", cost=3))] == [("key", "k")]
    assert [charge.cost for charge in book.charges(request(api_key="k", cost=3))] == [3]


def test_a_rule_on_a_path_sees_every_path() -> None:
    """What is remembered of earlier requests must not hide the path from a rule that names it."""
    book = Rulebook([Quota("p", 5, 1_000, (), Match(path=frozenset({"/v5/a"})))])

    assert len(book.charges(request(path="/v5/a"))) == 1
    assert len(book.charges(request(path="/v5/b"))) == 0


def test_defaults_are_those_of_an_upstream_rule_that_waits() -> None:
    rule = quota("r")

    assert (rule.counts, rule.when_full, rule.refuse_with) == (Counts.UPSTREAM, WhenFull.WAIT, RefuseWith.HTTP)

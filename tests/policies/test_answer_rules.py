"""Answers of public endpoints other than candles: what is kept, under which key, for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import answer_rules
from policies.answer_rules import AnswerQuery, AnswerRule
from policies.caching import CandleQuery
from policies.routing import Access, Route
from proxy.config import load_routes

S = 1_000_000
ROUTES = load_routes()
BY_NAME = {route.endpoint: route for route in ROUTES.routes}
RULE = AnswerRule(60 * S, None, 5 * S, 60 * S)
EVERYTHING = {route.endpoint: RULE for route in (*ROUTES.routes, ROUTES.unknown)}
FIVE_MINUTES = AnswerRule(60 * S, 300 * S, 5 * S, 60 * S)
NOON = 1_772_712_000 * S  # 2026-03-05 12:00 UTC


def ask(endpoint: str, query: str) -> AnswerQuery | None:
    return answer_rules.understand(BY_NAME[endpoint], "GET", query, EVERYTHING)


def key(endpoint: str, query: str) -> str:
    understood = ask(endpoint, query)
    assert understood is not None, query
    return understood.key()


@pytest.mark.parametrize(
    ("endpoint", "query", "expected"),
    [
        ("insurance", "", "bybit:market:insurance"),
        ("insurance", "coin=BTC", "bybit:market:insurance:coin=BTC"),
        ("instruments-info", "category=linear", "bybit:market:instruments-info:category=linear"),
        (
            "instruments-info",
            "symbol=BTCUSDT&category=linear",
            "bybit:market:instruments-info:category=linear:symbol=BTCUSDT",
        ),
        (
            "instruments-info",
            "cursor=first%3D0GUSDT%26last%3DZRXUSDT&category=linear&limit=1000",
            "bybit:market:instruments-info:category=linear:cursor=first%3D0GUSDT%26last%3DZRXUSDT:limit=1000",
        ),
        ("announcements", "locale=en-US&type=new_crypto", "bybit:market:announcements:locale=en-US:type=new_crypto"),
        ("tickers", "category=option&expDate=25DEC22", "bybit:market:tickers:category=option:expDate=25DEC22"),
        (
            "historical-volatility",
            "category=option&period=7",
            "bybit:market:historical-volatility:category=option:period=7",
        ),
    ],
)
def test_plain_requests_get_a_readable_key(endpoint: str, query: str, expected: str) -> None:
    assert key(endpoint, query) == expected


@pytest.mark.parametrize(
    "query",
    [
        "category=linear&foo=1",  # unknown: the exchange ignores it, the cache must not
        "category=linear&interval=1",  # known to others
        "category=linear&startTime=1",
        "category=linear&category=linear",  # doubled, even if it says the same
        "category=linear&category=spot",
        "category=",  # empty
        "category",
        "=linear",
        "&category=linear",
        "category=linear&",
        "category=linear&&symbol=BTCUSDT",
        "Category=linear",
        "category=lin%65ar",  # escapes are forwarded, not interpreted
        "c%61tegory=linear",
        "category=linear&symbol=BTC+USDT",
        "category=linear&symbol=BTC USDT",
        "category=linear&symbol=BTC:USDT",  # what separates the parts of a key
        "category=linear&symbol=a=b",
        "category=linear&symbol=../../x",
        "category=linear&symbol=SOLUSDT_SOL/USDT",
        "category=linear;symbol=BTCUSDT",
        "category=linear&symbol=BTCUSDT\n",
        "category=linear&symbol=BTCÜSDT",
        "category=linear&limit=٣",
        "category=linear&symbol=" + "A" * 65,
        "category=linear&cursor=" + "A" * 257,
        "category=linear&cursor=50%",
        "category=linear&cursor=%3",
        "category=linear&cursor=%3g",
        "category=linear&cursor=a%3Db=c",
        "category=linear&cursor=a:b",
        "?category=linear",
        "category=linear#x",
    ],
)
def test_odd_requests_pass_by_the_cache(query: str) -> None:
    assert ask("instruments-info", query) is None


def test_a_key_has_a_bounded_length() -> None:
    """Each value within its bounds, but many of them: bypass rather than a hash that nobody can read."""
    cursor = "%3D" * 256
    assert ask("instruments-info", f"cursor={cursor}") is None
    assert ask("instruments-info", "cursor=" + "%3D" * 100) is not None


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "get", ""])
def test_only_gets_are_kept(method: str) -> None:
    assert answer_rules.understand(BY_NAME["insurance"], method, "", EVERYTHING) is None


def test_only_what_a_rule_names_is_kept() -> None:
    assert answer_rules.understand(BY_NAME["insurance"], "GET", "", {"risk-limit": RULE}) is None
    assert answer_rules.understand(BY_NAME["insurance"], "GET", "", {}) is None


@pytest.mark.parametrize("endpoint", ["kline", "mark-price-kline", "server-time", "order-realtime"])
def test_no_rule_makes_these_keepable(endpoint: str) -> None:
    """Even a table of rules that was never checked cannot have private answers, candles or the time kept by it."""
    assert answer_rules.why_never_kept(BY_NAME[endpoint]) is not None
    assert ask(endpoint, "") is None


def test_what_is_not_listed_and_what_changes_something_is_never_kept() -> None:
    write = Route("x", "market", Access.PUBLIC, "POST", "/v5/x")

    assert answer_rules.understand(ROUTES.unknown, "GET", "", EVERYTHING) is None
    assert "changes something" in str(answer_rules.why_never_kept(write))


PARAMETERS = ["category=linear", "symbol=BTCUSDT", "status=Trading", "limit=500", "cursor=a%3Db%26c"]


@given(order=st.permutations(PARAMETERS))
def test_the_order_of_parameters_does_not_matter(order: list[str]) -> None:
    assert key("instruments-info", "&".join(order)) == key("instruments-info", "&".join(PARAMETERS))


_QUERIES = st.dictionaries(
    st.sampled_from(["category", "symbol", "limit", "cursor"]),
    st.sampled_from(["A", "a", "1", "01", "A,B"]),
    max_size=3,
).flatmap(lambda given: st.permutations([f"{name}={value}" for name, value in given.items()]).map("&".join))


@given(first=_QUERIES, second=_QUERIES)
def test_two_requests_share_a_key_only_if_they_say_the_same(first: str, second: str) -> None:
    """Same parameters, byte for byte, in whatever order: nothing is normalised, dropped or added."""
    same = sorted(first.split("&")) == sorted(second.split("&"))

    assert (key("instruments-info", first) == key("instruments-info", second)) is same


@given(query=st.text("categorysymbl=&%3DABC01._,-:+ ", max_size=60))
def test_a_key_is_plain_text_that_can_be_read_back(query: str) -> None:
    understood = ask("instruments-info", query)
    if understood is None:
        return
    assert understood.key().isascii()
    assert len(understood.key()) <= 400
    assert not any(character.isspace() for character in understood.key())
    read_back = understood.key().removeprefix("bybit:market:instruments-info").split(":")[1:]
    assert sorted(query.split("&") if query else []) == read_back


def test_keys_of_candles_and_of_other_answers_never_meet() -> None:
    candle = CandleQuery("kline", "linear", "BTCUSDT", "1", None, None, None).key()

    assert candle.startswith("bybit:klines:")
    assert all(not key(endpoint, "").startswith("bybit:klines:") for endpoint in ("insurance", "tickers"))


@pytest.mark.parametrize(
    ("rule", "now_us", "expected_us"),
    [
        pytest.param(RULE, NOON + 7, 60 * S, id="no boundary: the time of the rule"),
        pytest.param(FIVE_MINUTES, NOON + 30 * S, 60 * S, id="boundary far off"),
        pytest.param(FIVE_MINUTES, NOON + 270 * S, 30 * S, id="never past the next boundary"),
        pytest.param(FIVE_MINUTES, NOON + 300 * S - 1, 1, id="up to its last microsecond"),
        pytest.param(FIVE_MINUTES, NOON, 5 * S, id="just after it the new row may come late"),
        pytest.param(FIVE_MINUTES, NOON + 4 * S, 1 * S, id="until it has settled"),
        pytest.param(FIVE_MINUTES, NOON + 5 * S, 60 * S, id="settled"),
        pytest.param(AnswerRule(2 * S, 300 * S, 5 * S, 0), NOON + 1, 2 * S, id="a short time is not made longer"),
        pytest.param(AnswerRule(9 * S, 3 * S, 5 * S, 0), NOON + 1 * S, 2 * S, id="settling longer than the period"),
        pytest.param(AnswerRule(60 * S, 86_400 * S, 0, 0), NOON + 1, 60 * S, id="a day begins at midnight UTC"),
    ],
)
def test_lifetimes(rule: AnswerRule, now_us: int, expected_us: int) -> None:
    assert answer_rules.lifetime_us(rule, now_us) == expected_us


@given(
    ttl_us=st.integers(1, 10**9),
    boundary_s=st.sampled_from([1, 60, 300, 3600, 86_400]),
    settle_us=st.integers(0, 10**7),
    now_us=st.integers(NOON, NOON + 10**12),
)
def test_nothing_lives_past_a_boundary_or_for_ever_or_not_at_all(
    ttl_us: int, boundary_s: int, settle_us: int, now_us: int
) -> None:
    boundary_us = boundary_s * S
    life_us = answer_rules.lifetime_us(AnswerRule(ttl_us, boundary_us, settle_us, 0), now_us)

    assert 0 < life_us <= ttl_us
    assert (now_us + life_us - 1) // boundary_us == now_us // boundary_us
    if now_us % boundary_us < settle_us:
        assert now_us % boundary_us + life_us <= max(settle_us, 1)


def test_the_table_names_the_parameters_of_whatever_may_be_kept() -> None:
    for route in ROUTES.routes:
        if answer_rules.why_never_kept(route) is None:
            assert route.params, route.endpoint
            assert len(set(route.params)) == len(route.params)
            assert all(name.isascii() and name.isalpha() for name in route.params)
        else:
            assert not route.params, route.endpoint

"""The sections `cache` and `candles`: what an operator gets without saying anything, and what is never repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.answer_rules import LIVE, AnswerRule, why_never_kept
from policies.store_url import StoreAddress, StoreKind
from proxy.config import Config, load, load_routes
from proxy.config_problems import ConfigError

ROOT = Path(__file__).parents[2]
ROUTES = load_routes()
S = 1_000_000


def with_rules(*rules: dict[str, object], **environment: str) -> Config:
    return load(None, {"GATEWAY__CACHE__RULES": json.dumps(rules), **environment}, ROUTES)


def test_the_default_rules_are_those_of_the_shipped_file() -> None:
    """Spelled out there, checked against the route table, and the same without any file."""
    shipped = load(ROOT / "config.yaml", {}, ROUTES).cache

    assert shipped.rules == Config().cache.rules
    assert shipped.answer_rules() == Config().cache.answer_rules()


def test_by_default_everything_is_kept_that_does_not_change_with_every_trade() -> None:
    kept = set(Config().cache.answer_rules())
    could_be = {route.endpoint for route in ROUTES.routes if why_never_kept(route) is None}

    assert kept == could_be - (LIVE - {"index-price-components", "price-limit"})
    assert not kept & {"server-time", "kline", "orderbook", "tickers", "recent-trade"}


def test_what_changes_all_the_time_is_in_the_table() -> None:
    """A name that is misspelled there would lift the bound of five seconds."""
    assert ROUTES.endpoints() >= LIVE
    assert all(why_never_kept(route) is None for route in ROUTES.routes if route.endpoint in LIVE)


@pytest.mark.parametrize(
    ("endpoint", "rule"),
    [
        ("instruments-info", AnswerRule(60 * S, None, 5 * S, 60 * S)),
        ("fee-group-info", AnswerRule(300 * S, None, 5 * S, 60 * S)),
        ("open-interest", AnswerRule(60 * S, 300 * S, 5 * S, 60 * S)),
        ("price-limit", AnswerRule(1 * S, None, 5 * S, 60 * S)),
    ],
)
def test_the_default_rules_are_the_promised_ones(endpoint: str, rule: AnswerRule) -> None:
    assert Config().cache.answer_rules()[endpoint] == rule


def test_a_rule_may_say_how_long_a_stale_answer_is_better_than_none() -> None:
    cache = with_rules(
        {"endpoint": "tickers", "ttl": "1s", "stale": "0s"},
        {"endpoint": ["insurance", "adl-alert"], "ttl": "30s"},
        GATEWAY__CACHE__STALE_IF_ERROR="2m",
        GATEWAY__CACHE__SETTLE="3s",
    ).cache

    assert cache.answer_rules() == {
        "tickers": AnswerRule(1 * S, None, 3 * S, 0),
        "insurance": AnswerRule(30 * S, None, 3 * S, 120 * S),
        "adl-alert": AnswerRule(30 * S, None, 3 * S, 120 * S),
    }


@pytest.mark.parametrize("endpoint", sorted(LIVE))
def test_live_data_may_be_kept_for_five_seconds_and_no_longer(endpoint: str) -> None:
    assert endpoint in with_rules({"endpoint": endpoint, "ttl": "5s"}).cache.answer_rules()
    with pytest.raises(ConfigError, match=f"at most 5s, got 5001ms: {endpoint} changes all the time"):
        with_rules({"endpoint": endpoint, "ttl": "5001ms"})


@pytest.mark.parametrize("boundary", ["1s", "1m", "5m", "1h", "8h", "1d"])
def test_a_boundary_divides_the_day(boundary: str) -> None:
    assert with_rules({"endpoint": "funding-history", "ttl": "1m", "boundary": boundary})


@pytest.mark.parametrize("boundary", ["500ms", "1500ms", "7m", "5h", "2d"])
def test_a_boundary_that_means_another_instant_every_day_is_refused(boundary: str) -> None:
    with pytest.raises(ConfigError, match="divide a day"):
        with_rules({"endpoint": "funding-history", "ttl": "1m", "boundary": boundary})


@pytest.mark.parametrize("value", ["0s", "250ms", "1s"])
def test_a_stale_answer_is_given_for_a_second_at_most(value: str) -> None:
    assert load(None, {"GATEWAY__CACHE__STALE_WHILE_REVALIDATE": value}, ROUTES)


def test_the_second_level_is_the_stores_redis_or_one_of_its_own() -> None:
    assert Config().cache.l2.address is None

    cache = load(None, {"GATEWAY__CACHE__L2__URL": "rediss://:pw@cache:7000/2"}, ROUTES).cache

    assert cache.l2.address == StoreAddress(StoreKind.REDIS, True, (("cache", 7000),), db=2, password="pw")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CACHE__L2", "redis://:hunter2@a"),
        ("CACHE__L2__URL", "redis://a:hunter2"),
        ("CACHE__L2__URL", "hunter2@a"),
        ("CACHE__L2__URL", "[7, hunter2]"),
        ("CACHE__L2__SECRET", "hunter2"),
        ("CACHE__L2__SECRET", '["hunter2"]'),
        ("STORE", "redis://:hunter2@a"),
        ("UPSTREAM__STREAM_URL", "wss://me:hunter2@stream.bybit.com"),
    ],
)
def test_what_may_be_a_password_is_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {f"GATEWAY__{name}": value}, ROUTES)

    assert "hunter2" not in str(caught.value)


def test_the_secret_of_the_second_level_shows_itself_to_nobody() -> None:
    config = load(None, {"GATEWAY__CACHE__L2__SECRET": "0123456789abcdef-secret"}, ROUTES)

    assert config.cache.l2.secret is not None
    assert config.cache.l2.secret.get_secret_value() == "0123456789abcdef-secret"
    assert "0123456789abcdef" not in repr(config)
    assert "0123456789abcdef" not in config.model_dump_json()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("wss://stream.bybit.com/", "wss://stream.bybit.com"),
        ("ws://127.0.0.1:9443", "ws://127.0.0.1:9443"),
        ("wss://[::1]:9443", "wss://[::1]:9443"),
    ],
)
def test_the_stream_has_a_host_of_its_own(given: str, kept: str) -> None:
    assert load(None, {"GATEWAY__UPSTREAM__STREAM_URL": given}, ROUTES).upstream.stream_url == kept


@pytest.mark.parametrize(
    "url", ["stream.bybit.com", "http://a", "wss://", "wss://a..b", "wss://a:0", "wss://a?b", "wss://a#b"]
)
def test_another_stream_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a base URL such as wss://stream\.bybit\.com"):
        load(None, {"GATEWAY__UPSTREAM__STREAM_URL": url}, ROUTES)


def test_one_switch_turns_the_candle_store_off() -> None:
    """Whatever else is said of it: an operator in a hurry need not tidy up first."""
    environment = {"GATEWAY__CANDLES__STREAM": "true", "GATEWAY__CANDLES__SHADOW": "100"}

    candles = load(None, {**environment, "GATEWAY__CANDLES__ENABLED": "false"}, ROUTES).candles

    assert (candles.enabled, candles.stream, candles.shadow) == (False, True, 100)

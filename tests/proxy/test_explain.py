"""`explain` tells beforehand what the gateway does: which rules, whose budget, how the cache sees it, and why not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.__main__ import main
from proxy.config import load, load_routes
from proxy.explain import Question, explain
from proxy.explanation import as_json, as_text
from tests.gateway_fixture import gateway, url
from tests.raw_http import exchange_bytes
from tests.recorder import recorder

ROOT = Path(__file__).parents[2]
ROUTES = load_routes()
NOW_US = 1_800_000_000_000_000
KLINE = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=15"
SECRET = "planted-key-0123456789"


def explained(
    method: str,
    target: str,
    body: str = "",
    peer: str = "192.0.2.7",
    config: str = "{}",
    usage: Any = None,
    **headers: str,
) -> dict[str, Any]:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    environment = {f"GATEWAY__{name}": json.dumps(value) for name, value in json.loads(config).items()}
    question = Question(method, target, named, body.encode(), peer)
    found = explain(question, load(None, environment, ROUTES), ROUTES, lambda: NOW_US, usage)
    text = "\n".join(as_text(found))
    assert SECRET not in text
    answer: dict[str, Any] = json.loads(as_json(found))
    for rule in answer["rules"]:
        assert f"meets {rule['name']}: {rule['limit']} in {rule['period']}" in text
    return {**answer, "text": text}


def signed(age_ms: int = 0, **more: str) -> dict[str, str]:
    return {
        "X_BAPI_API_KEY": SECRET,
        "X_BAPI_SIGN": SECRET,
        "X_BAPI_TIMESTAMP": str(NOW_US // 1000 - age_ms),
        "X_BAPI_RECV_WINDOW": "5000",
        **more,
    }


def test_a_candle_request_meets_the_rules_that_are_shipped() -> None:
    answer = explained("GET", KLINE)

    assert (answer["forwarded"], answer["status"]) == (True, None)
    assert (answer["endpoint"], answer["group"], answer["access"]) == ("kline", "market", "public")
    assert (answer["address"], answer["account"], answer["signed"]) == ("192.0.2.7", None, False)
    assert (answer["priority"], answer["cost"], answer["deadline_in_ms"]) == ("live", 1, None)
    assert [rule["name"] for rule in answer["rules"]] == ["per-ip", "bybit-ip", "kline"]
    assert answer["not_met"] == ["orderbook", "recent-trade", "tickers", "other-market"]
    ip = answer["rules"][1]
    assert ip == {
        "name": "bybit-ip",
        "counts": "upstream",
        "limit": 600,
        "period": "5s",
        "window": "held",
        "guarantee": "exact at the exchange: occupied until the reply plus 5s",
        "partition": {"egress": "default"},
        "cost": 1,
        "when_full": "wait",
        "refuse_with": "bybit",
        "shadow": False,
        "used": None,
        "remaining": None,
    }
    assert "4 rules not met: orderbook, recent-trade, tickers, other-market" in answer["text"]


@pytest.mark.parametrize(
    ("method", "target", "headers", "expected"),
    [
        ("GET", KLINE, {}, "may hold an open candle, kept up to 2 s, key bybit:klines:linear:BTCUSDT:15:kline:-:-:-"),
        ("GET", f"{KLINE}&end=1700000000000", {}, "closed candles, kept up to 7 d"),
        ("GET", "/v5/market/insurance", {}, "by a rule of cache.rules, kept up to 30 s, key bybit:market:insurance"),
        ("GET", f"{KLINE}&x=1", {}, "passes by: a parameter is missing, unknown"),
        ("HEAD", KLINE, {}, "passes by: only GET is kept"),
        ("GET", KLINE, signed(), "passes by: signed requests are private"),
        ("GET", "/v5/market/time", {}, "passes by: no rule of cache.rules names its endpoint"),
    ],
)
def test_how_the_cache_sees_it(method: str, target: str, headers: dict[str, str], expected: str) -> None:
    assert explained(method, target, **headers)["cache"].startswith(expected)


def test_whether_an_answer_may_be_put_together_is_told() -> None:
    """A start inside a candle is the exchange's to judge, except on spot."""
    aligned, inside = f"{KLINE}&start=1700000100000", f"{KLINE}&start=1700000100001"
    assert explained("GET", aligned)["cache"].endswith("put together from known candles where they suffice")
    assert explained("GET", inside)["cache"].endswith("kept by request only")
    spot = inside.replace("linear", "spot")
    assert explained("GET", spot)["cache"].endswith("put together from known candles where they suffice")


def test_a_cache_that_is_off_is_named() -> None:
    config = json.dumps({"CACHE": {"enabled": False}})
    assert explained("GET", KLINE, config=config)["cache"] == "passes by: cache.enabled is false"


def test_a_signed_batch_has_an_account_a_cost_and_a_deadline() -> None:
    per_account = {"name": "orders", "quota": "10/1s", "partition": ["api_key", "endpoint"], "match": {"signed": True}}
    config = json.dumps({"LIMITS": [per_account]})
    body = '{"category": "linear", "request": [{}, {}, {}]}'
    answer = explained("POST", "/v5/order/create-batch", body, config=config, **signed(age_ms=1000))

    assert (answer["forwarded"], answer["priority"], answer["cost"]) == (True, "order", 3)
    assert answer["account"] is not None
    assert 3000 <= answer["deadline_in_ms"] <= 4000
    assert "must leave within 3." in answer["text"]
    rule, learned = answer["rules"]
    assert rule["cost"] == 3
    assert rule["partition"] == {"api_key": answer["account"], "endpoint": "order-create-batch"}
    assert (learned["name"], learned["cost"]) == ("@order-create-batch.futures", 3)
    assert learned["partition"] == {"api_key": answer["account"]}


@pytest.mark.parametrize("body", ["", "{", "[]"])
def test_a_body_that_cannot_be_understood_costs_one(body: str) -> None:
    assert explained("POST", "/v5/order/create-batch", body, **signed())["cost"] == 1


@pytest.mark.parametrize(
    ("method", "target", "headers", "status", "why"),
    [
        ("GET", "http://evil.example/", {}, 400, "the target must begin with /"),
        ("CONNECT", "/", {}, 400, "CONNECT is not offered here"),
        ("GET", "/v5/market/time?x=a b", {}, 400, "the target holds a blank"),
        ("GET", f"/{'a' * 20_000}", {}, 431, "the target is longer than listen.max_target"),
        ("POST", "/v5/order/create", signed(age_ms=9_000), 200, "its signature expired 4 s ago"),
        ("POST", "/v5/order/create", signed(age_ms=-2_000), 200, "its timestamp is 2000 ms ahead"),
        ("GET", "/health", {}, None, "one of the gateway's own pages"),
        ("GET", "/gateway/limits?x", {}, None, "one of the gateway's own pages"),
    ],
)
def test_what_is_not_forwarded_says_why(
    method: str, target: str, headers: dict[str, str], status: int | None, why: str
) -> None:
    answer = explained(method, target, **headers)

    assert answer["forwarded"] is False
    assert answer["status"] == status
    assert answer["fate"].startswith(why)
    assert "not forwarded" in answer["text"]


def test_a_body_that_is_too_long_is_not_forwarded() -> None:
    config = json.dumps({"LISTEN": {"max_body": "1KiB"}})
    answer = explained("POST", "/v5/order/create", "x" * 1025, config=config)
    assert (answer["forwarded"], answer["status"]) == (False, 413)


def test_pages_on_their_own_port_are_not_the_exchanges_business_either() -> None:
    answer = explained("GET", "/health", config=json.dumps({"ADMIN": {"port": 9}}))

    assert (answer["forwarded"], answer["status"]) == (False, 404)
    assert "admin.port, 9" in answer["fate"]


def test_a_websocket_goes_to_the_stream_host() -> None:
    answer = explained("GET", "/v5/public/linear", Upgrade="websocket")

    assert answer["forwarded"] is True
    assert "wss://stream.bybit.com" in answer["fate"]


def test_the_address_behind_a_trusted_proxy_is_the_one_it_vouches_for() -> None:
    config = json.dumps({"LISTEN": {"trusted_proxies": ["10.0.0.0/8"]}})
    answer = explained("GET", "/v5/market/time", peer="10.1.1.1", config=config, X_Forwarded_For="198.51.100.9")

    assert answer["address"] == "198.51.100.9"
    assert answer["rules"][0]["partition"] == {"ip": "198.51.100.9"} if answer["rules"] else False


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"quota": "100/1s"}, "exact at our door: occupied for 1s from sending"),
        ({"quota": "100/1s", "burst": 5}, "5 at once, then one every 10 ms"),
        ({"quota": "5000/1h"}, "never above the quota, up to 1/64 of the window longer than sent"),
        ({"quota": "5/1s", "window": "held"}, "exact at the exchange: occupied until the reply plus 1s"),
    ],
)
def test_each_window_says_what_it_guarantees(fields: dict[str, object], expected: str) -> None:
    config = json.dumps({"LIMITS": [{"name": "a", **fields}]})
    assert explained("GET", "/v5/market/time", config=config)["rules"][0]["guarantee"] == expected


def test_rules_on_trial_and_rules_of_nobody() -> None:
    limits = [
        {"name": "trial", "quota": "1/1s", "shadow": True},
        {"name": "keys", "quota": "1/1s", "partition": ["api_key"]},
        {"name": "all", "quota": "1/1s", "partition": []},
    ]
    answer = explained("GET", "/v5/market/time", config=json.dumps({"LIMITS": limits}))

    assert [rule["name"] for rule in answer["rules"]] == ["trial", "all"]
    assert answer["not_met"] == ["keys"]
    assert "SHADOW: counted, not enforced" in answer["text"]
    assert "everybody together" in answer["text"]
    assert "1 rule not met: keys" in answer["text"]
    assert "meets no rule" in explained("GET", "/v5/market/time", config='{"LIMITS": []}')["text"]


def test_secrets_of_old_clients_in_the_query_are_not_shown() -> None:
    assert SECRET not in json.dumps(explained("GET", f"/v2/private/order?api_key={SECRET}&sign={SECRET}"))


def test_what_a_running_gateway_has_used() -> None:
    usage = [{"rule": "per-ip", "partition": {"ip": "192.0.2.7"}, "limit": 300, "used": 300, "remaining": 0}]
    answer = explained("GET", "/v5/market/time", usage=usage)

    assert (answer["forwarded"], answer["status"], answer["fate"]) == (False, 429, "the rule per-ip is full now")
    assert [(rule["used"], rule["remaining"]) for rule in answer["rules"]][:2] == [(300, 0), (0, 600)]
    assert "300 used, 0 remaining" in answer["text"]


def test_the_hash_of_an_account_cannot_be_looked_up_elsewhere() -> None:
    config = json.dumps({"LIMITS": [{"name": "keys", "quota": "5/1s", "partition": ["api_key"]}]})
    answer = explained("GET", "/v5/account/info", config=config, usage=[], **signed())
    assert (answer["rules"][0]["used"], answer["rules"][0]["remaining"]) == (None, None)


def test_the_command_prints_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    question = ["explain", "--config", str(ROOT / "config.yaml"), "GET", KLINE, "--from", "192.0.2.9"]

    assert main([*question, "-H", f"X-BAPI-API-KEY: {SECRET}"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"GET {KLINE}\n  fate      forwarded to https://api.bybit.com\n")
    assert "192.0.2.9, account " in text
    assert SECRET not in text

    assert main([*question, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == "kline"

    assert main(["explain", "GET", "nowhere"]) == 1
    assert "not forwarded: the target must begin with /" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "c.yaml"
    bad.write_text("limits: 5\n")

    assert main(["explain", "--config", str(bad), "GET", "/"]) == 2
    assert main(["explain", "GET", "/", "-H", SECRET]) == 2
    assert main(["explain", "POST", "/", "--body", f"@{tmp_path}/none"]) == 2
    assert main(["explain", "GET", "/", "--gateway", "127.0.0.1:1"]) == 2
    assert main(["explain", "GET", "/", "--gateway", "http://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert f"{bad}:1: limits: expected a list" in error
    assert "-H takes 'Name: value'" in error
    assert "No such file" in error
    assert "expected a base URL" in error or "takes a base URL" in error
    assert SECRET not in error


def test_a_body_can_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"category": "linear", "request": [{}, {}]}')

    assert main(["explain", "POST", "/v5/order/create-batch", "--body", f"@{body}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] == 2


async def test_the_command_asks_a_running_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        for _ in range(3):
            await exchange_bytes(app.port, b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n")
        capsys.readouterr()
        asked = ["explain", "GET", "/v5/market/time", "--gateway", url(app), "--json"]
        assert await asyncio.to_thread(main, asked) == 0

    rules = {rule["name"]: rule for rule in json.loads(capsys.readouterr().out)["rules"]}
    assert (rules["per-ip"]["used"], rules["per-ip"]["remaining"]) == (3, 297)
    assert (rules["bybit-ip"]["used"], rules["bybit-ip"]["remaining"]) == (3, 597)
    assert (rules["other-market"]["limit"], rules["other-market"]["used"] <= 3) == (100, True)


async def test_a_running_gateway_that_asks_for_a_token_is_shown_the_one_of_the_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "correct-horse-battery-staple"
    async with recorder() as upstream, gateway(upstream.url, admin__token=token) as app:
        asked = ["explain", "GET", "/v5/market/time", "--gateway", url(app), "--json"]
        assert await asyncio.to_thread(main, asked) == 2
        monkeypatch.setenv("GATEWAY__ADMIN__TOKEN", token)
        assert await asyncio.to_thread(main, asked) == 0
    assert token not in "".join(capsys.readouterr())


def test_a_page_of_the_gateways_own_meets_what_its_client_may_ask() -> None:
    """Also where health and metrics have a port of their own."""
    for config in ("{}", '{"ADMIN__PORT": 9090}'):
        answer = explained("GET", "/api/v1/marketdata/klines/BTCUSDT?interval=1&limit=5000", config=config)
        assert answer["forwarded"] is False
        assert [rule["name"] for rule in answer["rules"]] == ["per-ip"]
        assert "marketdata-klines (group gateway, public)" in answer["text"]
        assert "answered by the gateway itself" in answer["text"]
    assert explained("GET", "/api/v1/prices/eth-usdt", X_GATEWAY_TOKEN=SECRET)["status"] == 401

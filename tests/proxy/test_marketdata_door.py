"""The convenience API is behind the same door as all else: identity, quotas, one event; and nothing is forwarded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import generate_latest

from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import until
from tests.market import KLINES, ask, error_of
from tests.proxy.test_log import Captured, captured
from tests.recorder import recorder

__all__ = ["captured"]  # a fixture

LATEST = f"{KLINES}/BTCUSDT?interval=1&limit=2"
BATCH = f"{KLINES}?symbols=BTCUSDT,ETHUSDT&interval=1&limit=2"
PRICE = "/api/v1/prices/eth-usdt"
DESCRIPTION = "/api/v1/openapi.json"
HISTORY = f"{KLINES}/BTCUSDT?interval=D&start=1780000000000&end=1785000000000"
PAGES = [LATEST, BATCH, PRICE, DESCRIPTION, HISTORY]


def rule(**fields: object) -> dict[str, object]:
    return {"name": "few", "quota": "2/60s", "partition": ["ip"], "counts": "requests", **fields}


@pytest.mark.parametrize("target", PAGES)
async def test_a_request_spends_its_clients_quotas_once(target: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[rule()]) as app:
        for _ in range(2):
            assert (await ask(app, target)).status == 200
        asked = exchange.stats.requests
        answer = await ask(app, target)

        assert error_of(answer)[:3] == (429, 10006, "rate-limit")
        assert answer.get("X-RateLimit-Limit") == "2"
        assert exchange.stats.requests == asked


async def test_what_is_not_limited_is_said_by_the_path() -> None:
    overrides: dict[str, Any] = {"limits": [rule()], "identity__excluded_paths": [PRICE]}
    async with FakeBybit() as exchange, gateway(exchange.url, **overrides) as app:
        for _ in range(5):
            assert (await ask(app, PRICE)).status == 200


@pytest.mark.parametrize("match", [{"path": KLINES}, {"endpoint": "marketdata-batch"}], ids=str)
async def test_a_rule_can_be_about_one_page(match: dict[str, str]) -> None:
    limits = [rule(match=match)]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits) as app:
        assert [(await ask(app, BATCH)).status for _ in range(3)] == [200, 200, 429]
        assert (await ask(app, LATEST)).status == 200


async def test_what_the_exchange_is_asked_for_spends_the_budget_on_the_clients_behalf() -> None:
    limits = [rule(name="budget", counts="upstream", quota="3/60s", when_full="refuse")]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits) as app:
        assert (await ask(app, f"{KLINES}/BTCUSDT?interval=1&limit=2500")).status == 200
        answer = await ask(app, f"{KLINES}/ETHUSDT?interval=1&limit=2500")
        assert (answer.status, answer.get("X-Gateway")) == (429, "rate-limit")
        assert exchange.stats.requests == 3


async def test_a_rule_in_the_exchanges_name_refuses_in_its_words() -> None:
    limits = [rule(refuse_with="bybit", when_full="refuse")]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits) as app:
        for _ in range(2):
            await ask(app, PRICE)
        answer = await ask(app, PRICE)
        assert (answer.status, json.loads(answer.body)["retCode"]) == (200, 10006)
        assert answer.get("X-Bapi-Limit-Reset-Timestamp")


@pytest.mark.parametrize("target", PAGES)
async def test_who_must_show_a_token_must_show_it_here_too(target: str) -> None:
    tokens = [{"name": "bot", "token": "secret-of-the-bot", "tier": "FREE"}]
    overrides: dict[str, Any] = {"identity__required": "true", "identity__tokens": tokens, "limits": []}
    async with FakeBybit() as exchange, gateway(exchange.url, **overrides) as app:
        answer = await ask(app, target)
        assert error_of(answer)[:3] == (401, 10007, "unauthorized")
        assert exchange.stats.requests == 0
        assert (await ask(app, target, "X-Gateway-Token: secret-of-the-bot")).status == 200


async def test_tiers_hold_here_too() -> None:
    tokens = [{"name": "bot", "token": "secret-of-the-bot", "tier": "FREE"}]
    async with FakeBybit() as exchange, gateway(exchange.url, identity__tokens=tokens, limits=[]) as app:
        answers = [await ask(app, PRICE, "X-Gateway-Token: secret-of-the-bot") for _ in range(20)]
        assert {answer.status for answer in answers} == {200, 429}
        assert (await ask(app, PRICE)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("target", PAGES)
async def test_these_pages_can_only_be_read(method: str, target: str) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        answer = await ask(app, target, "Content-Length: 0", method=method)
        assert error_of(answer)[0::2] == (405, "method-not-allowed")
        assert answer.get("Allow") == "GET, HEAD"
        assert upstream.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/marketdata",
        "/api/v1/marketdata/",
        "/api/v1/marketdata/trades",
        "/api/v1/marketdata/klines/",
        "/api/v1/marketdata/klines/BTCUSDT/15",
        "/api/v1/prices",
        "/api/v1/prices/",
        "/api/v1/prices/eth/usdt",
        "/api/v1/openapi.json/x",
    ],
)
async def test_what_is_not_there_is_not_forwarded(target: str) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        for method in ("GET", "POST"):
            answer = await ask(app, target, "Content-Length: 0", method=method)
            assert error_of(answer)[0::2] == (404, "not-found")
        assert upstream.seen == []


@pytest.mark.parametrize(
    "target", ["/api/v1/marketdatabase", "/api/v1/price", "/api/v1/openapi.jsonx", "/api/v2/prices"]
)
async def test_only_its_own_paths_are_its_own(target: str) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        await ask(app, target)
        assert len(upstream.seen) == 1


async def test_it_is_on_the_traffic_port_where_the_pages_have_one_of_their_own() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, admin__port="0") as app:
        assert (await ask(app, PRICE)).status == 200


async def test_nothing_of_a_client_goes_to_the_exchange() -> None:
    async with recorder() as upstream, gateway(upstream.url, retry__enabled="false") as app:
        lines = ("Cookie: a=b", "User-Agent: me", "X-BAPI-API-KEY: key", "Authorization: Bearer x", "X-Own: 1")
        for target in (LATEST, BATCH, PRICE, HISTORY):
            await ask(app, target, *lines)
        assert len(upstream.seen) > 4
        for seen in upstream.seen:
            assert seen.names() == {b"host", b"accept", b"accept-encoding", b"user-agent"}
            assert b"me" not in dict(seen.headers).values()


@pytest.mark.parametrize(
    ("target", "endpoint", "attempts"),
    [
        (LATEST, "marketdata-klines", 1),
        (BATCH, "marketdata-batch", 2),
        (PRICE, "prices", 1),
        (HISTORY, "marketdata-klines", 1),
    ],
)
async def test_one_event_tells_of_one_request(captured: Captured, target: str, endpoint: str, attempts: int) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, target)
        (event,) = [event for event in captured.events() if event["event"] == "request"]

        assert (event["endpoint"], event["status"], event["source"]) == (endpoint, 200, "exchange")
        assert (event["bytes"], event["id"]) == (len(answer.body), answer.get("X-Request-Id"))
        assert event["attempts"] == attempts
        assert "BTCUSDT" not in json.dumps(event)


async def test_metrics_know_pages_and_no_symbols() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        for target in (*PAGES, f"{KLINES}/NOPE?interval=1", "/api/v1/prices/nope-usdt", "/api/v1/marketdata/x"):
            await ask(app, target)
        page = generate_latest(app.metrics.registry).decode()

        for line in (
            'bybit_api_requests_total{endpoint="marketdata-klines",source="exchange",status="2xx"} 2.0',
            'bybit_api_requests_total{endpoint="marketdata-klines",source="gateway",status="4xx"} 2.0',
            'bybit_api_requests_total{endpoint="prices",source="gateway",status="4xx"} 1.0',
            'bybit_historical_fetches_total{result="whole"} 1.0',
            "bybit_historical_fetch_duration_seconds_count 1.0",
            'bybit_errors_total{error_type="unknown-symbol"} 1.0',
            'bybit_candles_fetched_total{source="exchange"} 64.0',
        ):
            assert line in page
        assert "USDT" not in page
        assert "NOPE" not in page


@pytest.mark.parametrize("target", [LATEST, BATCH, PRICE, HISTORY])
async def test_a_client_may_say_how_long_it_will_wait_for_its_turn(target: str) -> None:
    limits = [rule(name="slow", counts="upstream", quota="1/1h", when_full="wait")]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits, queue__max_wait="2h") as app:
        await ask(app, "/v5/market/time")
        answer = await ask(app, target, "X-Gateway-Max-Wait: 100ms")

        assert error_of(answer)[:3] == (429, 10006, "deadline")
        assert exchange.stats.requests == 1


@pytest.mark.parametrize("target", PAGES)
async def test_a_mistaken_wait_is_told(target: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        assert (await ask(app, target, "X-Gateway-Max-Wait: 10s")).status == 200
        answer = await ask(app, target, "X-Gateway-Max-Wait: soon")
        assert (answer.status, answer.get("X-Gateway")) == (400, "bad-max-wait")


async def test_a_price_that_another_waits_for_is_waited_for_no_longer_than_said() -> None:
    limits = [rule(name="slow", counts="upstream", quota="1/1h", when_full="wait")]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits, queue__max_wait="2h") as app:
        await ask(app, "/v5/market/time")
        async with asyncio.TaskGroup() as group:
            patient = group.create_task(ask(app, PRICE))
            await until(lambda: app.limiter.waiting == 1)
            answer = await ask(app, PRICE, "X-Gateway-Max-Wait: 100ms")

            assert error_of(answer)[:3] == (429, 10006, "deadline")
            assert app.limiter.waiting == 1
            patient.cancel()
        await until(lambda: app.limiter.waiting == 0)

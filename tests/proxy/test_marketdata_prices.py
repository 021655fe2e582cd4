"""Prices of pairs: where they are found, and what they cost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock
from tests.market import ask, error_of
from tests.recorder import answering, recorder

CALM: dict[str, Any] = {"limits": [], "retry__enabled": "false", "breaker__enabled": "false"}


async def ticker(exchange: FakeBybit, category: str, symbol: str) -> dict[str, str]:
    target = f"{exchange.url}/v5/market/tickers?category={category}&symbol={symbol}"
    async with aiohttp.ClientSession() as session, session.get(target) as answer:
        row: dict[str, str] = (await answer.json())["result"]["list"][0]
        return row


@pytest.mark.parametrize("pair", ["eth-usdt", "ETH-USDT", "Eth-Usdt", "%65th-usdt"])
async def test_a_pair_has_the_last_price_of_its_spot_market(pair: str) -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        answer = await ask(app, f"/api/v1/prices/{pair}")
        row = await ticker(exchange, "spot", "ETHUSDT")

        assert (answer.status, answer.get("X-Gateway")) == (200, "marketdata")
        assert json.loads(answer.body) == {
            "retCode": 0,
            "retMsg": "OK",
            "result": {
                "symbol": "ETHUSDT",
                "base": "ETH",
                "quote": "USDT",
                "category": "spot",
                "price": row["lastPrice"],
                "bid": row["bid1Price"],
                "ask": row["ask1Price"],
            },
            "retExtInfo": {},
            "time": clock() // 1000,
        }


@pytest.mark.parametrize(
    ("target", "category", "symbol"),
    [
        ("eth-usdt?category=linear", "linear", "ETHUSDT"),
        ("alt100-usdt", "linear", "ALT100USDT"),
        ("btc-usd", "inverse", "BTCUSD"),
        ("btc-usdc", "spot", "BTCUSDC"),
        ("btc-usdc?category=linear", "linear", "BTCPERP"),
        ("eth-usdc", "linear", "ETHPERP"),
        ("eth-btc", "spot", "ETHBTC"),
    ],
)
async def test_it_is_looked_for_in_spot_linear_and_inverse(target: str, category: str, symbol: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        result = json.loads((await ask(app, f"/api/v1/prices/{target}")).body)["result"]
        assert (result["category"], result["symbol"]) == (category, symbol)


async def test_an_unknown_pair_is_told_so() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, "/api/v1/prices/nope-usdt")
        text = "the exchange has no price of NOPE-USDT in spot, linear, inverse"
        assert error_of(answer) == (404, 10001, "unknown-pair", text)
        answer = await ask(app, "/api/v1/prices/nope-usdc?category=linear")
        assert error_of(answer)[3] == "the exchange has no price of NOPE-USDC in linear"


async def test_many_askers_cost_one_request() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **CALM) as app:
        exchange.faults.add({"kind": "delay", "delay_us": 50_000})
        answers = await asyncio.gather(*(ask(app, "/api/v1/prices/eth-usdt") for _ in range(50)))
        assert {answer.body for answer in answers} == {answers[0].body}
        assert exchange.stats.requests == 1


async def test_a_price_is_at_most_a_second_old() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **CALM) as app:
        first = await ask(app, "/api/v1/prices/eth-usdt")
        await clock.leap(0.999)
        assert (await ask(app, "/api/v1/prices/eth-usdt")).body == first.body
        await clock.leap(0.001)
        later = await ask(app, "/api/v1/prices/eth-usdt")
        assert json.loads(later.body)["time"] == json.loads(first.body)["time"] + 1000
        assert exchange.stats.requests == 2


async def test_where_a_pair_is_not_traded_is_not_asked_again_at_once() -> None:
    """Of a pair that only has a perpetual, a price is one request and not two."""
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **CALM) as app:
        for second in range(5):
            assert (await ask(app, "/api/v1/prices/alt100-usdt")).status == 200
            assert exchange.stats.requests == 2 + second
            await clock.leap(1)
        await clock.leap(10)
        assert (await ask(app, "/api/v1/prices/alt100-usdt")).status == 200
        assert exchange.stats.requests == 8


async def test_one_clients_limit_is_not_anothers() -> None:
    """Who waits for another's request and sees it refused asks for himself."""
    rule = {"name": "few", "quota": "1/10m", "partition": ["ip"], "counts": "upstream", "when_full": "refuse"}
    overrides = {**CALM, "limits": [rule], "listen__trusted_proxies": ["127.0.0.1/32"]}
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **overrides) as app:
        first, second = "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"
        assert (await ask(app, "/api/v1/prices/eth-usdt", first)).status == 200
        refused, given = await asyncio.gather(
            ask(app, "/api/v1/prices/btc-usdt", first), ask(app, "/api/v1/prices/btc-usdt", second)
        )
        assert (refused.status, given.status) == (429, 200)


def tickers_answer(row: str) -> bytes:
    body = (
        f'{{"retCode":0,"retMsg":"OK","result":{{"category":"spot","list":[{row}]}},"retExtInfo":{{}},'
        f'"time":1790598856789}}'
    ).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        ('{"symbol":"ETHUSDT","lastPrice":"1.50","bid1Price":"","ask1Price":"1.6"}', 200, "marketdata"),
        ('{"symbol":"ETHUSDT","lastPrice":""}', 404, "unknown-pair"),
        ('{"symbol":"BTCUSDT","lastPrice":"1"}', 404, "unknown-pair"),
        ("", 404, "unknown-pair"),
        ('{"symbol":"ETHUSDT","lastPrice":1.5}', 404, "unknown-pair"),
        ('{"lastPrice":"1.5"}', 502, "exchange-odd-answer"),
        ("7", 502, "exchange-odd-answer"),
    ],
)
async def test_what_the_exchange_says_is_read_with_care(row: str, status: int, reason: str) -> None:
    async with recorder(answering(tickers_answer(row))) as upstream, gateway(upstream.url, **CALM) as app:
        answer = await ask(app, "/api/v1/prices/eth-usdt?category=spot")
        assert (answer.status, answer.get("X-Gateway")) == (status, reason)
        if status == 200:
            result = json.loads(answer.body)["result"]
            assert (result["price"], result["bid"], result["ask"]) == ("1.50", None, "1.6")


async def test_memory_of_prices_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.marketdata.prices._MOST", 3)
    async with FakeBybit() as exchange, gateway(exchange.url, **CALM) as app:
        for number in range(10):
            await ask(app, f"/api/v1/prices/nope{number}-usdt")
        assert len(app.marketdata._prices._known) == 3

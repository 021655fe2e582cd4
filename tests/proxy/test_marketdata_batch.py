"""Candles of several symbols at once: in order, a bounded number at a time, and none spoils the rest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.marketdata.batch import AT_ONCE
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock
from tests.market import KLINES, ask, by_hand, error_of

SYMBOLS = [f"ALT{number:03}USDT" for number in range(60)]
CALM: dict[str, Any] = {"limits": [], "retry__enabled": "false", "breaker__enabled": "false"}


def target(*symbols: str, query: str = "interval=15&limit=3") -> str:
    return f"{KLINES}?symbols={','.join(symbols)}&{query}"


async def test_each_symbol_has_its_candles_in_the_order_in_which_they_were_named() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        answer = await ask(app, target("SOLUSDT", "btcusdt", "ETHUSDT", "BTCUSDT"))
        body = json.loads(answer.body)

        assert (answer.status, body["retCode"], body["time"]) == (200, 0, clock() // 1000)
        result = body["result"]
        assert list(result["lists"]) == ["SOLUSDT", "BTCUSDT", "ETHUSDT"]
        for symbol, rows in result["lists"].items():
            assert rows == await by_hand(exchange.url, symbol, "15", limit=3)
        assert result["closed"] == {"SOLUSDT": False, "BTCUSDT": False, "ETHUSDT": False}
        assert result["errors"] == {}
        assert (result["category"], result["kind"], result["interval"], result["order"]) == (
            "linear",
            "kline",
            "15",
            "asc",
        )


async def test_as_lines_there_is_one_for_each_symbol() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        answer = await ask(app, target("BTCUSDT", "NOPE", "ETHUSDT"), "Accept: application/x-ndjson")
        first, second, third = map(json.loads, answer.body.splitlines())

        assert answer.get("Content-Type") == "application/x-ndjson"
        btc = await by_hand(exchange.url, "BTCUSDT", "15", limit=3)
        assert first == {"symbol": "BTCUSDT", "list": btc, "closed": False}
        assert (second["symbol"], second["error"]["error"]) == ("NOPE", "unknown-symbol")
        assert third["symbol"] == "ETHUSDT"


@pytest.mark.parametrize(
    "symbols", [("NOPE", "BTCUSDT", "ETHUSDT"), ("BTCUSDT", "NOPE", "ETHUSDT"), ("BTCUSDT", "ETHUSDT", "NOPE")]
)
async def test_an_unknown_symbol_is_named_and_does_not_spoil_the_rest(symbols: tuple[str, ...]) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, target(*symbols))
        result = json.loads(answer.body)["result"]

        assert answer.status == 200
        assert list(result["lists"]) == ["BTCUSDT", "ETHUSDT"]
        assert result["errors"] == {
            "NOPE": {
                "retCode": 10001,
                "retMsg": "the exchange does not offer NOPE in linear: Not supported symbols",
                "error": "unknown-symbol",
            }
        }


async def test_where_no_symbol_is_known_that_is_the_answer() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, target(*(f"NOPE{number}" for number in range(7))))
        assert error_of(answer) == (
            404,
            10001,
            "unknown-symbol",
            "the exchange offers none of NOPE0, NOPE1, NOPE2, NOPE3, NOPE4 and 2 more",
        )


async def test_a_graver_reason_is_told_before_an_unknown_symbol() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, **CALM) as app:
        await ask(app, target("NOPE"))
        exchange.faults.add({"kind": "status", "status": 503})
        answer = await ask(app, target("NOPE", "BTCUSDT"))
        assert error_of(answer)[0::2] == (502, "exchange-error")


async def test_at_most_so_many_are_asked_for_at_one_time() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, **CALM) as app:
        most = [0]
        exchange.faults.add({"kind": "delay", "delay_us": 20_000})
        handle = exchange.market.handle

        def counted(*given: Any) -> Any:
            most[0] = max(most[0], int(app.metrics.in_flight._value.get()))
            return handle(*given)

        exchange.market.handle = counted
        answer = await ask(app, target(*SYMBOLS))

        assert list(json.loads(answer.body)["result"]["lists"]) == SYMBOLS
        assert exchange.stats.requests == len(SYMBOLS)
        assert AT_ONCE / 2 < most[0] <= AT_ONCE


async def test_a_second_time_nothing_is_asked_for() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, limits=[]) as app:
        first = await ask(app, target(*SYMBOLS, query="interval=1&limit=1000"))
        second = await ask(app, target(*SYMBOLS, query="interval=1&limit=1000"))
        assert second.body == first.body
        assert exchange.stats.requests == len(SYMBOLS)


async def test_who_asks_alone_gets_what_a_batch_gets() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        batch = json.loads((await ask(app, target("BTCUSDT", "ETHUSDT", query="interval=5&limit=7&order=desc"))).body)
        for symbol, rows in batch["result"]["lists"].items():
            alone = json.loads((await ask(app, f"{KLINES}/{symbol}?interval=5&limit=7&order=desc")).body)
            assert alone["result"]["list"] == rows


async def test_what_a_rule_refuses_is_named_with_the_time_to_wait() -> None:
    """Two go through; the third would have to wait for longer than anybody does."""
    rule = {"name": "few", "quota": "2/10m", "partition": ["egress"], "counts": "upstream", "when_full": "refuse"}
    clock = HandClock()
    async with (
        FakeBybit(clock=clock, settings=Settings(ip_limit=10**6)) as exchange,
        gateway(exchange.url, **{**CALM, "limits": [rule]}, clock=clock) as app,
    ):
        answer = await ask(app, target("BTCUSDT", "ETHUSDT", "SOLUSDT"))
        result = json.loads(answer.body)["result"]

        assert list(result["lists"]) == ["BTCUSDT", "ETHUSDT"]
        error = result["errors"]["SOLUSDT"]
        assert (error["retCode"], error["error"], error["retry_after"]) == (10006, "rate-limit", 600)
        refused = await ask(app, target("SOLUSDT"))
        assert (refused.status, refused.get("X-Gateway"), refused.get("Retry-After")) == (429, "rate-limit", "600")


async def test_one_that_hangs_up_ends_it() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, **CALM, upstream__timeouts__read="2s") as app,  # the drain waits for what was sent
    ):
        exchange.faults.add({"kind": "hang"})
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(f"GET {target(*SYMBOLS)} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
        async with asyncio.timeout(10):
            while exchange.stats.requests < AT_ONCE:  # another socket sets no event
                await asyncio.sleep(0.01)
        writer.transport.abort()
        async with asyncio.timeout(10):
            while any(task.get_name() == "marketdata-batch" for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
        assert exchange.stats.requests == AT_ONCE

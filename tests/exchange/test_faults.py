"""Every kind of trouble, on the wire and in the books."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.exchange.help import START_US, Clock, ask, ask_signed, parse, post_signed, signed, talk
from tests.fake_bybit import FakeBybit, Settings
from tests.fake_bybit.faults import FaultError, Faults, parse_rule

TIME = "/v5/market/time"
CREATE = "/v5/order/create"
ORDER = {
    "category": "linear",
    "symbol": "BTCUSDT",
    "side": "Buy",
    "orderType": "Limit",
    "qty": "0.01",
    "price": "10000",
    "orderLinkId": "order-1",
}


async def lost(exchange: FakeBybit, target: str = TIME) -> bool:
    """Whether the connection is reset instead of answered."""
    try:
        raw = await talk(exchange.port, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    except ConnectionResetError:
        return True
    assert raw, "closed, not reset"
    return False


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("json", "application/json; charset=utf-8"),
        ("html", "text/html"),
        ("text", "text/plain"),
        ("empty", "application/json; charset=utf-8"),
    ],
)
async def test_a_status_comes_with_the_body_asked_for(
    exchange: FakeBybit, status: int, body: str, content_type: str
) -> None:
    exchange.faults.add({"kind": "status", "status": status, "body": body, "headers": [["Retry-After", "3"]]})
    seen = await ask(exchange, "GET", TIME)
    assert (seen.status, seen.get("Content-Type"), seen.get("Retry-After")) == (status, content_type, "3")
    assert bool(seen.body) == (body != "empty")
    if body == "json":
        assert seen.ret_code == 10016


async def test_a_rule_ends_after_its_count(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "status", "count": 2})
    assert [(await ask(exchange, "GET", TIME)).status for _ in range(3)] == [503, 503, 200]


async def test_a_rule_meets_only_what_it_matches(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "status", "match": {"path": "/v5/market/", "method": "GET"}})
    assert (await ask(exchange, "GET", TIME)).status == 503
    assert (await ask(exchange, "GET", "//v5/market/time")).status == 503
    assert (await ask(exchange, "POST", TIME)).status == 404
    assert (await ask(exchange, "GET", "/v5/echo")).status == 200
    exchange.faults.clear()
    assert (await ask(exchange, "GET", TIME)).status == 200


def test_chance_is_drawn_from_the_seed() -> None:
    def draws(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add({"kind": "status", "probability": 0.3})
        return [faults.plan("GET", TIME, START_US).outcome is not None for _ in range(1000)]

    assert draws(1) == draws(1) != draws(2)
    assert 250 < sum(draws(1)) < 350
    never = Faults(1)
    never.add({"kind": "status", "probability": 0.0})
    assert never.plan("GET", TIME, START_US).outcome is None


def test_the_first_outcome_that_fires_decides_and_delays_add_up() -> None:
    faults = Faults(1)
    faults.add({"kind": "delay", "delay_us": 5, "leg": "both"})
    faults.add({"kind": "status", "status": 500, "count": 1})
    faults.add({"kind": "hang", "count": 1})
    faults.add({"kind": "delay", "delay_us": 7, "leg": "response"})
    plan = faults.plan("GET", TIME, START_US)
    assert plan.outcome is not None
    assert (plan.outcome.kind, plan.request_delay_us, plan.response_delay_us) == ("status", 5, 12)
    second = faults.plan("GET", TIME, START_US)
    assert second.outcome is not None
    assert second.outcome.kind == "hang"
    assert faults.plan("GET", TIME, START_US).outcome is None


async def test_a_request_is_booked_when_its_delay_is_over(exchange: FakeBybit, clock: Clock) -> None:
    exchange.faults.add({"kind": "delay", "delay_us": 250_000, "leg": "request"})
    exchange.faults.add({"kind": "delay", "delay_us": 40_000, "leg": "response"})
    seen = await ask(exchange, "GET", TIME)
    assert clock.slept_us == [250_000, 40_000]
    assert exchange.record.since()[-1].time_us == START_US + 250_000
    assert seen.json()["time"] == (START_US + 250_000) // 1000


def test_jitter_stays_in_its_bounds_and_differs() -> None:
    faults = Faults(3)
    faults.add({"kind": "jitter", "delay_us": 100, "leg": "both"})
    plans = [faults.plan("GET", TIME, START_US) for _ in range(300)]
    assert {plan.request_delay_us for plan in plans} > {0, 100}
    assert max(plan.response_delay_us for plan in plans) == 100


def test_a_spike_releases_everything_it_held_at_one_instant() -> None:
    faults = Faults(1)
    faults.add({"kind": "spike", "delay_us": 1000, "count": 1})
    waits = [faults.plan("GET", TIME, START_US + at).request_delay_us for at in (0, 300, 999, 1000)]
    assert waits == [1000, 700, 1, 0]


async def test_reset_before_drops_the_connection_and_nothing_happened(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "reset_before", "count": 1})
    assert await lost(exchange)
    entry = exchange.record.since()[-1]
    assert (entry.status, entry.ret_code) == (None, None)
    assert not await lost(exchange)


async def test_reset_after_has_placed_the_order(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "reset_after", "count": 1})
    with pytest.raises(ConnectionResetError):
        await post_signed(exchange, CREATE, ORDER)
    assert exchange.record.since()[-1].ret_code == 0
    query = "category=linear&symbol=BTCUSDT&orderLinkId=order-1"
    found = await ask_signed(exchange, "/v5/order/realtime", query)
    assert [order["orderLinkId"] for order in found.json()["result"]["list"]] == ["order-1"]
    again = await post_signed(exchange, CREATE, ORDER)
    assert again.ret_code == 110072


@pytest.mark.parametrize(("processed", "second"), [(False, 0), (True, 110072)])
@pytest.mark.parametrize("kind", ["status", "ret_code"])
async def test_an_error_may_or_may_not_hide_a_placed_order(
    exchange: FakeBybit, kind: str, processed: bool, second: int
) -> None:
    exchange.faults.add({"kind": kind, "count": 1, "processed": processed})
    seen = await post_signed(exchange, CREATE, ORDER)
    assert seen.status == (503 if kind == "status" else 200)
    if kind == "ret_code":
        assert seen.ret_code == 10016
    assert (await post_signed(exchange, CREATE, ORDER)).ret_code == second


async def test_any_ret_code_can_be_answered(exchange: FakeBybit) -> None:
    exchange.faults.add(
        {
            "kind": "ret_code",
            "ret_code": 10006,
            "ret_msg": "Too many visits!",
            "headers": [["X-Bapi-Limit", "10"]],
        }
    )
    seen = await ask(exchange, "GET", TIME)
    assert (seen.status, seen.ret_code, seen.get("X-Bapi-Limit")) == (200, 10006, "10")
    assert seen.json()["result"] == {}


async def test_truncate_promises_more_than_it_sends(exchange: FakeBybit) -> None:
    whole = await ask(exchange, "GET", TIME)
    exchange.faults.add({"kind": "truncate"})
    seen = await ask(exchange, "GET", TIME)
    assert seen.get("Content-Length") == whole.get("Content-Length")
    assert seen.raw_body == whole.raw_body[: len(whole.raw_body) // 2]
    assert seen.get("Server") == "Openresty"
    empty = await ask(exchange, "GET", "/v5/nope")
    assert (empty.status, empty.get("Content-Length"), empty.raw_body) == (404, "1", b"")


async def test_edit_changes_one_place_of_an_answer(exchange: FakeBybit) -> None:
    whole = await ask(exchange, "GET", "/v5/market/kline?symbol=BTCUSDT&interval=M&start=0&limit=3")
    exchange.faults.add({"kind": "edit", "find": '"symbol":"BTCUSDT"', "replace": '"symbol":"OTHER"'})
    seen = await ask(exchange, "GET", "/v5/market/kline?symbol=BTCUSDT&interval=M&start=0&limit=3")
    assert b'"symbol":"BTCUSDT"' in whole.body
    assert seen.json()["result"] == {**whole.json()["result"], "symbol": "OTHER"}


async def test_the_cdns_two_pages(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "cloudfront_html", "count": 1})
    exchange.faults.add({"kind": "geo_block", "count": 1})
    bad, blocked = await ask(exchange, "GET", TIME), await ask(exchange, "GET", TIME)
    for seen in (bad, blocked):
        assert (seen.status, seen.get("Content-Type"), seen.get("Server")) == (403, "text/html", "CloudFront")
        assert seen.get("Traceid") is None
        assert b"Generated by cloudfront (CloudFront)" in seen.body
    assert b"Bad request." in bad.body
    assert b"block access from your country" in blocked.body


async def test_a_ban_may_come_from_nowhere(exchange: FakeBybit, clock: Clock) -> None:
    exchange.faults.add({"kind": "ban", "count": 1})
    assert (await ask(exchange, "GET", TIME)).body == b"access too frequent"
    assert (await ask(exchange, "GET", TIME)).status == 403
    assert (exchange.books.ip.bans, exchange.books.ip.breaches) == (1, 0)
    clock.now_us += 600_000_000
    assert (await ask(exchange, "GET", TIME)).status == 200


async def test_the_bapi_headers_can_go_missing(exchange: FakeBybit) -> None:
    exchange.faults.add({"kind": "no_bapi_headers"})
    exchange.settings.account_limits = {"GET /v5/order/realtime": 1}
    query = "category=linear&symbol=BTCUSDT"
    for expected in (0, 10006):
        seen = await ask_signed(exchange, "/v5/order/realtime", query)
        assert (seen.ret_code, seen.get("X-Bapi-Limit")) == (expected, None)


async def test_a_hung_request_is_never_answered_and_does_not_stop_the_exchange_from_stopping(
    clock: Clock,
) -> None:
    async with FakeBybit(clock=clock, sleep=clock.sleep) as exchange:
        exchange.faults.add({"kind": "hang", "match": {"path": "/v5/echo"}})
        reader, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
        writer.write(b"GET /v5/echo HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(100):  # others are served meanwhile
            assert (await ask(exchange, "GET", TIME)).status == 200
            if "GET /v5/echo" in exchange.stats.endpoints:
                break
        assert not reader.at_eof()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_faults_come_after_the_ip_limiter(clock: Clock) -> None:
    settings = Settings(ip_limit=1)
    async with FakeBybit(clock=clock, sleep=clock.sleep, settings=settings) as exchange:
        exchange.faults.add({"kind": "status"})
        assert [(await ask(exchange, "GET", TIME)).status for _ in range(2)] == [503, 403]


async def test_a_broken_answer_may_be_in_the_middle_of_a_connection(exchange: FakeBybit) -> None:
    body = json.dumps(ORDER).encode()
    exchange.faults.add({"kind": "status", "count": 1, "body": "empty", "status": 502})
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    one = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    close = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    raw = await talk(exchange.port, one + one + close)
    first, second, third = [parse(b"HTTP/1.1" + part) for part in raw.split(b"HTTP/1.1")[1:]]
    assert (first.status, second.status, third.status) == (502, 200, 200)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "kind is missing"),
        ([], "expected an object, got []"),
        ({"kind": "explode"}, "kind: expected one of 'delay', "),
        ({"kind": "hang", "cuont": 1}, "unknown field 'cuont'; known: kind, match, count, "),
        ({"kind": "hang", "fired": 1}, "unknown field 'fired'"),
        ({"kind": "hang", "count": "1"}, "count: expected int, got '1'"),
        ({"kind": "hang", "count": -1}, "delay_us and count: expected a number that is not negative"),
        ({"kind": "hang", "match": {"host": "x"}}, "match: unknown field 'host'; known: path, method"),
        ({"kind": "hang", "probability": 2}, "probability: expected 0 to 1, got 2"),
        ({"kind": "delay"}, "delay_us: delay needs a number above 0"),
        ({"kind": "status", "status": 200}, "status: expected 429 or 500 to 599, got 200"),
        ({"kind": "status", "headers": [["a"]]}, "headers: expected pairs [name, value]"),
        ({"kind": "status", "body": "xml"}, "body: expected one of 'json', 'html', 'text', 'empty', got 'xml'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_in_words(rule: Any, message: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse_rule(rule)
    assert str(caught.value).startswith(message)

"""What is on the wire: envelope, headers, statuses, and the order in which a request is judged."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.exchange.help import START_US, ask, ask_signed, parse, post_signed, signed, talk
from tests.fake_bybit import FakeBybit, Settings

if TYPE_CHECKING:
    from tests.exchange.help import Clock

NOW_MS = START_US // 1000
REALTIME = "/v5/order/realtime"
QUERY = "category=linear&symbol=BTCUSDT"
TIME = "/v5/market/time"
ORDER = {
    "category": "linear",
    "symbol": "BTCUSDT",
    "side": "Buy",
    "orderType": "Limit",
    "qty": "0.01",
    "price": "10000",
}
TOO_MANY = (
    b'{"retCode":10006,"retMsg":"Too many visits. Exceeded the API Rate Limit.","result":{},"retExtInfo":{},"time":%d}'
)


async def test_a_public_answer_is_a_compact_envelope_with_the_known_headers(exchange: FakeBybit) -> None:
    seen = await ask(exchange, "GET", TIME)
    assert seen.status == 200
    assert b" " not in seen.raw_body
    assert list(seen.json()) == ["retCode", "retMsg", "result", "retExtInfo", "time"]
    assert seen.json()["time"] == NOW_MS
    names = [name for name, _ in seen.headers]
    assert len(names) == len(set(names))
    assert seen.get("Content-Type") == "application/json; charset=utf-8"
    assert seen.get("Cache-Control") == "no-store"
    assert seen.get("Server") == "Openresty"
    assert seen.get("Timenow") == str(NOW_MS)
    assert len(seen.get("Traceid") or "") == 32
    assert seen.get("Access-Control-Allow-Origin") == "*"
    assert not [name for name in names if name.startswith("X-Bapi") or name in ("Ret_code", "Via")]


async def test_a_private_answer_says_what_is_left(exchange: FakeBybit) -> None:
    first, second = [await ask_signed(exchange, REALTIME, QUERY) for _ in range(2)]
    assert (first.get("X-Bapi-Limit"), first.get("X-Bapi-Limit-Status")) == ("50", "49")
    assert second.get("X-Bapi-Limit-Status") == "48"
    assert first.get("X-Bapi-Limit-Reset-Timestamp") == str(NOW_MS)


async def test_too_many_visits_is_a_200_of_123_bytes_with_a_reset_in_the_future(
    exchange: FakeBybit, clock: Clock
) -> None:
    exchange.settings.account_limits = {f"GET {REALTIME}": 1}
    await ask_signed(exchange, REALTIME, QUERY)
    clock.now_us += 400_000
    seen = await ask_signed(exchange, REALTIME, QUERY)
    assert seen.status == 200
    assert seen.raw_body == TOO_MANY % (NOW_MS + 400)
    assert seen.get("Content-Length") == "123"
    assert (seen.get("X-Bapi-Limit"), seen.get("X-Bapi-Limit-Status")) == ("1", "0")
    assert seen.get("X-Bapi-Limit-Reset-Timestamp") == str(NOW_MS + 1000)
    clock.now_us += 600_000
    assert (await ask_signed(exchange, REALTIME, QUERY)).ret_code == 0


async def test_the_reset_is_told_in_the_exchanges_own_time(exchange: FakeBybit) -> None:
    exchange.settings.clock_offset_ms = -3000
    seen = await ask_signed(exchange, REALTIME, QUERY, at_ms=NOW_MS - 3000)
    assert seen.get("X-Bapi-Limit-Reset-Timestamp") == str(NOW_MS - 3000)


async def test_headers_of_minute_limits_are_a_switch(exchange: FakeBybit) -> None:
    path = "/v5/asset/withdraw/cancel"
    exchange.settings.account_limits = {f"POST {path}": 0}
    body = b"{}"
    assert (await ask(exchange, "POST", path, signed(body), body)).ret_code == 10006
    exchange.settings.account_limits = {f"POST {path}": 1, f"GET {REALTIME}": 5}
    exchange.books.account.take("1001", "POST", path, "", 1, START_US)
    shown = await ask(exchange, "POST", path, signed(body), body)
    assert shown.get("X-Bapi-Limit") == "1"
    exchange.settings.minute_headers = False
    hidden = await ask(exchange, "POST", path, signed(body), body)
    assert (hidden.ret_code, hidden.get("X-Bapi-Limit")) == (10006, None)
    assert (await ask_signed(exchange, REALTIME, QUERY)).get("X-Bapi-Limit") == "5"


async def test_a_batch_beyond_the_budget_is_placed_in_part(exchange: FakeBybit) -> None:
    exchange.settings.account_limits = {"POST /v5/order/create-batch": 3}
    orders = [{**ORDER, "orderLinkId": f"batch-{i}"} for i in range(5)]
    seen = await post_signed(exchange, "/v5/order/create-batch", {"category": "linear", "request": orders})
    assert seen.ret_code == 0
    assert [item["code"] for item in seen.json()["retExtInfo"]["list"]] == [0, 0, 0, 10006, 10006]
    assert seen.get("X-Bapi-Limit-Status") == "0"
    assert exchange.stats.placed_link_ids == {("1001", f"batch-{i}"): 1 for i in range(3)}


@pytest.mark.parametrize(("switch", "outer"), [("outer", 10006), ("items", 0)])
async def test_a_batch_without_any_budget_fails_whole_or_item_by_item(
    exchange: FakeBybit, switch: str, outer: int
) -> None:
    exchange.settings.update({"batch_none_left": switch})
    exchange.settings.account_limits = {"POST /v5/order/create-batch": 1}
    value = {"category": "linear", "request": [ORDER]}
    await post_signed(exchange, "/v5/order/create-batch", value)
    seen = await post_signed(exchange, "/v5/order/create-batch", value)
    assert seen.ret_code == outer
    if outer == 0:
        assert [item["code"] for item in seen.json()["retExtInfo"]["list"]] == [10006]


async def test_an_option_batch_costs_one(exchange: FakeBybit) -> None:
    value = {"category": "option", "request": [{"symbol": "none"}] * 5}
    seen = await post_signed(exchange, "/v5/order/create-batch", value)
    assert (seen.get("X-Bapi-Limit"), seen.get("X-Bapi-Limit-Status")) == ("10", "9")


async def test_public_answers_carry_the_headers_only_with_the_switch(exchange: FakeBybit) -> None:
    exchange.settings.public_bapi_headers = True
    seen = await ask(exchange, "GET", TIME)
    assert (seen.get("X-Bapi-Limit"), seen.get("X-Bapi-Limit-Status")) == ("50", "49")


@pytest.mark.parametrize(
    ("key", "other_symbol", "other_ip"), [("ip", 10006, 0), ("global", 10006, 10006), ("symbol", 0, 10006)]
)
async def test_the_public_endpoint_limiter_answers_10006_without_headers(
    exchange: FakeBybit, key: str, other_symbol: int, other_ip: int
) -> None:
    exchange.settings.update({"endpoint_limit": 1, "endpoint_key": key})
    target = "/v5/market/tickers?category=linear&symbol="
    assert (await ask(exchange, "GET", target + "BTCUSDT")).ret_code == 0
    seen = await ask(exchange, "GET", target + "BTCUSDT")
    assert seen.raw_body == TOO_MANY % NOW_MS
    assert seen.get("X-Bapi-Limit-Reset-Timestamp") is None
    assert (await ask(exchange, "GET", target + "ETHUSDT")).ret_code == other_symbol
    assert (await ask(exchange, "GET", target + "BTCUSDT", source="127.0.0.2")).ret_code == other_ip
    assert (await ask(exchange, "GET", TIME)).ret_code == 0


async def test_a_breach_is_403_in_plain_words_until_the_ban_ends(clock: Clock) -> None:
    settings = Settings(ip_limit=2)
    async with FakeBybit(clock=clock, sleep=clock.sleep, settings=settings) as exchange:
        assert [(await ask(exchange, "GET", TIME)).status for _ in range(2)] == [200, 200]
        seen = await ask(exchange, "GET", TIME)
        assert (seen.status, seen.raw_body) == (403, b"access too frequent")
        assert seen.get("Content-Type") == "text/plain"
        assert not [name for name, _ in seen.headers if name.startswith("X-Bapi")]
        clock.now_us += 599_999_999
        assert (await ask(exchange, "GET", TIME)).status == 403
        assert (await ask(exchange, "GET", TIME, source="127.0.0.2")).status == 200
        clock.now_us += 1
        assert (await ask(exchange, "GET", TIME)).status == 200
        assert (exchange.books.ip.breaches, exchange.books.ip.max_in_window("127.0.0.1")) == (1, 3)


async def test_the_ban_covers_every_path_and_what_it_stops_reaches_nothing(clock: Clock) -> None:
    async with FakeBybit(clock=clock, sleep=clock.sleep, settings=Settings(ip_limit=1)) as exchange:
        await ask(exchange, "GET", TIME)
        body = json.dumps({**ORDER, "orderLinkId": "never"}).encode()
        assert (await ask(exchange, "POST", "/v5/order/create", signed(body), body)).status == 403
        assert (await ask(exchange, "GET", "/v5/nope")).status == 403
        assert not exchange.books.account.buckets
        assert not exchange.stats.placed_link_ids


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "GET", "POST"])
async def test_a_wrong_path_is_404_with_nothing_in_a_json_content_type(exchange: FakeBybit, method: str) -> None:
    for target in ("/v5/nope", "/", "/v2/public/time", "/v5/market"):
        seen = await ask(exchange, method, target)
        assert (seen.status, seen.raw_body) == (404, b"")
        assert seen.get("Content-Type") == "application/json"
        assert seen.get("Content-Length") in ("0", None if method == "HEAD" else "0")
        assert seen.get("Traceid")


async def test_a_path_answers_only_its_own_method(exchange: FakeBybit) -> None:
    assert (await ask(exchange, "POST", TIME)).status == 404
    assert (await ask(exchange, "GET", "/v5/order/create")).status == 404


async def test_a_listed_path_that_the_fake_does_not_offer_is_404_once_signed(exchange: FakeBybit) -> None:
    assert (await ask(exchange, "GET", "/v5/fiat/balance-query")).status == 401
    assert (await ask_signed(exchange, "/v5/fiat/balance-query")).status == 404


async def test_a_get_with_a_body_meets_the_cdns_page(exchange: FakeBybit) -> None:
    for target in (TIME, REALTIME, "/v5/nope"):
        seen = await ask(exchange, "GET", target, signed(""), b"{}")
        assert seen.status == 403
        assert b"CloudFront" in seen.body
        assert b"Bad request." in seen.body
        assert seen.get("Traceid") is None
    chunked = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked += b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert parse(await talk(exchange.port, chunked)).status == 403
    assert (await ask(exchange, "GET", TIME, {"Content-Length": "0"})).status == 200


async def test_two_slashes_at_the_start_are_one_unless_switched_off(exchange: FakeBybit) -> None:
    assert (await ask(exchange, "GET", "//v5/market/time")).status == 200
    assert exchange.record.since()[-1].target == "//v5/market/time"
    exchange.settings.collapse_slashes = False
    assert (await ask(exchange, "GET", "//v5/market/time")).status == 404


async def test_gzip_is_sent_when_asked_for_and_worth_it(exchange: FakeBybit) -> None:
    wide = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=50"
    plain = await ask(exchange, "GET", wide)
    packed = await ask(exchange, "GET", wide, {"Accept-Encoding": "gzip, deflate"})
    assert plain.get("Content-Encoding") is None
    assert packed.get("Content-Encoding") == "gzip"
    assert len(packed.raw_body) < len(plain.raw_body)
    assert packed.body == plain.body
    small = await ask(exchange, "GET", TIME, {"Accept-Encoding": "gzip"})
    assert small.get("Content-Encoding") is None
    exchange.settings.gzip = False
    off = await ask(exchange, "GET", wide, {"Accept-Encoding": "gzip"})
    assert off.raw_body == plain.raw_body


async def test_optional_headers_have_switches(exchange: FakeBybit) -> None:
    exchange.settings.update({"cdn_headers": True, "ret_code_header": True, "cors_headers": False})
    exchange.settings.extra_response_headers = [["X-Twice", "a"], ["x-twice", "b"], ["Set-Cookie", "c=1"]]
    seen = await ask(exchange, "GET", TIME)
    assert [pair for pair in seen.headers if pair[0].lower() == "x-twice"] == [
        ("X-Twice", "a"),
        ("x-twice", "b"),
    ]
    assert seen.get("Ret_code") == "0"
    assert "cloudfront" in (seen.get("Via") or "")
    assert seen.get("Access-Control-Allow-Origin") is None


async def test_an_answer_without_an_envelope_stays_so(exchange: FakeBybit) -> None:
    seen = await ask(exchange, "GET", "/v5/market/historical-volatility?category=option&baseCoin=BTC")
    assert isinstance(seen.json()["result"], list)
    assert not {"retExtInfo", "time"} & set(seen.json())


async def test_coins_and_fee_rates_answer_what_libraries_ask_at_their_start(exchange: FakeBybit) -> None:
    coins = (await ask_signed(exchange, "/v5/asset/coin/query-info")).json()["result"]["rows"]
    assert {"BTC", "USDT"} <= {each["coin"] for each in coins}
    none = await ask_signed(exchange, "/v5/asset/coin/query-info", "coin=NOPE")
    assert none.json()["result"] == {"rows": []}
    assert none.get("X-Bapi-Limit") == "5"
    rates = await ask_signed(exchange, "/v5/account/fee-rate", "category=spot")
    assert len(rates.json()["result"]["list"]) > 1
    assert (await ask_signed(exchange, "/v5/account/fee-rate", "category=bonds")).ret_code == 10001


# --- the fake's own tools ---


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_echo_tells_what_arrived(exchange: FakeBybit, method: str) -> None:
    body = b"" if method == "GET" else b"\x00\xffbytes"
    headers = {"x-LOWER-Upper": "1", "X-Referer": "me"}
    seen = await ask(exchange, method, "/v5/echo?a=%2C&b=%2c", headers, body)
    told = seen.json()["result"]
    assert told["method"] == method
    assert told["target"] == "/v5/echo?a=%2C&b=%2c"
    assert ["x-LOWER-Upper", "1"] in told["headers"]
    assert told["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert told["body_length"] == len(body)


async def test_repeated_request_headers_stay_apart(exchange: FakeBybit) -> None:
    raw = b"GET /v5/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: 1\r\na: 2\r\n\r\n"
    told = parse(await talk(exchange.port, raw)).json()["result"]
    assert told["headers"] == [["Host", "x"], ["Connection", "close"], ["A", "1"], ["a", "2"]]


async def test_redirect_names_a_place_and_a_status(exchange: FakeBybit) -> None:
    seen = await ask(exchange, "GET", "/v5/redirect")
    assert (seen.status, seen.get("Location")) == (302, "/v5/market/time")
    seen = await ask(exchange, "GET", "/v5/redirect?status=308&to=http%3A%2F%2F127.0.0.1%3A1%2F%0d%0ax")
    assert (seen.status, seen.get("Location")) == (308, "http://127.0.0.1:1/x")
    assert (await ask(exchange, "GET", "/v5/redirect?status=999")).status == 302


@pytest.mark.parametrize("size", [0, 1, 255, 65_536, 200_001])
async def test_large_streams_predictable_bytes(exchange: FakeBybit, size: int) -> None:
    seen = await ask(exchange, "GET", f"/v5/large?bytes={size}")
    assert seen.get("Content-Length") == str(size)
    assert seen.raw_body == (bytes(range(256)) * (size // 256 + 1))[:size]


async def test_large_can_be_chunked_and_refuses_nonsense(exchange: FakeBybit) -> None:
    seen = await ask(exchange, "GET", "/v5/large?bytes=70000&chunked=1")
    assert seen.get("Transfer-Encoding") == "chunked"
    assert (await ask(exchange, "GET", "/v5/large?bytes=many")).status == 404


# --- bookkeeping ---


async def test_the_record_keeps_what_arrived_and_how_it_ended(exchange: FakeBybit) -> None:
    value = {**ORDER, "orderLinkId": "mine-1"}
    await post_signed(exchange, "/v5/order/create", value)
    entry = exchange.record.since()[-1]
    assert (entry.sequence, entry.time_us, entry.ip) == (1, START_US, "127.0.0.1")
    assert (entry.method, entry.target) == ("POST", "/v5/order/create")
    assert (entry.operation, entry.link_ids, entry.uid) == ("create", ["mine-1"], "1001")
    assert (entry.status, entry.ret_code) == (200, 0)
    assert entry.body_sha256 == hashlib.sha256(json.dumps(value).encode()).hexdigest()
    assert ["Host", "exchange"] in entry.headers()


async def test_the_record_is_a_ring_and_goes_on_counting(exchange: FakeBybit) -> None:
    exchange.settings.record_size = 2
    for _ in range(4):
        await ask(exchange, "GET", TIME)
    assert [entry.sequence for entry in exchange.record.since()] == [3, 4]
    exchange.record.clear()
    await ask(exchange, "GET", TIME)
    assert [entry.sequence for entry in exchange.record.since(4)] == [5]


async def test_an_order_sent_twice_shows_in_the_stats(exchange: FakeBybit) -> None:
    value = {**ORDER, "orderLinkId": "twice"}
    assert (await post_signed(exchange, "/v5/order/create", value)).ret_code == 0
    assert (await post_signed(exchange, "/v5/order/create", value)).ret_code == 110072
    assert exchange.stats.duplicated_link_ids() == {"twice": 2}


async def test_many_requests_of_one_connection_are_answered_in_turn(exchange: FakeBybit) -> None:
    one = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await talk(exchange.port, one * 5 + last)).count(b'"retCode":0') == 6


async def test_a_body_that_breaks_off_is_no_request(exchange: FakeBybit) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
    writer.write(b"POST /v5/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await ask(exchange, "GET", TIME)).status == 200
    assert exchange.books.ip.max_in_window() == 1


async def test_two_exchanges_of_one_seed_say_the_same(clock: Clock) -> None:
    target = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1"
    bodies = []
    for seed in (7, 7, 8):
        async with FakeBybit(clock=clock, sleep=clock.sleep, seed=seed) as exchange:
            bodies.append((await ask(exchange, "GET", target)).body)
    assert bodies[0] == bodies[1] != bodies[2]

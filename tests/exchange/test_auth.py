"""Signatures over the bytes on the wire, and the clock rule to the millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.exchange.help import START_US, ask, ask_signed, post_signed, signed
from tests.fake_bybit import auth
from tests.fake_bybit.auth import Caller, Refused
from tests.fake_bybit.settings import Settings

if TYPE_CHECKING:
    from tests.fake_bybit import FakeBybit

NOW_MS = START_US // 1000
REALTIME = "/v5/order/realtime"
QUERY = "category=linear&symbol=BTCUSDT"


def verify(headers: dict[str, str], payload: bytes, settings: Settings | None = None) -> auth.Verified:
    return auth.verify(CIMultiDict(headers), payload, settings or Settings(), START_US)


def code(verdict: auth.Verified) -> int:
    assert isinstance(verdict, Refused)
    return verdict.reply.ret_code


@given(payload=st.binary(max_size=300), window=st.sampled_from([None, "5000", "20000", "05000"]))
def test_any_bytes_verify_when_signed_as_sent(payload: bytes, window: str | None) -> None:
    assert verify(signed(payload, recv_window=window), payload) == Caller("1001", "test-key")


@given(payload=st.binary(min_size=1, max_size=100), at=st.integers(0, 99), flip=st.integers(1, 255))
def test_one_changed_byte_is_a_bad_signature(payload: bytes, at: int, flip: int) -> None:
    changed = bytearray(payload)
    changed[at % len(changed)] ^= flip
    assert code(verify(signed(payload), bytes(changed))) == 10004


@pytest.mark.parametrize(
    ("sent_ms", "window", "accepted"),
    [
        (NOW_MS, "5000", True),
        (NOW_MS - 5000, "5000", True),
        (NOW_MS - 5001, "5000", False),
        (NOW_MS - 5000, None, True),
        (NOW_MS - 5001, None, False),
        (NOW_MS - 20_000, "20000", True),
        (NOW_MS + 999, "5000", True),
        (NOW_MS + 1000, "5000", False),
        (NOW_MS + 1000, "60000", False),
        (NOW_MS + 999, "1", True),
        (NOW_MS - 1, "0", False),
    ],
)
def test_the_clock_rule_is_closed_behind_and_open_ahead(sent_ms: int, window: str | None, accepted: bool) -> None:
    verdict = verify(signed(b"", at_ms=sent_ms, recv_window=window), b"")
    assert isinstance(verdict, Caller) if accepted else code(verdict) == 10002


@pytest.mark.parametrize("text", ["soon", "-1", "1_000", "", "9" * 40, "٣"])
def test_a_timestamp_that_is_no_number_is_outside_any_window(text: str) -> None:
    headers = {**signed(b""), "X-BAPI-TIMESTAMP": text}
    verdict = verify(headers, b"")
    assert isinstance(verdict, Refused)
    assert verdict.unauthorized if not text else verdict.reply.ret_code == 10002


@pytest.mark.parametrize("missing", ["X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-SIGN"])
async def test_a_private_path_without_its_headers_is_401_with_nothing_in_it(exchange: FakeBybit, missing: str) -> None:
    headers = {name: value for name, value in signed("").items() if name != missing}
    seen = await ask(exchange, "GET", REALTIME, headers)
    assert (seen.status, seen.raw_body, seen.get("X-Bapi-Limit")) == (401, b"", None)


async def test_header_names_may_come_in_any_case_and_sign_type_is_not_needed(exchange: FakeBybit) -> None:
    headers = {name.lower(): value for name, value in signed(QUERY).items()}
    assert (await ask(exchange, "GET", f"{REALTIME}?{QUERY}", headers)).ret_code == 0


async def test_an_unknown_key_is_10003_or_401_as_the_switch_says(exchange: FakeBybit) -> None:
    seen = await ask_signed(exchange, REALTIME, QUERY, key="nobody")
    assert (seen.status, seen.json()["retMsg"]) == (200, "API key is invalid.")
    assert seen.ret_code == 10003
    exchange.settings.unknown_key = "401"
    assert (await ask_signed(exchange, REALTIME, QUERY, key="nobody")).status == 401


async def test_a_bad_signature_echoes_what_the_server_signed(exchange: FakeBybit) -> None:
    seen = await ask_signed(exchange, REALTIME, QUERY, secret="wrong")
    assert seen.json() == {
        "retCode": 10004,
        "retMsg": "Error sign, please check your signature generation algorithm: "
        f"origin_string[{NOW_MS}test-key5000{QUERY}]",
        "result": {},
        "retExtInfo": {},
        "time": NOW_MS,
    }


async def test_a_stale_request_is_told_the_three_numbers(exchange: FakeBybit) -> None:
    seen = await ask_signed(exchange, REALTIME, at_ms=NOW_MS - 5001)
    assert seen.ret_code == 10002
    assert seen.json()["retMsg"] == (
        "invalid request, please check your server timestamp or recv_window param. "
        f"req_timestamp[{NOW_MS - 5001}],server_timestamp[{NOW_MS}],recv_window[5000]"
    )


async def test_the_exchange_clock_can_be_wrong(exchange: FakeBybit) -> None:
    exchange.settings.clock_offset_ms = 6000
    assert (await ask_signed(exchange, REALTIME, QUERY)).ret_code == 10002
    assert (await ask_signed(exchange, REALTIME, QUERY, at_ms=NOW_MS + 6000)).ret_code == 0
    time_answer = await ask(exchange, "GET", "/v5/market/time")
    assert time_answer.json()["time"] == NOW_MS + 6000


@pytest.mark.parametrize(
    "query",
    [
        "cursor=lastid%3D19408935%26lasttime%3D1780617600",
        "cursor=0%2C2&category=linear",
        "b=2&a=1&a=0",
        "a=%7e&b=%7E&c=%&d=%zz",
        'x=|{}"[]^<>',
        "plus=a+b&blank=%20",
        "empty=&&=x",
    ],
)
async def test_a_query_is_signed_exactly_as_on_the_wire(exchange: FakeBybit, query: str) -> None:
    assert (await ask_signed(exchange, "/v5/echo", query)).json()["result"]["target"] == f"/v5/echo?{query}"
    other = await ask(exchange, "GET", f"/v5/echo?{query}", signed(query + "&"))
    assert other.ret_code == 10004


@pytest.mark.parametrize(
    "body",
    [
        b'{"category": "linear"}',
        b'{"category":"linear"}',
        '{"note":"\u00e9\u4e2d"}'.encode(),
        b'{"note":"\\u00e9"}',
        b"\x00\xff\xfe not json at all",
    ],
)
async def test_a_body_is_signed_exactly_as_on_the_wire(exchange: FakeBybit, body: bytes) -> None:
    assert (await ask(exchange, "POST", "/v5/echo", signed(body), body)).ret_code == 0
    assert (await ask(exchange, "POST", "/v5/echo", signed(body + b" "), body)).ret_code == 10004


async def test_a_post_signs_its_body_and_not_its_query(exchange: FakeBybit) -> None:
    body = b'{"a":1}'
    assert (await ask(exchange, "POST", "/v5/echo?x=1", signed(body), body)).ret_code == 0


async def test_an_absent_recv_window_adds_nothing_to_the_signed_string(exchange: FakeBybit) -> None:
    assert (await ask_signed(exchange, REALTIME, QUERY, recv_window=None)).ret_code == 0


async def test_a_public_path_may_be_called_signed_and_the_signature_is_ignored_by_default(
    exchange: FakeBybit,
) -> None:
    wrong = signed("", secret="wrong")
    assert (await ask(exchange, "GET", "/v5/market/time", wrong)).ret_code == 0
    exchange.settings.verify_public_signatures = True
    assert (await ask(exchange, "GET", "/v5/market/time", wrong)).ret_code == 10004
    assert (await ask(exchange, "GET", "/v5/market/time", signed(""))).ret_code == 0
    assert (await ask(exchange, "GET", "/v5/market/time")).ret_code == 0


async def test_a_body_that_is_no_json_object_is_a_parameter_error(exchange: FakeBybit) -> None:
    body = b"[1]"
    assert (await ask(exchange, "POST", "/v5/order/cancel", signed(body), body)).ret_code == 10001
    body = b"{"
    assert (await ask(exchange, "POST", "/v5/order/cancel", signed(body), body)).ret_code == 10001


async def test_a_post_without_a_body_is_an_empty_object(exchange: FakeBybit) -> None:
    seen = await ask(exchange, "POST", "/v5/order/cancel", signed(""))
    assert seen.ret_code == 10001
    assert seen.json()["retMsg"] != "Request parameter error."


async def test_keys_of_one_account_draw_on_one_budget(exchange: FakeBybit) -> None:
    exchange.settings.account_limits = {"POST /v5/order/cancel-all": 2}
    value = {"category": "linear", "symbol": "BTCUSDT"}
    keys = [("test-key", "test-secret"), ("test-key-2", "test-secret-2")] * 2
    codes = [
        (await post_signed(exchange, "/v5/order/cancel-all", value, key=key, secret=secret)).ret_code
        for key, secret in keys
    ]
    assert codes == [0, 0, 10006, 10006]
    other = await post_signed(exchange, "/v5/order/cancel-all", value, key="other-key", secret="other-secret")
    assert other.ret_code == 0

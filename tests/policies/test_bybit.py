"""The dialect: deadlines, codes, envelope."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from policies import bybit

STAMP = 1_800_000_000_000


def headers(**named: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in named.items()})


@pytest.mark.parametrize(
    ("given", "expected_ms"),
    [
        ({"X_BAPI_TIMESTAMP": str(STAMP), "X_BAPI_RECV_WINDOW": "20000"}, STAMP + 20_000),
        ({"X_BAPI_TIMESTAMP": str(STAMP)}, STAMP + 5_000),  # the window is optional and 5 s by default
        ({"x_bapi_timestamp": str(STAMP), "x_bapi_recv_window": "5000"}, STAMP + 5_000),
        ({"X_BAPI_TIMESTAMP": str(STAMP), "X_BAPI_RECV_WINDOW": "abc"}, STAMP + 5_000),
        ({"X_BAPI_TIMESTAMP": str(STAMP), "X_BAPI_RECV_WINDOW": "9" * 15}, STAMP + 600_000),
    ],
)
def test_a_signature_binds_the_request_to_a_time(given: dict[str, str], expected_ms: int) -> None:
    assert bybit.deadline_us(headers(**given)) == expected_ms * 1000


@pytest.mark.parametrize("stamp", ["", "-5", "1e12", "٣", "12345678901234567890"])
def test_a_timestamp_that_cannot_be_read_binds_to_nothing(stamp: str) -> None:
    assert bybit.deadline_us(headers(X_BAPI_TIMESTAMP=stamp)) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"retCode":0,"retMsg":"OK"}', 0),
        (b' {\n "retCode" : 10006 , "retMsg":""}', 10006),
        (b'{"retCode":-2015}', -2015),
        (b'{"category":"option","retCode":0}', None),
        (b"<html>", None),
        (b"", None),
        (b'{"retCode":"0"}', None),
    ],
)
def test_the_code_is_read_from_the_head_of_the_body(body: bytes, code: int | None) -> None:
    assert bybit.ret_code(body) == code


def test_the_clock_is_read_from_the_end_of_the_body() -> None:
    assert bybit.server_ms(b'{"retCode":0,"result":{"time":1},"time":1800000000123}') == 1_800_000_000_123
    assert bybit.server_ms(b'{"time":1800000000123,"retCode":0}') is None


def test_the_envelope_is_the_exchanges_own() -> None:
    body = json.loads(bybit.envelope(10006, "Too many visits.", STAMP, ',"limit":5'))

    assert body == {
        "retCode": 10006,
        "retMsg": "Too many visits.",
        "result": {},
        "retExtInfo": {},
        "time": STAMP,
        "limit": 5,
    }

"""What an answer of the exchange means for who asks the convenience API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.admission import Charge, Quota, Refused, Why
from proxy.errors import Banned, Broken, FateUnknown, NotSent, Unanswered
from proxy.marketdata.asking import Limited, told
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock
from tests.market import KLINES, ask, error_of
from tests.raw_http import RawAnswer
from tests.recorder import answering, recorder

CALM: dict[str, Any] = {"limits": [], "retry__enabled": "false", "breaker__enabled": "false"}
ROW = '["{}","1","2","0.5","1.5","10","15"]'
LATEST = f"{KLINES}/BTCUSDT?interval=1&limit=2"
RANGED = f"{KLINES}/BTCUSDT?interval=1&start=1770000000000&end=1770000060000"


def answer_of(*opens: int, symbol: str = "BTCUSDT", rows: str | None = None) -> bytes:
    listed = ",".join(ROW.format(each) for each in opens) if rows is None else rows
    return enveloped(f'{{"symbol":"{symbol}","category":"linear","list":[{listed}]}}')


def enveloped(result: str, code: int = 0, message: str = '"OK"', status: str = "200 OK") -> bytes:
    text = f'{{"retCode":{code},"retMsg":{message},"result":{result},"retExtInfo":{{}},"time":1770000100000}}'
    return http(text, status)


def http(text: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text.encode())}\r\n\r\n"
    return (head + text).encode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(answer_of(1770000060000, symbol="ETHUSDT"), id="another symbol"),
        pytest.param(answer_of(1770000000000, 1770000060000), id="oldest first"),
        pytest.param(answer_of(1770000060000, rows='["1770000060000","1"]'), id="too short a row"),
        pytest.param(answer_of(1770000060000, rows='["1770000060000","NaN","1","1","1","1","1"]'), id="no number"),
        pytest.param(answer_of(1770000120000, 1770000060000, 1770000000000), id="more than asked for"),
        pytest.param(enveloped("[]"), id="no result"),
    ],
)
async def test_what_is_not_documented_is_not_passed_on(raw: bytes) -> None:
    async with recorder(answering(raw)) as upstream, gateway(upstream.url, **CALM) as app:
        answer = await ask(app, LATEST)
        text = "the exchange's answer about BTCUSDT in linear is not as it is documented"
        assert error_of(answer) == (502, 10016, "exchange-odd-answer", text)


@pytest.mark.parametrize("opens", [(1770000120000,), (1770000000000, 1769999940000)], ids=["later", "earlier"])
async def test_candles_that_were_not_asked_for_are_not_passed_on(opens: tuple[int, ...]) -> None:
    async with recorder(answering(answer_of(*opens))) as upstream, gateway(upstream.url, **CALM) as app:
        assert error_of(await ask(app, RANGED))[0::2] == (502, "exchange-odd-answer")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (
            enveloped("{}", 10001, '"Not supported symbols"'),
            (404, 10001, "unknown-symbol", "the exchange does not offer BTCUSDT in linear: Not supported symbols"),
        ),
        (
            enveloped("{}", 10029, '"A \\"quoted\\" \\u00fc word"'),
            (502, 10029, "exchange-error", 'the exchange could not answer about BTCUSDT in linear: A "quoted" ü word'),
        ),
        (
            http('{"retCode":10029}'),
            (502, 10029, "exchange-error", "the exchange could not answer about BTCUSDT in linear: no reason given"),
        ),
        (
            enveloped("{}", 10006, '"Too many visits!"'),
            (429, 10006, "exchange-limit", "the exchange is asked for too much"),
        ),
        (
            enveloped("{}", 0, '"OK"', "301 Moved"),
            (502, 10016, "exchange-error", "the exchange answered about BTCUSDT in linear with HTTP 301"),
        ),
        (http("<html>"), (502, 10016, "exchange-error", "the exchange answered about BTCUSDT in linear with HTTP 200")),
        (
            http("", "404 Not Found"),
            (502, 10016, "exchange-error", "the exchange answered about BTCUSDT in linear with HTTP 404"),
        ),
    ],
)
async def test_an_error_of_the_exchange_is_told_in_its_words(raw: bytes, error: tuple[int, int, str, str]) -> None:
    async with recorder(answering(raw)) as upstream, gateway(upstream.url, **CALM, pacing__enabled="false") as app:
        assert error_of(await ask(app, LATEST)) == error


async def test_an_upstream_that_is_not_there_is_told_as_everywhere() -> None:
    async with gateway("http://127.0.0.1:9", **CALM) as app:
        answer = await ask(app, LATEST)
        assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-unreachable")
        answer = await ask(app, "/api/v1/prices/eth-usdt")
        assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-unreachable")


async def test_an_open_breaker_is_told_as_everywhere() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[], retry__enabled="false") as app:
        exchange.faults.add({"kind": "status", "status": 503})
        ends_ms = range(1_700_000_040_000, 1_700_002_000_000, 60_000)
        answers = [await ask(app, f"{LATEST}&end={number}") for number in ends_ms]
        answer = answers[-1]
        assert (answer.status, answer.get("X-Gateway")) == (503, "breaker-open")
        assert int(answer.get("Retry-After") or 0) > 0


async def test_during_a_ban_candles_are_given_as_they_were_known_last() -> None:
    """As on the exchange's own pages; `time` says of when they are. What nobody has asked for is not to be had."""
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **CALM) as app:
        known = await ask(app, LATEST)
        await clock.leap(200)
        exchange.faults.add({"kind": "ban"})
        assert (await ask(app, LATEST.replace("BTC", "ETH"))).status == 403
        during = await ask(app, LATEST)
        assert (during.status, during.body) == (200, known.body)
        assert error_or_text(await ask(app, LATEST.replace("BTC", "SOL"))) == "banned"


def error_or_text(answer: RawAnswer) -> str | None:
    return answer.get("X-Gateway") if answer.status == 403 else None


async def test_a_ban_in_the_middle_of_a_batch_names_what_it_has_spoiled() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **CALM) as app:
        assert (await ask(app, f"{KLINES}/BTCUSDT?interval=1&limit=2")).status == 200
        exchange.faults.add({"kind": "ban"})
        answer = await ask(app, f"{KLINES}?symbols=BTCUSDT,ETHUSDT&interval=1&limit=2")
        result = json.loads(answer.body)["result"]
        assert list(result["lists"]) == ["BTCUSDT"]
        assert result["errors"]["ETHUSDT"] == {"retCode": 10018, "retMsg": "access too frequent", "error": "banned"}


CHARGE = Charge(Quota("few", 1, 1_000_000, ()), ("few",), 1)


@pytest.mark.parametrize(
    ("error", "members"),
    [
        (
            Unanswered(404, "unknown-symbol", "text"),
            {"retCode": 10001, "retMsg": "text", "error": "unknown-symbol"},
        ),
        (
            Limited(Refused(Why.DEADLINE, CHARGE, 1_500_001)),
            {"retCode": 10006, "retMsg": "the rule few has no room", "error": "deadline", "retry_after": 1.501},
        ),
        (Banned(), {"retCode": 10018, "retMsg": "access too frequent", "error": "banned"}),
        (
            Broken(2_000_000),
            {
                "retCode": 10016,
                "retMsg": "the exchange fails, nothing is sent for a while",
                "error": "breaker-open",
                "retry_after": 2,
            },
        ),
        (
            NotSent("upstream-dns"),
            {"retCode": 10016, "retMsg": "no answer of the exchange", "error": "upstream-dns"},
        ),
        (
            FateUnknown("upstream-timeout"),
            {"retCode": 10016, "retMsg": "no answer of the exchange", "error": "upstream-timeout"},
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_failure_can_be_told_of_one_symbol(error: Exception, members: dict[str, object]) -> None:
    assert told(error).members() == members


def test_what_is_no_failure_of_asking_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        told(KeyError("x"))

"""What clients make of the gateway's own refusals: they try again by themselves, or know the error for what it is."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import ccxt
import ccxt.async_support
import pytest
from pybit.unified_trading import HTTP

from tests.clients import ccxt_operations as operations
from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET, served
from tests.clients.compare import End, end_of, end_of_async
from tests.clients.javascript import PROGRAMS
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from proxy.app import App
    from tests.clients.javascript import Node
    from tests.fake_bybit import Entry

pytestmark = pytest.mark.timeout(300)  # the first test may install the JavaScript clients

LINEAR: Final = {"category": "linear", "symbol": "SOLUSDT"}
CANDLES: Final = {**LINEAR, "interval": "60", "limit": 2}
ORDER: Final = {**LINEAR, "side": "Buy", "orderType": "Limit", "qty": "1", "price": "1"}

CALLS: Final = ("candles", "orders", "order")
SIGNED: Final = ("orders", "order")
EXCHANGE_IS_BEHIND_MS: Final = 5_000
LEARNED_IN: Final = 14
"""So many answers, a tenth of a second apart: the exchange's clock is believed once a second of them agree."""
LEAST_RESET_MS: Final = 250


def full(**how: str) -> dict[str, Any]:
    """A rule that is full for the rest of the test once a request has met it."""
    return {"limits": [{"name": "full", "quota": "1/1h", **how}]}


AT_ONCE_HTTP: Final = full(counts="requests", when_full="refuse", refuse_with="http")
AT_ONCE_BYBIT: Final = full(counts="upstream", when_full="refuse", refuse_with="bybit")
WAIT_HTTP: Final = full(counts="upstream", when_full="wait", refuse_with="http")
WAIT_BYBIT: Final = full(counts="upstream", when_full="wait", refuse_with="bybit")
KNOWN: Final = {"identity__tokens": [{"name": "somebody", "token": "a-token-that-is-known"}]}
NO_ROOM: Final = {"queue__max_waiting": 0}
NO_TIME: Final = {"queue__max_wait": "20ms"}


@dataclass(frozen=True)
class Case:
    """A refusal and what becomes of it. `pybit`: None where it waits and tries again, which has a test of its own."""

    reasons: set[str]
    ccxt: str
    bybit_api: tuple[str, int]
    pybit: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    upstream: str = "good"
    calls: tuple[str, ...] = CALLS
    headers: dict[str, str] = field(default_factory=dict)
    asked_before: int = 0
    """Answers, a tenth of a second apart, that bring the gateway into the state in which it refuses."""


def as_http(reason: str, overrides: dict[str, Any]) -> Case:
    return Case({reason}, "RateLimitExceeded", ("throws", 429), pybit=429, overrides=overrides, asked_before=1)


def as_bybit(reason: str, overrides: dict[str, Any]) -> Case:
    return Case({reason}, "RateLimitExceeded", ("resolves", 10006), overrides=overrides, asked_before=1)


def fate_unknown(reasons: set[str], upstream: str, **overrides: Any) -> Case:
    return Case(reasons, "RequestTimeout", ("throws", 504), pybit=504, upstream=upstream, overrides=overrides)


def nobody(overrides: dict[str, Any], headers: dict[str, str]) -> Case:
    case = Case({"unauthorized"}, "AuthenticationError", ("throws", 401), pybit=401)
    return replace(case, overrides=overrides, headers=headers)


CASES: Final = {
    "a full rule, as 429": as_http("rate-limit", AT_ONCE_HTTP),
    "a full rule, as 10006": as_bybit("rate-limit", AT_ONCE_BYBIT),
    "a full queue, as 429": as_http("queue-full", WAIT_HTTP | NO_ROOM),
    "a full queue, as 10006": as_bybit("queue-full", WAIT_BYBIT | NO_ROOM),
    "a turn too late, as 429": as_http("deadline", WAIT_HTTP | NO_TIME),
    "a turn too late, as 10006": as_bybit("deadline", WAIT_BYBIT | NO_TIME),
    # pybit signs again, thrice, and then gives up with a status of its own
    "a clock ahead": Case(
        {"clock-ahead"},
        "InvalidNonce",
        ("resolves", 10002),
        pybit=400,
        upstream="behind",
        calls=SIGNED,
        asked_before=LEARNED_IN,
    ),
    "nothing listens": Case(
        {"upstream-unreachable"}, "ExchangeNotAvailable", ("throws", 502), pybit=502, upstream="nobody"
    ),
    "the connection was lost": fate_unknown({"upstream-disconnected", "upstream-failed"}, "losing"),
    "no answer came": fate_unknown({"upstream-timeout"}, "silent", upstream__timeouts__read="300ms"),
    "no token where one is required": nobody({**KNOWN, "identity__required": True}, {}),
    "a token that nobody knows": nobody(KNOWN, {"X-Gateway-Token": "never-heard-of-it"}),
}
RETRYABLE: Final = {"RateLimitExceeded", "ExchangeNotAvailable", "RequestTimeout"}


@dataclass(frozen=True)
class Heard:
    """How a call ended, and X-Gateway of the answers that its client got."""

    end: End
    reasons: list[str | None]


class Pybit:
    """With its own retries, as it is delivered; only between two signatures it rests less than 3 s."""

    def __init__(self, base: str, headers: dict[str, str] | None = None) -> None:
        self._session = HTTP(api_key=KEY, api_secret=SECRET, recv_window=RECV_WINDOW_MS, retry_delay=0.1)
        self._session.endpoint = base
        self._session.client.headers.update(headers or {})
        self._session.client.hooks["response"].append(self._hear)
        self.reasons: list[str | None] = []
        self.resets: list[tuple[int, int, int]] = []
        """Of refusals that name a reset: that, the gateway's time, the client's time."""

    def _hear(self, response: Any, *_: Any, **__: Any) -> None:
        self.reasons.append(response.headers.get("X-Gateway"))
        reset = response.headers.get("X-Bapi-Limit-Reset-Timestamp")
        if self.reasons[-1] is not None and reset is not None:
            self.resets.append((int(reset), response.json()["time"], time.time_ns() // 1_000_000))

    def call(self, name: str) -> Any:
        match name:
            case "candles":
                return self._session.get_kline(**CANDLES)
            case "orders":
                return self._session.get_open_orders(**LINEAR)
            case _:
                return self._session.place_order(**ORDER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.client.close()


def ask_pybit(base: str, name: str, headers: dict[str, str]) -> Heard:
    with Pybit(base, headers) as client:
        return Heard(end_of(lambda: client.call(name)), client.reasons)


def ccxt_call(exchange: Any, name: str) -> Any:
    """Without markets, which no refusal should cost."""
    match name:
        case "candles":
            return exchange.public_get_v5_market_kline(CANDLES)
        case "orders":
            return exchange.private_get_v5_order_realtime(LINEAR)
        case _:
            return exchange.private_post_v5_order_create(ORDER)


def ask_ccxt(base: str, name: str, headers: dict[str, str], **options: Any) -> Heard:
    exchange = ccxt.bybit(ccxt_settings(base, headers, options))
    reasons = overheard(exchange)
    end = end_of(lambda: ccxt_call(exchange, name))
    exchange.session.close()
    return Heard(end, reasons)


def ask_ccxt_async(base: str, name: str, headers: dict[str, str], **options: Any) -> Heard:
    async def ask() -> Heard:
        exchange = ccxt.async_support.bybit(ccxt_settings(base, headers, options))
        reasons = overheard(exchange)
        try:
            return Heard(await end_of_async(lambda: ccxt_call(exchange, name)), reasons)
        finally:
            await exchange.close()

    return asyncio.run(ask())


def ccxt_settings(base: str, headers: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    made = operations.settings(base)
    return made | {"headers": headers, "options": made["options"] | options}


def overheard(exchange: Any) -> list[str | None]:
    """X-Gateway of every answer from here on: ccxt shows each to its own judgement of errors."""
    reasons: list[str | None] = []
    judged = exchange.handle_errors

    def judge(code: int, reason: str, address: str, method: str, headers: dict[str, str], *rest: Any) -> Any:
        reasons.append({name.lower(): value for name, value in headers.items()}.get("x-gateway"))
        return judged(code, reason, address, method, headers, *rest)

    exchange.handle_errors = judge
    return reasons


ASKED_BY: Final[dict[str, Callable[..., Heard]]] = {
    "pybit": ask_pybit,
    "ccxt": ask_ccxt,
    "ccxt async": ask_ccxt_async,
}


@dataclass(frozen=True)
class Stage:
    """A gateway for every case, each in the state in which it refuses; and the exchanges behind them."""

    exchanges: dict[str, FakeBybit]
    urls: dict[str, str]

    def mark(self) -> dict[str, int]:
        """From here on."""
        return {name: exchange.record.sequence for name, exchange in self.exchanges.items()}

    def arrived(self, mark: dict[str, int], *names: str) -> list[Entry]:
        """What those exchanges have got since."""
        return [entry for name in names for entry in self.exchanges[name].record.since(mark[name])]


@asynccontextmanager
async def refusing(upstream_url: str, case: Case) -> AsyncIterator[App]:
    """A gateway that has spent its quota, or has learned the exchange's clock."""
    async with gateway(upstream_url, **{"limits": [], "breaker__enabled": "false", **case.overrides}) as app:
        async with aiohttp.ClientSession() as session:
            for _ in range(case.asked_before):
                async with session.get(url(app, "/v5/market/time")) as answer:
                    assert answer.status == 200
                await asyncio.sleep(0.1)  # skew is believed only of stamps that lie apart
        yield app


@contextmanager
def closed_port() -> Iterator[str]:
    """An address at which nothing listens, and nothing else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    exchanges = {
        "good": FakeBybit(),
        "behind": FakeBybit(settings=Settings(clock_offset_ms=-EXCHANGE_IS_BEHIND_MS)),
        "losing": FakeBybit(),
        "silent": FakeBybit(),
    }
    with served(*exchanges.values()), closed_port() as nobody_url:
        exchanges["losing"].faults.add({"kind": "reset_after"})
        exchanges["silent"].faults.add({"kind": "hang"})
        upstreams = {name: exchange.url for name, exchange in exchanges.items()} | {"nobody": nobody_url}
        with served(*(refusing(upstreams[case.upstream], case) for case in CASES.values())) as apps:
            yield Stage(exchanges, dict(zip(CASES, map(url, apps), strict=True)))


@dataclass(frozen=True)
class Told:
    """How every call of both JavaScript clients ended, and what of it the exchanges have seen."""

    ends: dict[str, Any]
    refused_yet_sent: list[Entry]
    orders_answered_by_nobody: list[int | None]


@pytest.fixture(scope="module")
def told(stage: Stage, node: Node) -> Told:
    cases = {
        name: {"base": stage.urls[name], "headers": case.headers, "calls": case.calls} for name, case in CASES.items()
    }
    account = {"API_KEY": KEY, "API_SECRET": SECRET, "RECV_WINDOW": str(RECV_WINDOW_MS)}
    mark = stage.mark()
    ends = json.loads(node.run(PROGRAMS / "refusals.mjs", {"CASES": json.dumps(cases), **account}))
    lost = [entry.ret_code for entry in stage.arrived(mark, "losing") if entry.operation == "create"]
    return Told(ends, stage.arrived(mark, "good", "behind"), lost)


def as_delivered(name: str, client: str) -> bool:
    return client != "pybit" or CASES[name].pybit is not None


@pytest.mark.parametrize(
    ("name", "client", "call"),
    [
        (name, client, call)
        for name, case in CASES.items()
        for client in ASKED_BY
        for call in case.calls
        if as_delivered(name, client)
    ],
)
def test_a_refusal_is_an_error_that_python_clients_know(name: str, client: str, call: str, stage: Stage) -> None:
    """The client's own class and code for it, never a crash; and what was refused does not reach the exchange."""
    case = CASES[name]
    mark = stage.mark()
    heard = ASKED_BY[client](stage.urls[name], call, case.headers)
    if client == "pybit":
        assert (heard.end.error, heard.end.code) == ("pybit.exceptions.FailedRequestError", case.pybit)
    else:
        assert heard.end.error == f"ccxt.base.errors.{case.ccxt}"
    assert heard.reasons
    assert set(heard.reasons) <= case.reasons
    assert stage.arrived(mark, "good", "behind") == []


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, case in CASES.items() for call in case.calls])
def test_a_refusal_is_an_error_that_ccxt_for_javascript_knows(name: str, call: str, told: Told) -> None:
    """The same class as in Python, never a crash."""
    assert told.ends[f"ccxt, {name}, {call}"]["error"]["class"] == CASES[name].ccxt


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, case in CASES.items() for call in case.calls])
def test_a_refusal_is_told_by_bybit_api_with_its_code(name: str, call: str, told: Told) -> None:
    """It throws the HTTP status, or resolves with the exchange's own code, never anything else."""
    how, code = CASES[name].bybit_api
    end = told.ends[f"bybit-api, {name}, {call}"]
    if how == "throws":
        assert end["error"]["code"] == code
    else:
        assert end["value"]["retCode"] == code


def test_what_javascript_clients_were_refused_is_not_sent(told: Told) -> None:
    """Nothing of it reaches an exchange, and an order whose answer was lost arrives once for each client."""
    assert told.refused_yet_sent == []
    assert told.orders_answered_by_nobody == [0, 0]


@pytest.mark.parametrize("name", sorted(RETRYABLE))
def test_what_may_be_asked_again_is_retryable_to_ccxt(name: str) -> None:
    """Limits, unreachable upstreams and time-outs are of the class that ccxt and its users try again."""
    assert issubclass(getattr(ccxt, name), ccxt.OperationFailed)


@pytest.mark.parametrize("client", ASKED_BY)
def test_an_order_whose_fate_is_unknown_is_executed_at_most_once(client: str, stage: Stage) -> None:
    """The exchange took it and its answer was lost: neither the gateway nor the client sends it again."""
    name = "the connection was lost"
    mark = stage.mark()
    assert ASKED_BY[client](stage.urls[name], "order", {}).end.error
    assert [(entry.operation, entry.ret_code) for entry in stage.arrived(mark, "losing")] == [("create", 0)]


WAITED_FOR: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "rate-limit": ("refuse", {}),
    "queue-full": ("wait", NO_ROOM),
    "deadline": ("wait", NO_TIME),
}


def short(reason: str, quota: str, refuse_with: str) -> dict[str, Any]:
    """A configuration that refuses for this reason, and not for long."""
    when_full, queue = WAITED_FOR[reason]
    how = {"counts": "upstream", "when_full": when_full, "refuse_with": refuse_with}
    return {"limits": [{"name": "short", "quota": quota, **how}], **queue}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reason", WAITED_FOR)
def test_pybit_waits_until_the_reset_and_succeeds(reason: str, call: str, stage: Stage) -> None:
    """Refused in the exchange's manner, it sleeps as long as it was told, and its user never hears of it."""
    exchange = stage.exchanges["good"]
    overrides = short(reason, "2/1200ms", "bybit") | {"cache__enabled": False}
    mark = stage.mark()
    with served(gateway(exchange.url, **overrides)) as [app], Pybit(url(app)) as client:
        answers = [client.call(call) for _ in range(4)]
    assert [answer["retCode"] for answer in answers] == [0] * 4
    assert set(client.reasons) == {reason, None}
    assert [entry.ret_code for entry in stage.arrived(mark, "good")] == [0] * 4


def test_the_reset_lies_ahead_however_short_the_wait(stage: Stage) -> None:
    """pybit dies on a reset that has passed: it is told one 250 ms ahead where less would do, and still ahead there."""
    exchange = stage.exchanges["good"]
    with (
        served(gateway(exchange.url, **short("rate-limit", "1/100ms", "bybit"))) as [app],
        Pybit(url(app)) as client,
    ):
        answers = [client.call("orders") for _ in range(3)]
    assert [answer["retCode"] for answer in answers] == [0] * 3
    assert client.resets
    for reset_ms, gateway_ms, client_ms in client.resets:
        assert reset_ms - gateway_ms >= LEAST_RESET_MS
        assert reset_ms > client_ms


@pytest.mark.parametrize("call", ["candles", "order"])
@pytest.mark.parametrize("refuse_with", ["http", "bybit"])
@pytest.mark.parametrize("client", ["ccxt", "ccxt async"])
def test_ccxt_succeeds_where_its_user_lets_it_retry(client: str, refuse_with: str, call: str, stage: Stage) -> None:
    """`maxRetriesOnFailure` works on both forms of a refusal, for orders as well, and one order is placed."""
    exchange = stage.exchanges["good"]
    retries = {"maxRetriesOnFailure": 12, "maxRetriesOnFailureDelay": 200}
    overrides = short("rate-limit", "1/1s", refuse_with)
    with served(gateway(exchange.url, **overrides)) as [app]:
        assert ASKED_BY[client](url(app), "orders", {}).end.error == ""
        mark = stage.mark()
        heard = ASKED_BY[client](url(app), call, {}, **retries)
    assert heard.end.error == ""
    assert set(heard.reasons[:-1]) == {"rate-limit"}
    assert heard.reasons[-1] is None
    assert [entry.ret_code for entry in stage.arrived(mark, "good")] == [0]

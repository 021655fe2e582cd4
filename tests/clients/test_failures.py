"""What clients make of an exchange that fails: with the gateway between, they make the same of it.

The gateway here sends nothing again and learns nothing from failures, so that each is seen as it is; that it does
otherwise is tested elsewhere. A ban it always heeds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ccxt
import pytest
from pybit.unified_trading import HTTP

from tests.clients import ccxt_operations as operations
from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET, is_ready, running
from tests.clients.compare import end_of, sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.chain import Chain

FAILURES: dict[str, dict[str, Any]] = {
    "429 json": {"kind": "status", "status": 429, "body": "json", "ret_code": 10006, "ret_msg": "Too many visits!"},
    "429 html": {"kind": "status", "status": 429, "body": "html", "headers": [["Retry-After", "7"]]},
    "429 empty": {"kind": "status", "status": 429, "body": "empty"},
    "500 json": {"kind": "status", "status": 500, "body": "json"},
    "500 html": {"kind": "status", "status": 500, "body": "html"},
    "502 html": {"kind": "status", "status": 502, "body": "html"},
    "503 text": {"kind": "status", "status": 503, "body": "text"},
    "504 html": {"kind": "status", "status": 504, "body": "html"},
    "504, yet done": {"kind": "status", "status": 504, "body": "json", "processed": True},
    "bad request of the CDN": {"kind": "cloudfront_html"},
    "blocked country": {"kind": "geo_block"},
    "10006": {"kind": "ret_code", "ret_code": 10006, "ret_msg": "Too many visits!"},
    "10016": {"kind": "ret_code", "ret_code": 10016, "ret_msg": "Server error."},
    "10018": {"kind": "ret_code", "ret_code": 10018, "ret_msg": "Exceeded the IP Rate Limit."},
    "an unknown code": {"kind": "ret_code", "ret_code": 987654, "ret_msg": "Something new."},
    "banned": {"kind": "ban"},
}


class Pybit:
    """Without its retries of 10006, which would sleep."""

    def __init__(self, base: str) -> None:
        self._session = HTTP(api_key=KEY, api_secret=SECRET, recv_window=RECV_WINDOW_MS, retry_codes={-1})
        self._session.endpoint = base

    def candles(self) -> Any:
        return self._session.get_kline(category="linear", symbol="SOLUSDT", interval=60, limit=2)

    def orders(self) -> Any:
        return self._session.get_open_orders(category="linear", symbol="SOLUSDT")

    def order(self) -> Any:
        return self._session.place_order(
            category="linear", symbol="SOLUSDT", side="Buy", orderType="Limit", qty="1", price="1"
        )

    def close(self) -> None:
        self._session.client.close()


class Ccxt:
    """Without markets, which no failure should cost."""

    def __init__(self, base: str) -> None:
        self._exchange = ccxt.bybit(operations.settings(base))

    def candles(self) -> Any:
        return self._exchange.public_get_v5_market_kline(
            {"category": "linear", "symbol": "ETHUSDT", "interval": "60", "limit": 2}
        )

    def orders(self) -> Any:
        return self._exchange.private_get_v5_order_realtime({"category": "linear", "symbol": "SOLUSDT"})

    def order(self) -> Any:
        return self._exchange.private_post_v5_order_create(
            {"category": "linear", "symbol": "SOLUSDT", "side": "Buy", "orderType": "Limit", "qty": "1", "price": "1"}
        )

    def close(self) -> None:
        self._exchange.session.close()
        self._exchange.session = None


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with running(
        tmp_path_factory.mktemp("failures"),
        retry__enabled="false",
        breaker__enabled="false",
        pacing__enabled="false",
        pacing__ban="50ms",
        pacing__ramp="0s",
    ) as chain:
        yield chain


@dataclass(frozen=True)
class Pair:
    """The same client twice."""

    direct: Any
    through: Any


@pytest.fixture(scope="module", params=[Pybit, Ccxt])
def pair(request: pytest.FixtureRequest, chain: Chain) -> Iterator[Pair]:
    made = Pair(request.param(chain.direct_url), request.param(chain.gateway_url))
    yield made
    made.direct.close()
    made.through.close()


@pytest.mark.parametrize("call", ["candles", "orders", "order"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_the_exchange_is_told_as_it_is(failure: str, call: str, chain: Chain, pair: Pair) -> None:
    """Class, code and words of the client's exception are the same; nothing is sent twice, nothing is kept."""
    chain.clock.stand()
    wait_until_ready(chain.gateway_url)
    mark = chain.mark()
    try:
        for exchange in (chain.direct, chain.behind):
            exchange.faults.add(FAILURES[failure])
        direct = end_of(getattr(pair.direct, call))
        through = end_of(getattr(pair.through, call))
    finally:
        for exchange in (chain.direct, chain.behind):
            exchange.faults.clear()
            exchange.books.ip.unban("127.0.0.1")
    assert through == direct
    assert direct.error
    behind = [
        entry for entry in mark.behind() if "/v5/market/time" not in entry.target
    ]  # the end of a ban is asked for
    assert [sent(entry) for entry in behind] == [sent(entry) for entry in mark.direct()]
    assert len(behind) == 1


def wait_until_ready(url: str) -> None:
    """A ban has just been over, or soon is: bounded by the longest pause between two questions."""
    deadline = time.monotonic() + 30
    while not is_ready(url):
        assert time.monotonic() < deadline, "the ban was not lifted"
        time.sleep(0.05)  # noqa: TID251  # bounded polling of another process

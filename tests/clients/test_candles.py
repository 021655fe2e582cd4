"""Candles by real clients through a gateway that puts them together: the rows are those of the exchange."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import ccxt
import pytest
from pybit.unified_trading import HTTP

from tests.clients import ccxt_operations as operations
from tests.clients import chain as chains
from tests.clients.chain import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.chain import Chain

HOUR_MS = 3_600_000
STEPS_MS = {"1": 60_000, "15": 900_000, "60": HOUR_MS, "D": 24 * HOUR_MS}


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chains.running(tmp_path_factory.mktemp("keeping"), candles__enabled="true") as running:
        running.clock.stand()
        yield running


def pybit(base: str) -> Any:
    session = HTTP(testnet=False)
    session.endpoint = base
    return session


def questions(now_ms: int) -> list[dict[str, Any]]:
    """What bots ask: the newest, ranges that overlap, forwards, backwards, with and without a limit."""
    rnd = random.Random(7)
    asked: list[dict[str, Any]] = []
    for category, symbol in (("linear", "BTCUSDT"), ("spot", "ETHUSDT"), ("inverse", "BTCUSD"), ("linear", "GAPUSDT")):
        for interval, step_ms in STEPS_MS.items():
            series = {"category": category, "symbol": symbol, "interval": interval}
            for _ in range(6):
                at_ms = now_ms - now_ms % step_ms - rnd.randrange(1, 900) * step_ms
                asked += [
                    {**series, "limit": rnd.randrange(1, 1001)},
                    {**series, "start": at_ms, "end": at_ms + rnd.randrange(0, 300) * step_ms},
                    {**series, "start": at_ms, "limit": rnd.randrange(1, 400)},
                    {**series, "end": at_ms, "limit": rnd.randrange(1, 400)},
                ]
    return asked


def test_pybit_gets_the_rows_of_the_exchange(keeping: Chain) -> None:
    direct, through = pybit(keeping.direct_url), pybit(keeping.gateway_url)
    asked = questions(direct.get_server_time()["time"])
    mark = keeping.mark()
    for question in asked:
        assert through.get_kline(**question)["result"] == direct.get_kline(**question)["result"], question
    assert len(mark.behind()) < len(asked) * 3 // 4


def test_ccxt_gets_the_rows_of_the_exchange(keeping: Chain) -> None:
    direct = ccxt.bybit(operations.settings(keeping.direct_url, SECRET))
    through = ccxt.bybit(operations.settings(keeping.gateway_url, SECRET))
    direct.load_markets()
    through.set_markets(direct.markets)
    now_ms = direct.fetch_time()
    for timeframe in ("1m", "15m", "1h", "1d"):
        for since_ms in (None, now_ms - 40 * HOUR_MS, now_ms - 4000 * HOUR_MS):
            for limit in (None, 5, 500):
                question = ("BTC/USDT:USDT", timeframe, since_ms, limit)
                assert through.fetch_ohlcv(*question) == direct.fetch_ohlcv(*question), question

"""freqtrade as it is installed, with the lines of docs/clients.md in its configuration: it loads its markets, downloads
candles and runs a strategy, all of it through the gateway.

It takes 0.8 GB, so only `make test-deep` installs it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients import chain as chains
from tests.clients.chain import REPOSITORY, Chain
from tests.docs.blocks import named
from tests.gateway_fixture import DEEP

FREQTRADE: Final = REPOSITORY / ".venv" / "freqtrade" / "bin" / "freqtrade"
PAIR: Final = "BTC/USDT:USDT"
_SECONDS: Final = 180.0
_STRATEGY: Final = """
from freqtrade.strategy import IStrategy

class Looks(IStrategy):
    timeframe = "1m"
    minimal_roi = {"0": 100}
    stoploss = -0.99

    def populate_indicators(self, dataframe, metadata):
        print("candles", metadata["pair"], len(dataframe), flush=True)
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe.assign(enter_long=0)

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe.assign(exit_long=0)
"""

pytestmark = [
    pytest.mark.deep,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not DEEP, reason="freqtrade takes 0.8 GB: only `make test-deep` installs and runs it"),
    pytest.mark.skipif(not FREQTRADE.exists(), reason="freqtrade is not installed: `make .venv/.freqtrade` does it"),
]


class Bot:
    """A directory with a configuration, in which freqtrade is run."""

    def __init__(self, directory: Path, base: str) -> None:
        self.directory = directory
        block = named("docs/clients.md", "config").text
        assert block.count("http://127.0.0.1:8080") == 5
        told: dict[str, Any] = json.loads(block.replace("http://127.0.0.1:8080", base))
        told["exchange"]["pair_whitelist"] = [PAIR]
        prices = {"price_side": "same", "use_order_book": False}
        told |= {
            "initial_state": "running",
            "trading_mode": "futures",
            "margin_mode": "isolated",
            "stake_currency": "USDT",
            "stake_amount": 10,
            "max_open_trades": 1,
            "dry_run": True,
            "entry_pricing": prices,
            "exit_pricing": prices,
            "pairlists": [{"method": "StaticPairList"}],
            "dataformat_ohlcv": "json",
        }
        (directory / "config.json").write_text(json.dumps(told))
        (directory / "user" / "strategies").mkdir(parents=True)
        (directory / "user" / "strategies" / "looks.py").write_text(_STRATEGY)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        words = [*arguments, "--config", "config.json", "--userdir", "user"]
        with (self.directory / "said").open("wb") as said:
            return subprocess.Popen(
                [FREQTRADE, *words],
                cwd=self.directory,
                env={**os.environ, "NO_PROXY": "127.0.0.1,localhost"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return (self.directory / "said").read_text(errors="replace")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chains.running(tmp_path_factory.mktemp("freqtrade")) as running:
        yield running


def test_freqtrade_downloads_candles_through_the_gateway(chain: Chain, tmp_path: Path) -> None:
    """Trades, mark prices and funding of a pair: the exchange behind the gateway has seen all of it."""
    bot, mark = Bot(tmp_path, chain.gateway_url), chain.mark()

    done = bot.start("download-data", "--timeframes", "1h", "--days", "2").wait(_SECONDS)

    assert done == 0, bot.said
    rows = json.loads((tmp_path / "user/data/bybit/futures/BTC_USDT_USDT-1h-futures.json").read_text())
    assert len(rows) >= 48
    asked = {entry.target.partition("?")[0] for entry in mark.behind()}
    assert {"/v5/market/instruments-info", "/v5/market/kline", "/v5/market/mark-price-kline"} <= asked
    assert mark.direct() == []


def test_freqtrade_runs_a_strategy_on_candles_of_the_gateway(chain: Chain, tmp_path: Path) -> None:
    """A dry run: its strategy sees the newest candles of its pair, and nothing has gone wrong."""
    bot, mark = Bot(tmp_path, chain.gateway_url), chain.mark()

    process = bot.start("trade", "--dry-run", "--strategy", "Looks", "--db-url", "sqlite://")
    try:
        ends = time.monotonic() + _SECONDS
        while f"candles {PAIR}" not in bot.said and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.2)  # noqa: TID251  # another process: bounded polling of what it has written
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_SECONDS)

    assert f"candles {PAIR} 999" in bot.said, bot.said
    assert " - ERROR - " not in bot.said
    assert any(entry.target.startswith("/v5/market/kline?") for entry in mark.behind())

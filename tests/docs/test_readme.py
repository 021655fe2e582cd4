"""The settings that the README shows for clients, one line each, are those that work."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.docs import answers
from tests.docs.blocks import ROOT
from tests.docs.surroundings import said_by, said_by_node, surroundings

PYTHON = {
    "pybit": """
from pybit.unified_trading import HTTP
session = HTTP()
{}
print(len(session.get_kline(category="linear", symbol="BTCUSDT", interval="60", limit=1)["result"]["list"]))
""",
    "ccxt": """
import ccxt
print(len(ccxt.bybit({{{}}}).fetch_ohlcv("BTC/USDT:USDT", "1h", limit=1)))
""",
}
JAVASCRIPT = """
import {{ RestClientV5 }} from 'bybit-api';
const [key, secret] = ['test-key', 'test-secret'];
const answer = await ({}).getKline({{ category: 'linear', symbol: 'BTCUSDT', interval: '60', limit: 1 }});
console.log(answer.result.list.length);
"""


def setting(client: str) -> str:
    """The last piece of code in the client's row."""
    (row,) = re.findall(rf"^\| {client}\b[^|]*\|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return re.findall(r"`([^`]+)`", row.partition(", the same")[0])[-1]


@pytest.mark.parametrize("client", sorted(PYTHON))
async def test_a_client_for_python_speaks_to_the_gateway(client: str, tmp_path: Path, checkout: Path) -> None:
    """With that line and nothing else changed."""
    program = PYTHON[client].format(setting(client))
    async with surroundings(checkout, tmp_path, program) as at:
        code, said = await said_by(at, sys.executable, "-c", at.here(program))
    assert (code, said.strip()) == (0, "1"), said
    assert at.log.read_text().count('"event":"request"') > 0


async def test_bybit_api_for_node_speaks_to_the_gateway(tmp_path: Path, checkout: Path) -> None:
    """With that line and nothing else changed."""
    program = JAVASCRIPT.format(setting("bybit-api"))
    async with surroundings(checkout, tmp_path, program) as at:
        code, said = await said_by_node(at, program)
    assert (code, said.strip()) == (0, "1"), said
    assert at.log.read_text().count('"event":"request"') > 0


def test_freqtrade_is_given_what_ccxt_is_given() -> None:
    """Its configuration is JSON; where the line has an ellipsis the keys are ccxt's."""
    api = answers.read(setting("freqtrade"))["ccxt_config"]["urls"]["api"]
    assert set(api) <= set(re.findall(r'"(\w+)"', setting("ccxt")))
    assert set(api.values()) == {"http://127.0.0.1:8080"}
    assert json.dumps(api)

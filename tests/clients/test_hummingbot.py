"""hummingbot's own way to the exchange, out of its sources, with the lines of docs/clients.md in front: requests of
both connectors, a signed one too, and a stream go through the gateway.

Its sources need a compiler and some minutes, so only `make test-deep` prepares them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.clients import chain as chains
from tests.clients.chain import KEY, REPOSITORY, SECRET, Chain
from tests.docs.blocks import named
from tests.gateway_fixture import DEEP

HOME: Final = REPOSITORY / ".venv" / "hummingbot"
_SECONDS: Final = 120
_PROGRAM: Final = """
import asyncio, json
from hummingbot.connector.derivative.bybit_perpetual import bybit_perpetual_web_utils as perpetual_web
from hummingbot.connector.exchange.bybit import bybit_web_utils as spot_web
from hummingbot.connector.exchange.bybit.bybit_auth import BybitAuth
from hummingbot.connector.time_synchronizer import TimeSynchronizer
from hummingbot.core.api_throttler.async_throttler import AsyncThrottler
from hummingbot.core.web_assistant.connections.data_types import RESTMethod, WSJSONRequest


async def main():
    told = {"spot_s": await spot_web.get_current_server_time()}
    throttler = AsyncThrottler(perpetual_web.build_rate_limits())
    told["perpetual"] = await perpetual_web.get_current_server_time(throttler=throttler, domain=perpetual)
    clock = TimeSynchronizer()
    factory = spot_web.build_api_factory(time_synchronizer=clock, auth=BybitAuth(KEY, SECRET, clock))
    rest = await factory.get_rest_assistant()
    for name, path, signed in (
        ("listed", bybit_constants.EXCHANGE_INFO_PATH_URL, False),
        ("account", bybit_constants.ACCOUNT_INFO_PATH_URL, True),
    ):
        told[name] = await rest.execute_request(
            url=spot_web.rest_url(path),
            params=None if signed else {"category": "spot"},
            method=RESTMethod.GET,
            is_auth_required=signed,
            throttler_limit_id=path,
        )
    stream = await factory.get_ws_assistant()
    await stream.connect(ws_url=bybit_perpetual_constants.WSS_LINEAR_PUBLIC_URLS[perpetual])
    await stream.send(WSJSONRequest(payload={"op": "subscribe", "args": ["kline.60.BTCUSDT"]}))
    async for message in stream.iter_messages():
        if "topic" in message.data:
            told["topic"] = message.data["topic"]
            break
    await stream.disconnect()
    await factory._connections_factory.close()
    print(json.dumps(told))


asyncio.run(main())
"""

pytestmark = [
    pytest.mark.deep,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not DEEP, reason="hummingbot has to be compiled: only `make test-deep` does and runs it"),
    pytest.mark.skipif(
        not (HOME / "source").exists(), reason="hummingbot's sources are not here: deploy/get-hummingbot"
    ),
]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chains.running(tmp_path_factory.mktemp("hummingbot")) as running:
        yield running


def test_hummingbot_speaks_to_the_exchange_through_the_gateway(chain: Chain) -> None:
    """By the lines of the page and nothing else, and nothing passes by the gateway."""
    lines = named("docs/clients.md", "tables").text
    lines = lines.replace("http://127.0.0.1:8080", chain.gateway_url)
    lines = lines.replace("ws://127.0.0.1:8080", chain.gateway_url.replace("http", "ws", 1))
    mark = chain.mark()

    done = subprocess.run(
        [HOME / "bin" / "python", "-c", f"KEY, SECRET = {KEY!r}, {SECRET!r}\n{lines}\n{_PROGRAM}"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HOME / "source"), "NO_PROXY": "127.0.0.1,localhost"},
        timeout=_SECONDS,
    )

    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["listed"]["result"]["list"]
    assert told["account"]["retCode"] == 0
    assert told["topic"] == "kline.60.BTCUSDT"
    seen = [entry.target.partition("?")[0] for entry in mark.behind()]
    assert seen.count("/v5/market/time") >= 2
    assert {"/v5/market/instruments-info", "/v5/account/info", "/v5/public/linear"} <= set(seen)
    assert mark.direct() == []

"""Streams of real clients through the gateway: ccxt.pro and pybit hear candles, as docs/websocket.md sets them up."""

from __future__ import annotations

import asyncio
from typing import Any

import ccxt.pro
import pybit.unified_trading
import pytest

from tests.clients import ccxt_operations as operations
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url

_SECONDS = 30.0


async def test_ccxt_pro_watches_candles() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, upstream__stream_url=exchange.stream_url) as app:
        settings = operations.settings(url(app))
        base = url(app).replace("http", "ws", 1)
        kinds = ("spot", "linear", "inverse", "option")
        settings["urls"]["api"]["ws"] = {"public": {kind: f"{base}/v5/public/{kind}" for kind in kinds}}
        client = ccxt.pro.bybit(settings)
        try:
            async with asyncio.timeout(_SECONDS):
                rows = await client.watch_ohlcv(operations.SWAP, "1m")
        finally:
            await client.close()
        opened = app.metrics.websocket_opened.labels("stream-linear", "opened")._value.get()

    assert len(rows[0]) == 6
    assert opened == 1


async def test_pybit_hears_candles(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    async with FakeBybit() as exchange, gateway(exchange.url, upstream__stream_url=exchange.stream_url) as app:
        base = url(app).replace("http", "ws", 1)
        monkeypatch.setattr(pybit.unified_trading, "PUBLIC_WSS", f"{base}/v5/public/{{CHANNEL_TYPE}}")
        socket = await asyncio.to_thread(pybit.unified_trading.WebSocket, testnet=False, channel_type="linear")
        try:
            await asyncio.to_thread(
                socket.kline_stream,
                interval=1,
                symbol="BTCUSDT",
                callback=lambda message: loop.call_soon_threadsafe(heard.put_nowait, message),
            )
            async with asyncio.timeout(_SECONDS):
                message = await heard.get()
        finally:
            await asyncio.to_thread(socket.exit)

    assert message["topic"] == "kline.1.BTCUSDT"

"""The pictures of the status page in docs/: `python -m tests.e2e.pictures`.

A gateway before the fake exchange, a minute and a half of a little fleet's traffic; then the page in both themes, and
on a phone during a ban.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from PIL import Image
from playwright.async_api import Page

from tests.conversation import CREATE, TICKERS, TIME, Client, new
from tests.e2e.browser import browser
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import url
from tests.integration.test_process import free_port, process, wait_until_ready

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES: Final = 200_000
SECONDS: Final = 100
_COLOURS: Final = 128
_MINUTE_MS: Final = 60_000
_NUMBERS: Final = itertools.count()


async def reader(client: Client, number: int) -> None:
    """Wants the newest candles of a few symbols, again and again."""
    for turn in itertools.count():
        symbol = ("BTCUSDT", "ETHUSDT", "SOLUSDT")[turn % 3]
        await client.get(f"/v5/market/kline?category=linear&symbol={symbol}&interval={1 + 4 * (number % 2)}&limit=200")
        await asyncio.sleep(0.08)  # a client at its own pace: pictures are of real traffic, and no test runs this


async def historian(client: Client, number: int) -> None:
    """Fills a chart in bursts: more than a rule allows in a second."""
    for burst in itertools.count():
        async with asyncio.TaskGroup() as group:
            for each in range(90):
                end = 1_770_000_000_000 + ((burst * 90 + each) * 7 + number) * 1_000 * _MINUTE_MS
                span = f"start={end - _MINUTE_MS}&end={end}"
                group.create_task(client.get(f"/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&{span}"))
        await asyncio.sleep(2 + 3 * (burst % 4))  # as above: bursts, some seconds apart


async def trader(client: Client, _: int) -> None:
    while True:
        await client.get_signed()
        await client.post(CREATE, **new(f"picture-{next(_NUMBERS)}", "ETHUSDT"))
        await client.get(TICKERS)
        await client.get(TIME)
        await asyncio.sleep(0.2)  # as above


async def endless(client: Client, number: int, work: Callable[[Client, int], Awaitable[None]]) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await work(client, number)


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    app: Any = SimpleNamespace(port=free_port())
    async with FakeBybit() as exchange, contextlib.AsyncExitStack() as stack:
        settings = {"GATEWAY__UPSTREAM__URL": exchange.url, "GATEWAY__LISTEN__PORT": str(app.port)}
        started = stack.enter_context(process("run", "--config", "config.yaml", LOG_LEVEL="error", **settings))
        await asyncio.to_thread(wait_until_ready, app.port, started)
        tasks = []
        for number, work in enumerate((reader, reader, reader, historian, historian, trader, trader)):
            connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number + 11}", 0), limit=0)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            tasks.append(asyncio.get_running_loop().create_task(endless(Client(session, app), number, work)))
        async with browser() as screen:
            await screen.page.goto(url(app, "/gateway/"))
            await asyncio.sleep(SECONDS)
            for theme in ("dark", "light"):
                await screen.page.emulate_media(color_scheme=theme)
                await keep(screen.page, f"status-{theme}")
            await screen.page.emulate_media(color_scheme="dark")
            exchange.books.ip.ban("127.0.0.1", exchange.exchange.now_us(), 600_000_000)
            await screen.reads("#state-word", "Banned")
            await screen.page.set_viewport_size({"width": 390, "height": 844})
            await asyncio.sleep(3)  # the page is told once a second
            await keep(screen.page, "status-phone", whole=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def keep(page: Page, name: str, *, whole: bool = True) -> None:
    picture = Image.open(io.BytesIO(await page.screenshot(full_page=whole)))
    path = IMAGES / f"{name}.png"
    picture.convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, f"{path}: {path.stat().st_size} bytes"


if __name__ == "__main__":
    asyncio.run(main())

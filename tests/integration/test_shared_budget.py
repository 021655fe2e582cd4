"""Several gateways with one store keep one budget, exactly, and use it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.integration.arrivals import Arrivals
from tests.integration.trio import jitter, skewed
from tests.redis_servers import needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.usefixtures("warnings_only")]

LIMIT, WINDOW_S, SECONDS = 600, 5.0, 30.0


@pytest.mark.timeout(180)
async def test_three_gateways_with_skewed_clocks_saturated_for_thirty_seconds() -> None:
    """20 ms each way with jitter, clocks two seconds apart in both directions, the real limit, uneven load."""
    rule = {"name": "bybit-ip", "quota": "600/5s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}
    statuses: dict[int, int] = {}
    with redis_server() as redis:
        async with AsyncExitStack() as stack:
            exchange = await stack.enter_async_context(FakeBybit(settings=Settings(record_size=1)))
            arrivals = Arrivals(exchange, LIMIT, WINDOW_S)
            jitter(exchange, 20_000)
            apps = [
                await stack.enter_async_context(
                    gateway(
                        exchange.url,
                        clock=skewed(skew_us),
                        limits=[rule],
                        queue__max_wait="30s",
                        store__url=redis.url,
                        store__replicas="3",
                    )
                )
                for skew_us in (-2_000_000, 0, 2_000_000)
            ]
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

            async def client(number: int) -> None:
                app = apps[(0, 0, 0, 1, 1, 2)[number % 6]]
                while True:
                    async with session.get(url(app, "/v5/market/time")) as answer:
                        await answer.read()
                        statuses[answer.status] = statuses.get(answer.status, 0) + 1

            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(client(number)) for number in range(60)]
                clients.append(group.create_task(arrivals.sample()))
                await asyncio.sleep(3 * WINDOW_S)  # a store that is new grants nothing for one window; then it fills
                began = time.monotonic()
                await asyncio.sleep(SECONDS)
                usable = await arrivals.reach(0.96, began, 2 * WINDOW_S, within_s=SECONDS)
                async with session.get(url(apps[2], "/gateway/limits")) as page:
                    (row,) = (await page.json())["limits"]
                for task in clients:
                    task.cancel()
        print(f"most in a window {exchange.books.ip.max_in_window()}, {usable:.2%}, {statuses}, {row}")
        assert exchange.books.ip.breaches == 0
        assert exchange.books.ip.max_in_window() <= LIMIT
        assert set(statuses) == {200}
        assert usable >= 0.96
        assert row["used"] > LIMIT / 2, "the page of one gateway shows what all of them use"

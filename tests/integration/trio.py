"""Several gateways with one store in front of one exchange, saturated, while something happens to the store.

Load is uneven and shifts when asked: a budget that is divided in the moment of a failure would not survive that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from proxy.app import App
from proxy.clock import Clock, system_clock
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.integration.arrivals import Arrivals
from tests.signing import signed

LIMIT, WINDOW_S = 240, 2.0
"""The rate of the real limit in a shorter window: the same happens sooner."""
LIMITS = [{"name": "bybit-ip", "quota": f"{LIMIT}/2s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}]
HOLD_S = WINDOW_S + 1.0
"""A window, and what timers and round trips add on a busy machine."""
RECOVERY_S = 2 * WINDOW_S


class Fleet:
    """Gateways, and clients that never have enough. `weights`: how many clients ask which gateway."""

    def __init__(self, exchange: FakeBybit, apps: Sequence[App], weights: Sequence[int], *, orders: bool) -> None:
        self.exchange = exchange
        self.apps = list(apps)
        self.targets = [url(app, "/v5/market/time") for app in apps]
        self.statuses: dict[int, int] = {}
        self._orders = orders
        self._weights = list(weights)
        self.arrivals = Arrivals(exchange, LIMIT, WINDOW_S)

    def shift(self, *weights: int) -> None:
        """From now on the load lies otherwise."""
        self._weights[:] = weights

    def modes(self) -> list[str]:
        return [str(app.store.status().get("mode")) for app in self.apps]

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 20.0) -> float:
        """Wait for another process or a timer of the gateway, bounded; the answer is when it came."""
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, f"{what} did not come; modes {self.modes()}"
            await asyncio.sleep(0.02)
        return time.monotonic()

    def _request(self, session: aiohttp.ClientSession, target: str, number: int) -> Any:
        """Market data is spaced out in time and orders are not: what only orders can do must not be a breach either."""
        if not self._orders:
            return session.get(target)
        body = b'{"category":"linear","symbol":"S%dUSDT","side":"Buy","orderType":"Market","qty":"1"}' % number
        headers = signed(body, key=f"key{number:013d}", window_ms=60_000)
        return session.post(target.replace("/v5/market/time", "/v5/order/create"), data=body, headers=headers)

    async def client(self, session: aiohttp.ClientSession, number: int) -> None:
        while True:
            at = number % sum(self._weights)
            place = next(place for place, end in enumerate(itertools.accumulate(self._weights)) if at < end)
            try:
                async with self._request(session, self.targets[place], number) as answer:
                    await answer.read()
                    self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)  # that gateway has just been killed


@asynccontextmanager
async def fleet(
    store_urls: Sequence[str],
    *,
    clients: int = 60,
    weights: Sequence[int] = (10, 1, 1),
    skews_us: Sequence[int] = (0, 0, 0),
    orders: bool = False,
    **overrides: Any,
) -> AsyncIterator[Fleet]:
    """One gateway for each URL. A jittered exchange that bans; it must never have a reason."""
    settings = Settings(record_size=1, ip_limit=LIMIT, ip_window_us=int(WINDOW_S * 1e6))
    async with AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(FakeBybit(settings=settings))
        jitter(exchange)
        apps = [
            await stack.enter_async_context(
                gateway(
                    exchange.url,
                    clock=skewed(skew_us),
                    limits=LIMITS,
                    queue__max_wait="60s",
                    store__url=store_url,
                    store__replicas=str(len(store_urls)),
                    **overrides,
                )
            )
            for store_url, skew_us in zip(store_urls, skews_us, strict=True)
        ]
        running = Fleet(exchange, apps, weights, orders=orders)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=90))
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(running.client(session, number)) for number in range(clients)]
            tasks.append(group.create_task(running.arrivals.sample()))
            await running.until(lambda: running.modes() == ["shared"] * len(apps), "the shared budget")
            await asyncio.sleep(2 * WINDOW_S)  # until the budget is in use: time is what a window is made of
            try:
                yield running
            finally:
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)


def jitter(exchange: FakeBybit, delay_us: int = 10_000) -> None:
    """The network is as long as that each way, on average; it was another one before."""
    exchange.faults.clear()
    for leg in ("request", "response"):
        exchange.faults.add({"kind": "jitter", "leg": leg, "delay_us": delay_us})


def skewed(by_us: int) -> Clock:
    now_us = system_clock()
    return lambda: now_us() + by_us

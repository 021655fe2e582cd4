"""The promise that matters most: however hard clients push, the exchange never sees a breach, and little is wasted."""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp
import pytest

from policies.admission import Counts, Rulebook
from policies.descriptor import Descriptor
from proxy.config import load, load_routes
from proxy.describe import claim_of
from proxy.limiter import Limiter, Permit, QueueBounds
from proxy.store.memory import MemoryStore
from proxy.tasks import TaskOwner
from tests.fake_bybit import FakeBybit, IpBook, Settings, Verdict
from tests.gateway_fixture import gateway, url
from tests.integration.arrivals import Arrivals
from tests.virtual import VirtualLoop, run_virtually

LIMIT, WINDOW_S = 600, 5.0
ENDPOINTS = ("kline", "orderbook", "tickers", "instruments-info", "order-create", "position-list")


@pytest.mark.timeout(600)  # four hundred thousand requests; an hour of virtual time is two minutes on a busy machine
def test_an_hour_of_saturation_without_a_breach() -> None:
    """20 ms and an exponential 4 ms each way, a spike of up to 200 ms now and then; the rules that are shipped."""

    async def main(loop: VirtualLoop) -> tuple[IpBook, int]:
        config = load(None, {}, load_routes())
        rules = Rulebook(config.quotas(Counts.UPSTREAM))
        dice = random.Random(1)
        book = IpBook(LIMIT, int(WINDOW_S * 1e6))
        tasks = TaskOwner()
        limiter = Limiter(MemoryStore(loop.clock_us), loop.clock_us, tasks, QueueBounds(5_000, 5_000, 10**12))
        tasks.spawn(limiter.run(), "dispatcher")
        arrived = 0

        def leg() -> float:
            spike = dice.random() * 0.2 if dice.random() < 0.002 else 0.0
            return 0.02 + dice.expovariate(250) + spike

        async def client(number: int) -> None:
            nonlocal arrived
            endpoint = ENDPOINTS[number % len(ENDPOINTS)]
            request = Descriptor("GET", f"/{endpoint}", "", endpoint, "default", f"192.0.2.{number}")
            claim = claim_of(request, rules)
            while loop.passed < 3_600:
                permit = await limiter.acquire(claim)
                assert isinstance(permit, Permit)
                await asyncio.sleep(leg())
                arrived += 1
                assert book.arrive("egress", loop.clock_us()) is Verdict.OK, f"breach after {loop.passed:.3f} s"
                await asyncio.sleep(leg())
                await permit.complete()

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(client(number))
        await tasks.close()
        return book, arrived

    book, arrived = run_virtually(main)
    usable = arrived / (3_600 / WINDOW_S * LIMIT)
    print(f"arrived {arrived}, most in a window {book.max_in_window()}, {usable:.2%} of the budget used")
    assert book.breaches == 0
    assert book.max_in_window() <= LIMIT
    assert usable >= 0.98


async def test_twenty_seconds_on_real_sockets_without_a_breach() -> None:
    """The same through the whole gateway: real sockets, a jittered exchange that would ban, mixed traffic."""
    jitter = [{"kind": "jitter", "leg": leg, "delay_us": 20_000} for leg in ("request", "response")]
    limits = [
        {"name": "bybit-ip", "quota": "600/5s", "window": "held", "when_full": "wait", "refuse_with": "bybit"},
    ]
    seconds = 20.0
    async with FakeBybit(settings=Settings(record_size=1)) as exchange:
        for rule in jitter:
            exchange.faults.add(rule)
        async with (
            gateway(exchange.url, limits=limits, queue__max_wait="30s") as app,
            aiohttp.ClientSession() as session,
        ):
            statuses: dict[int, int] = {}
            arrivals = Arrivals(exchange, LIMIT, WINDOW_S)

            async def client(number: int) -> None:
                target = ("/v5/market/time", "/v5/market/tickers?category=linear&symbol=BTCUSDT")[number % 2]
                while True:
                    async with session.get(url(app, target)) as answer:
                        await answer.read()
                        statuses[answer.status] = statuses.get(answer.status, 0) + 1

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client(number)) for number in range(40)]
                tasks.append(group.create_task(arrivals.sample()))
                began = time.monotonic()
                await asyncio.sleep(seconds)
                usable = await arrivals.reach(0.98, began + WINDOW_S, 2 * WINDOW_S, within_s=2 * seconds)
                for task in tasks:
                    task.cancel()
        print(f"most in a window {exchange.books.ip.max_in_window()}, {usable:.2%} used, {statuses}")
        assert exchange.books.ip.breaches == 0
        assert exchange.books.ip.max_in_window() <= LIMIT
        assert set(statuses) == {200}
        assert usable >= 0.98

"""Two gateways behind nginx are restarted one after the other under load, and nobody notices.

nginx is Debian's, with the configuration of the scaled stack; Redis is real; the exchange counts its windows, and every
order that it has placed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.deploy.front import Front, front, needs_nginx
from tests.fake_bybit import FakeBybit, Settings
from tests.integration.arrivals import Arrivals
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.redis_servers import needs_redis, redis_server
from tests.signing import signed

LIMIT, WINDOW_S = 240, 2.0
RULE = {"name": "bybit-ip", "quota": f"{LIMIT}/2s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}
ROUNDS = 2
SPAN_S = 2 * WINDOW_S
CLIENTS = ("order",) * 24 + ("account", "time", "tickers") * 6

Ask = Callable[[aiohttp.ClientSession], Awaitable[None]]


class Replica:
    """One place where a gateway runs; another one takes it when that has ended."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._environment = {**environment, "GATEWAY__LISTEN__PORT": str(self.port)}
        self._stack = AsyncExitStack()
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        self._process = self._stack.enter_context(process("run", **self._environment))
        await asyncio.to_thread(wait_until_ready, self.port, self._process)

    async def end(self, load: Load) -> str:
        """SIGTERM, in the very instant in which everybody sends on connections that lay idle; what it had to say."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        load.all_at_once()
        output, errors = await asyncio.to_thread(self._process.communicate, timeout=60)
        assert self._process.returncode == 0, errors
        await self._stack.aclose()
        return str(output)

    async def kill(self) -> None:
        await self._stack.aclose()

    async def served(self) -> float:
        """Requests that came through nginx since it started."""
        text = await asyncio.to_thread(self._metrics)
        return sum(float(each) for each in re.findall(r"^bybit_api_requests_total\{.*\} (\S+)$", text, re.MULTILINE))

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


@dataclass
class Load:
    """Clients that always want more, and what they were told."""

    url: str
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _now: asyncio.Event = field(default_factory=asyncio.Event)

    def all_at_once(self) -> None:
        """Every one of those who place orders places one."""
        self._now.set()
        self._now = asyncio.Event()

    async def beat(self) -> None:
        """Orders go before all else: with pauses, others have their turn, and connections lie idle in between."""
        while True:
            await asyncio.sleep(random.uniform(0.3, 0.7))
            self.all_at_once()

    async def client(self, kind: str) -> None:
        """One that keeps its connection. It says so if it is told anything but yes, by anybody but the exchange."""
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as session:
            while True:
                await getattr(self, f"_{kind}")(session)

    async def _time(self, session: aiohttp.ClientSession) -> None:
        await self._judge("time", session.get(f"{self.url}/v5/market/time"))

    async def _tickers(self, session: aiohttp.ClientSession) -> None:
        headers = {"Cache-Control": "no-store"}
        await self._judge(
            "tickers", session.get(f"{self.url}/v5/market/tickers?category=linear&symbol=BTCUSDT", headers=headers)
        )

    async def _account(self, session: aiohttp.ClientSession) -> None:
        query = "accountType=UNIFIED"
        headers = signed(query, window_ms=60_000)
        await self._judge("account", session.get(f"{self.url}/v5/account/wallet-balance?{query}", headers=headers))

    async def _order(self, session: aiohttp.ClientSession) -> None:
        await self._now.wait()
        link = f"order-{next(self._numbers)}"
        order = {"category": "linear", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.001"}
        body = json.dumps({**order, "price": "1000", "orderLinkId": link}).encode()
        headers = {**signed(body, window_ms=60_000), "Content-Type": "application/json"}
        if await self._judge(link, session.post(f"{self.url}/v5/order/create", data=body, headers=headers)):
            self.acknowledged.append(link)

    async def _judge(self, what: str, asked: Any) -> bool:
        try:
            async with asked as answer:
                body = await answer.read()
                own = answer.headers.get("X-Gateway")
                good = answer.status == 200 and own is None and json.loads(body)["retCode"] == 0
                told = f"{answer.status} {own} {body[:200]!r}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            good, told = False, repr(error)
        if not good:
            self.wrong.append(f"{what}: {told}")
            await asyncio.sleep(0.1)  # or whoever is told no at once asks thousands of times
        self.answered += good
        return good


@asynccontextmanager
async def under_load(load: Load, arrivals: Arrivals) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.client(kind)) for kind in CLIENTS]
        tasks += [group.create_task(arrivals.sample()), group.create_task(load.beat())]
        yield
        for task in tasks:
            task.cancel()


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    ends = time.monotonic() + 60
    while not await true():
        assert time.monotonic() < ends, f"{what} did not come"
        await asyncio.sleep(0.05)  # bounded polling of other processes


@asynccontextmanager
async def stack_of_two() -> AsyncIterator[tuple[FakeBybit, list[Replica], Front]]:
    unlimited = {"POST /v5/order/create": 100_000, "GET /v5/account/wallet-balance": 100_000}
    settings = Settings(record_size=1, ip_limit=LIMIT, ip_window_us=int(WINDOW_S * 1e6), account_limits=unlimited)
    with redis_server() as redis:
        async with AsyncExitStack() as stack:
            exchange = await stack.enter_async_context(FakeBybit(settings=settings))
            environment = {
                "GATEWAY__UPSTREAM__URL": exchange.url,
                "GATEWAY__LISTEN__HOST": "127.0.0.1",
                "GATEWAY__LISTEN__TRUSTED_PROXIES": '["127.0.0.1/32"]',
                "GATEWAY__LIMITS": json.dumps([RULE]),
                "GATEWAY__PACING__ENABLED": "false",  # the exchange is told to limit no account
                "GATEWAY__QUEUE__MAX_WAIT": "60s",
                "GATEWAY__STORE__REPLICAS": "2",
                "REDIS_URL": redis.url,
                # A machine that stands still for a moment is no reason to turn anybody away here.
                "GATEWAY__BACKPRESSURE__ENABLED": "false",
                "GATEWAY__BREAKER__ENABLED": "false",
                "LOG_LEVEL": "warning",
            }
            replicas = [Replica(environment), Replica(environment)]
            for replica in replicas:
                stack.push_async_callback(replica.kill)
                await replica.start()
            before = front(*(replica.port for replica in replicas))
            yield exchange, replicas, stack.enter_context(before)


@needs_nginx
@needs_redis
@pytest.mark.timeout(300)
async def test_replicas_restarted_one_by_one_lose_no_request_and_double_no_order() -> None:
    """0 failed requests, 0 doubled orders, 0 breaches; and the one that is left has the whole budget."""
    async with stack_of_two() as (exchange, replicas, before):
        load, arrivals = Load(before.url), Arrivals(exchange, LIMIT, WINDOW_S)
        async with under_load(load, arrivals):
            for replica in replicas * ROUNDS:
                await until(lambda: used(replicas), "traffic on both")
                said = await replica.end(load)
                alone = await arrivals.reach(0.8, time.monotonic(), SPAN_S, within_s=60)
                print(f"{load.answered} answered, {alone:.0%} of the budget used by one alone, {load.wrong[:3]}")
                assert "requests_cut_off" not in said
                assert alone >= 0.8, "half of it would be its share"
                await replica.start()
            await until(lambda: used(replicas), "traffic on both")
        placed = exchange.stats.placed_link_ids

    print(f"{load.answered} answered, {len(load.acknowledged)} orders, {exchange.books.ip.max_in_window()} in a window")
    assert load.wrong == []
    assert load.answered > 500
    assert set(placed.values()) == {1}
    assert set(load.acknowledged) <= {link for _, link in placed}
    assert len(placed) - len(load.acknowledged) <= len(CLIENTS), "the last ones were not waited for"
    assert exchange.books.ip.breaches == 0
    assert exchange.books.ip.max_in_window() <= LIMIT


async def used(replicas: list[Replica]) -> bool:
    """Both serve again before the next one is ended."""
    return min([await replica.served() for replica in replicas]) > 20

"""Several gateways with one Redis behind the cache of each, in this process or as real ones, and crowds before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest

from proxy.app import App
from tests.cached import CLOSED, INFO, LATEST, ask, unlike
from tests.conversation import until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.recorder import Recorder, Seen
from tests.redis_servers import RedisServer

CALLERS: Final = 200
GATEWAYS: Final = 3
KINDS: Final = pytest.mark.parametrize("asked", [CLOSED, LATEST, INFO], ids=["closed", "open", "a rule's"])


def shared(redis_url: str, **more: Any) -> dict[str, Any]:
    # A busy machine must not be taken for a Redis that is lost.
    return {
        "cache__l2__url": redis_url,
        "cache__l2__timeout": "1s",
        "cache__lock": "always",
        "candles__boundary__enabled": "false",
        "limits": [],
        **more,
    }


@asynccontextmanager
async def gateways(upstream_url: str, redis_url: str, count: int = GATEWAYS, **more: Any) -> AsyncIterator[list[App]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(gateway(upstream_url, **shared(redis_url, **more))) for _ in range(count)
        ]


async def crowd(ports: Sequence[int], asked: str, callers: int = CALLERS) -> list[tuple[int, bytes]]:
    """All at once, at the gateways in turn."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> tuple[int, bytes]:
            async with session.get(f"http://127.0.0.1:{ports[number % len(ports)]}{asked}") as answer:
                return answer.status, await answer.read()

        return list(await asyncio.gather(*(one(number) for number in range(callers))))


def standing() -> FakeBybit:
    """Its market does not move: who asks by himself, a little later than others, gets the same open candle."""
    now_us = time.time_ns() // 1_000
    return FakeBybit(clock=lambda: now_us)


def slow(exchange: FakeBybit, delay_us: int = 300_000) -> None:
    """So slow that all have asked before the first is answered."""
    exchange.faults.add({"kind": "delay", "delay_us": delay_us})


def answered_alike(answers: list[tuple[int, bytes]]) -> None:
    assert {status for status, _ in answers} == {200}
    assert len({unlike(body) for _, body in answers}) == 1


@asynccontextmanager
async def processes(upstream_url: str, redis: RedisServer) -> AsyncIterator[dict[int, Any]]:
    """Real ones, by their ports."""
    with ExitStack() as stack:
        started = {}
        for _ in range(GATEWAYS):
            port = free_port()
            started[port] = stack.enter_context(
                process(
                    "run",
                    GATEWAY__UPSTREAM__URL=upstream_url,
                    GATEWAY__LISTEN__PORT=str(port),
                    GATEWAY__CACHE__L2__URL=redis.url,
                    GATEWAY__CACHE__L2__TIMEOUT="1s",
                    GATEWAY__CACHE__LOCK="always",
                    GATEWAY__LIMITS="[]",
                    LOG_LEVEL="error",
                )
            )
        for port, each in started.items():
            await asyncio.to_thread(wait_until_ready, port, each)
        yield started


class Gate:
    """An exchange that answers when it is told to, each request with what is next."""

    def __init__(self, *answers: bytes) -> None:
        self.open = asyncio.Event()
        self._answers = list(answers)

    async def __call__(self, _: Seen, writer: asyncio.StreamWriter) -> None:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        await self.open.wait()
        writer.write(answer)


async def asked_by_all(apps: Sequence[App], upstream: Recorder, asked: str, each: int = 5) -> asyncio.Future[Any]:
    """The first gateway fetches, the others wait for it: all of them have asked."""
    first = asyncio.gather(*(ask(apps[0], asked) for _ in range(each)))
    await until(lambda: upstream.seen, "the fetch")
    rest = asyncio.gather(*(ask(app, asked) for app in apps[1:] for _ in range(each)))
    for app in apps[1:]:
        await until(lambda app=app: app.metrics.l2_operations.counts.get(("lease", "elsewhere")), "the wait")
    return asyncio.gather(first, rest)

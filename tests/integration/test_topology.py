"""What docs/topology.md says of gateways with one Redis: what those of one address share, and those of two do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest

from proxy.app import App
from tests.conversation import TIME, Client, arrivals, new_session, until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.usefixtures("warnings_only")]

KLINE: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=60&start=1767225600000&end=1767240000000"
"""Of the past: however long the machine stands still, it is as good as before."""
OWN: Final = [{"name": "own", "partition": ["egress"], "quota": "10/1h", "counts": "requests", "when_full": "refuse"}]
ONE_OF_US: Final = ("here", "here", "elsewhere")
"""Two gateways of one address, and one of another."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def gateways(exchange: FakeBybit, redis: RedisServer, **overrides: Any) -> AsyncIterator[list[App]]:
    """All reach the Redis before anything is asked."""
    with redis.client() as client:
        client.flushall()
    async with AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(
                gateway(exchange.url, store__url=redis.url, store__replicas="2", egress__id=egress, **overrides)
            )
            for egress in ONE_OF_US
        ]
        for app in apps:
            await until(lambda app=app: app.store.status()["mode"] == "shared", "the shared budget")
        yield apps


async def test_gateways_of_one_address_share_a_window_and_of_another_have_their_own(redis: RedisServer) -> None:
    """Ten for the address by whichever of its two gateways, and ten more for the other address."""
    async with FakeBybit() as exchange, gateways(exchange, redis, limits=OWN) as apps, new_session() as session:
        clients = [Client(session, app) for app in apps]
        here = [(await clients[number % 2].get(TIME)).status for number in range(12)]
        elsewhere = [(await clients[2].get(TIME)).status for _ in range(12)]

    assert here == elsewhere == [200] * 10 + [429] * 2


async def test_candles_that_one_has_fetched_are_anothers_too_whatever_their_addresses(redis: RedisServer) -> None:
    """Market data is the same everywhere: the exchange is asked once."""
    async with (
        FakeBybit() as exchange,
        gateways(exchange, redis, candles__boundary={"enabled": False}) as apps,
        new_session() as session,
    ):
        first = await Client(session, apps[0]).get(KLINE)
        with redis.client() as client:
            await until(lambda: client.keys("bybit:klines:*"), "what was fetched is in Redis")
        second = await Client(session, apps[2]).get(KLINE)
        asked = arrivals(exchange, "/v5/market/kline")

    assert first.json["result"] == second.json["result"]
    assert "detail=l2" in second.headers["Cache-Status"]
    assert len(asked) == 1

"""A gateway with everything switched on, traffic in which everything happens, and a Prometheus that looks on.

    async with observed() as world:
        ...  # world.prometheus_url, world.gateway_url, world.app, await world.query("up")

When it is handed over, Prometheus has looked once a second for some 30 seconds: hits, misses, errors, waits, refusals,
a ban and its end lie behind. Traffic goes on until the block is left. The gateway, the exchange in a box and the
clients run in the caller's loop: whoever blocks it stops them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp
import orjson

from proxy.app import App
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.observability.programs import prometheus
from tests.postgres_server import PostgresServer
from tests.redis_servers import RedisServer, redis_server
from tests.signing import signed

BAN_S: Final = 16.0
"""How long the gateway keeps still after the ban that it is given."""
BEFORE_S: Final = 11.0
AFTER_S: Final = 3.0
SETTLE_MS: Final = 12_000
"""How long after its end a candle of the exchange may still change; the gateway believes five seconds."""
_TICK_S: Final = 0.25
_PATIENCE_S: Final = 60.0
_MINUTE_MS: Final = 60_000
_CREATE: Final = b'{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"100"}'
_CANCEL: Final = b'{"category":"linear","symbol":"BTCUSDT","orderId":"unknown"}'
ODD: Final = "/v5/market/premium-index-price-kline"
_LIMITS: Final = [
    {
        "name": "bybit-ip",
        "partition": ["egress"],
        "quota": "120/1s",  # a new store lets nothing through for one window
        "counts": "upstream",
        "window": "held",
        "when_full": "wait",
        "refuse_with": "bybit",
    },
    # Small enough that who asks in a burst has to wait.
    {
        "name": "orderbook",
        "match": {"endpoint": "orderbook"},
        "partition": ["egress", "endpoint"],
        "quota": "5/1s",
        "counts": "upstream",
        "when_full": "wait",
    },
    {
        "name": "per-ip",
        "partition": ["ip"],
        "quota": "300/5s",
        "counts": "requests",
        "when_full": "refuse",
        "refuse_with": "http",
    },
]


@dataclass(frozen=True, slots=True)
class World:
    prometheus_url: str
    gateway_url: str
    app: App
    exchange: FakeBybit
    session: aiohttp.ClientSession
    redis: RedisServer
    file: Path
    """The gateway's configuration: empty at first, can be changed and reloaded. What `observed` has set stays so."""

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """What Prometheus finds now: a vector as it comes, of a scalar its value. AssertionError: it refuses."""
        told = await self._asked("/api/v1/query", query=expr)
        assert told["status"] == "success", f"{expr}: {told}"
        result = told["data"]["result"]
        return [{"metric": {}, "value": result}] if told["data"]["resultType"] == "scalar" else list(result)

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule as Prometheus has it: name, query, health, lastError, type, and state of alerts."""
        told = await self._asked("/api/v1/rules")
        return [rule for group in told["data"]["groups"] for rule in group["rules"]]

    async def until(self, expr: str, seconds: float = _PATIENCE_S) -> list[dict[str, Any]]:
        """Asked again and again until there is an answer."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if found := await self.query(expr):
                return found
            await asyncio.sleep(0.2)  # another process sets no Event
        raise AssertionError(f"not within {seconds:g} s: {expr}")

    async def _asked(self, path: str, **params: str) -> Any:
        async with self.session.get(f"{self.prometheus_url}{path}", params=params) as answer:
            return orjson.loads(await answer.read())


@asynccontextmanager
async def observed(*, alertmanager: str | None = None, **overrides: Any) -> AsyncIterator[World]:
    """`alertmanager`: HOST:PORT of one that is told. `overrides`: of the gateway's configuration."""
    async with AsyncExitStack() as stack:
        file = Path(stack.enter_context(TemporaryDirectory())) / "config.yaml"
        file.write_text("{}\n")
        redis = stack.enter_context(redis_server())
        postgres = await asyncio.to_thread(PostgresServer)
        stack.callback(postgres.close)
        database = await asyncio.to_thread(postgres.database)
        # Its REST answers settle later than the gateway believes: some candles are revised.
        settings = Settings(
            ip_limit=120, ip_window_us=1_000_000, ip_ban_us=round(BAN_S * 0.75 * 1e6), kline_settle_ms=SETTLE_MS
        )
        exchange = await stack.enter_async_context(FakeBybit(settings=settings))
        app = await stack.enter_async_context(
            gateway(
                exchange.url,
                file=file,
                upstream__stream_url=exchange.stream_url,
                **_config(redis.url, postgres.url(database), overrides),
            )
        )
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        another = await stack.enter_async_context(two_workers(exchange.url, redis.url))
        targets = [each.removeprefix("http://") for each in (url(app), another)]
        watching = prometheus(*targets, alertmanager=alertmanager)
        prometheus_url = await asyncio.to_thread(watching.__enter__)
        stack.push(watching)
        world = World(prometheus_url, url(app), app, exchange, session, redis, file)
        async with asyncio.TaskGroup() as group:
            traffic = group.create_task(Traffic(world).run())
            await _lived_through(world)
            yield world
            traffic.cancel()


@asynccontextmanager
async def two_workers(upstream: str, redis_url: str) -> AsyncIterator[str]:
    """Another gateway, of two processes, which nobody asks for anything; its URL."""
    port = free_port()
    with process(
        "run",
        WORKERS="2",
        REDIS_URL=redis_url,
        GATEWAY__EGRESS__ID="another",
        GATEWAY__UPSTREAM__URL=upstream,
        GATEWAY__LISTEN__HOST="127.0.0.1",
        GATEWAY__LISTEN__PORT=str(port),
        LOG_LEVEL="error",
    ) as parent:
        await asyncio.to_thread(wait_until_ready, port, parent)
        yield f"http://127.0.0.1:{port}"


async def _lived_through(world: World) -> None:
    """Good weather, a ban, and what comes after it."""
    await asyncio.sleep(BEFORE_S)  # Prometheus has to see rates, by its own clock
    world.exchange.streams.drop()
    ip = world.exchange.books.ip
    ip.ban("127.0.0.1", world.exchange.exchange.now_us())
    await world.until("max_over_time(gateway_banned[2m]) == 1")
    await world.until("last_over_time(gateway_banned[2m]) == 0")
    await asyncio.sleep(AFTER_S)


def _config(redis_url: str, postgres_url: str, overrides: dict[str, Any]) -> dict[str, Any]:
    return {
        "listen__trusted_proxies": ["127.0.0.1"],
        "store__url": redis_url,
        "store__timeout": "1s",  # a machine that stands still for a moment is not what this is about
        "cache__l2__timeout": "1s",
        "archive__url": postgres_url,
        "archive__flush": "200ms",
        "candles__stream": "true",
        "candles__shadow": "50",
        "limits": _LIMITS,
        "identity__tiers": {"FREE": {"second": 5, "minute": 1000, "hour": 10000, "burst": 8}},
        "identity__assign": [{"match": {"ip": "10.9.0.0/16"}, "tier": "FREE"}],
        "queue__max_wait": "1s",
        "pacing__ban": f"{BAN_S:g}s",
        "pacing__ramp": "2s",
        "log__level": "error",
        "log__slow": "200ms",
        "log__sample_hits": "50",
        **overrides,
    }


class Traffic:
    """Clients of all kinds, a little of each in every tick. What they are told is counted by the gateway, not here."""

    def __init__(self, world: World) -> None:
        self._base = world.gateway_url
        self._session = world.session
        self._faults = world.exchange.faults
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Until it is cancelled."""
        # Some answers are the exchange's errors, some never come whole; too few of them for the breaker to open.
        self._faults.add({"kind": "ret_code", "ret_code": 10006, "match": {"path": "/v5/market/delivery-price"}})
        self._faults.add({"kind": "cloudfront_html", "match": {"path": "/v5/market/index-price-components"}})
        self._faults.add({"kind": "reset_after", "match": {"path": "/v5/order/amend"}})
        self._faults.add({"kind": "ret_code", "ret_code": 10016, "match": {"path": "/v5/market/risk-limit"}})
        self._faults.add({"kind": "status", "status": 502, "match": {"path": "/v5/market/insurance"}})
        self._faults.add({"kind": "reset_before", "match": {"path": "/v5/market/account-ratio"}, "probability": 0.5})
        self._faults.add({"kind": "truncate", "match": {"path": "/v5/market/adl-alert"}})
        # A row that opens where none can.
        self._faults.add({"kind": "edit", "find": '000","', "replace": '001","', "match": {"path": ODD}})
        async with asyncio.TaskGroup() as group:
            for tick in itertools.count():
                for target in self._wanted(tick):
                    group.create_task(self._get(target))
                for _ in range(9 if tick % 16 == 8 else 1):  # nearly all that an account may send in a second
                    group.create_task(self._post("/v5/order/create", _CREATE))
                if tick % 4 == 0:
                    for number in range(8):
                        group.create_task(self._get("/v5/market/orderbook?category=linear&symbol=BTCUSDT", number))
                    for _ in range(12):  # of one client of a small tier
                        group.create_task(self._get("/v5/market/time", ip="10.9.0.1"))
                    group.create_task(self._post("/v5/order/cancel", _CANCEL))
                    group.create_task(self._post("/v5/order/amend", _CANCEL))
                    group.create_task(self._get("/v5/order/realtime?category=linear", account=True))
                    group.create_task(self._get("/v5/account/info", account=True))
                if tick % 8 == 0:
                    group.create_task(self._listen_in("linear"))
                    group.create_task(self._listen_in("no-such-stream"))
                await asyncio.sleep(_TICK_S)

    def _wanted(self, tick: int) -> Iterable[str]:
        kline = "/v5/market/kline?category=linear"
        for symbol in ("BTCUSDT", "ETHUSDT"):
            yield f"{kline}&symbol={symbol}&interval=1&limit=200"
            yield f"{kline}&symbol={symbol}&interval=60&limit=50"
        fresh = f"ALT{next(self._numbers) % 400:03d}USDT"
        yield from [f"{kline}&symbol={fresh}&interval=5&limit=100"] * 3  # at once: one of them fetches
        end_ms = time.time_ns() // 1_000_000 - 1000 * _MINUTE_MS
        yield f"{kline}&symbol=BTCUSDT&interval=1&start={end_ms - (tick + 200) * _MINUTE_MS}&end={end_ms}&limit=1000"
        # Of this kind the stream tells nothing: what is believed too early is noticed when it is read again.
        yield "/v5/market/mark-price-kline?category=linear&symbol=BTCUSDT&interval=1&limit=5"
        yield "/v5/market/tickers?category=linear&symbol=BTCUSDT"
        yield "/v5/market/instruments-info?category=linear&symbol=BTCUSDT"
        if tick % 4 == 1:
            start_ms = end_ms - (1500 + tick) * _MINUTE_MS
            yield f"/api/v1/marketdata/klines/ETHUSDT?interval=1&start={start_ms}&end={end_ms}"
            yield "/v5/market/risk-limit?category=linear"
            yield f"/v5/market/insurance?coin={fresh}"
            yield f"/v5/market/account-ratio?category=linear&symbol={fresh}&period=1h"
            yield f"/v5/market/adl-alert?symbol={fresh}"
            yield f"/v5/market/delivery-price?category=linear&symbol={fresh}"
            yield "/v5/market/index-price-components?indexName=BTCUSDT"
            yield f"{ODD}?category=linear&symbol={fresh}&interval=60&limit=5"
            yield "/nothing/here"

    async def _get(self, target: str, number: int = 0, *, ip: str = "", account: bool = False) -> None:
        headers = {"X-Forwarded-For": ip or f"10.0.0.{number}"}
        trace = next(self._numbers)
        headers["traceparent"] = f"00-{trace:032x}-{trace:016x}-01"
        if account:
            headers |= signed(target.partition("?")[2])
        await self._ask("GET", target, headers, None)

    async def _post(self, target: str, body: bytes) -> None:
        headers = {"X-Forwarded-For": "10.0.1.1", "Content-Type": "application/json", **signed(body)}
        await self._ask("POST", target, headers, body)

    async def _listen_in(self, stream: str) -> None:
        """A WebSocket, for a moment."""
        where = self._base.replace("http", "ws", 1) + f"/v5/public/{stream}"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S), self._session.ws_connect(where) as socket:
                await socket.send_json({"op": "ping"})
                await socket.receive()

    async def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> None:
        try:
            async with self._session.request(method, self._base + target, headers=headers, data=body) as answer:
                await answer.read()
        except aiohttp.ClientError:
            pass  # an answer that did not come whole is passed on as such

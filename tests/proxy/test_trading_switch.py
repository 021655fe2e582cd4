"""The trade switch: with one word no order is placed or changed any more, and every cancel still passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from tests.conversation import CREATE, INFO, TIME, Client, Told, arrivals, new, new_session, until
from tests.crowd import LIMITS
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.proxy.test_log import Captured, captured
from tests.recorder import recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server

__all__ = ["captured"]

TOKEN = "correct-horse-battery-staple"
SWITCH = "/gateway/trading"
FOLLOW_S = 1.0
"""Within it every gateway of the address does as one of them was told."""
ONE_ORDER = {"symbol": "BTCUSDT", "orderLinkId": "one"}

PLACING: dict[str, dict[str, Any]] = {
    "/v5/order/create": new("one"),
    "/v5/order/amend": {**ONE_ORDER, "price": "1001"},
    "/v5/order/create-batch": {"request": [new("one"), new("two")]},
    "/v5/order/amend-batch": {"request": [{**ONE_ORDER, "price": "1001"}]},
    "/v5/spread/order/create": new("one"),
    "/v5/spread/order/amend": {**ONE_ORDER, "price": "1001"},
}
CANCELLING: dict[str, dict[str, Any]] = {
    "/v5/order/cancel": ONE_ORDER,
    "/v5/order/cancel-batch": {"request": [ONE_ORDER]},
    "/v5/order/cancel-all": {"symbol": "BTCUSDT"},
    "/v5/spread/order/cancel": ONE_ORDER,
    "/v5/spread/order/cancel-all": {},
}


@asynccontextmanager
async def guarded(upstream_url: str, **overrides: Any) -> AsyncIterator[App]:
    async with gateway(upstream_url, **{"admin__token": TOKEN, "limits": LIMITS, **overrides}) as app:
        yield app


async def switch(
    session: aiohttp.ClientSession,
    app: App,
    mode: str = "halt-new",
    *,
    token: str | None = TOKEN,
    data: bytes | None = None,
) -> Told:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = json.dumps({"mode": mode}).encode() if data is None else data
    return await Client(session, app).send("POST", SWITCH, headers=headers, data=body)


async def shown(session: aiohttp.ClientSession, app: App) -> str:
    async with session.get(url(app, SWITCH), headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        return str((await answer.json())["mode"])


def refused(told: Told) -> bool:
    """In the exchange's own envelope, as it would say it itself."""
    return (
        (told.status, told.gateway) == (200, "trading-halted")
        and told.headers["Content-Type"].startswith("application/json")
        and told.json.keys() == {"retCode", "retMsg", "result", "retExtInfo", "time"}
        and (told.code, told.json["retMsg"]) == (10027, "Transactions are banned.")
        and told.json["result"] == told.json["retExtInfo"] == {}
    )


async def test_new_orders_are_refused_and_cancels_pass() -> None:
    """Single, in a batch and of spreads; reads as well pass; and all of it is normal again when it is said."""
    async with recorder() as upstream, guarded(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        told = await switch(session, app)
        placing = {path: await client.post(path, **fields) for path, fields in PLACING.items()}
        sent_while_halted = [seen.target.decode() for seen in upstream.seen]
        cancelling = [await client.post(path, **fields) for path, fields in CANCELLING.items()]
        reading = [
            await client.get_signed(),
            await client.get_signed("/v5/order/realtime?category=linear"),
            await client.get(),
        ]
        passed = [seen.target.decode() for seen in upstream.seen]
        back = await switch(session, app, "normal")
        again = [await client.post(path, **fields) for path, fields in PLACING.items()]

    assert (told.status, told.json, told.gateway) == (200, {"mode": "halt-new"}, "own-page")
    assert [path for path, each in placing.items() if not refused(each)] == []
    assert sent_while_halted == []
    assert [each.status for each in (*cancelling, *reading)] == [200] * 8
    assert passed == [*CANCELLING, INFO, "/v5/order/realtime?category=linear", TIME]
    assert back.json == {"mode": "normal"}
    assert [(each.status, each.gateway) for each in again] == [(200, None)] * len(PLACING)


async def test_an_order_that_rests_can_be_cancelled_while_trading_is_halted() -> None:
    async with FakeBybit() as exchange, guarded(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        created = await client.create("one")
        await switch(session, app)
        amended = await client.post("/v5/order/amend", **ONE_ORDER, price="1001")
        cancelled = await client.post("/v5/order/cancel", **ONE_ORDER)

    assert (created.code, cancelled.code) == (0, 0)
    assert refused(amended)
    assert [entry.operation for entry in exchange.record.entries] == ["create", "cancel"]


async def test_without_a_token_in_the_configuration_nobody_may() -> None:
    """And the answer says what to do about it."""
    async with recorder() as upstream, gateway(upstream.url) as app, new_session() as session:
        told = await switch(session, app, token=None)
        created = await Client(session, app).create("one")

    assert (told.status, told.gateway) == (403, "no-admin-token")
    assert b"admin.token" in told.body
    assert b"Authorization: Bearer" in told.body
    assert created.gateway is None


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", ""])
async def test_only_who_has_the_token_may(token: str | None) -> None:
    async with recorder() as upstream, guarded(upstream.url) as app, new_session() as session:
        told = await switch(session, app, token=token)
        page = await Client(session, app).get(SWITCH)
        created = await Client(session, app).create("one")

    assert (told.status, told.gateway) == (401, "unauthorized")
    assert told.headers["WWW-Authenticate"] == "Bearer"
    assert page.status == 401
    assert created.gateway is None
    assert TOKEN.encode() not in told.body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"halt-new",
        b'"halt-new"',
        b'{"mode":"stop"}',
        b'{"mode":null}',
        b'{"mode":["normal"]}',
        b"\xff",
    ],
)
async def test_what_is_no_mode_changes_nothing(data: bytes) -> None:
    async with recorder() as upstream, guarded(upstream.url) as app, new_session() as session:
        await switch(session, app)
        told = await switch(session, app, data=data)
        mode = await shown(session, app)

    assert (told.status, told.gateway) == (400, "bad-mode")
    assert b'{"mode": "normal"} or {"mode": "halt-new"}' in told.body
    assert mode == "halt-new"


async def test_orders_that_wait_when_it_is_thrown_are_refused_and_never_sent() -> None:
    """They asked while it was allowed, but nothing was sent yet."""
    settings = Settings(account_limits={"POST /v5/order/create": 3})
    async with (
        FakeBybit(settings=settings) as exchange,
        guarded(exchange.url) as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        await client.create("teaches-the-limit")
        orders = [group.create_task(client.create(f"order-{number}")) for number in range(12)]
        await until(lambda: sum(order.done() for order in orders) >= 2, "the first of them")
        await until(lambda: app.limiter.waiting > 5, "those that wait")
        await switch(session, app)
        before = len(arrivals(exchange, CREATE))
        told = [await order for order in orders]

    sent = arrivals(exchange, CREATE)
    assert len(sent) == before
    halted = [each for each in told if each.gateway is not None]
    assert len(halted) > 5
    assert all(refused(each) for each in halted)
    assert 1 + sum(each.code == 0 for each in told) == len(sent)


async def test_pages_metrics_and_log_show_it(captured: Captured) -> None:
    async with recorder() as upstream, guarded(upstream.url) as app, new_session() as session:
        client = Client(session, app)

        async def seen() -> list[str | float]:
            health = (await client.get("/health")).json["egress"]["trading"]
            metrics = [await client.metric(f'gateway_trading_mode{{mode="{mode}"}}') for mode in ("normal", "halt-new")]
            return [await shown(session, app), health, *metrics]

        before = await seen()
        await switch(session, app)
        halted = await seen()
        await client.create("one")
        errors = await client.metric('bybit_errors_total{error_type="trading-halted"}')
        ready = await client.get("/health/ready")
        await switch(session, app)
        await switch(session, app, "normal")
        after = await seen()

    assert [before, after] == [["normal", "normal", 1, 0]] * 2
    assert halted == ["halt-new", "halt-new", 0, 1]
    assert errors == 1
    assert ready.status == 200, "it is the operator's wish"
    events = [event["mode"] for event in captured.events() if event["event"] == "trading_switched"]
    assert events == ["halt-new", "normal"], "said once for each change"
    assert not any(TOKEN.encode() in line for line in captured.written)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def all_show(session: aiohttp.ClientSession, apps: list[App], mode: str) -> None:
    """Within the time in which they promise to follow."""
    async with asyncio.timeout(FOLLOW_S):
        while {await shown(session, app) for app in apps} != {mode}:
            await asyncio.sleep(0.02)


@needs_redis
async def test_all_gateways_of_an_address_follow(redis: RedisServer) -> None:
    """Whichever is told; those too that start later, and whatever Redis forgets."""
    async with (
        recorder() as upstream,
        guarded(upstream.url, store__url=redis.url) as first,
        guarded(upstream.url, store__url=redis.url) as second,
        guarded(upstream.url, store__url=redis.url) as third,
        guarded(upstream.url, store__url=redis.url, egress__id="elsewhere") as other,
        new_session() as session,
    ):
        apps = [first, second, third]
        await until(lambda: all(app.store.status()["mode"] == "shared" for app in apps), "the shared store")
        await switch(session, second)
        await all_show(session, apps, "halt-new")
        told = [await Client(session, app).create("one") for app in apps]
        others = await shown(session, other)
        async with guarded(upstream.url, store__url=redis.url) as late:
            at_once = await Client(session, late).create("one")
            with redis.client() as client:
                client.flushall()
            await asyncio.sleep(FOLLOW_S)  # until Redis has been told again
            async with guarded(upstream.url, store__url=redis.url) as later:
                after_flush = await Client(session, later).create("one")
                await all_show(session, [*apps, late, later], "halt-new")
                await switch(session, late, "normal")
                await all_show(session, [*apps, late, later], "normal")
        again = [await Client(session, app).create("one") for app in apps]

    assert all(refused(each) for each in (*told, at_once, after_flush))
    assert others == "normal"
    assert [each.gateway for each in again] == [None] * 3


@needs_redis
async def test_a_gateway_that_is_cut_off_is_told_by_hand_and_tells_the_others_when_redis_is_back() -> None:
    with redis_server() as redis:
        async with (
            recorder() as upstream,
            guarded(upstream.url, store__url=redis.url) as first,
            guarded(upstream.url, store__url=redis.url) as second,
            new_session() as session,
        ):
            await until(lambda: first.store.status()["mode"] == "shared", "the shared store")
            await asyncio.to_thread(redis.kill)
            told = await switch(session, first)
            created = await Client(session, first).create("one")
            unknowing = await shown(session, second)
            await asyncio.to_thread(redis.start)
            await until(lambda: second.egress.halted, "the news")

    assert told.status == 200
    assert refused(created)
    assert unknowing == "normal"

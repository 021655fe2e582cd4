"""What a gateway that has too much to do turns away, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from multidict import CIMultiDict

from policies.pressure import Level, Readings
from proxy.app import App
from proxy.errors import Shed
from tests.by_hand import desk
from tests.cached import INFO, LATEST, ask, detail
from tests.conversation import CREATE, TICKERS, Client, arrivals, new, new_session
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.proxy.test_log import Captured, captured
from tests.proxy.test_reload import File, file, reload, running

__all__ = ["captured", "file"]

FUNDING = "/v5/market/funding/history?category=linear&symbol=BTCUSDT"
OLD = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=60&start=1780000000000&end=1780100000000"
NEWEST = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=60&limit=3"
BATCH = "/api/v1/marketdata/klines/BTCUSDT?interval=60&start=1780000000000&end=1780100000000"
PRICE = "/api/v1/prices/btc-usdt"
LASTING: dict[str, Any] = {"backpressure__enabled": "true", "backpressure__calm": "1m"}
"""The gateway's own samples, which are good, do not end what a test has brought about."""
LATE = {Level.HIGH: 200_000, Level.CRITICAL: 2_000_000}


def press(app: App, level: Level) -> None:
    """As if the event loop had been late again and again."""
    for _ in range(3):
        app.watch.pressure.note(Readings(lag_us=LATE[level]))
    assert app.watch.pressure.level is level


async def led(fetch: Awaitable[object]) -> bool:
    """Whether it was turned away."""
    try:
        await fetch
    except Shed:
        return True
    return False


@asynccontextmanager
async def pressed(level: Level, **overrides: Any) -> AsyncIterator[tuple[FakeBybit, Client]]:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, **{**LASTING, **overrides}) as app,
        new_session() as session,
    ):
        press(app, level)
        yield exchange, Client(session, app)


async def test_at_high_history_is_turned_away_and_nothing_else() -> None:
    """503 in one line of plain text, and when to come again; the exchange hears nothing of it."""
    async with pressed(Level.HIGH) as (exchange, client):
        turned_away = [await client.get(target) for target in (FUNDING, OLD)]
        live, account = await client.get(TICKERS), await client.get_signed()
        order, cancel = await client.create("one"), await client.post("/v5/order/cancel", **new("one"))
        shed = [
            await client.metric(f'gateway_shed_requests_total{{priority="{name}"}}')
            for name in ("history", "live", "account", "order", "cancel")
        ]
        level = await client.metric("gateway_backpressure_level")

    for told in turned_away:
        assert (told.status, told.gateway) == (503, "overload")
        assert told.headers["Retry-After"] == str(Shed.wait_us // 1_000_000)
        assert told.headers["Content-Type"].startswith("text/plain")
        assert told.body.count(b"\n") == 1
    assert not arrivals(exchange, FUNDING.partition("?")[0])
    assert not arrivals(exchange, "/v5/market/kline")
    assert [told.status for told in (live, account, order)] == [200, 200, 200]
    assert [told.gateway for told in (live, account, order, cancel)] == [None] * 4
    assert shed == [2, 0, 0, 0, 0]
    assert level == 1


async def test_at_critical_live_data_too_but_never_what_is_of_an_account() -> None:
    async with pressed(Level.CRITICAL) as (exchange, client):
        history, live = await client.get(FUNDING), await client.get(TICKERS)
        account, order = await client.get_signed(), await client.create("one")
        cancel = await client.post("/v5/order/cancel", category="linear", symbol="BTCUSDT", orderLinkId="one")
        shed = await client.metric('gateway_shed_requests_total{priority="live"}')

    assert [(told.status, told.gateway) for told in (history, live)] == [(503, "overload")] * 2
    assert [(told.status, told.gateway, told.code) for told in (account, order, cancel)] == [(200, None, 0)] * 3
    assert len(arrivals(exchange, CREATE)) == 1
    assert not arrivals(exchange, TICKERS.partition("?")[0])
    assert shed == 1


async def test_the_pages_of_our_own_say_the_same_in_their_words() -> None:
    async with pressed(Level.CRITICAL) as (_, client):
        told = [await client.get(BATCH), await client.get(PRICE)]
        health = await client.get("/health")

    assert [(each.status, each.gateway) for each in told] == [(503, "overload")] * 2
    assert all("Retry-After" in each.headers for each in told)
    assert health.status == 200


async def test_what_is_kept_is_still_given() -> None:
    """Fresh answers as ever; older ones where those may be given at all, and it is said why."""
    async with desk(**LASTING, candles__boundary__enabled="false") as here:
        await ask(here.app, LATEST)
        await ask(here.app, INFO)
        press(here.app, Level.CRITICAL)
        fresh = [await ask(here.app, target) for target in (LATEST, INFO)]
        await here.clock.leap(75)
        stale = [await ask(here.app, target) for target in (LATEST, INFO)]
        await here.clock.leap(30 * 86_400)
        too_old = await ask(here.app, INFO)

    assert [(answer.status, detail(answer)) for answer in fresh] == [(200, "")] * 2
    assert [(answer.status, detail(answer)) for answer in stale] == [(200, "overload")] * 2
    assert too_old.status == 503


async def test_a_live_request_is_served_at_high_whatever_has_to_be_fetched_for_it() -> None:
    """The newest candles are known in part: what is missing is older, and is fetched as a part of the past."""
    async with desk(**LASTING, candles__boundary__enabled="false") as here:
        await ask(here.app, "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=10")
        press(here.app, Level.HIGH)
        answer = await ask(here.app, "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=300")
        part = arrivals(here.exchange, "/v5/market/kline")[-1]

    assert answer.status == 200
    assert "end=" in part.target


async def test_who_joins_the_fetch_of_one_that_is_turned_away_is_judged_by_himself() -> None:
    """The other may be of a less urgent class: here a live request has joined it."""
    async with pressed(Level.HIGH) as (_, client):
        lookup = client.app.caches.lookup
        entered = asyncio.Event()

        async def turned_away() -> None:
            await entered.wait()
            raise Shed

        asked = client.app.gateway.describer.describe("GET", NEWEST, "127.0.0.1", CIMultiDict())
        flights, key = lookup._flights, lookup._flight_of(asked.kept)
        async with asyncio.TaskGroup() as group:
            leader = group.create_task(led(flights.join(key, turned_away)))
            await until(lambda: key in flights)
            follower = group.create_task(client.get(NEWEST))
            await until(lambda: flights._flights[key].waiting == 2)
            entered.set()
        told = follower.result()

    assert leader.result()
    assert (told.status, told.gateway) == (200, None)


async def test_our_own_courtesies_stop_first() -> None:
    """Nothing is fetched ahead or for comparison while anybody is turned away."""
    async with pressed(Level.HIGH) as (_, client):
        caches = client.app.caches
        assert caches.percent_used() < 50
        assert caches.boundary._busy() == caches.shadow._busy() == 100


async def test_what_piles_up_raises_the_level_and_a_reload_ends_it(file: File, captured: Captured) -> None:
    """By the gateway's own samples: its loops are tasks, and here two tasks are too many."""
    patient = {"lag_high": "30s", "lag_critical": "1m", "calm": "50ms"}
    strict = {**patient, "tasks_high": 1, "tasks_critical": 2}
    file.write(backpressure=patient)
    async with FakeBybit() as exchange, running(exchange.url, file.path) as app, new_session() as session:
        client = Client(session, app)
        assert (await client.get(FUNDING)).status == 200

        file.write(backpressure=strict)
        await reload(app)
        await until(lambda: app.watch.pressure.level is Level.CRITICAL)
        order, live = await client.create("one"), await client.get(TICKERS)
        raised = await client.metric("gateway_backpressure_level")

        file.write(backpressure=patient)
        await reload(app)
        await until(lambda: app.watch.pressure.level is Level.NORMAL)
        again = await client.get(TICKERS)

        file.write(backpressure={**strict, "enabled": False})
        await reload(app)
        for _ in range(4):
            app.watch.vitals.sample(0)
        unjudged = app.watch.pressure.level

    assert (order.status, order.code) == (200, 0)
    assert (live.status, again.status, raised) == (503, 200, 2)
    assert unjudged is Level.NORMAL
    told = [(event["pressure"], event["because"]) for event in captured.events() if event["event"] == "backpressure"]
    assert told == [("critical", "tasks"), ("high", "tasks"), ("normal", "")]


async def test_a_level_ends_at_once_when_nothing_is_to_be_turned_away_any_more(file: File) -> None:
    file.write()
    async with FakeBybit() as exchange, running(exchange.url, file.path) as app, new_session() as session:
        press(app, Level.CRITICAL)
        file.write(backpressure={"enabled": False})
        await reload(app)
        told = await Client(session, app).get(TICKERS)

    assert told.status == 200


async def test_a_full_queue_is_pressure() -> None:
    """Nine of ten places are taken by live requests: history is not let in, and then live data either."""
    one = [{"name": "one", "quota": "1/1h", "match": {"endpoint": "tickers"}, "when_full": "wait", "window": "held"}]
    clock = HandClock()
    async with (
        FakeBybit() as exchange,
        gateway(
            exchange.url,
            clock=clock,
            limits=one,
            queue__max_waiting="10",
            queue__max_wait="24h",
            cache__enabled="false",
            **LASTING,
        ) as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        await client.get(TICKERS)
        waiting = [group.create_task(client.get(TICKERS)) for _ in range(9)]
        await until(lambda: app.limiter.waiting == 9)
        await until(lambda: app.watch.pressure.level is Level.CRITICAL)
        because = app.watch.pressure.because
        told = [await client.get(FUNDING), await client.create("one")]
        for each in waiting:
            each.cancel()

    assert because == "queue"
    assert [each.status for each in told] == [503, 200]

"""What the gateway measures of itself: its event loop, its tasks, its memory."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.growth import Growth, Sample
from policies.pressure import Level
from proxy import heap
from proxy.app import App
from proxy.clock import Clock, system_clock
from proxy.config import load
from proxy.memory import LONGEST_TRACE_US, SAMPLE_S, Memory, Used, used
from proxy.metrics import GAUGES, Metrics
from proxy.pressure import Pressure
from proxy.tasks import TaskOwner
from proxy.vitals import Vitals, kind_of
from tests.conversation import TICKERS, Client, new_session, until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import ROUTES, gateway
from tests.proxy.test_log import Captured, captured
from tests.proxy.test_trading_switch import TOKEN
from tests.redis_servers import needs_redis, redis_server
from tests.virtual import VirtualLoop, run_virtually

__all__ = ["captured"]

PAGE = "/gateway/memory"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MIB = 1 << 20


@pytest.fixture
def untraced() -> Iterator[None]:
    """Whatever a test has begun ends with it."""
    yield
    tracemalloc.stop()


def vitals_of(app: App, clock: Clock, pressure: Pressure | None = None) -> Vitals:
    """Of a gateway that does not listen, by another clock."""
    return Vitals(
        pressure=pressure or Pressure(None, app.metrics, clock),
        limiter=app.limiter,
        door=app.door,
        store=app.store,
        caches=app.caches,
        tasks=app.tasks,
        loops=app.loops,
        metrics=app.metrics,
        max_waiting=5_000,
        clock=clock,
        sleep=asyncio.sleep,
    )


def memory_of(read: Callable[[], Used], clock: Clock, kept_bytes: Callable[[], int] = lambda: 0) -> Memory:
    return Memory(
        metrics=Metrics(),
        kept=lambda: {"things": 7},
        kept_bytes=kept_bytes,
        clock=clock,
        sleep=asyncio.sleep,
        read=read,
    )


def shown(metrics: Metrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None, name
    return value


def test_a_block_of_the_event_loop_is_seen_for_fifteen_seconds() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        app = App(load(None, {}, ROUTES), ROUTES, clock=loop.clock_us)
        vitals = vitals_of(app, loop.clock_us)
        owner, seen = TaskOwner(), []
        owner.spawn(vitals.run(), "vitals")
        for pause_s in (2.0, 0.3, 14.0, 1.5):
            await asyncio.sleep(pause_s)
            if pause_s == 2.0:
                loop.passed += 0.7  # as if this call had taken so long
            vitals.show()
            seen.append(shown(app.metrics, "backpressure_event_loop_lag_seconds"))
        await owner.close()
        return seen

    before, after, still, gone = run_virtually(main)
    assert before == 0
    assert 0.4 <= after == still <= 0.7
    assert gone == 0


@pytest.mark.parametrize(("blocks", "level"), [(1, Level.NORMAL), (2, Level.NORMAL), (8, Level.HIGH)])
def test_only_a_loop_that_is_late_again_and_again_is_pressed(blocks: int, level: Level) -> None:
    """And it recovers. The blocks are as long as the pause between two samples."""

    async def main(loop: VirtualLoop) -> tuple[Level, Level]:
        config = load(None, {}, ROUTES)
        app = App(config, ROUTES, clock=loop.clock_us)
        pressure = Pressure(config.backpressure.compiled(), app.metrics, loop.clock_us)
        owner, most = TaskOwner(), Level.NORMAL
        owner.spawn(vitals_of(app, loop.clock_us, pressure).run(), "vitals")
        await asyncio.sleep(1)
        for _ in range(blocks):
            loop.passed += 0.45
            await asyncio.sleep(0.01)
            most = max(most, pressure.level)
        await asyncio.sleep(12)
        await owner.close()
        return most, pressure.level

    assert run_virtually(main) == (level, Level.NORMAL)


def test_types_of_tasks_are_few_whatever_their_names() -> None:
    names = [
        "send kline",
        "fetch bybit:klines:linear:BTCUSDT",
        "fetch x",
        "bring",
        "marketdata-batch",
        "",
        "lease-renewal",
    ]
    assert list(kind_of(names)) == ["send", "fetch", "fetch", "fetch", "other", "other", "store"]


async def test_the_gauges_tell_of_this_process() -> None:
    """All of them, on the metrics page; and counters never run backwards."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        await client.get(f"{TICKERS}&x=1")
        await client.get("/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3")
        first = await client.metric('gateway_cpu_seconds_total{mode="user"}')
        rss, vms = await client.metric("memory_rss_bytes"), await client.metric("memory_vms_bytes")
        loops = await client.metric('backpressure_async_tasks_pending{task_type="loop"}')
        sends = await client.metric('backpressure_async_tasks_pending{task_type="send"}')
        objects = {
            kind: await client.metric(f'memory_objects_count{{type="{kind}"}}')
            for kind in ("cache_entries", "candle_series", "windows", "waiting", "tasks", "memory_blocks")
        }
        collections = await client.metric('memory_gc_collections_total{generation="0"}')
        gc.collect(0)
        collected = await client.metric('memory_gc_collections_total{generation="0"}')
        second = await client.metric('gateway_cpu_seconds_total{mode="user"}')

    assert 10 * MIB < rss < vms
    assert loops >= 5
    assert sends == 0
    assert objects["cache_entries"] >= 1
    assert objects["candle_series"] == 1
    assert objects["windows"] >= 2
    assert objects["waiting"] == 0
    assert objects["memory_blocks"] > 10_000
    assert collected > collections
    assert 0 < first <= second
    assert {"memory_rss_bytes", "backpressure_event_loop_lag_seconds", "gateway_backpressure_level"} <= GAUGES.keys()


def test_memory_is_read_as_the_system_tells_it_and_done_without_elsewhere(tmp_path: Path) -> None:
    ours, missing = used(), used(tmp_path / "statm")
    odd = tmp_path / "odd"
    odd.write_text("what is this")

    assert ours.now
    assert 10 * MIB < ours.rss_bytes < ours.vms_bytes
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "known").write_text("300 200 10 1 0 50 0")
    assert used(tmp_path / "known") == Used(200 * page, 300 * page)
    for other in (missing, used(odd)):
        assert not other.now
        assert other.rss_bytes > 10 * MIB


def test_memory_that_grows_is_told_of_once_with_what_is_kept(captured: Captured) -> None:
    """And where only the peak is known, or the caches fill up, nobody is alarmed."""

    async def main(loop: VirtualLoop) -> None:
        def grown() -> int:
            return 100 * MIB + round(loop.passed * MIB / 20)

        rooms = [
            memory_of(lambda: Used(grown(), 1 << 40), loop.clock_us),
            memory_of(lambda: Used(grown(), 1 << 40, now=False), loop.clock_us),
            memory_of(lambda: Used(grown(), 1 << 40), loop.clock_us, kept_bytes=grown),
        ]
        owner = TaskOwner()
        for room in rooms:
            owner.spawn(room.run(), "memory")
        await asyncio.sleep(80 * 60)
        rooms[0].show()
        assert abs(shown(rooms[0]._metrics, "memory_growth_rate_bytes_per_second") - MIB / 20) < 2
        assert len(rooms[0].growth.samples) <= 1_800 / SAMPLE_S + 1
        await owner.close()

    run_virtually(main)
    (event,) = [event for event in captured.events() if event["event"] == "memory_growing"]
    assert event["level"] == "warning"
    assert event["kept"] == {"things": 7}
    assert event["lines"] == []
    assert abs(float(str(event["bytes_per_second"])) - MIB / 20) < 2
    assert int(str(event["grown_bytes"])) > 80 * MIB


async def test_while_it_is_traced_the_event_says_where(captured: Captured, untraced: None) -> None:
    clock = system_clock()
    memory = memory_of(lambda: Used(900 * MIB, 1 << 40), clock)
    memory.trace(on=True)
    hoard = [bytes(10_000) for _ in range(300)]
    step_us, began_us = 10_000_000, clock() - 3_000_000_000
    samples = tuple(Sample(clock() - n * step_us, (900 - n) * MIB) for n in range(180, 0, -1))
    memory.growth = Growth(began_us, samples)
    await memory.sample()

    (event,) = [event for event in captured.events() if event["event"] == "memory_growing"]
    lines: Any = event["lines"]
    assert any(line["at"].startswith("tests/proxy/test_vitals.py:") and line["bytes"] > 3_000_000 for line in lines)
    assert len(hoard) == 300


async def test_a_forgotten_trace_ends_by_itself(untraced: None) -> None:
    now_us = 0
    memory = memory_of(used, lambda: now_us)
    memory.trace(on=True)
    now_us = LONGEST_TRACE_US - 1
    await memory.sample()
    assert tracemalloc.is_tracing()
    now_us += 1
    await memory.sample()
    assert not tracemalloc.is_tracing()


async def test_a_trace_of_somebody_else_is_left_alone(untraced: None) -> None:
    """PYTHONTRACEMALLOC, or a tool in the same process."""
    tracemalloc.start()
    memory = memory_of(used, system_clock())
    memory.trace(on=True)
    memory.trace(on=False)
    assert tracemalloc.is_tracing()


async def test_the_page_tells_what_there_is_by_type_and_traces_on_demand(untraced: None) -> None:
    """Only type names, counts, sizes and places in the code: nothing that anybody has sent."""
    async with FakeBybit() as exchange, gateway(exchange.url, admin__token=TOKEN) as app, new_session() as session:
        client = Client(session, app)
        await client.get(f"{TICKERS}&planted=secret-value")
        before = (await client.get(PAGE, **BEARER)).json
        begun = await client.send("POST", PAGE, headers=BEARER, data=b'{"trace": true}')
        await asyncio.gather(*(client.get(f"{TICKERS}&n={n}") for n in range(20)))
        during = await client.get(PAGE, **BEARER)
        ended = await client.send("POST", PAGE, headers=BEARER, data=b'{"trace": false}')
        after = (await client.get(PAGE, **BEARER)).json

    assert before["rss_bytes"] > 10 * MIB
    assert before["trace"] == {"running": False, "lines": []}
    assert before["pid"] == os.getpid()
    assert before["objects"]["whole"] is True
    counts = [row["count"] for row in before["objects"]["types"]]
    assert counts == sorted(counts, reverse=True)
    assert {"dict", "function"} <= {row["type"] for row in before["objects"]["types"]}
    assert [row.keys() for row in before["gc"]] == [
        {"collections", "collected", "uncollectable", "pending", "threshold"}
    ] * 3
    assert before["kept"]["windows"] >= 1
    assert begun.json["trace"]["running"] is True
    trace = during.json["trace"]
    assert trace["running"] is True
    assert trace["overhead_bytes"] > 0
    assert trace["lines"]
    assert all(set(line) == {"at", "bytes", "blocks"} for line in trace["lines"])
    assert b"secret-value" not in during.body
    assert ended.json == {"trace": {"running": False}}
    assert after["trace"] == {"running": False, "lines": []}
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"trace": 1}', b'{"trace": "true"}', b"[true]", b"x" * 10_000])
async def test_who_says_something_else_is_told_what_can_be_said(data: bytes) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, admin__token=TOKEN) as app, new_session() as session:
        told = await Client(session, app).send("POST", PAGE, headers=BEARER, data=data)

    assert (told.status, told.gateway) == (400, "bad-trace")
    assert told.body == b'Expected {"trace": true} or {"trace": false}.\n'
    assert not tracemalloc.is_tracing()


async def test_nobody_traces_without_a_token() -> None:
    async with FakeBybit() as exchange, new_session() as session:
        async with gateway(exchange.url) as app:
            nobody = await Client(session, app).send("POST", PAGE, data=b'{"trace": true}')
        async with gateway(exchange.url, admin__token=TOKEN) as app:
            strangers = [
                await Client(session, app).send("POST", PAGE, data=b'{"trace": true}'),
                await Client(session, app).get(PAGE),
            ]

    assert (nobody.status, nobody.gateway) == (403, "no-admin-token")
    assert [told.status for told in strangers] == [401, 401]
    assert not tracemalloc.is_tracing()


async def test_a_look_at_all_objects_is_shared_by_those_who_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up requests: nobody can make the gateway do it again and again."""
    looks = 0
    real = heap.types

    async def counted() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return await real()

    monkeypatch.setattr(heap, "types", counted)
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        told = await asyncio.gather(*(Client(session, app).get(PAGE) for _ in range(20)))

    assert {each.status for each in told} == {200}
    assert len({json.dumps(each.json["objects"]) for each in told}) == looks <= 2


@needs_redis
async def test_calls_that_wait_for_redis_are_counted_and_so_are_our_own_windows() -> None:
    with redis_server() as redis:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url=redis.url) as app,
            new_session() as session,
        ):
            await until(lambda: app.store.status()["mode"] == "shared", "the shared store")
            await Client(session, app).get(TICKERS)
            async with asyncio.TaskGroup() as group:
                for _ in range(2_000):
                    group.create_task(app.store.usage())
                await asyncio.sleep(0)  # all have asked, and a few connections cannot have taken them all up
                waiting = app.watch.vitals.readings(0).redis_calls
            windows = app.watch.vitals.kept()["windows"]
            # Between two of the store's own calls, which it makes all the time.
            await until(lambda: app.watch.vitals.readings(0).redis_calls == 0, "no call that waits")

    assert waiting >= 1_000
    assert windows >= 2

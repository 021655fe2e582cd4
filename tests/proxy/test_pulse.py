"""Calls of Redis and PostgreSQL that were slow or never answered are counted where they end, and tell how the server
fares. The tests' clock says how long they took; a relay holds them back for as long as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from policies.health import Status
from proxy.archive.line import Found, Ward
from proxy.config_store import StoreSection
from proxy.metrics import Metrics
from proxy.pulse import SLOW_PART, SLOW_WRITE_US, Pulse, Queries
from proxy.store.client import StoreLost, connect_s, connected
from proxy.store.commands import Commands
from proxy.store.remote import RemoteWindows
from proxy.tasks import TaskOwner
from tests.archive_bench import SERIES, Bench, running, session, span, until
from tests.hand_clock import HandClock
from tests.postgres_server import PostgresServer, needs_postgres
from tests.redis_servers import needs_redis, redis_server
from tests.relay import Relay

PATIENT_US = 20_000_000
"""Longer than any machine stands still."""
SLOW_S = PATIENT_US // SLOW_PART / 1e6


def counted(metrics: Metrics, query_type: str) -> tuple[int, int]:
    """Slow ones, and those that were not answered in time."""
    values = [
        metrics.registry.get_sample_value(name, {"query_type": query_type})
        for name in ("slow_query_count_total", "query_timeout_count_total")
    ]
    return int(values[0] or 0), int(values[1] or 0)


@needs_redis
async def test_calls_of_the_cache_are_slow_from_half_of_their_time_on() -> None:
    clock, metrics, tasks = HandClock(), Metrics(), TaskOwner()
    queries = Queries(metrics, "cache", PATIENT_US // SLOW_PART)
    with redis_server() as server:
        async with Relay(server.port) as relay:
            section = StoreSection(url=f"redis://127.0.0.1:{relay.port}", timeout="1s")
            commands = Commands(connected(section), clock, timeout_us=PATIENT_US, connect_s=20.0, queries=queries)
            commands.start(tasks)
            await commands.ask("GET", "key")
            quick = counted(metrics, "cache")
            for seconds in (SLOW_S - 0.001, SLOW_S):
                await relay.freeze()
                asking = tasks.spawn(commands.ask("GET", "key"), "asking")
                await _begun()
                await until(lambda: not commands.waiting, "it has been taken up")
                clock.now_us += round(seconds * 1e6)
                await relay.heal()
                await asking
            slow = counted(metrics, "cache")
            latency_us = commands.pulse.vitals.latency_us
            await tasks.close()
            await commands.close()
    assert (quick, slow) == ((0, 0), (1, 0))
    assert latency_us == round(SLOW_S * 1e6)
    assert commands.pulse.status is Status.UP


@needs_redis
async def test_calls_of_the_limits_are_slow_from_half_of_their_time_on() -> None:
    clock, metrics, tasks = HandClock(), Metrics(), TaskOwner()
    with redis_server() as server:
        async with Relay(server.port) as relay:
            client = connected(StoreSection(url=f"redis://127.0.0.1:{relay.port}", timeout="1s"))
            remote = RemoteWindows(
                client,
                egress="e",
                replica="r",
                lease_us=1_000_000,
                timeout_us=PATIENT_US,
                connect_s=20.0,
                clock=clock,
                metrics=metrics,
            )
            remote.start(tasks)
            await remote.what_they_say()
            quick = counted(metrics, "limits")
            await relay.freeze()
            asking = tasks.spawn(remote.what_they_say(), "asking")
            await _begun()
            await until(lambda: not remote.link.waiting, "it has been taken up")
            clock.now_us += round(SLOW_S * 1e6)
            await relay.heal()
            await asking
            await tasks.close()
            await remote.link.close()
    assert (quick, counted(metrics, "limits")) == ((0, 0), (1, 0))
    assert remote.link.pulse.vitals.latency_us == round(SLOW_S * 1e6)


@needs_redis
async def test_a_silent_redis_costs_the_cache_timeouts_and_is_down_when_it_stays_silent() -> None:
    clock, metrics, tasks = HandClock(), Metrics(), TaskOwner()
    with redis_server() as server:
        section = StoreSection(url=server.url, timeout="1s")
        commands = Commands(
            connected(section),
            clock,
            timeout_us=50_000,
            connect_s=connect_s(section),
            queries=Queries(metrics, "cache", 25_000),
            sleep=clock.sleep,
        )
        commands.start(tasks)
        await _answered(commands, clock)
        server.stop_process()
        timeouts = counted(metrics, "cache")[1]
        with pytest.raises(StoreLost):
            await commands.ask("GET", "key")
        await until(lambda: commands.resting, "it is left alone")
        at_once = commands.pulse.status
        await until(lambda: clock.due_s is not None, "it will be asked again")
        lost_us = clock.now_us
        await clock.leap(clock.due_s or 0)
        await until(lambda: commands.pulse.status is Status.DOWN, "it was asked again")
        down_since_us = commands.pulse.vitals.since_us
        await tasks.close()
        await commands.close()
    assert counted(metrics, "cache")[1] == timeouts + 1
    assert at_once is Status.UP, "one failure is an accident"
    assert down_since_us == lost_us


async def _answered(commands: Commands, clock: HandClock) -> None:
    """On a machine that stands still the first connection may take too long."""
    for _ in range(100):
        try:
            await commands.ask("GET", "key")
        except StoreLost:
            await asyncio.sleep(0.01)
            await clock.leap(clock.due_s or 0)
        else:
            return
    raise AssertionError("it never answered")


async def _begun() -> None:
    """Tasks that were just made have come to where they wait for a socket."""
    for _ in range(10):
        await asyncio.sleep(0)


def _read(bench: Bench) -> Awaitable[Found]:
    return bench.archive.read(SERIES, *span(0, 10))


async def _both_connected(bench: Bench) -> None:
    """Two questions at once are for two readers; a connection may take longer than a question waits."""
    while not all(found.covered for found in await asyncio.gather(_read(bench), _read(bench))):
        bench.now_us += 5_000_000


@needs_postgres
async def test_reads_of_the_archive_are_slow_by_their_timeout_and_writes_by_the_second(
    postgres: PostgresServer, database: str
) -> None:
    async with (
        Relay(postgres.port) as relay,
        running(postgres.url(database, port=relay.port), timeout="5s") as bench,
    ):
        bench.offer(0, 10)
        await bench.written()
        await _both_connected(bench)
        reads, writes = counted(bench.metrics, "archive-read"), counted(bench.metrics, "archive-write")

        await relay.freeze()
        asking = asyncio.gather(bench.read(0, 10))
        await _begun()
        await until(lambda: not bench.archive._reader._asked, "it has been taken up")
        bench.now_us += 5_000_000 // SLOW_PART
        await relay.heal()
        await asking

        await relay.freeze()
        bench.offer(10, 20)
        await until(lambda: not bench.archive._waiting._ready, "it has been taken up")
        bench.now_us += SLOW_WRITE_US
        await relay.heal()
        await bench.written()
    assert counted(bench.metrics, "archive-read") == (reads[0] + 1, reads[1])
    assert counted(bench.metrics, "archive-write") == (writes[0] + 1, writes[1])


@needs_postgres
async def test_a_read_without_an_answer_is_counted_and_the_database_looked_at_at_once(
    postgres: PostgresServer, database: str
) -> None:
    """Nobody has to ask again for it to be known that the database is there after all."""
    async with (
        running(postgres.url(database), timeout="1s") as bench,
        session(postgres, database) as sql,
    ):
        pulse = bench.archive.pulse
        bench.offer(0, 10)
        await bench.written()
        await _both_connected(bench)
        before = counted(bench.metrics, "archive-read")[1]
        await sql.execute("BEGIN; LOCK TABLE bybit_kline_audit IN ACCESS EXCLUSIVE MODE")
        assert await bench.read(0, 10) == ([], ())
        await until(lambda: counted(bench.metrics, "archive-read")[1] > before, "its connection is given up")
        failed_us = pulse.vitals.failed_us
        bench.now_us += 1
        await sql.execute("ROLLBACK")
        await until(lambda: (pulse.vitals.answered_us or 0) > (failed_us or 0), "it is looked at")
    assert failed_us is not None
    assert pulse.status is Status.UP


def test_what_the_database_will_never_take_is_no_sickness_of_it() -> None:
    clock, metrics = HandClock(), Metrics()
    ward = Ward(Pulse(clock), metrics, 1_000_000, lambda: None)
    ward.writes.failed("bad-data")
    ward.reads.failed("timeout")
    assert (counted(metrics, "archive-write"), counted(metrics, "archive-read")) == ((0, 0), (0, 1))
    assert ward.pulse.status is Status.UNKNOWN

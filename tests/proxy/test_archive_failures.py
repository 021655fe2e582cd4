"""A database that is slow, lost, full of others' tables or not ours costs rows at most, never requests, and tells no
secret."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from policies.archive_schema import ArchiveSection
from proxy.archive.archive import Archive
from proxy.archive.line import Lost
from proxy.archive.reader import WORKERS, Reader
from proxy.archive.waiting import Offer, Waiting
from proxy.archive.writer import Writer
from proxy.config import load, load_routes
from proxy.config_problems import ConfigError
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner
from tests.archive_bench import SERIES, WRITING, Bench, rows, running, session, span, until
from tests.postgres_server import OWNER, PASSWORD, PostgresServer, needs_postgres
from tests.relay import Relay
from tests.virtual import VirtualLoop, run_virtually

ROOT = Path(__file__).parents[2]
TABLES_OF_A_NEWER_GATEWAY = """
    CREATE TABLE bybit_archive_version (version int);
    INSERT INTO bybit_archive_version VALUES (9999);
    GRANT SELECT ON bybit_archive_version TO PUBLIC
"""
NOWHERE = "postgresql://archivist:planted@127.0.0.1:9/candles"


@needs_postgres
async def test_a_restart_of_the_database_loses_and_doubles_nothing_that_fits_the_queue(
    postgres: PostgresServer, database: str
) -> None:
    async with running(postgres.url(database), queue=1000, batch=100) as bench:
        bench.offer(0, 300)
        await bench.written()
        await asyncio.to_thread(postgres.kill)

        for low in range(300, 2300, 100):
            bench.offer(low, low + 100)
            await asyncio.sleep(0)
            assert bench.waiting <= 1000
        await until(lambda: bench.archive.status()["failure"] == "unreachable", "the loss is noticed")
        assert bench.archive.status()["connected"] is False
        assert (bench.waiting, bench.count("dropped")) == (1000, 1000)

        await asyncio.to_thread(postgres.start)
        await bench.written()

        assert await bench.read(0, 2300) == (rows(0, 1300), (span(0, 1300),))
        assert bench.archive.status()["failure"] is None
        assert [bench.count(result) for result in ("stored", "duplicate", "dropped", "failed")] == [1300, 0, 1000, 0]
        bench.offer(1300, 1310)
        await bench.written()
        assert (await bench.read(1300, 1310)).rows == rows(1300, 1310)


@needs_postgres
async def test_a_batch_whose_fate_is_unknown_is_written_once(postgres: PostgresServer, database: str) -> None:
    """It was written, and the answer was lost on its way: it is written again, and nothing is doubled."""
    async with (
        Relay(postgres.port) as relay,
        running(postgres.url(database, port=relay.port)) as bench,
        session(postgres, database) as sql,
    ):
        bench.offer(100, 101)
        await bench.written()
        await sql.execute(f"SELECT pg_advisory_lock({WRITING})")
        bench.offer(0, 50)
        await until(lambda: _waits_for_a_lock(sql), "the batch is in the database")
        await relay.freeze()
        await sql.execute(f"SELECT pg_advisory_unlock({WRITING})")
        await until(lambda: _candles(sql, 51), "the batch is written")
        await relay.cut()
        await relay.heal()
        await bench.written()

        assert await bench.read(0, 50) == (rows(0, 50), (span(0, 50),))
        assert (bench.count("stored"), bench.count("duplicate")) == (1, 50)


@needs_postgres
async def test_coverage_never_claims_what_was_dropped(postgres: PostgresServer, database: str) -> None:
    """An offer has room as a whole or not at all."""
    async with running(postgres.url(database), queue=1000, batch=1000) as bench, session(postgres, database) as sql:
        bench.offer(2000, 2001)
        await bench.written()
        await sql.execute(f"SELECT pg_advisory_lock({WRITING})")
        bench.offer(0, 900)
        bench.offer(900, 1100)
        bench.offer(1100, 1200)
        await sql.execute(f"SELECT pg_advisory_unlock({WRITING})")
        await bench.written()

        assert await bench.read(0, 1200) == (
            [*rows(1100, 1200), *rows(0, 900)],
            (span(0, 900), span(1100, 1200)),
        )
        assert bench.count("dropped") == 200


@needs_postgres
async def test_a_silent_database_is_asked_once_and_then_left_alone(postgres: PostgresServer, database: str) -> None:
    async with (
        Relay(postgres.port) as relay,
        running(postgres.url(database, port=relay.port), timeout="100ms") as bench,
    ):
        bench.offer(0, 10)
        await bench.written()
        assert (await bench.read(0, 10)).rows == rows(0, 10)

        await relay.freeze()
        answers = await asyncio.gather(*[bench.read(0, 10) for _ in range(20)])
        assert set(map(repr, answers)) == {"Found(rows=[], covered=())"}
        assert bench.archive.status()["serves"] is False
        failed = bench.reads("failed")
        assert await bench.read(0, 10) == ([], ())
        assert (bench.reads("failed"), bench.reads("skipped") >= 1) == (failed, True)

        await relay.heal()
        bench.now_us += 5_000_000
        assert bench.archive.status()["serves"] is True
        await until(lambda: _whole(bench), "it is read again")


@needs_postgres
async def test_a_connection_that_takes_longer_than_a_request_may_wait_is_there_for_the_next(
    postgres: PostgresServer, database: str
) -> None:
    async with (
        Relay(postgres.port) as relay,
        session(postgres, database) as sql,
        running(postgres.url(database, port=relay.port), timeout="50ms") as bench,
    ):
        bench.offer(0, 10)
        await bench.written()
        await relay.freeze()
        assert await bench.read(0, 10) == ([], ())
        assert bench.reads("failed") == 1
        await relay.heal()
        await until(lambda: _connections(sql, 2), "the reader is connected")
        await until(lambda: _whole(bench), "it answers")


@needs_postgres
async def test_a_lost_database_is_not_read(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 10)
        await bench.written()
        await bench.read(0, 10)
        await asyncio.to_thread(postgres.kill)
        assert await bench.read(0, 10) == ([], ())
        assert await bench.read(0, 10) == ([], ())
        assert (bench.reads("failed"), bench.reads("skipped")) == (1, 1)
        await asyncio.to_thread(postgres.start)
        bench.now_us += 5_000_000
        assert (await bench.read(0, 10)).rows == rows(0, 10)


@needs_postgres
async def test_an_archive_that_does_not_serve_is_not_asked(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database), serve=False) as bench, session(postgres, database) as sql:
        bench.offer(0, 10)
        await bench.written()
        assert await bench.read(0, 10) == ([], ())
        assert bench.archive.status()["serves"] is False
        assert await _connections(sql, 1)


@needs_postgres
async def test_a_reader_that_hangs_up_harms_no_other(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 10)
        await bench.written()
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(bench.read(0, 10)) for _ in range(30)]
            await asyncio.sleep(0)
            for task in asking[::2]:
                task.cancel()
        assert [task.result().rows for task in asking[1::2]] == [rows(0, 10)] * 15
        assert (bench.reads("failed"), bench.reads("skipped")) == (0, 0)


@needs_postgres
async def test_what_waits_at_the_end_is_written(postgres: PostgresServer, database: str) -> None:
    """However long the flush may take otherwise."""
    bench = Bench(postgres.url(database), flush="1m")
    bench.archive.start()
    bench.offer(0, 10)
    await bench.archive.stop()
    bench.offer(10, 20)

    assert (bench.waiting, bench.count("stored"), bench.count("dropped")) == (0, 10, 10)
    async with session(postgres, database) as sql:
        assert await _candles(sql, 10)
        await until(lambda: _connections(sql, 0), "nothing stays connected")


async def test_the_end_does_not_wait_for_a_lost_database() -> None:
    bench = Bench(NOWHERE)
    bench.archive.start()
    bench.offer(0, 10)
    await bench.archive.stop(0.05)
    assert bench.count("dropped") == 10


@needs_postgres
@pytest.mark.parametrize(
    ("prepare", "user", "reason"),
    [
        ("SELECT", "nobody-known", "authentication"),
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", OWNER, "permission"),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC", OWNER, "no-schema"),
        (TABLES_OF_A_NEWER_GATEWAY, OWNER, "newer-tables"),
        (f"ALTER ROLE {OWNER} IN DATABASE {{database}} SET default_transaction_read_only = on", OWNER, "read-only"),
    ],
)
async def test_a_database_that_cannot_be_used_says_why(
    postgres: PostgresServer, database: str, prepare: str, user: str, reason: str
) -> None:
    if reason in {"permission", "no-schema"}:  # the owner of a database may do everything in it
        await asyncio.to_thread(postgres.sql, database, f"ALTER DATABASE {database} OWNER TO postgres")
    await asyncio.to_thread(postgres.sql, database, prepare.format(database=database))
    with capture_logs() as events:
        async with running(postgres.url(database, user)) as bench:
            bench.offer(0, 10)
            await until(lambda: bench.archive.status()["failure"] is not None, "it fails")
            assert bench.archive.status()["failure"] == reason
            assert bench.waiting == 10  # they wait for somebody to put it right
    assert [event["reason"] for event in events if event["event"] == "archive_lost"] == [reason]


@needs_postgres
async def test_the_password_is_told_to_nobody(
    postgres: PostgresServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not when it is wrong, not when nobody is there, not in pages."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    with capture_logs() as events:
        for url in (
            postgres.url(database, password=f"{PASSWORD}-wrong"),
            postgres.url(database),
            postgres.url("nowhere"),
            postgres.url(database, port=9),
        ):
            async with running(url, timeout="1s") as bench:
                await bench.read(0, 10)
                bench.offer(0, 10)
                await until(
                    lambda bench=bench: bench.waiting == 0 or bench.archive.status()["failure"] is not None,
                    "it is clear what becomes of them",
                )
                seen += [str(bench.archive.status()), generate_latest(bench.metrics.registry).decode()]
                seen += [repr(bench.section), repr(bench.archive), str(bench.section.model_dump())]
    text = "\n".join([*seen, str(events), caplog.text])
    text = re.sub(r" at 0x[0-9a-f]+>", ">", text)  # where an object lies in memory may be any number
    assert "archive_lost" in text
    for part in (PASSWORD, "planted", "7f3a", "%2F7f3a"):
        assert part not in text


@needs_postgres
async def test_a_password_may_stand_by_itself(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database, password=None), password=PASSWORD) as bench:
        bench.offer(0, 10)
        await bench.written()
        assert bench.count("stored") == 10


def test_without_the_driver_nothing_starts_and_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError) as caught:
        load(None, {"GATEWAY__ARCHIVE__URL": NOWHERE}, load_routes())
    (problem,) = caught.value.problems
    remedy = "archive.url: needs asyncpg, which is not installed: pip install asyncpg"
    assert str(problem) == f"environment GATEWAY__ARCHIVE__URL: {remedy}"
    assert load(None, {}, load_routes()).archive.url is None


def test_who_keeps_no_archive_needs_no_driver() -> None:
    """Nor its memory: it is not even imported."""
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "import proxy.app, proxy.archive.archive\n"
        "from policies.archive_schema import ArchiveSection\n"
        "proxy.archive.archive.Archive(ArchiveSection(), lambda: 0, proxy.app.Metrics())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


async def test_an_offer_costs_the_same_whether_the_database_is_there_or_not() -> None:
    """It returns at once, and a full queue refuses it at once."""
    archive = Archive(ArchiveSection.model_validate({"url": NOWHERE, "queue": 5000}), lambda: 0, Metrics())
    with capture_logs() as events:
        for low in range(0, 100_000, 100):
            archive.offer(SERIES, rows(low, low + 100), span(low, low + 100))
    assert archive.status()["waiting_rows"] == 5000
    assert archive.status()["dropped_rows"] == 95_000
    assert [event["event"] for event in events] == ["archive_queue_full"]  # once, not for each


def test_nobody_waits_for_a_second_failure() -> None:
    """Who asked while the first found out is told with him."""

    async def ends(loop: VirtualLoop) -> set[float]:
        async def refused() -> Any:
            await asyncio.sleep(1)
            raise Lost("unreachable")

        reader = Reader(refused, Metrics(), loop.clock_us, timeout_s=10.0)
        owner = TaskOwner()
        for number in range(WORKERS):
            owner.spawn(reader.run(), f"reader-{number}")

        async def ask() -> float:
            assert await reader.read(SERIES, *span(0, 10)) == ([], ())
            return loop.time()

        ended = set(await asyncio.gather(*[ask() for _ in range(10)]))
        await owner.close()
        return ended

    assert run_virtually(ends) == {1.0}


def test_a_lost_database_is_tried_ever_more_seldom() -> None:
    async def attempts(loop: VirtualLoop) -> list[float]:
        tried: list[float] = []

        async def refused() -> Any:
            tried.append(loop.time())
            raise Lost("unreachable")

        writer = Writer(Waiting(1000, 100), refused, Metrics(), flush_s=1.0, oldest_ms=lambda: 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await writer.run()
        return tried

    tried = run_virtually(attempts)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert all(0.125 <= pause <= 10 for pause in pauses)
    assert all(pause >= 5 for pause in pauses[7:])
    assert 360 <= len(tried) <= 800


def test_the_end_does_not_wait_for_a_pause_to_be_over() -> None:
    """What waits is tried at once, and from then on often."""

    async def attempts(loop: VirtualLoop) -> list[float]:
        tried: list[float] = []

        async def refused() -> Any:
            tried.append(loop.time())
            raise Lost("unreachable")

        waiting = Waiting(1000, 100)
        waiting.put(Offer(SERIES, (b'["0"]',), None, revised=False))
        writer = Writer(waiting, refused, Metrics(), flush_s=1.0, oldest_ms=lambda: 0)
        loop.call_at(60.0, waiting.close)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(61.1):
                await writer.run()
        return [instant for instant in tried if instant >= 60]

    assert run_virtually(attempts) == [60.0, 60.25, 60.5, 60.75, 61.0]


def test_the_end_waits_for_no_database_where_nothing_waits_for_it() -> None:
    async def ended(loop: VirtualLoop) -> float:
        async def refused() -> Any:
            raise Lost("unreachable")

        waiting = Waiting(1000, 100)
        loop.call_at(60.0, waiting.close)
        await Writer(waiting, refused, Metrics(), flush_s=1.0, oldest_ms=lambda: 0).run()
        return loop.time()

    assert run_virtually(ended) == 60.0


async def _waits_for_a_lock(sql: Any) -> bool:
    return bool(await sql.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


async def _candles(sql: Any, count: int) -> bool:
    return bool(await sql.fetchval("SELECT count(*) = $1 FROM bybit_kline_audit", count))


async def _connections(sql: Any, count: int) -> bool:
    found = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'bybit-gateway'"
    )
    return bool(found == count)


async def _whole(bench: Bench) -> bool:
    bench.now_us += 5_000_000  # whatever came before is over
    return (await bench.read(0, 10)).rows == rows(0, 10)

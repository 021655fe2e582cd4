"""The archive while the gateway has too much to do: it takes it slowly, and is pressure only where less would help."""

from __future__ import annotations

from tests.archive_bench import WRITING, rows, running, session, span, until
from tests.postgres_server import PostgresServer, needs_postgres
from tests.proxy.test_archive_failures import NOWHERE


@needs_postgres
async def test_an_archive_that_yields_still_writes_all_of_it(postgres: PostgresServer, database: str) -> None:
    """Batch by batch, with a pause after each; and what is left at the end goes at once."""
    async with running(postgres.url(database), batch=100) as bench:
        bench.offer(0, 1)
        await bench.written()
        bench.archive.yields = lambda: True
        for low in range(1, 2001, 100):
            bench.offer(low, low + 100)
        await until(lambda: bench.count("stored") >= 101, "the first batches")
        left = bench.waiting
        await bench.archive.stop(20.0)
        stored = bench.count("stored")

    assert left > 0
    assert stored == 2001
    async with running(postgres.url(database)) as again:
        assert (await again.read(0, 2001)) == (rows(0, 2001), (span(0, 2001),))


@needs_postgres
async def test_a_queue_that_is_half_full_is_worked_off_whoever_wants_the_processor(
    postgres: PostgresServer, database: str
) -> None:
    """It must not run over for that: here a pause after each batch would take longer than the test waits."""
    async with (
        running(postgres.url(database), queue=1000, batch=5) as bench,
        session(postgres, database) as sql,
    ):
        bench.archive.yields = lambda: True
        await sql.execute(f"SELECT pg_advisory_lock({WRITING})")
        for low in range(0, 1000, 5):
            bench.offer(low, low + 5)
        await until(lambda: bench.archive.pressing == 100, "the queue is full")
        await sql.execute(f"SELECT pg_advisory_unlock({WRITING})")
        await until(lambda: bench.archive.pressing <= 50, "half of it is written")
        bench.archive.yields = lambda: False
        await bench.written()


async def test_a_database_that_is_lost_is_no_pressure() -> None:
    """Its queue is full, and would be as full if nobody were served."""
    async with running(NOWHERE, queue=1000, batch=100) as bench:
        await until(lambda: bench.archive.status()["failure"] == "unreachable", "the loss is noticed")
        bench.offer(0, 1000)
        assert (bench.archive.percent_full, bench.archive.pressing) == (100, 0)

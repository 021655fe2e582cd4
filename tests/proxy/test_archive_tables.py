"""The tables are made and changed once, by whoever comes first, wholly or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.archive.line import Lost
from proxy.archive.migrate import Migration, NewerError, migrate, migrations
from tests.archive_bench import Bench, rows, running, session
from tests.postgres_server import OWNER, PostgresServer, needs_postgres


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


@needs_postgres
async def test_gateways_that_start_together_make_the_tables_once(postgres: PostgresServer, database: str) -> None:
    bench = Bench(postgres.url(database))
    lines = await asyncio.gather(*[bench.line() for _ in range(8)])
    for line in lines:
        await line.close()
    async with session(postgres, database) as sql:
        assert await _versions(sql) == [migration.version for migration in migrations()]


@needs_postgres
async def test_made_tables_are_left_as_they_are(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 10)
        await bench.written()
    async with session(postgres, database) as sql:
        before = await sql.fetch("SELECT * FROM bybit_archive_version")
        async with running(postgres.url(database)) as bench:
            assert (await bench.read(0, 10)).rows == rows(0, 10)
        assert await sql.fetch("SELECT * FROM bybit_archive_version") == before


@needs_postgres
async def test_a_step_that_fails_leaves_nothing_half_done(postgres: PostgresServer, database: str) -> None:
    """And the next gateway, which has it right, makes all of it."""
    steps = [
        Migration(1, "0001_one", "CREATE TABLE one (n int)"),
        Migration(2, "0002_two", "CREATE TABLE two (n int); SELECT 1 / 0"),
    ]
    async with session(postgres, database) as sql:
        with pytest.raises(Exception, match="division by zero"):
            await migrate(sql, steps)
        assert await sql.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0

        await migrate(sql, [steps[0], steps[1]._replace(text="CREATE TABLE two (n int)")])
        assert await _versions(sql) == [1, 2]


@needs_postgres
async def test_a_later_step_is_added_to_what_is_there(postgres: PostgresServer, database: str) -> None:
    later = Migration(len(migrations()) + 1, "later", "ALTER TABLE bybit_kline_audit ADD COLUMN note text")
    async with running(postgres.url(database)) as bench, session(postgres, database) as sql:
        bench.offer(0, 10)
        await bench.written()
        await migrate(sql, [*migrations(), later])
        assert await _versions(sql) == [migration.version for migration in (*migrations(), later)]
        assert await sql.fetchval("SELECT count(*) FROM bybit_kline_audit WHERE note IS NULL") == 10

        with pytest.raises(NewerError):
            await migrate(sql, migrations())
        with pytest.raises(Lost, match="newer-tables"):
            await bench.line()


@needs_postgres
async def test_tables_that_are_there_can_be_used_without_the_right_to_make_any(
    postgres: PostgresServer, database: str
) -> None:
    """An administrator has made them; the gateway may read and write them and no more."""
    async with session(postgres, database) as sql:
        await migrate(sql, migrations())
        await sql.execute(
            f"ALTER DATABASE {database} OWNER TO postgres;"
            "GRANT SELECT ON bybit_archive_version TO PUBLIC;"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON bybit_kline_audit, bybit_kline_coverage TO {OWNER}"
        )
        async with running(postgres.url(database)) as bench:
            bench.offer(0, 10)
            await bench.written()
            assert (await bench.read(0, 10)).rows == rows(0, 10)


@needs_postgres
async def test_the_tables_take_only_what_may_stand_in_an_answer(postgres: PostgresServer, database: str) -> None:
    """Whoever else writes to them cannot break out of the quotes."""
    async with running(postgres.url(database)) as bench, session(postgres, database) as sql:
        bench.offer(0, 1)
        await bench.written()
        for text in ('1","x', "1\\", "1\n2"):
            with pytest.raises(Exception, match="bybit_kline_audit_plain"):
                await sql.execute("UPDATE bybit_kline_audit SET volume = $1", text)
        with pytest.raises(Exception, match="bybit_kline_audit_both"):
            await sql.execute("UPDATE bybit_kline_audit SET volume = NULL")


async def _versions(sql: Any) -> list[int]:
    return [each["version"] for each in await sql.fetch("SELECT version FROM bybit_archive_version ORDER BY version")]

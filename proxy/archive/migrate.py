"""The tables of the archive, made and changed by numbered files, each applied once, whoever comes first.

All that is missing is applied in one transaction under a lock, so that several gateways may start at once, and one that
dies in the middle leaves nothing half done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parent / "migrations"
LOCK: Final = "SELECT pg_advisory_xact_lock(1652122228, 2)"
"""The first number stands for all locks of the archive: `bybt` in ASCII."""
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM bybit_archive_version"


class Migration(NamedTuple):
    version: int
    name: str
    text: str


class NewerError(Exception):
    """A newer gateway has changed the tables."""


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """In their order: 0001_name.sql, 0002_name.sql, ..."""
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Migration(int(file.name[:4]), file.stem, file.read_text(encoding="utf-8")) for file in files]


async def migrate(connection: Any, wanted: Sequence[Migration]) -> None:
    """Bring the tables up to date. Where they are, this is one look, for which no right to make tables is needed."""
    newest = wanted[-1].version
    if await connection.fetchval("SELECT to_regclass('bybit_archive_version') IS NOT NULL"):
        version = await connection.fetchval(_VERSION)
        if version > newest:
            raise NewerError
        if version == newest:
            return
    async with connection.transaction():
        await connection.execute(LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS bybit_archive_version "
            "(version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        version = await connection.fetchval(_VERSION)
        for migration in wanted:
            if migration.version > version:
                await connection.execute(migration.text)
                await connection.execute(
                    "INSERT INTO bybit_archive_version (version, name) VALUES ($1, $2)",
                    migration.version,
                    migration.name,
                )

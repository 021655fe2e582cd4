"""One connection to PostgreSQL, and what is said on it. The only room that knows asyncpg, which is an extra.

Whatever goes wrong is a Lost, and the connection is gone with it: what it left half done the server has undone. No text
of a third party goes further than this: it may hold addresses and values.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, Self

import orjson

from policies.archive_schema import ArchiveSection
from policies.coverage import Ranges
from policies.segments import Series
from proxy.archive.migrate import Migration, NewerError, migrate
from proxy.archive.waiting import Offer
from proxy.metrics import Metrics
from proxy.pulse import SLOW_PART, SLOW_WRITE_US, Pulse, Queries

CONNECT_S: Final = 10.0
_LEAST_SERVER: Final = 14
"""The first that has multiranges."""
_SETUP: Final = """
    SET lock_timeout = '10s';
    SET statement_timeout = '60s';
    SET default_transaction_isolation = 'read committed';
    SET client_min_messages = 'error';
"""
_WRITE_S: Final = 65.0
"""The server gives up first, so that what became of a batch is known."""
_GOODBYE_S: Final = 1.0
_STAGING: Final = "CREATE TEMP TABLE IF NOT EXISTS bybit_kline_staging (offer int NOT NULL, candle text NOT NULL)"
_CHUNK_BYTES: Final = 64 << 10
_PLAIN: Final = bytes(code for code in range(0x20, 0x7F) if code != ord("\\"))
"""What goes through COPY as it is."""

_READ: Final = """
    WITH known AS (
        SELECT unnest(covered * int8multirange(int8range($5, $6))) AS part FROM bybit_kline_coverage
        WHERE category = $1 AND kind = $2 AND symbol = $3 AND interval = $4
    )
    SELECT
        (
            SELECT string_agg(
                '["' || concat_ws('","', open_time, open, high, low, close, volume, turnover) || '"]',
                E'\\n' ORDER BY open_time DESC
            )
            FROM bybit_kline_audit
            WHERE category = $1 AND kind = $2 AND symbol = $3 AND interval = $4 AND open_time >= $5 AND open_time < $6
        ),
        (SELECT array_agg(lower(part) ORDER BY part) FROM known),
        (SELECT array_agg(upper(part) ORDER BY part) FROM known)
"""
"""One statement sees one state: rows and coverage belong together."""
_STORE: Final = "SELECT stored, revised, duplicate, expired, failed FROM bybit_archive_store($1::jsonb, $2)"
_FORGET: Final = "SELECT bybit_archive_forget($1, $2, $3, $4, $5, $6)"
_NEXT: Final = """
    SELECT category, kind, symbol, interval FROM (
        (
            SELECT category, kind, symbol, interval FROM bybit_kline_audit
            WHERE (category, kind, symbol, interval) > ($1, $2, $3, $4) ORDER BY 1, 2, 3, 4 LIMIT 1
        ) UNION ALL (
            SELECT category, kind, symbol, interval FROM bybit_kline_coverage
            WHERE (category, kind, symbol, interval) > ($1, $2, $3, $4) ORDER BY 1, 2, 3, 4 LIMIT 1
        )
    ) AS either ORDER BY 1, 2, 3, 4 LIMIT 1
"""

_REASONS: Final = {
    "25006": "read-only",
    "3D000": "no-database",
    "3F000": "no-schema",
    "42501": "permission",
    "53100": "disk-full",
    "53300": "too-many-connections",
    "55P03": "busy",
    "57014": "timeout",
    "08": "unreachable",
    "22": "bad-data",
    "23": "bad-data",
    "28": "authentication",
    "53": "no-resources",
    "57": "restarting",
}
"""By SQLSTATE, or its class."""


class Lost(Exception):
    """The archive did not do what it was asked, or nobody knows whether it did. `reason` is one word.

    `of_the_data`: it would not take this at any other time either.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.of_the_data = reason == "bad-data"


class Stored(NamedTuple):
    """What became of the rows of a batch."""

    stored: int
    revised: int
    duplicate: int
    expired: int
    failed: int


class Found(NamedTuple):
    """Rows, newest first, and the stretches in which there are no others."""

    rows: list[bytes]
    covered: Ranges


NOTHING: Final = Found([], ())


class Ward:
    """Watches over all connections: how the database fares, and which calls were slow. `ended` is called whenever a
    connection has ended, whoever has ended it."""

    def __init__(self, pulse: Pulse, metrics: Metrics, read_timeout_us: int, ended: Callable[[], None]) -> None:
        self.pulse = pulse
        self.ended = ended
        self.reads = Queries(metrics, "archive-read", read_timeout_us // SLOW_PART)
        self.writes = Queries(metrics, "archive-write", SLOW_WRITE_US)


class Line:
    """A connection whose tables are up to date. Every call is bounded in time and raises Lost."""

    def __init__(self, connection: Any, ward: Ward) -> None:
        self._connection = connection
        self._ward = ward

    @classmethod
    async def open(cls, section: ArchiveSection, wanted: Sequence[Migration], ward: Ward) -> Self:
        import asyncpg  # noqa: PLC0415  # an extra: who keeps no archive need not have it

        assert section.url is not None  # noqa: S101
        password = None if section.password is None else section.password.get_secret_value()
        line = cls(None, ward)
        async with line._calling(CONNECT_S):
            connection = line._connection = await asyncpg.connect(
                section.url.get_secret_value(),
                password=password,
                timeout=CONNECT_S,
                server_settings={"application_name": "bybit-gateway"},
            )
            connection.add_termination_listener(lambda _: ward.ended())
            if connection.get_server_version().major < _LEAST_SERVER:
                raise Lost("server-too-old")
            await connection.execute(_SETUP)
            await migrate(connection, wanted)
        return line

    @property
    def closed(self) -> bool:
        return self._connection is None or bool(self._connection.is_closed())

    def drop(self) -> None:
        """Without a word to the server, which may not be there."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """With a word to the server, if it still listens."""
        if not self.closed:
            with suppress(Lost):
                async with self._calling(_GOODBYE_S):
                    await self._connection.close()
        self.drop()

    async def begin_writing(self) -> None:
        """Once, before the first store()."""
        async with self._calling(CONNECT_S):
            await self._connection.execute(_STAGING)

    async def store(self, offers: Sequence[Offer], not_before_ms: int) -> Stored:
        """All of it or nothing, and again is as good as once. What opens before that instant is left out."""
        copying = _Copying(offers)
        async with self._calling(_WRITE_S, self._ward.writes):
            await self._connection.copy_to_table(
                "bybit_kline_staging", schema_name="pg_temp", columns=("offer", "candle"), source=copying.chunks()
            )
            told = orjson.dumps(copying.told).decode()
            found = Stored(*await self._connection.fetchrow(_STORE, told, not_before_ms))
        return found._replace(failed=found.failed + copying.failed)

    async def read(self, series: Series, low_ms: int, high_ms: int, timeout_s: float) -> Found:
        """What is known of [low, high)."""
        async with self._calling(timeout_s, self._ward.reads):
            text, lows, highs = await self._connection.fetchrow(_READ, *_key(series), low_ms, high_ms)
        rows = [] if text is None else text.encode().split(b"\n")
        return Found(rows, tuple(zip(lows or (), highs or (), strict=True)))

    async def alone(self) -> bool:
        """Whether nobody else deletes old candles: true at most for one connection at a time, until it is closed."""
        async with self._calling(CONNECT_S):
            return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock(1652122228, 3)"))

    async def next_series(self, after: Series | None) -> Series | None:
        """The series that follows in the order of the table, found without a look at their rows."""
        async with self._calling(_WRITE_S):
            found = await self._connection.fetchrow(_NEXT, *(("", "", "", "") if after is None else _key(after)))
        if found is None:
            return None
        category, kind, symbol, interval = found
        return Series(endpoint=kind, category=category, symbol=symbol, interval=interval)

    async def forget(self, series: Series, before_ms: int, at_most: int) -> int:
        """Delete the oldest candles that open before an instant; the answer is how many there were."""
        async with self._calling(_WRITE_S):
            return int(await self._connection.fetchval(_FORGET, *_key(series), before_ms, at_most))

    @asynccontextmanager
    async def _calling(self, timeout_s: float, queries: Queries | None = None) -> AsyncIterator[None]:
        pulse = self._ward.pulse
        began_us = pulse.clock()
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except asyncio.CancelledError:
            self.drop()
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is: this connection is not to be trusted any more
            self.drop()
            lost = error if isinstance(error, Lost) else Lost(_reason(error))
            if not lost.of_the_data:
                pulse.failed(lost.reason)
            if queries is not None:
                queries.failed(lost.reason)
            raise lost from None
        took_us = pulse.clock() - began_us
        pulse.answered(took_us)
        if queries is not None:
            queries.answered(took_us)


class _Copying:
    """Offers as text for COPY, made while it is sent. `told` and `failed` are known when the last chunk has been."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self._offers = offers
        self.told: list[dict[str, object]] = []
        self.failed = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        for number, offer in enumerate(self._offers):
            rows = _plain(offer.rows)
            lost = len(offer.rows) - len(rows)
            self.failed += lost
            self._tell(number, offer, whole=not lost)
            if rows:
                start = b"%d\t" % number
                piece = start + (b"\n" + start).join(rows) + b"\n"
                pieces.append(piece)
                size += len(piece)
            if size >= _CHUNK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
                await asyncio.sleep(0)  # requests go first
        if pieces:
            yield b"".join(pieces)

    def _tell(self, number: int, offer: Offer, *, whole: bool) -> None:
        category, kind, symbol, interval = _key(offer.series)
        low, high = offer.covered if offer.covered is not None and whole else (None, None)
        self.told.append(
            {
                "n": number,
                "category": category,
                "kind": kind,
                "symbol": symbol,
                "interval": interval,
                "low": low,
                "high": high,
                "revised": offer.revised,
            }
        )


def _plain(rows: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those that go through COPY as they are. All of them, unless somebody plays a trick."""
    if not b"".join(rows).translate(None, _PLAIN):
        return rows
    return tuple(row for row in rows if not row.translate(None, _PLAIN))


def _key(series: Series) -> tuple[str, str, str, str]:
    """In the order of the tables' keys."""
    return series.category, series.endpoint, series.symbol, series.interval


def _reason(error: Exception) -> str:
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _REASONS.get(state) or _REASONS.get(state[:2]) or "error-answer"
    if isinstance(error, NewerError):
        return "newer-tables"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return "permission" if isinstance(error, PermissionError) else "unreachable"
    return "misconfigured" if isinstance(error, ValueError) else "connection-broken"

"""Each closed candle lands in PostgreSQL once, and comes back as the exchange wrote it."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from policies.coverage import NOTHING, Ranges, joined, within
from policies.segments import Series
from tests.archive_bench import SERIES, Bench, at, row, rows, running, session, span
from tests.postgres_server import PostgresServer, needs_postgres

pytestmark = needs_postgres
SYMBOLS = itertools.count(1)


async def test_what_was_offered_comes_back_newest_first(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 1000)
        await bench.written()

        assert await bench.read(0, 1000) == (rows(0, 1000), (span(0, 1000),))
        assert await bench.read(990, 1500) == (rows(990, 1000), (span(990, 1000),))
        assert await bench.read(2000, 2100) == ([], ())
        assert (bench.count("stored"), bench.count("duplicate")) == (1000, 0)
        assert [bench.reads(result) for result in ("whole", "part", "nothing")] == [1, 1, 1]


async def test_a_candle_lands_once_however_often_it_is_offered(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 100)
        bench.offer(50, 150)  # the same batch
        await bench.written()
        bench.offer(100, 200)  # another one
        await bench.written()

        assert await bench.read(0, 200) == (rows(0, 200), (span(0, 200),))
        assert (bench.count("stored"), bench.count("duplicate")) == (200, 100)


async def test_two_gateways_at_once_write_each_candle_once(postgres: PostgresServer, database: str) -> None:
    """Both find an empty database, make the tables, and fetch the same."""
    url = postgres.url(database)
    async with running(url, batch=100) as one, running(url, batch=70) as other:
        for low in range(0, 2000, 50):
            one.offer(low, low + 60)
            other.offer(1950 - low, 2010 - low)
            await asyncio.sleep(0)
        await one.written()
        await other.written()

        assert await one.read(0, 2010) == await other.read(0, 2010) == (rows(0, 2010), (span(0, 2010),))
        assert one.count("stored") + other.count("stored") == 2010
        assert one.count("duplicate") + other.count("duplicate") == 2 * 40 * 60 - 2010
        assert one.count("failed") + other.count("failed") + one.count("dropped") + other.count("dropped") == 0


async def test_what_is_known_stays_until_it_is_revised(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 10)
        bench.archive.offer(SERIES, rows(0, 10, "1.10"), span(0, 10))
        await bench.written()
        assert (await bench.read(0, 10)).rows == rows(0, 10)

        bench.archive.offer(SERIES, [row(4), row(3, "1.10"), row(12)], span(3, 5), revised=True)
        await bench.written()

        known, covered = await bench.read(0, 20)
        assert known == [row(12), *rows(4, 10), row(3, "1.10"), *rows(0, 3)]
        assert covered == (span(0, 10),)
        assert (bench.count("stored"), bench.count("revised"), bench.count("duplicate")) == (11, 1, 11)
    async with session(postgres, database) as sql:
        revised = await sql.fetch("SELECT open_time FROM bybit_kline_audit WHERE revised_at IS NOT NULL")
        assert [each["open_time"] for each in revised] == [at(3)]


async def test_a_revision_takes_away_what_the_exchange_has_no_more(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 10)
        bench.archive.offer(SERIES, [row(5)], span(4, 7), revised=True)
        bench.archive.offer(SERIES, [row(6, "2.00")], span(6, 7))  # heard later, in the same instant
        await bench.written()

        assert await bench.read(0, 10) == (
            [*rows(7, 10), row(6, "2.00"), row(5), *rows(0, 4)],
            (span(0, 10),),
        )
        assert (bench.count("stored"), bench.count("revised")) == (11, 2)


async def test_kinds_of_candles_are_told_apart(postgres: PostgresServer, database: str) -> None:
    """Mark prices have five columns, and the same category, symbol, interval and time as trades."""
    mark = SERIES._replace(endpoint="mark-price-kline")
    candle = b'["%d","17071","17073","-0.000491","17055.5"]' % at(0)
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 1)
        bench.archive.offer(mark, [candle])
        bench.offer(0, 1, SERIES._replace(category="inverse"))
        bench.offer(0, 1, SERIES._replace(interval="M"))
        await bench.written()

        assert bench.count("stored") == 4
        assert await bench.read(0, 1, mark) == ([candle], ())
        assert (await bench.read(0, 1)).rows == [row(0)]


async def test_that_there_is_nothing_is_remembered_too(postgres: PostgresServer, database: str) -> None:
    """A listing's first candle: what lies before it need not be asked again."""
    async with running(postgres.url(database)) as bench:
        bench.archive.offer(SERIES, [], span(0, 1000))
        bench.archive.offer(SERIES, [], (at(5), at(5)))
        await bench.written()

        assert await bench.read(500, 2000) == ([], (span(500, 1000),))
        assert await bench.archive.read(SERIES, at(5), at(5)) == ([], ())


async def test_rows_that_the_exchange_does_not_write_are_left_out_and_spoil_no_others(
    postgres: PostgresServer, database: str
) -> None:
    odd = [
        b'["1670608800000","1","2"]',
        b'["01","1","2","3","4"]',
        b'["1670608800000","1","2","3","4","5"]',
        b'["1670608800000", "1", "2", "3", "4"]',
        b'[1670608800000,"1","2","3","4"]',
        b'["99999999999999999999","1","2","3","4"]',
        b'["1670608800000","1","2","3","4"],["1670608860000","1","2","3","4"]',
        b'["1670608800000","a\\"b","2","3","4"]',
        b'["1670608800000","1","2","3","4"]\n7\t["1670608800000","1","2","3","4"]',
        b"\\.",
        b"\\N",
        "Ω".encode(),
        b"\xff\x00",
        b"",
    ]
    async with running(postgres.url(database)) as bench:
        for candle in odd:
            bench.archive.offer(SERIES, [row(0), candle], span(0, 100))
        bench.offer(200, 210, SERIES)
        await bench.written()

        assert await bench.read(0, 300) == ([*rows(200, 210), row(0)], (span(200, 210),))
        assert bench.count("failed") == len(odd)


async def test_people_see_numbers(postgres: PostgresServer, database: str) -> None:
    async with running(postgres.url(database)) as bench:
        bench.offer(0, 1)
        bench.archive.offer(SERIES, [b'["0","","1e5","-0.50","7"]'])
        await bench.written()
    async with session(postgres, database) as sql:
        old, new = await sql.fetch("SELECT * FROM bybit_kline ORDER BY opened_at")
        assert (new["high"], new["volume"], new["opened_at"].isoformat()) == (
            Decimal("17073.00"),
            Decimal(268611),
            "2022-12-09T18:00:00+00:00",
        )
        assert (old["open"], old["high"], old["low"], old["volume"]) == (None, None, Decimal("-0.50"), None)


texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), max_size=20)
figures = st.one_of(st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{1,10})?", fullmatch=True), texts)
candles = st.tuples(
    st.integers(0, 10**16 - 1),
    st.one_of(st.lists(figures, min_size=4, max_size=4), st.lists(figures, min_size=6, max_size=6)),
)


def test_every_text_of_the_exchange_comes_back_byte_by_byte(postgres: PostgresServer, database: str) -> None:
    """Zeros at the end, signs, blanks, quotes of SQL: whatever stands between the quotes of a row."""
    with asyncio.Runner() as runner:
        bench = Bench(postgres.url(database))

        async def start() -> None:
            bench.archive.start()

        runner.run(start())

        @given(st.lists(candles, min_size=1, max_size=20, unique_by=lambda candle: candle[0]), texts, texts)
        def round_trip(given_rows: list[tuple[int, list[str]]], category: str, interval: str) -> None:
            series = Series("kline", category, f"S{next(SYMBOLS)}", interval)
            wanted = [
                b'["%d","%s"]' % (open_ms, '","'.join(values).encode())
                for open_ms, values in sorted(given_rows, reverse=True)
            ]

            async def through() -> list[bytes]:
                bench.archive.offer(series, wanted)
                await bench.written()
                return (await bench.archive.read(series, 0, 10**16)).rows

            assert runner.run(through()) == wanted

        try:
            round_trip()
        finally:
            runner.run(bench.archive.stop())
        assert bench.count("failed") == 0


class Model:
    """What an archive of one series must know after a list of offers."""

    def __init__(self) -> None:
        self.known: dict[int, bytes] = {}
        self.covered: Ranges = NOTHING

    def offer(self, given_rows: list[bytes], covered: tuple[int, int] | None, *, revised: bool) -> None:
        told = {int(each.split(b'"')[1]): each for each in given_rows}
        if revised and covered is not None:
            self.known = {
                open_ms: each
                for open_ms, each in self.known.items()
                if not covered[0] <= open_ms < covered[1] or open_ms in told
            }
        self.known = {**self.known, **told} if revised else {**told, **self.known}
        if covered is not None:
            self.covered = joined(self.covered, *covered)


offers = st.lists(
    st.tuples(
        st.sets(st.integers(0, 12)),
        st.sampled_from(["1.0", "1.00", "2"]),
        st.none() | st.tuples(st.integers(0, 12), st.integers(0, 13)),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def test_rows_and_coverage_are_what_the_offers_said(postgres: PostgresServer, database: str) -> None:
    """Whatever is offered, in whatever order, in one batch or in several."""
    with asyncio.Runner() as runner:
        bench = Bench(postgres.url(database), batch=20)

        async def start() -> None:
            bench.archive.start()

        runner.run(start())

        @given(offers, st.integers(0, 12), st.integers(1, 14))
        def agree(
            given_offers: list[tuple[set[int], str, tuple[int, int] | None, bool, bool]], low: int, high: int
        ) -> None:
            series = SERIES._replace(symbol=f"S{next(SYMBOLS)}")
            model = Model()

            async def through() -> tuple[list[bytes], Ranges]:
                for minutes, close, part, revised, pause in given_offers:
                    told = [row(number, close) for number in sorted(minutes, reverse=True)]
                    covered = None if part is None else span(*part)
                    bench.archive.offer(series, told, covered, revised=revised)
                    model.offer(told, covered, revised=revised)
                    if pause:
                        await bench.written()
                await bench.written()
                return await bench.read(low, low + high, series)

            known, covered = runner.run(through())
            expected = sorted((open_ms for open_ms in model.known if at(low) <= open_ms < at(low + high)), reverse=True)
            assert known == [model.known[open_ms] for open_ms in expected]
            assert covered == within(model.covered, at(low), at(low + high))

        try:
            agree()
        finally:
            runner.run(bench.archive.stop())

"""`download` as a user starts it: what stands in the files, what he is told, what the exchange was asked."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.download.program import TODAY_MS, csv_text, place, rows, until
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms
from tests.gateway_fixture import gateway, url

MINUTE, DAY = 60_000, 86_400_000
FORMS = ["csv", "ndjson", "parquet"]
SLOWLY = '[{"name": "kline", "match": {"endpoint": "kline"}, "quota": "5/1s", "window": "sent"}]'
"""So that there is time to interrupt it."""
SELDOM = SLOWLY.replace("5/1s", "1/1s")
"""So that it is interrupted twice in the middle, even if this machine stands still for some seconds."""
UNHELD = {"GATEWAY__STORE__STATE_FILE": "null"}
"""The hold after a kill has a test of its own."""
RANGE = ("--interval", "1", "--from", "2025-01-01", "--to", "2025-01-21")
RANGE_OPENS = list(range(utc_ms(2025, 1, 1), utc_ms(2025, 1, 21), MINUTE))


@pytest.mark.parametrize(
    "arguments",
    [
        ("BTCUSDT", "--interval", "60", "--from", "2026-01-01", "--to", "2026-05-01"),
        ("--category", "linear", "--symbol", "BTCUSDT", "--interval", "60", "--start", "2026-01-01T00:00",
         "--end", str(utc_ms(2026, 5, 1))),
    ],
    ids=["short", "long"],
)  # fmt: skip
async def test_candles_stand_in_the_file_oldest_first_and_the_end_is_excluded(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    async with place(tmp_path) as here:
        done = await here.complete(*arguments, "--config", "config.yaml", "--out", tmp_path / "btc.csv")

    opens = list(range(utc_ms(2026, 1, 1), utc_ms(2026, 5, 1), 60 * MINUTE))
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "60", opens))
    assert "BTCUSDT: 2,880 candles from 2026-01-01 to 2026-04-30 23:00, none missing" in done.out
    assert here.exchange.books.ip.breaches == 0


@pytest.mark.parametrize("form", FORMS)
async def test_once_complete_nothing_is_asked(tmp_path: Path, form: str) -> None:
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", *RANGE, "--out", tmp_path / f"btc.{form}")
        await here.complete(*arguments)
        before, content = here.exchange.stats.requests, (tmp_path / f"btc.{form}").read_bytes()
        done = await here.complete(*arguments)

        assert here.exchange.stats.requests == before
    assert "complete already: BTCUSDT: 28,800 candles" in done.out
    assert (tmp_path / f"btc.{form}").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"btc.{form}", f"btc.{form}.progress", "state"]


@pytest.mark.parametrize("form", FORMS)
async def test_killed_twice_it_makes_the_same_file_as_undisturbed(tmp_path: Path, form: str) -> None:
    """SIGKILL in the middle, twice. It goes on from what was recorded, and asks for no more than was not."""
    (tmp_path / "undisturbed").mkdir()
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", *RANGE, "--out")
        await here.complete(*arguments, tmp_path / "undisturbed" / f"btc.{form}")
        whole = here.asked("kline")
        before = here.asked("kline")

        reached = 0
        for _ in range(2):
            started = here.start(*arguments, tmp_path / f"btc.{form}", GATEWAY__LIMITS=SELDOM, **UNHELD)
            already = reached

            def further() -> bool:
                return int(here.record(f"btc.{form}").get("covered_ms", 0)) > max(already, RANGE_OPENS[0])  # noqa: B023

            await until(further, started)
            started.kill()
            started.communicate()
            assert not (tmp_path / f"btc.{form}").exists()
            reached = here.record(f"btc.{form}")["covered_ms"]
        assert reached < RANGE_OPENS[-1]
        with (tmp_path / f"btc.{form}.part").open("ab") as part:
            part.write(b"1738000000000,1")  # as a machine that lost its power may leave it
        await here.complete(*arguments, tmp_path / f"btc.{form}", **UNHELD)

        assert (tmp_path / f"btc.{form}").read_bytes() == (tmp_path / "undisturbed" / f"btc.{form}").read_bytes()
        assert here.asked("kline") - before <= whole + 2 * 25  # what was under way or not saved
        assert here.exchange.books.ip.breaches == 0
    assert f"btc.{form}.part" not in [path.name for path in tmp_path.iterdir()]


async def test_a_run_that_was_killed_and_is_started_again_at_once_earns_no_ban(tmp_path: Path) -> None:
    """What the exchange still counts of the one that was killed is held, as after a crash of a gateway."""
    limits = '[{"name": "bybit-ip", "quota": "20/3s", "window": "held"}]'
    async with place(tmp_path, ip_limit=20, ip_window_us=3_000_000) as here:
        arguments = ("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv")
        started = here.start(*arguments, GATEWAY__LIMITS=limits)
        await until(lambda: here.exchange.stats.requests >= 20, started)
        started.kill()
        started.communicate()
        await here.complete(*arguments, GATEWAY__LIMITS=limits)

        assert here.exchange.books.ip.max_in_window() == 20
        assert (here.exchange.books.ip.breaches, here.exchange.books.ip.bans) == (0, 0)
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_says_how_to_go_on_and_keeps_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    """One question at a time: when the thirteenth is asked, twelve blocks are here, however slow the machine is."""
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", *RANGE, "--parallel", "1", "--out", tmp_path / "btc.csv")
        started = here.start(*arguments, GATEWAY__LIMITS=SLOWLY, **UNHELD)
        await until(lambda: here.asked("/v5/market/kline") > 12, started)
        started.send_signal(number)
        _, errors = await asyncio.to_thread(started.communicate, timeout=20)
        assert started.returncode == 130
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
        assert here.record("btc.csv")["collected"]["rows"] > 10_000
        before = here.asked("kline")
        await here.complete(*arguments, **UNHELD)
        assert here.asked("kline") - before < 22
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))


async def test_objects_have_the_names_of_the_columns_and_the_exchanges_strings(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.complete("BTCUSDT", *RANGE, "--out", tmp_path / "btc.ndjson")
        await here.complete("BTCUSDT", *RANGE, "--kind", "index-price-kline", "--out", tmp_path / "index.ndjson")

    names = ["open", "high", "low", "close", "volume", "turnover"]
    expected = [
        {"start": int(row[0]), **dict(zip(names, row[1:], strict=True))} for row in rows("BTCUSDT", "1", RANGE_OPENS)
    ]
    assert [json.loads(line) for line in (tmp_path / "btc.ndjson").read_text().splitlines()] == expected
    first = json.loads((tmp_path / "index.ndjson").read_text().partition("\n")[0])
    assert list(first) == ["start", "open", "high", "low", "close"]


@pytest.mark.parametrize("exact", [False, True])
async def test_columns_are_instants_and_the_nearest_numbers_or_exact_strings(tmp_path: Path, exact: bool) -> None:
    async with place(tmp_path) as here:
        out = tmp_path / "btc.parquet"
        await here.complete("BTCUSDT", *RANGE, "--out", out, *(["--exact"] if exact else []))

    table = parquet.read_table(out)
    expected = rows("BTCUSDT", "1", RANGE_OPENS)
    assert table.column_names == ["start", "open", "high", "low", "close", "volume", "turnover"]
    assert str(table.schema.field("start").type) == "timestamp[ms, tz=UTC]"
    assert table["start"].cast("int64").to_pylist() == RANGE_OPENS
    assert table["start"][0].as_py() == datetime(2025, 1, 1, tzinfo=UTC)
    for at, name in enumerate(table.column_names[1:], 1):
        assert table[name].to_pylist() == [row[at] if exact else float(row[at]) for row in expected]
    assert table.schema.metadata[b"symbol"] == b"BTCUSDT"


@pytest.mark.parametrize("form", FORMS)
async def test_an_open_end_goes_on_to_now_and_adds_what_has_closed_since(tmp_path: Path, form: str) -> None:
    """The last candle has closed and settled; the one that runs is never written."""
    out, other = tmp_path / f"btc.{form}", tmp_path / f"other.{form}"
    async with place(tmp_path, stands=True) as here:
        arguments = ("BTCUSDT", "--interval", "15", "--from", "2026-06-01", "--out")
        here.exchange.settings.clock_offset_ms = 15 * MINUTE - 60_000 - TODAY_MS % (15 * MINUTE)  # before an end
        done = await here.complete(*arguments, out)
        assert "to 2026-07-01 12:15" in done.out
        here.exchange.settings.clock_offset_ms += 61_000  # it has ended, and has not settled
        before = out.read_bytes()
        asked = here.asked("kline")
        await here.complete(*arguments, out)
        assert (out.read_bytes(), here.asked("kline")) == (before, asked)
        here.exchange.settings.clock_offset_ms += 20_000
        done = await here.complete(*arguments, out)
        assert "to 2026-07-01 12:30" in done.out
        assert here.asked("kline") == asked + 1
        here.exchange.settings.clock_offset_ms += 2 * DAY
        done = await here.complete(*arguments, out)
        assert "to 2026-07-03 12:30" in done.out
        await here.complete(*arguments, other)
    assert out.read_bytes() == other.read_bytes()


async def test_a_range_that_ends_in_the_future_is_filled_as_time_goes_by(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", "--interval", "D", "--from", "2026-06-25", "--to", "2026-07-04", "--out")
        await here.complete(*arguments, tmp_path / "btc.csv")
        assert len((tmp_path / "btc.csv").read_text().splitlines()) == 1 + 6
        here.exchange.settings.clock_offset_ms = 5 * DAY
        await here.complete(*arguments, tmp_path / "btc.csv")
        assert len((tmp_path / "btc.csv").read_text().splitlines()) == 1 + 9
        asked = here.exchange.stats.requests
        await here.complete(*arguments, tmp_path / "btc.csv")
        assert here.exchange.stats.requests == asked

        done = await here.run("BTCUSDT", "--interval", "M", "--from", "2026-08-01", "--out", tmp_path / "later.csv")
    assert done.code == 1
    assert "nothing of this range has closed yet" in done.errors
    assert not list(tmp_path.glob("later*"))


@pytest.mark.parametrize(("interval", "first"), [("W", utc_ms(2022, 1, 3)), ("M", utc_ms(2022, 1, 1))])
async def test_weeks_begin_on_mondays_and_months_on_their_first(tmp_path: Path, interval: str, first: int) -> None:
    async with place(tmp_path) as here:
        await here.complete("BTCUSDT", "--interval", interval, "--from", "2022-01-01", "--out", tmp_path / "btc.csv")

    got = [line.split(",") for line in (tmp_path / "btc.csv").read_text().splitlines()[1:]]
    assert int(got[0][0]) == first
    assert got == rows("BTCUSDT", interval, [int(row[0]) for row in got])
    days = {(int(b[0]) - int(a[0])) // DAY for a, b in pairwise(got)}
    assert days == ({7} if interval == "W" else {28, 29, 30, 31})


async def test_several_symbols_at_once_and_one_that_is_unknown_spoils_nothing(tmp_path: Path) -> None:
    """Gaps, a late listing, a delisting: what the exchange does not have is told, and its ban is not earned."""
    async with place(tmp_path, kline_gap_fill=False) as here:
        symbols = ("GAPUSDT", "NOPEUSDT", "NEWUSDT", "OLDUSDT", "BTCUSDT")
        done = await here.run(
            *symbols, "--interval", "5", "--from", "2026-02-20", "--out", f"{tmp_path}/{{symbol}}.csv"
        )
        assert here.exchange.books.ip.breaches == 0

    assert done.code == 1
    assert "NOPEUSDT: Not supported symbols (retCode 10001)" in done.errors
    assert "1 of 5 files not complete" in done.out
    opens = list(range(utc_ms(2026, 2, 20), TODAY_MS - 5 * MINUTE, 5 * MINUTE))
    for symbol in ("GAPUSDT", "NEWUSDT", "OLDUSDT", "BTCUSDT"):
        expected = csv_text(rows(symbol, "5", opens, gap_fill=False))
        assert (tmp_path / f"{symbol}.csv").read_text() == expected, symbol
    assert f"NEWUSDT: {len(rows('NEWUSDT', '5', opens)):,} candles from 2026-06-15 10:35" in done.out
    assert "nothing earlier" in next(line for line in done.out.splitlines() if line.startswith("NEWUSDT"))
    assert "nothing later" in next(line for line in done.out.splitlines() if line.startswith("OLDUSDT"))
    gaps = next(line for line in done.out.splitlines() if line.startswith("GAPUSDT"))
    assert "gaps at the exchange" in gaps
    assert not list(tmp_path.glob("NOPEUSDT*"))
    assert NEWUSDT_LISTED_MS > OLDUSDT_DELISTED_MS


@pytest.mark.parametrize("kind", ["mark-price-kline", "index-price-kline", "premium-index-price-kline"])
async def test_the_other_prices_have_five_columns(tmp_path: Path, kind: str) -> None:
    arguments = ("--interval", "60", "--from", "2026-01-01", "--to", "2026-03-01", "--kind", kind)
    async with place(tmp_path) as here:
        await here.complete("ETHUSDT", *arguments, "--out", tmp_path / "eth.csv")

    opens = list(range(utc_ms(2026, 1, 1), utc_ms(2026, 3, 1), 60 * MINUTE))
    expected = rows("ETHUSDT", "60", opens, kind=kind.partition("-")[0])
    assert (tmp_path / "eth.csv").read_text() == csv_text(expected, "start,open,high,low,close\n")


async def test_options_have_mark_candles_in_answers_of_five_hundred(tmp_path: Path) -> None:
    symbol = "BTC-25DEC26-60000-C"
    async with place(tmp_path) as here:
        await here.complete(
            symbol, "--category", "option", "--kind", "mark-price-kline", "--interval", "1",
            "--from", "2026-06-20", "--to", "2026-06-22", "--out", f"{tmp_path}/",
        )  # fmt: skip
    opens = list(range(utc_ms(2026, 6, 20), utc_ms(2026, 6, 22), MINUTE))
    expected = rows(symbol, "1", opens, kind="mark", category="option")
    assert (tmp_path / f"{symbol}.csv").read_text() == csv_text(expected, "start,open,high,low,close\n")


FAULTS = [
    {"kind": "ret_code", "ret_code": 10006, "probability": 0.1},
    {"kind": "ret_code", "ret_code": 10016, "probability": 0.05},
    {"kind": "status", "status": 503, "probability": 0.05},
    {"kind": "status", "status": 429, "probability": 0.02},
    {"kind": "truncate", "probability": 0.05},
    {"kind": "reset_before", "probability": 0.05},
    {"kind": "reset_after", "probability": 0.05},
    {"kind": "jitter", "delay_us": 30_000},
]


async def test_whatever_the_exchange_throws_nothing_is_lost(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        faults = [here.exchange.faults.add(dict(fault)) for fault in FAULTS]
        await here.complete("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv", GATEWAY__BREAKER__ENABLED="false")
        assert sum(fault.fired > 0 for fault in faults) > 4
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))


async def test_a_ban_is_sat_out_and_a_longer_one_is_told(tmp_path: Path) -> None:
    ban = {"GATEWAY__PACING__BAN": "2s", "GATEWAY__PACING__RAMP": "1s"}
    async with place(tmp_path, ip_ban_us=1_000_000) as here:
        here.exchange.faults.add({"kind": "ban", "count": 1, "match": {"path": "/v5/market/kline"}})
        done = await here.complete("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv", **ban)
        assert "banned" in done.errors
        assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))

        here.exchange.faults.add({"kind": "ban", "count": 1, "match": {"path": "/v5/market/kline"}})
        before = here.exchange.stats.requests
        done = await here.run("ETHUSDT", *RANGE, "--patience", "1m", "--out", tmp_path / "eth.csv")
        assert done.code == 1
        assert "the exchange has banned this address; another try would make sense in 20m" in done.errors  # the second
        assert here.exchange.stats.requests - before < 20
        assert here.exchange.books.ip.ips["127.0.0.1"].banned_hits < 16  # those under way when it began


async def test_an_exchange_that_cannot_be_reached_is_told_soon(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", *RANGE, "--patience", "3s", "--out", tmp_path / "btc.csv")
        done = await here.run(*arguments, GATEWAY__UPSTREAM__URL="http://127.0.0.1:1")
        assert done.code == 1
        assert "no answer of the exchange (upstream-unreachable)" in done.errors
        done = await here.run(*arguments, "--gateway", "http://127.0.0.1:1")
        assert done.code == 1
        assert "http://127.0.0.1:1 does not answer" in done.errors
    assert not list(tmp_path.glob("btc*"))


async def test_through_a_running_gateway_it_is_one_client_among_others(tmp_path: Path) -> None:
    """The gateway's rules hold for it: what they refuse it waits for. Nothing of its own is started."""
    limits = [{"name": "per-ip", "partition": ["ip"], "quota": "10/1s", "counts": "requests"}]
    async with place(tmp_path) as here, gateway(here.exchange.url, limits=limits) as app:
        arguments = ("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv", "--gateway", url(app))
        done = await here.complete(*arguments, GATEWAY__UPSTREAM__URL="http://127.0.0.1:1")
        (metric,) = app.metrics.refusals.collect()
        (refused,) = (sample.value for sample in metric.samples if sample.name.endswith("_total"))
        assert 0 < refused < 90
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))
    assert "28,800 candles" in done.out
    assert not (tmp_path / "state").exists()


async def test_a_gateway_that_asks_for_a_token_gets_it_and_nobody_else_reads_it(tmp_path: Path) -> None:
    identity = {"tokens": [{"name": "me", "token": "PlantedToken01"}]}
    async with place(tmp_path) as here, gateway(here.exchange.url, identity=identity) as app:
        arguments = ("BTCUSDT", "--interval", "D", "--from", "2026-01-01", "--out", tmp_path / "btc.csv")
        asks = ("--gateway", url(app), "--header")
        done = await here.run(*arguments, *asks, "X-Gateway-Token: WrongToken01")
        assert (done.code, "asks for a token" in done.errors, "WrongToken01" in done.errors) == (1, True, False)
        await here.complete(*arguments, *asks, "X-Gateway-Token: PlantedToken01")
    assert "PlantedToken01" not in "".join(path.read_text() for path in tmp_path.glob("btc*"))


async def test_beside_a_gateway_with_the_same_budget_it_does_not_run_by_itself(tmp_path: Path) -> None:
    """In memory the two could not share it, and together they would earn a ban."""
    async with place(tmp_path) as here:
        slow = here.start("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv", GATEWAY__LIMITS=SLOWLY)
        await until(lambda: here.asked("kline") > 0, slow)
        done = await here.run("ETHUSDT", *RANGE, "--out", tmp_path / "eth.csv")
        slow.kill()
        slow.communicate()
        assert done.code == 1
        assert "--gateway URL" in done.errors
        assert not list(tmp_path.glob("eth*"))


async def test_a_disk_that_is_full_is_told_and_the_same_command_goes_on_afterwards(tmp_path: Path) -> None:
    """A limit on the length of files stands for the disk: the system refuses the same calls."""
    async with place(tmp_path) as here:
        arguments = ("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv")
        here.under = ("/bin/sh", "-c", 'ulimit -f 1000; exec "$@"', "sh")
        done = await here.run(*arguments)
        assert done.code == 1
        assert "btc.csv.part: cannot be written: File too large" in done.errors
        here.under = ()
        await here.complete(*arguments)
    assert (tmp_path / "btc.csv").read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))


async def test_files_that_are_there_are_not_overwritten_and_nothing_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "btc.csv"
    out.write_text("precious\n")
    async with place(tmp_path) as here:
        done = await here.run("BTCUSDT", *RANGE, "--out", out)
        assert (done.code, out.read_text()) == (2, "precious\n")
        assert "--force replaces it" in done.errors
        assert here.exchange.stats.requests == 0
        await here.complete("BTCUSDT", *RANGE, "--out", out, "--force")
        assert out.read_text() == csv_text(rows("BTCUSDT", "1", RANGE_OPENS))

        asked = here.exchange.stats.requests
        other = ("BTCUSDT", "--interval", "1", "--from", "2025-01-01", "--to", "2025-01-22", "--out", out)
        done = await here.run(*other)
        assert done.code == 2
        assert "to 2025-01-21, not 2025-01-22" in done.errors
        assert "--extend goes on from there" in done.errors
        assert here.exchange.stats.requests == asked
        await here.complete(*other, "--extend")
    opens = list(range(utc_ms(2025, 1, 1), utc_ms(2025, 1, 22), MINUTE))
    assert out.read_text() == csv_text(rows("BTCUSDT", "1", opens))


async def test_quiet_is_quiet(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        done = await here.complete("BTCUSDT", *RANGE, "--out", tmp_path / "btc.csv", "--quiet")
    assert (done.out, done.errors) == ("", "")

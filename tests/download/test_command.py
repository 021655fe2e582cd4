"""The words of the command line: what is meant, and what cannot be."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.download import command, parquet
from proxy.download.command import Order, UsageError
from proxy.download.instants import instant_ms
from proxy.download.progress import Progress
from proxy.download.request import Form, Kind
from tests.download.program import ROOT
from tests.fake_bybit.symbols import utc_ms


def ordered(*arguments: object) -> Order:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(), argparse.ArgumentParser(add_help=False))
    return command.order(parser.parse_args(["download", *map(str, arguments)]))


def minutes(*arguments: object, out: object = "x.csv") -> Order:
    return ordered("BTCUSDT", "--interval", "1", "--from", "2024-01-01", "--out", out, *arguments)


def test_the_short_and_the_long_form_mean_the_same(tmp_path: Path) -> None:
    out = tmp_path / "b.csv"
    short = ordered("BTCUSDT", "--interval", "1", "--from", "2026-01-01", "--to", "2026-05-01", "--out", out)
    long = ordered(
        "--category", "linear", "--symbol", "BTCUSDT", "--interval", "1", "--start", "2026-01-01", "--end",
        "2026-05-01", "--out", out,
    )  # fmt: skip
    assert short == long
    ((request, paths),) = short.files
    assert (request.kind, request.form, request.from_ms, request.to_ms) == (
        Kind.KLINE,
        Form.CSV,
        utc_ms(2026, 1, 1),
        utc_ms(2026, 5, 1),
    )
    assert paths.part == tmp_path / "b.csv.part"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-31", utc_ms(2024, 1, 31)),
        ("2024-01-31T12:30", utc_ms(2024, 1, 31, 12, 30)),
        ("2024-01-31 12:30", utc_ms(2024, 1, 31, 12, 30)),
        ("2024-01-31T12:30Z", utc_ms(2024, 1, 31, 12, 30)),
        ("2024-01-31T12:30+02:00", utc_ms(2024, 1, 31, 10, 30)),
        ("1706659200000", 1_706_659_200_000),
    ],
)
def test_instants_are_utc_unless_they_say_otherwise(text: str, value: int) -> None:
    assert instant_ms(text) == value


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "1706659200", "31.01.2024", "0", "9" * 20, "1e12"])
def test_what_is_no_instant_is_told_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected 2024-01-31, 2024-01-31T12:30 \(UTC unless .*milliseconds"):
        instant_ms(text)


@pytest.mark.parametrize(
    ("out", "given", "form"),
    [
        ("b.csv", (), Form.CSV),
        ("b.NDJSON", (), Form.NDJSON),
        ("b.jsonl", (), Form.NDJSON),
        ("b.parquet", (), Form.PARQUET),
        ("b.pq", (), Form.PARQUET),
        ("b.txt", ("--format", "csv"), Form.CSV),
        ("b.csv", ("--format", "ndjson"), Form.NDJSON),
    ],
)
def test_the_form_is_told_by_the_ending_or_by_word(
    tmp_path: Path, out: str, given: tuple[str, ...], form: Form
) -> None:
    assert minutes(*given, out=tmp_path / out).files[0][0].form is form


def test_several_symbols_get_a_file_each(tmp_path: Path) -> None:
    several = ("--symbol", "ETHUSDT", "--symbol", "SOLUSDT", "--symbol", "BTCUSDT")
    names = [paths.out.name for _, paths in minutes(*several, out=f"{tmp_path}/{{symbol}}-1m.csv").files]
    assert names == ["BTCUSDT-1m.csv", "ETHUSDT-1m.csv", "SOLUSDT-1m.csv"]
    made = minutes(*several, "--format", "parquet", out=f"{tmp_path}/new/")
    assert [paths.out for _, paths in made.files] == [
        tmp_path / "new" / f"{symbol}.parquet" for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "2024-01-01"), "--to 2024-01-01 is not later than --from 2024-01-01"),
        (("--to", "soon"), "'soon' is not an instant"),
        (("--symbol", "btcusdt"), "'btcusdt' is not a symbol as the exchange writes it: capitals and digits, BTCUSDT"),
        (("--symbol", "../ETC"), "'../ETC' is not a symbol"),
        (("--symbol", "ETHUSDT"), "for several symbols a directory"),
        (("--out", "b.txt"), "--format: csv, ndjson or parquet?"),
        (("--out", "nowhere/b.csv"), "there is no directory nowhere"),
        (("--exact",), "--exact is for parquet"),
        (("--patience", "long"), "expected a duration such as"),
        (("--parallel", "0"), "--parallel: expected 1 to 100, got 0"),
        (("--parallel", "101"), "--parallel: expected 1 to 100"),
        (("--gateway", "localhost:8080"), "--gateway takes a base URL"),
        (("--gateway", "http://localhost:8080/v5"), "--gateway takes a base URL"),
        (("--header", "X-Gateway-Token: a"), "--header is for --gateway"),
        (("--gateway", "http://localhost", "--header", "no colon"), "--header takes 'Name: value'"),
        (("--gateway", "http://localhost", "--header", "A: b\r\nC: d"), "--header takes 'Name: value'"),
    ],
)
def test_what_cannot_be_meant_is_told_with_what_can(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as error:
        minutes(*arguments)
    assert words in str(error.value)


def test_a_range_in_which_no_candle_opens_is_told() -> None:
    with pytest.raises(UsageError, match="no candle of interval W opens from 2024-01-02 to 2024-01-08"):
        ordered("BTCUSDT", "--interval", "W", "--from", "2024-01-02", "--to", "2024-01-08", "--out", "w.csv")
    ordered("BTCUSDT", "--interval", "W", "--from", "2024-01-02", "--to", "2024-01-09", "--out", "w.csv")


def test_a_symbol_has_to_be_named() -> None:
    with pytest.raises(UsageError, match="which symbol"):
        ordered("--interval", "1", "--from", "2024-01-01", "--out", "x.csv")


def test_a_secret_in_a_header_is_not_repeated() -> None:
    with pytest.raises(UsageError) as error:
        minutes("--gateway", "http://localhost", "--header", "X-Gateway-Token PlantedToken01")
    assert "PlantedToken01" not in str(error.value)


def test_without_its_library_parquet_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "available", lambda: False)
    with pytest.raises(UsageError, match=r"Parquet needs pyarrow.*pip install pyarrow"):
        minutes(out="x.parquet")
    assert minutes(out="x.csv").files[0][0].form is Form.CSV


def test_a_library_that_does_not_work_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # importing it fails
    with pytest.raises(UsageError, match="Parquet needs pyarrow"):
        minutes(out="x.parquet")


def test_a_directory_is_made_for_names_with_a_symbol_in_them(tmp_path: Path) -> None:
    assert len(minutes(out=f"{tmp_path}/new/{{symbol}}.csv").files) == 1
    assert (tmp_path / "new").is_dir()


def test_the_library_is_loaded_only_by_those_who_ask_for_its_form() -> None:
    """It costs time and memory, and is not there for everybody."""
    script = "import sys, proxy.__main__; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=30, check=False).returncode == 0


def test_mistakes_end_with_2_and_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["download", "BTCUSDT", "--interval", "1", "--from", "2024-01-01", "--out", "nowhere/x.csv"]
    assert main(arguments) == 2
    assert "there is no directory nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--interval", "480"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["download", "--help"])
    told = capsys.readouterr().out
    assert "download BTCUSDT --interval 1 --from 2023-01-01 --to 2024-01-01 --out btc.parquet" in told
    assert "exit codes:" in told


class Terminal:
    """Keeps what is written."""

    def __init__(self, *, terminal: bool) -> None:
        self.text = ""
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def test_progress_tells_how_far_how_fast_and_how_long_still() -> None:
    now_us = 0
    stream = Terminal(terminal=True)
    progress = Progress(stream, stream, lambda: now_us, quiet=False)
    assert "0%" in progress.line()
    progress.blocks, progress.done, progress.fetched, progress.rows = 526, 263, 263, 263_000
    now_us = 2_200_000
    assert progress.line() == "[############............]  50%  263,000 candles  263/526 blocks  119.5/s  ETA 3s"
    progress.waits("too many requests", 500_000)
    assert progress.line().endswith("waiting: too many requests")
    assert stream.text == ""
    progress.waits("banned", 600_000_000)
    assert stream.text == "waiting for 10m: banned\n"
    progress.waits("banned", 600_000_000)  # of another question: it is said once
    assert stream.text == "waiting for 10m: banned\n"

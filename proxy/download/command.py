"""The command line of `download`: its words, and the order that is made of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from policies import candles
from policies.quantities import duration_us
from proxy.download import parquet
from proxy.download.instants import instant_ms
from proxy.download.request import Form, Kind, Request
from proxy.download.target import Paths

_INTERVALS: Final = ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W", "M")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{2,32}(?:-[A-Z0-9]{1,16}){0,4}")
"""Symbols become names of files: nothing else may."""
_PLACE: Final = "{symbol}"
_SUFFIXES: Final = {
    ".csv": Form.CSV,
    ".ndjson": Form.NDJSON,
    ".jsonl": Form.NDJSON,
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
}
_EPILOG: Final = """\
examples:
  %(prog)s BTCUSDT --interval 1 --from 2023-01-01 --to 2024-01-01 --out btc.parquet
  %(prog)s BTCUSDT ETHUSDT --interval 60 --from 2020-01-01 --out 'candles/{symbol}.csv'
  %(prog)s BTCUSDT --interval D --from 2020-01-01 --out btc.csv --gateway http://127.0.0.1:8080

The same command again goes on where the last one stopped, whatever stopped it. Once the file is complete it exits with
0 and asks nothing; without --to it adds what has closed since. A candle is written when it has closed and settled
(cache.settle of the configuration), never the one that is open.

Beside OUT lie OUT.progress, the record (leave it there: it tells what OUT holds), and while it runs OUT.part.

exit codes:
  0    every file is complete (without --to: up to now)
  1    at least one is not; what is wrong has been said, and the same command goes on
  2    the command or the configuration is wrong, or a file is there that this would overwrite; nothing was asked
  130  interrupted; the same command goes on
"""


class UsageError(Exception):
    """The command cannot be meant so. The message says why, and what can."""


@dataclass(frozen=True, slots=True)
class Order:
    """All that was asked for. `headers` go with every question; `gateway` None: through a gateway of our own."""

    files: tuple[tuple[Request, Paths], ...]
    gateway: str | None
    headers: Mapping[str, str]
    parallel: int
    patience_us: int
    force: bool
    extend: bool
    quiet: bool


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand to those of the command line."""
    parser = commands.add_parser(
        "download",
        parents=[common],
        help="write candles of any length of time into a file: CSV, NDJSON or Parquet",
        description="Write candles into files, within the limits that are configured. Resumes, and checks what it got.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what")
    what.add_argument("symbols", nargs="*", metavar="SYMBOL", help="as the exchange writes it: BTCUSDT")
    what.add_argument("--symbol", action="append", default=[], metavar="SYMBOL", help="the same; may be repeated")
    what.add_argument("--category", choices=("spot", "linear", "inverse", "option"), default="linear")
    what.add_argument("--kind", choices=[kind.value for kind in Kind], default=Kind.KLINE.value)
    what.add_argument("--interval", required=True, choices=_INTERVALS, help="minutes, or day, week, month")
    what.add_argument(
        "--from", "--start", dest="start", required=True, metavar="WHEN",
        help="first open time: 2024-01-31, 2024-01-31T12:30 (UTC) or epoch milliseconds",
    )  # fmt: skip
    what.add_argument(
        "--to", "--end", dest="end", metavar="WHEN", help="candles that open before this (default: all until now)"
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--out", required=True, metavar="FILE",
        help="for several symbols a directory, or a name that contains {symbol}",
    )  # fmt: skip
    where.add_argument("--format", choices=[form.value for form in Form], help="default: by the ending of --out")
    where.add_argument("--exact", action="store_true", help="parquet: the exchange's strings instead of float64")
    where.add_argument("--force", action="store_true", help="begin anew, and replace what is there")
    where.add_argument("--extend", action="store_true", help="go on with a file that was asked for with another --to")
    how = parser.add_argument_group("how")
    how.add_argument("--gateway", metavar="URL", help="through a running gateway (default: without one, by itself)")
    how.add_argument(
        "-H", "--header", action="append", default=[], metavar="'Name: value'",
        help="with every question to --gateway, for instance its token; may be repeated",
    )  # fmt: skip
    how.add_argument("--parallel", type=int, default=16, metavar="N", help="questions at a time (default: 16)")
    how.add_argument(
        "--patience", default="15m", metavar="TIME",
        help="how long the same question is asked again before it gives up (default: 15m, longer than a ban)",
    )  # fmt: skip
    how.add_argument("-q", "--quiet", action="store_true", help="say nothing but what went wrong")


def order(options: argparse.Namespace) -> Order:
    """What the parsed options ask for. Raises UsageError."""
    try:
        start_ms = instant_ms(options.start)
        end_ms = None if options.end is None else instant_ms(options.end)
        patience_us = duration_us(options.patience)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if end_ms is not None and end_ms <= start_ms:
        raise UsageError(f"--to {options.end} is not later than --from {options.start}")
    if end_ms is not None and candles.open_of(options.interval, end_ms - 1) < start_ms:
        raise UsageError(f"no candle of interval {options.interval} opens from {options.start} to {options.end}")
    if not 1 <= options.parallel <= 100:
        raise UsageError(f"--parallel: expected 1 to 100, got {options.parallel}")
    symbols = _symbols([*options.symbols, *options.symbol])
    form = _form(options.format, options.out)
    if options.exact and form is not Form.PARQUET:
        raise UsageError(f"--exact is for parquet: {form} always has the exchange's strings")
    if form is Form.PARQUET and not parquet.available():
        raise UsageError(parquet.MISSING)
    outs = _outs(options.out, symbols, form)
    files = tuple(
        (
            Request(
                kind=Kind(options.kind),
                category=options.category,
                symbol=symbol,
                interval=options.interval,
                from_ms=start_ms,
                to_ms=end_ms,
                form=form,
                exact=options.exact,
            ),
            Paths.of(out),
        )
        for symbol, out in zip(symbols, outs, strict=True)
    )
    return Order(
        files=files,
        gateway=_gateway(options.gateway),
        headers=_headers(options.header, options.gateway),
        parallel=options.parallel,
        patience_us=patience_us,
        force=options.force,
        extend=options.extend,
        quiet=options.quiet,
    )


def _symbols(given: list[str]) -> list[str]:
    symbols = list(dict.fromkeys(given))
    if not symbols:
        raise UsageError("which symbol? For instance: download BTCUSDT --interval 1 ...")
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise UsageError(f"{symbol!r} is not a symbol as the exchange writes it: capitals and digits, BTCUSDT")
    return symbols


def _form(given: str | None, out: str) -> Form:
    if given is not None:
        return Form(given)
    form = _SUFFIXES.get(Path(out).suffix.lower())
    if form is not None:
        return form
    if out.endswith("/") or Path(out).is_dir():
        return Form.CSV
    raise UsageError(f"--format: csv, ndjson or parquet? {out} does not end in any of them")


def _outs(out: str, symbols: list[str], form: Form) -> list[Path]:
    if _PLACE in out:
        outs = [Path(out.replace(_PLACE, symbol)) for symbol in symbols]
    elif out.endswith("/") or Path(out).is_dir():
        outs = [Path(out, f"{symbol}.{form}") for symbol in symbols]
    elif len(symbols) == 1:
        outs = [Path(out)]
    else:
        raise UsageError(f"--out {out}: for several symbols a directory (end it with /), or a name with {_PLACE} in it")
    for parent in {each.parent for each in outs}:
        try:
            if out.endswith("/") or _PLACE in out:
                parent.mkdir(exist_ok=True)
            if not parent.is_dir():
                raise UsageError(f"--out: there is no directory {parent}")
        except OSError as error:
            raise UsageError(f"--out: {parent} cannot be made: {error.strerror}") from None
    return outs


def _gateway(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/") or parts.query:
        raise UsageError(f"--gateway takes a base URL such as http://127.0.0.1:8080, got {url!r}")
    return f"{parts.scheme}://{parts.netloc}"


def _headers(lines: list[str], gateway: str | None) -> dict[str, str]:
    if lines and gateway is None:
        raise UsageError("--header is for --gateway: without one nobody asks for a token")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9-]+", name.strip()) or not value.strip().isprintable():
            raise UsageError("--header takes 'Name: value'")  # not the line itself: it may hold a secret
        headers[name.strip()] = value.strip()
    return headers

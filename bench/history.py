"""A year of one-minute candles: how near `download` comes to the quota of klines, and what a kill costs."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import contenders
from bench.contenders import Contender, ContenderFailed, Lab
from bench.report import Report, Row

_AWAY_MS: Final = 50
_ROWS: Final = 365 * 1440
_PAGE: Final = 1000
_A_SECOND: Final = 120
"""The quota of klines in config.yaml: in any second no more."""
_MORE: Final = 3
_BAR: Final = 95.0
_MOST_S: Final = 120.0


def measure(report: Report, lab: Lab, rounds: int) -> None:
    """Whole years, one after another; the last is killed half-way and begun again."""
    rates: list[float] = []
    times: list[float] = []
    with contenders.slow_exchange(lab, _AWAY_MS) as exchange:
        for number in range(rounds):
            out = lab.directory / f"year-{number}.csv"
            _wait_for(_started(lab, exchange, out))
            arrivals = _arrivals(exchange)
            _check(arrivals)
            took_us = arrivals[-1] - arrivals[0]
            rates.append(100 * (len(arrivals) - 1) / (took_us / 1e6 * _A_SECOND))
            times.append(100 * _least_us(len(arrivals)) / took_us)
        digest = _digest(out)
        killed, asked = _killed(lab, exchange, lab.directory / "killed.csv")
    if digest != _digest(lab.directory / "killed.csv"):
        raise ContenderFailed("the file that was killed half-way is another one")
    what = f"a year of 1-minute candles ({_ROWS:,}) into CSV: questions a second, of {_A_SECOND}/1s"
    report.rows.append(Row("download", what, "%", tuple(rates), _BAR, f"exchange {_AWAY_MS} ms away"))
    note = "the least that the window lets through, bursts at both ends"
    report.rows.append(
        Row("download", "  its time: the shortest there could be, of what it took", "%", tuple(times), None, note)
    )
    note = f"killed after {killed} questions; the same file"
    report.rows.append(
        Row("download", "  questions once more after kill -9", "%", (100 * (asked / len(arrivals) - 1),), None, note)
    )


def _least_us(questions: int) -> int:
    """Between the first and the last: whoever asks as many as the window holds waits until it is over."""
    return (questions - 1) // _A_SECOND * 1_000_000


def _check(arrivals: list[int]) -> None:
    """A page for each thousand, and a few to find out where the candles begin."""
    if not 0 <= len(arrivals) - math.ceil(_ROWS / _PAGE) <= _MORE:
        raise ContenderFailed(f"{len(arrivals)} questions")


def _killed(lab: Lab, exchange: Contender, out: Path) -> tuple[int, int]:
    """How many questions before the end of the first process, and how many altogether."""
    process = _started(lab, exchange, out)
    ends, before = time.monotonic() + _MOST_S, 0
    while before < _ROWS // _PAGE // 2 and time.monotonic() < ends and process.poll() is None:
        time.sleep(0.05)
        before += len(_arrivals(exchange))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before += len(_arrivals(exchange))
    _wait_for(_started(lab, exchange, out))
    return before, before + len(_arrivals(exchange))


def _started(lab: Lab, exchange: Contender, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "proxy", "download", "BTCUSDT", "--interval", "1", "--quiet"]
    command += ["--from", "2025-01-01", "--to", "2026-01-01", "--out", str(out)]
    environment = contenders.plain_environment() | {
        "GATEWAY__UPSTREAM__URL": f"http://127.0.0.1:{exchange.port}",
        "XDG_STATE_HOME": str(lab.directory / f"state-{out.stem}"),
    }
    with contenders.on_cpu(lab.server_cpu):
        return subprocess.Popen(command, cwd=contenders.ROOT, env=environment, stdout=subprocess.DEVNULL)


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(_MOST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise ContenderFailed(f"download took longer than {_MOST_S:g} s") from None
    if code:
        raise ContenderFailed(f"download ended with {code}")


def _arrivals(exchange: Contender) -> list[int]:
    _, _, body = contenders.fetch(exchange.port, "/arrivals")
    told: Any = json.loads(body)
    return sorted(told)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

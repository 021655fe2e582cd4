"""A year of one-minute candles through a real gateway process: whole, in order, and in little memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.fake_bybit.candles import candle
from tests.fake_bybit.symbols import utc_ms
from tests.integration.test_process import ROOT, free_port, process, wait_until_ready

MINUTE_MS = 60_000
YEAR = 365 * 1440
START_MS = utc_ms(2025, 1, 1)
MOST_GROWTH = 20 << 20


@contextmanager
def exchange_process(port: int, control_port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.fake_bybit", "--port", str(port), "--control-port", str(control_port)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        assert "ready" in started.stdout.readline()
        yield started
    finally:
        started.terminate()
        started.communicate()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_a_year_of_minutes_is_streamed_in_constant_memory() -> None:
    exchange_port, control_port, port = free_port(), free_port(), free_port()
    base = f"http://127.0.0.1:{port}/api/v1/marketdata/klines/BTCUSDT?interval=1&format=ndjson&start="
    with (
        exchange_process(exchange_port, control_port),
        process(
            "run",
            GATEWAY__UPSTREAM__URL=f"http://127.0.0.1:{exchange_port}",
            GATEWAY__LISTEN__PORT=str(port),
            LOG_LEVEL="error",
        ) as gateway,
    ):
        await asyncio.to_thread(wait_until_ready, port, gateway)
        async with aiohttp.ClientSession() as session:
            before, most, rows, bytes_, wrong = resident(gateway.pid), 0, 0, 0, 0
            began = time.monotonic()
            end_ms = START_MS + (YEAR - 1) * MINUTE_MS
            first = last = b""
            async with session.get(f"{base}{START_MS}&end={end_ms}") as answer:
                assert answer.status == 200
                async for line in answer.content:
                    wrong += not line.startswith(b'["%d",' % (START_MS + rows * MINUTE_MS))
                    first, last = first or line, line
                    rows += 1
                    bytes_ += len(line)
                    if rows % 1_000 == 0:
                        most = max(most, resident(gateway.pid))
            took = time.monotonic() - began

    told = f"{rows} rows, {bytes_ / 1e6:.1f} MB in {took:.1f} s; memory {before / 1e6:.1f} -> {most / 1e6:.1f} MB"
    print(told)
    assert (rows, wrong) == (YEAR, 0)
    for line, open_ms in ((first, START_MS), (last, end_ms)):
        row = candle(1, "kline", "linear", "BTCUSDT", "1", open_ms, open_ms + 10 * MINUTE_MS, gap_fill=True)
        assert row is not None
        assert line == ("[" + ",".join(f'"{each}"' for each in row) + "]\n").encode()
    assert most - before < MOST_GROWTH, told

"""The command as a user starts it: a process of its own, in front of the fake exchange."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fake_bybit import FakeBybit, Settings
from tests.fake_bybit.candles import candle
from tests.fake_bybit.symbols import utc_ms

ROOT = Path(__file__).parents[2]
TODAY_MS = utc_ms(2026, 7, 1, 12, 30)
"""When the exchange's clock begins, whatever the machine's says."""
HEADER = "start,open,high,low,close,volume,turnover\n"


@dataclass
class Done:
    code: int
    out: str
    errors: str


@dataclass
class Place:
    """A directory, a state of its own, and an exchange."""

    here: Path
    exchange: FakeBybit
    under: tuple[str, ...] = ()
    """A command that starts it."""

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """`python -m proxy download ...`, not waited for."""
        return subprocess.Popen(
            [*self.under, sys.executable, "-m", "proxy", "download", *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                "XDG_STATE_HOME": str(self.here / "state"),
                "GATEWAY__UPSTREAM__URL": self.exchange.url,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def run(self, *arguments: object, seconds: float = 60, **environment: str) -> Done:
        started = self.start(*arguments, **environment)
        try:
            out, errors = await asyncio.to_thread(started.communicate, timeout=seconds)
        finally:
            started.kill()
        assert "Traceback" not in errors, errors
        return Done(started.returncode, out, errors)

    async def complete(self, *arguments: object, **environment: str) -> Done:
        """To its good end."""
        done = await self.run(*arguments, **environment)
        assert done.code == 0, done.errors
        return done

    def asked(self, path: str = "") -> int:
        """What the exchange has been asked."""
        return sum(count for endpoint, count in self.exchange.stats.endpoints.items() if path in endpoint)

    def record(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.here / f"{name}.progress").read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}


@asynccontextmanager
async def place(here: Path, *, stands: bool = False, **settings: Any) -> AsyncIterator[Place]:
    """`stands`: the exchange's clock does."""
    begun_ns = time.monotonic_ns()

    def clock() -> int:
        return TODAY_MS * 1000 + (0 if stands else (time.monotonic_ns() - begun_ns) // 1000)

    async with FakeBybit(settings=Settings(**settings), clock=clock) as exchange:
        yield Place(here, exchange)


async def until(true: Callable[[], bool], started: subprocess.Popen[str]) -> None:
    """Bounded polling of another process's files."""
    async with asyncio.timeout(30):
        while not true():
            assert started.poll() is None, started.communicate()[1]
            await asyncio.sleep(0.005)


def rows(
    symbol: str,
    interval: str,
    opens: list[int],
    *,
    kind: str = "kline",
    category: str = "linear",
    gap_fill: bool = True,
) -> list[list[str]]:
    """What the exchange has at these times."""
    found = (candle(1, kind, category, symbol, interval, open_ms, TODAY_MS, gap_fill=gap_fill) for open_ms in opens)
    return [row for row in found if row is not None]


def csv_text(found: list[list[str]], header: str = HEADER) -> str:
    return header + "".join(",".join(row) + "\n" for row in found)

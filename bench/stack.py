"""The scaled stack as it is shipped: nginx, three gateways, Redis, and what watches them, under a crowd of clients."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from typing import Final

from bench.contenders import ContenderFailed
from bench.load import told_by_wrk
from bench.report import Report, Row
from tests.image.engine import Engine, NoEngine, NoImage
from tests.image.reads import Reads, read_together
from tests.image.stack import Stack, stack
from tests.raw_http import RawAnswer

_CLIENTS: Final = 300
_EVERY_S: Final = 0.4
_CANDLES: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=15&limit=200"


def missing() -> str | None:
    """Why there is nothing to measure, if so."""
    try:
        engine = Engine()
        engine.image()
    except (NoEngine, NoImage) as reason:
        return str(reason)
    if engine.docker("compose", "version", check=False).returncode != 0:
        return "the engine has no compose plug-in"
    return None


def measure(report: Report, rounds: int, seconds: int) -> None:
    own = {"COMPOSE_PROFILES": "metrics", "INSIDE_SUBNET": "10.213.79.0/24"}
    with stack(Engine(), "bench", "compose.scale.yaml", _free_port, **own) as running:
        running.up()
        paced = [asyncio.run(_paced(running, seconds)) for _ in range(rounds + 1)][1:]  # the first round warms up
        what = f"{_CLIENTS} clients, a cached answer of 200 candles each {_EVERY_S:g} s"
        report.rows.append(Row("stack", f"{what}: answered (bar: 500)", "req/s", tuple(each.per_s for each in paced)))
        for told, part in (("p50", 0.50), ("p99 (bar: 100)", 0.99)):
            values = tuple(each.within_us(part) / 1000 for each in paced)
            report.rows.append(Row("stack", f"{what}: {told}", "ms", values))
        if shutil.which("wrk") is None:
            report.skipped.append(("stack / as many as it answers", "wrk is not installed"))
        else:
            values = tuple(_saturated(running, seconds) for _ in range(rounds))
            report.rows.append(Row("stack", f"{_CLIENTS} connections that never pause: answered", "req/s", values))


async def _paced(running: Stack, seconds: int) -> Reads:
    turns = max(2, round(seconds / _EVERY_S))
    reads = await read_together(
        running.port["GATEWAY_PORT"], [_CANDLES], _judge, clients=_CLIENTS, every_s=_EVERY_S, rounds=turns
    )
    if reads.wrong or reads.again:
        raise ContenderFailed(
            f"{reads.again} connections were ended, and there were wrong answers: {dict(reads.wrong)}"
        )
    return reads


def _judge(_: str, answer: RawAnswer) -> str:
    right = answer.status == 200 and answer.complete and answer.body.startswith(b'{"retCode":0,')
    return "" if right else f"{answer.status} {answer.body[:60]!r}"


def _saturated(running: Stack, seconds: int) -> float:
    url = f"http://127.0.0.1:{running.port['GATEWAY_PORT']}{_CANDLES}"
    words = ["wrk", "-t1", f"-c{_CLIENTS}", f"-d{seconds}s", url]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 30)
    return told_by_wrk(ran, "the stack")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

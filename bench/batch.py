"""Many symbols at once against one after another: what a client waits, with the exchange 50 ms away."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from dataclasses import replace
from typing import Final

from bench import contenders
from bench.contenders import Contender, ContenderFailed, Lab
from bench.report import Report, Row

_SYMBOLS: Final = 60
_ROWS: Final = 1000
_BAR: Final = 8.0
_AWAY_MS: Final = 50


def measure(report: Report, lab: Lab, rounds: int) -> None:
    """Symbols that nobody has asked for before, each time; the rows are counted."""
    ratios, lone_ms, batch_ms, again_ms = [], [], [], []
    with (
        contenders.slow_exchange(lab, _AWAY_MS) as slow,
        contenders.gateway(replace(lab, upstream_port=slow.port)) as gateway,
    ):
        for number in range(rounds + 1):
            lone, batch, again = _round(gateway, number)
            if number > 0:  # the first round warms up
                ratios.append(lone / batch)
                for times, took in ((lone_ms, lone), (batch_ms, batch), (again_ms, again)):
                    times.append(1000 * took)
    note = f"{statistics.median(lone_ms):,.0f} to {statistics.median(batch_ms):,.0f} ms, exchange {_AWAY_MS} ms away"
    what = f"{_SYMBOLS} symbols of {_ROWS:,} candles: one after another / in one batch"
    report.rows.append(Row("batch", what, "x", tuple(ratios), _BAR, note))
    report.rows.append(Row("batch", "  the same batch again, from memory", "ms", tuple(again_ms)))


def _round(gateway: Contender, number: int) -> tuple[float, float, float]:
    """Seconds for one after another, for the batch, and for the batch again."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        began = time.perf_counter()
        for each in range(_SYMBOLS):
            target = f"/v5/market/kline?category=linear&symbol=L{number}N{each}USDT&interval=15&limit={_ROWS}"
            _get(connection, target, gateway, _ROWS)
        lone = time.perf_counter() - began
        symbols = ",".join(f"B{number}N{each}USDT" for each in range(_SYMBOLS))
        target = f"/api/v1/marketdata/klines?symbols={symbols}&interval=15&limit={_ROWS}"
        took = []
        for _ in range(2):
            began = time.perf_counter()
            _get(connection, target, gateway, _SYMBOLS * _ROWS)
            took.append(time.perf_counter() - began)
        return lone, took[0], took[1]
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection, target: str, gateway: Contender, rows: int) -> None:
    connection.request("GET", target)
    answer = connection.getresponse()
    body = answer.read()
    # Rows and not JSON: the client's own time is none of ours.
    if answer.status != 200 or body.count(b'"],["') < rows - _SYMBOLS or b'"retCode":0' not in body:
        said = json.dumps(body[:200].decode("latin-1"))
        raise ContenderFailed(f"{gateway.name} answered {answer.status} to {target[:60]}: {said}")

"""What telling of a request costs at its end: metrics and whoever listens, and the log line besides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from bench.report import Report, Row
from policies.admission import Charge, Quota
from policies.descriptor import Descriptor
from proxy import log
from proxy.app import App
from proxy.clock import system_clock
from proxy.config import Config, load_routes
from proxy.log import Sink
from proxy.story import Story
from proxy.telemetry import Telemetry

_BATCH: Final = 2_000
_BAR_US: Final = 5
_WHO: Final = Descriptor("GET", "/v5/market/kline", "", "kline", "default", "10.1.2.3", client="10.1.2.3", tier="FREE")
_CHARGES: Final = tuple(Charge(Quota(name, 100, 1_000_000, ()), (name,), 1) for name in ("per-ip", "bybit-ip", "kline"))


class _Nowhere(Sink):
    """Lines are made and handed over; the thread that would write them is not measured here."""

    def __init__(self) -> None:
        self.dropped = 0

    def put(self, line: bytes) -> None:
        """It is gone."""


def measure(report: Report, rounds: int, seconds: float) -> None:
    """With all that a gateway of the default configuration has listening."""
    log.set_up("info", "json", _Nowhere())
    try:
        app = App(Config(), load_routes())
        telemetry = app.gateway._telemetry  # noqa: SLF001  # as it was put together, with all who listen
        told = f"{len(telemetry.listeners)} listeners"
        for name, make in (("a hit", _hit), ("a request that was sent", _sent)):
            with_line: list[float] = []
            without: list[float] = []
            for number in range(rounds + 1):
                for level, costs in (("warning", without), ("info", with_line)):
                    log.set_level(level)
                    cost_us = _cost_us(telemetry, make, seconds / 8)
                    if number > 0:  # the first round warms up
                        costs.append(cost_us)
            added = tuple(both - alone for both, alone in zip(with_line, without, strict=True))
            what = f"{name}: metrics, {told} (bar: {_BAR_US})"
            report.rows.append(Row("record", what, "us", tuple(without)))
            report.rows.append(Row("record", f"{name}: its log line besides", "us", added))
    finally:
        structlog.reset_defaults()


def _cost_us(telemetry: Telemetry, make: Callable[[], Story], seconds: float) -> float:
    """The median batch: what else runs on the machine only ever makes a batch slower."""
    costs: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        stories = [make() for _ in range(_BATCH)]
        began = time.perf_counter_ns()
        for story in stories:
            telemetry.tell(story)
        costs.append((time.perf_counter_ns() - began) / _BATCH / 1000)
    costs.sort()
    return costs[len(costs) // 2]


_now = system_clock()


def _hit() -> Story:
    story = Story("0123456700000001", "GET", _now())
    story.endpoint, story.descriptor, story.door_charges = "kline", _WHO, _CHARGES[:1]
    story.source, story.cache, story.status, story.body_bytes = "cache", "hit", 200, 17_000
    return story


def _sent() -> Story:
    story = _hit()
    story.source, story.cache, story.ret_code, story.attempts = "exchange", "fwd=uri-miss; fwd-status=200; stored", 0, 1
    story.sent_charges, story.upstream_status, story.waited_us, story.upstream_us = _CHARGES[1:], 200, 10, 20_000
    return story

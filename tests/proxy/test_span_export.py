"""Spans are delivered, or counted as lost; a collector that is of no use holds up nobody, and nobody needs one."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from proxy.config import load, load_routes
from proxy.config_problems import ConfigError
from proxy.metrics import Metrics
from proxy.span_export import _QUEUE, SpanExport
from proxy.spans import Kind, Span
from tests.collector import Collector, collector, delivered
from tests.conversation import until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import START_US, HandClock
from tests.proxy.test_failures import closed_port
from tests.raw_http import exchange_bytes

ROOT: Final = Path(__file__).parents[2]
KLINE: Final = b"GET /v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3 HTTP/1.1\r\nHost: me\r\n\r\n"


@pytest.fixture
def told() -> Iterator[Collector]:
    with collector() as running:
        yield running


async def test_a_dead_collector_costs_spans_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # less than it would wait before it asks again
    clock = HandClock()
    with capture_logs() as events:
        async with (
            FakeBybit() as exchange,
            gateway(
                exchange.url,
                clock=clock,
                tracing__enabled="true",
                tracing__endpoint=f"http://127.0.0.1:{closed_port()}/v1/traces",
            ) as app,
        ):
            for _ in range(3):
                assert (await exchange_bytes(app.port, KLINE)).status == 200
                await delivered(app)
            lost = dropped(app.metrics, "not-delivered")

    assert lost == 4 + 3 + 3
    troubles = [event for event in events if event["event"] == "tracing_trouble"]
    assert len(troubles) == 1
    assert troubles[0]["log_level"] == "warning"


async def test_troubles_are_told_again_after_a_while() -> None:
    clock = HandClock()
    export = SpanExport("http://127.0.0.1:1/x", "mine", "1", metrics=Metrics(), clock=clock)
    library = logging.getLogger("opentelemetry.anything")
    with capture_logs() as events:
        for now_s in (0, 1, 299, 300, 301):
            clock.now_us = START_US + now_s * 1_000_000
            library.warning("trouble with %s at %s", "x", now_s)
    await export.close()

    assert [(event["message"], event["unsaid"]) for event in events] == [
        ("trouble with x at 0", 0),
        ("trouble with x at 300", 2),
    ]


def dropped(metrics: Metrics, reason: str) -> float:
    return float(metrics.spans_dropped.labels(reason)._value.get())


def some_span() -> Span:
    return Span("GET x", Kind.SERVER, START_US, START_US + 5, {})


async def test_the_queue_is_bounded_and_the_end_too(told: Collector) -> None:
    """A collector that takes a batch and never answers: what does not fit is counted, nobody waits long at the end."""
    told.open.clear()
    metrics = Metrics()
    export = SpanExport(told.url, "mine", "1", metrics=metrics, clock=HandClock(), patience_s=0.05)
    export.give(some_span(), export.context(1, 1), None)
    await until(told.asked.is_set, "the collector has taken a batch")
    for number in range(2, _QUEUE + 12):
        export.give(some_span(), export.context(1, number), None)
    assert dropped(metrics, "queue-full") == 10

    async with asyncio.timeout(60):  # its own patience would be ten seconds for each of 16 batches
        await export.close()

    assert told.bodies == []
    assert dropped(metrics, "not-delivered") == _QUEUE


async def test_what_waits_at_the_end_is_delivered(told: Collector) -> None:
    export = SpanExport(told.url, "mine", "1", metrics=Metrics(), clock=HandClock(), patience_s=20)
    export.give(some_span(), export.context(1, 1), None)
    await export.close()

    assert len(told.spans()) == 1


# An extra


def test_without_the_libraries_nothing_starts_and_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError) as caught:
        load(None, {"GATEWAY__TRACING__ENABLED": "true"}, load_routes())
    (problem,) = caught.value.problems
    remedy = "tracing.enabled: true needs OpenTelemetry, which is not installed: pip install '.[otel]' in the checkout"
    assert str(problem) == f"environment GATEWAY__TRACING__ENABLED: {remedy}"
    assert not load(None, {}, load_routes()).tracing.enabled


def test_who_makes_no_traces_needs_no_libraries() -> None:
    """A gateway starts and answers without them."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import asyncio\n"
        "from tests.gateway_fixture import gateway\n"
        "from tests.raw_http import exchange_bytes\n"
        "async def main():\n"
        "    async with gateway('http://127.0.0.1:1') as app:\n"
        "        return await exchange_bytes(app.port, b'GET /v5/market/time HTTP/1.1\\r\\nHost: me\\r\\n\\r\\n')\n"
        "assert asyncio.run(main()).status == 502\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60, stdout=subprocess.DEVNULL)

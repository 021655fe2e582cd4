"""Who asks for OpenMetrics gets it, with the traces of single requests; everybody else gets what he always got."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from proxy.app import App
from proxy.combined import combined, decoded, encoded, lasting, read, registry_of
from proxy.exposition import OPEN, PLAIN, form_for
from proxy.metrics import Metrics
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.raw_http import RawAnswer, exchange_bytes

ACCEPT: Final = (
    "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""What Prometheus says."""
KLINE: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
SAMPLED: Final = f"traceparent: 00-{TRACE_ID}-b7ad6b7169203331-01"
UNSAMPLED: Final = f"traceparent: 00-{TRACE_ID}-b7ad6b7169203331-00"
WITH_EXEMPLARS: Final = {"bybit_api_duration_seconds", "gateway_added_seconds", "gateway_response_seconds"}
PAGES: Final = ("/metrics", "/health/metrics", "/api/v1/health/metrics")


async def ask(app: App, target: str, *lines: str, method: str = "GET") -> RawAnswer:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: me", *lines])
    return await exchange_bytes(app.port, f"{head}\r\n\r\n".encode())


def exemplars(text: str) -> dict[str, set[str]]:
    """The trace ids on the buckets of each family. The parser refuses a page that is not valid."""
    found: dict[str, set[str]] = {}
    for family in open_families(text):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.name == f"{family.name}_bucket"
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def values(families: Any) -> dict[Any, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("page", PAGES)
async def test_a_sampled_trace_is_on_the_page(page: str) -> None:
    """Where the exchange was asked, what the gateway added, how long it took in all."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        for _ in range(2):
            await ask(app, KLINE, SAMPLED)
        answer = await ask(app, page, ACCEPT)

    assert (answer.get("Content-Type") or "").startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    assert exemplars(text) == {name: {TRACE_ID} for name in WITH_EXEMPLARS}


async def test_a_trace_that_nobody_keeps_is_not() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        await ask(app, KLINE, UNSAMPLED)
        await ask(app, KLINE)
        text = (await ask(app, "/metrics", ACCEPT)).body.decode()

    assert exemplars(text) == {}


async def test_both_forms_say_the_same() -> None:
    """Every sample of one, under the same name, is in the other; and the older form has no exemplars."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        for target in (KLINE, KLINE, "/v5/market/time", "/v5/account/info", "/nowhere"):
            await ask(app, target, SAMPLED)
        answer = await ask(app, "/metrics")
        reading = await app.admin.reading()  # two pages would be of two moments
    plain, opened = (form.write(registry_of(reading)).decode() for form in (PLAIN, OPEN))

    assert values(plain_families(plain)) == values(open_families(opened))
    assert "# {trace_id=" in opened
    assert (answer.get("Content-Type") or "").startswith("text/plain; version=")
    for text in (answer.body.decode(), plain):
        assert "trace_id" not in text
        assert "# EOF" not in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
async def test_prometheus_can_read_the_older_form() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        await ask(app, KLINE, SAMPLED)
        page = (await ask(app, "/metrics")).body
    done = subprocess.run(["promtool", "check", "metrics"], check=False, input=page, capture_output=True, timeout=60)

    # A name that dashboards rely on, whatever it should have been.
    others = [line for line in done.stderr.decode().splitlines() if not line.startswith("memory_objects_count ")]
    assert others == []
    assert done.returncode in {0, 3}


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_the_page_can_only_be_read(method: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        head = f"{method} /metrics HTTP/1.1\r\nHost: me\r\n{ACCEPT}\r\nConnection: close\r\n\r\n"
        answer = await exchange_bytes(app.port, head.encode())

    assert answer.status == (200 if method == "HEAD" else 405)


@pytest.mark.parametrize(
    ("accept", "opened"),
    [
        (ACCEPT.partition(": ")[2], True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text;version=0.0.1", True),
        ('application/OpenMetrics-Text; version="1.0.0"; charset=utf-8', True),
        ("text/html, application/openmetrics-text;q=0.1", True),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.5", True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/json", False),
        ("text/plain;version=0.0.4;q=1, application/openmetrics-text;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=much", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=\x00;;=,;,q=", False),
        ("application/openmetrics-textual", False),
    ],
)
def test_the_form_is_what_is_liked_best_of_those_that_are_known(accept: str, opened: bool) -> None:
    assert form_for(accept) is (OPEN if opened else PLAIN)


class Worker:
    """What one of several processes has counted."""

    def __init__(self, trace_id: str, took_us: int) -> None:
        self.metrics = Metrics()
        self.metrics.response.observe(("kline",), took_us, trace_id)
        self.metrics.response.observe((f"of-{trace_id[:1]}",), took_us, trace_id)
        self.metrics.errors.labels("timeout").inc()
        self.metrics.requests.inc(("kline", "2xx", "cache"), 3)

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.registry


def test_the_page_of_several_workers_is_as_good() -> None:
    """Valid, and with their traces; of two in one bucket one is enough. Also of a worker that has ended."""
    workers = [Worker("a" * 32, 300), Worker("b" * 32, 700), Worker("c" * 32, 700)]
    readings = [decoded(encoded(read(worker.registry))) for worker in workers]
    together = combined([*readings[:2], lasting(readings[2])])
    text = OPEN.write(registry_of(together)).decode()

    assert text.endswith("# EOF\n")
    assert exemplars(text) == {"gateway_response_seconds": {"a" * 32, "b" * 32, "c" * 32}}
    assert values(open_families(text)) == values(plain_families(PLAIN.write(registry_of(together)).decode()))
    totals = values(open_families(text))
    assert totals["bybit_api_requests_total", (("endpoint", "kline"), ("source", "cache"), ("status", "2xx"))] == 9

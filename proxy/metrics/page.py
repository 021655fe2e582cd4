"""docs/metrics.md: every metric as it is declared, so that the page cannot say otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.metrics import GROUPS
from proxy.metrics.merging import GAUGES
from proxy.tally import TallyCounter, TallyHistogram

_HEAD: Final = """\
# Metrics

`GET /metrics` (also `/health/metrics` and `/api/v1/health/metrics`) is for Prometheus. With
`Accept: application/openmetrics-text` it answers in OpenMetrics, with exemplars. With several workers the page of any
of them tells of all: counters and histograms are added up, gauges as the last column says.

Labels are names of the route table (`endpoint`), of rules (`rule`) and fixed words: never symbols, clients, keys or
paths, so that no request can add a time series. With several workers there is also `gateway_workers{state}`: how many
processes answer (`up`) and how many there should be (`expected`). Counters and histograms of the library bring their
`_created` along.

This page is made from the code: `python -m proxy metrics > docs/metrics.md`, checked by `make check`.
"""
_MERGED: Final = {sum: "sum", max: "largest", min: "smallest"}


def as_markdown() -> str:
    return _HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    for group in GROUPS:
        registry = CollectorRegistry()
        group(registry)
        yield f"\n## {group.__name__}\n\n{(group.__doc__ or '').strip()}\n\n"
        yield "| Name | Type | Labels | Meaning | Workers |\n| --- | --- | --- | --- | --- |\n"
        for metric, collector in sorted(_described(registry), key=lambda item: item[0].name):
            yield _row(metric, collector)


def _described(registry: CollectorRegistry) -> Iterator[tuple[Metric, Collector]]:
    """The library tells of its metrics only once they have values; their declarations it keeps to itself."""
    for collector in list(registry._collector_to_names):  # noqa: SLF001
        for metric in collector.describe():  # type: ignore[attr-defined]  # all of ours have it
            yield metric, collector


def _row(metric: Metric, collector: Collector) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    merged = _MERGED[GAUGES[metric.name]] if metric.type == "gauge" else "sum"
    shown = ", ".join(f"`{label}`" for label in labels_of(collector))
    return f"| `{name}` | {metric.type} | {shown} | {metric.documentation}{_buckets(collector)} | {merged} |\n"


def labels_of(collector: Collector) -> tuple[str, ...]:
    """The names of its labels."""
    if isinstance(collector, TallyCounter | TallyHistogram):
        return collector.label_names
    return tuple(getattr(collector, "_labelnames", ()))


def _buckets(collector: Collector) -> str:
    if not isinstance(collector, TallyHistogram):
        return ""
    return " Buckets: " + ", ".join(f"{bound / 1e6:g}" for bound in collector.bounds_us) + "."

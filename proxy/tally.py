"""Counters for the hot path: plain integers while counting, Prometheus families when somebody looks.

prometheus_client's own metrics take a lock for each increment, several times for a histogram; on an event loop that
answers tens of thousands of cached requests a second this would be a third of the work. These register with the
library as collectors, so that names, labels and exposition stay its business.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class TallyCounter(Collector):
    """`counter.counts["kline", "2xx"] += 1` on the hottest path, inc() elsewhere; in one event loop only."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self.counts: defaultdict[Labels, int] = defaultdict(int)
        registry.register(self)

    def inc(self, labels: Labels, amount: int = 1) -> None:
        """One label value for each label name, in their order."""
        self.counts[labels] += amount

    def value(self, *labels: str) -> int:
        return self.counts.get(labels, 0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self.counts.items():
            family.add_metric(labels, count)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, labels=self._labels)


class TallyHistogram(Collector):
    """Observations in microseconds, shown in seconds; `bounds_us` are the upper bounds of its buckets."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds_us: Sequence[int],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds_us = tuple(bounds_us)
        self._series: dict[Labels, list[int]] = {}
        registry.register(self)

    def observe(self, labels: Labels, value_us: int) -> None:
        series = self._series.get(labels)
        if series is None:
            # One place for each bucket, one for what lies beyond them, and the sum.
            series = self._series[labels] = [0] * (len(self._bounds_us) + 2)
        series[bisect_left(self._bounds_us, value_us)] += 1
        series[-1] += value_us

    def count(self, *labels: str) -> int:
        return sum(self._series.get(labels, [0])[:-1])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, series in self._series.items():
            total, buckets = 0, []
            for bound, count in zip([*(f"{us / 1e6:g}" for us in self._bounds_us), "+Inf"], series, strict=False):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric(labels, buckets, sum_value=series[-1] / 1e6)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

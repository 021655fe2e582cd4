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
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]


class TallyCounter(Collector):
    """`counter.counts["kline", "2xx"] += 1` on the hottest path, inc() elsewhere; in one event loop only."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self.label_names = tuple(labels)
        self.counts: defaultdict[Labels, int] = defaultdict(int)
        registry.register(self)

    def inc(self, labels: Labels, amount: int = 1) -> None:
        """One label value for each label name, in their order."""
        self.counts[labels] += amount

    def value(self, *labels: str) -> int:
        return self.counts.get(labels, 0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self.label_names)
        for labels, count in self.counts.items():
            family.add_metric(labels, count)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, labels=self.label_names)


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
        self.label_names = tuple(labels)
        self._bounds_us = tuple(bounds_us)
        self._series: dict[Labels, list[int]] = {}
        self._exemplars: dict[tuple[Labels, int], Exemplar] = {}
        registry.register(self)

    @property
    def bounds_us(self) -> tuple[int, ...]:
        return self._bounds_us

    def counts(self) -> dict[Labels, list[int]]:
        """Observations in each bucket and beyond the last, by labels, as they stand."""
        return {labels: series[:-1] for labels, series in self._series.items()}

    def observe(self, labels: Labels, value_us: int, trace_id: str = "") -> None:
        """`trace_id`: where this very observation can be looked at; the latest of each bucket is shown."""
        series = self._series.get(labels)
        if series is None:
            # One place for each bucket, one for what lies beyond them, and the sum.
            series = self._series[labels] = [0] * (len(self._bounds_us) + 2)
        place = bisect_left(self._bounds_us, value_us)
        series[place] += 1
        series[-1] += value_us
        if trace_id:
            self._exemplars[labels, place] = Exemplar({"trace_id": trace_id}, value_us / 1e6)

    def count(self, *labels: str) -> int:
        return sum(self._series.get(labels, [0])[:-1])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self.label_names)
        for labels, series in self._series.items():
            total = 0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            # As the library writes them, 1.0 and not 1: OpenMetrics has one way to write a bound.
            bounds = [*(repr(us / 1e6) for us in self._bounds_us), "+Inf"]
            for place, (bound, count) in enumerate(zip(bounds, series, strict=False)):
                total += count
                exemplar = self._exemplars.get((labels, place))
                buckets.append((bound, float(total)) if exemplar is None else (bound, float(total), exemplar))
            family.add_metric(labels, buckets, sum_value=series[-1] / 1e6)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation, labels=self.label_names)

"""The metrics of several processes as one page: what each of them read, how it travels, and how it is put together.

Counters and histograms are summed, and a gauge has a rule of its own in proxy.metrics. A process that begins again
begins at zero; a sum that falls by that would look to Prometheus like a reset, and all that remains of it be counted a
second time. So what counts on is carried over from the process before: see lasting().
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from proxy.metrics import GAUGES

_CREATED: Final = "_created"

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, and its labels as (name, value)."""


class Family(NamedTuple):
    """A metric with all its samples, in the library's words."""

    name: str
    kind: str
    help: str
    samples: Mapping[Key, float]
    exemplars: Mapping[Key, Exemplar] = MappingProxyType({})
    """Of the buckets that have one."""


Reading = Sequence[Family]
"""All metrics of a process at one moment."""


def read(registry: CollectorRegistry) -> Reading:
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            {_key(sample): sample.value for sample in metric.samples},
            {_key(sample): sample.exemplar for sample in metric.samples if sample.exemplar is not None},
        )
        for metric in registry.collect()
    ]


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sample.labels.items())


def encoded(reading: Reading) -> bytes:
    return orjson.dumps(
        [
            [
                *family[:3],
                [[*key, value] for key, value in family.samples.items()],
                [[*key, exemplar.labels, exemplar.value] for key, exemplar in family.exemplars.items()],
            ]
            for family in reading
        ]
    )


def decoded(data: bytes) -> Reading:
    """Raises ValueError for what is not whole."""
    rows: list[Any] = orjson.loads(data)
    return [
        Family(
            name,
            kind,
            text,
            {(sample, tuple((k, v) for k, v in labels)): value for sample, labels, value in samples},
            {(sample, tuple((k, v) for k, v in labels)): Exemplar(*given) for sample, labels, *given in exemplars},
        )
        for name, kind, text, samples, exemplars in rows
    ]


def combined(readings: Iterable[Reading]) -> Reading:
    """One reading of all; what only some of them know is as they know it. Of exemplars the last is as good as any."""
    first: dict[str, Family] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    exemplars: dict[str, dict[Key, Exemplar]] = {}
    for family in (family for reading in readings for family in reading):
        first.setdefault(family.name, family)
        exemplars.setdefault(family.name, {}).update(family.exemplars)
        known = values.setdefault(family.name, {})
        for key, value in family.samples.items():
            known.setdefault(key, []).append(value)
    return [
        family._replace(
            samples={key: _rule(family, key)(given) for key, given in values[name].items()}, exemplars=exemplars[name]
        )
        for name, family in first.items()
    ]


def _rule(family: Family, key: Key) -> Callable[[Iterable[float]], float]:
    if family.kind == "gauge":
        return GAUGES.get(family.name, max)
    return min if key[0].endswith(_CREATED) else sum


def lasting(reading: Reading) -> Reading:
    """What of a process counts on when it has ended: all but its gauges."""
    return [family for family in reading if family.kind != "gauge"]


def registry_of(reading: Reading) -> CollectorRegistry:
    """In the library's words again, to be written."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(reading))
    return registry


class _Given(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        for family in self._reading:
            metric = Metric(family.name, family.help, family.kind)
            for key, value in family.samples.items():
                name, labels = key
                metric.add_sample(name, dict(labels), value, exemplar=family.exemplars.get(key))
            yield metric

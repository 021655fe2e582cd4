"""One page of metrics tells of all workers what one process would have told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from proxy.combined import Reading, combined, decoded, encoded, lasting, read, registry_of
from proxy.metrics import GAUGES, Metrics
from proxy.tally import TallyCounter, TallyHistogram


class Process:
    """The metrics of one worker, of each kind that there is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tally = TallyCounter("requests", "Help.", ["endpoint"], self.registry)
        self.counter = Counter("errors", "Help: \\ and \n.", ["code"], registry=self.registry)
        self.took = TallyHistogram("took_seconds", "Help.", ["source"], (15_625, 50_000), self.registry)

    def see(self, event: tuple[str, int]) -> None:
        name, value = event
        self.tally.inc((name,))
        self.counter.labels(str(value)).inc(value)
        self.took.observe((name,), value)


def lines(text: bytes) -> list[str]:
    return sorted(line for line in text.decode().splitlines() if "_created" not in line)


# Times that are whole in binary: sums of others depend on their order in the last digit.
EVENTS = st.lists(st.tuples(st.sampled_from(["a", 'b"\n\\', "c"]), st.sampled_from([0, 15_625, 31_250, 500_000])))


@given(st.lists(st.tuples(st.integers(0, 2), EVENTS), max_size=6))
def test_the_sum_of_the_workers_is_what_one_process_would_tell(shares: list[tuple[int, list[tuple[str, int]]]]) -> None:
    """Byte for byte, whoever saw what, and after a journey as JSON."""
    one, several = Process(), [Process() for _ in range(3)]
    for worker, events in shares:
        for event in events:
            one.see(event)
            several[worker].see(event)

    together = combined(decoded(encoded(read(process.registry))) for process in several)

    assert lines(generate_latest(registry_of(together))) == lines(generate_latest(one.registry))


def test_every_gauge_has_a_rule() -> None:
    """A new gauge needs a line in GAUGES: nobody else knows whether its values add up."""
    declared = {metric.name for metric in Metrics().registry.collect() if metric.type == "gauge"}

    assert declared == set(GAUGES)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("gateway_upstream_in_flight", [3, 0, 2], 5),
        ("gateway_window_used", [7, 9, 8], 9),
        ("gateway_config_last_reload_successful", [1, 0, 1], 0),
    ],
)
def test_gauges_follow_their_rules(name: str, values: list[float], told: float) -> None:
    readings = []
    for value in values:
        registry = CollectorRegistry()
        Gauge(name, "Help.", registry=registry).set(value)
        readings.append(read(registry))

    (family,) = combined(readings)

    assert list(family.samples.values()) == [told]


def test_counters_began_when_the_first_of_them_did() -> None:
    readings = [
        [family._replace(samples={**family.samples, ("errors_created", ()): float(since)}) for family in reading]
        for since, reading in [(20, one_counter()), (10, one_counter())]
    ]

    (family,) = combined(readings)

    assert family.samples["errors_created", ()] == 10


def one_counter() -> Reading:
    registry = CollectorRegistry()
    Counter("errors", "Help.", registry=registry).inc()
    return read(registry)


def test_what_counts_on_after_the_end_of_a_process_is_all_but_its_gauges() -> None:
    metrics = Metrics()
    kept = {family.name for family in lasting(read(metrics.registry))}

    assert "bybit_api_requests" in kept
    assert "bybit_api_duration_seconds" in kept
    assert kept.isdisjoint(GAUGES)


@pytest.mark.parametrize("data", [b"", b'[["a","counter"', b'[["a"]]'])
def test_a_reading_that_is_not_whole_is_not_taken(data: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(data)

"""The hot path's counters show what prometheus_client's own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from proxy.tally import TallyCounter, TallyHistogram


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode().splitlines()
    return sorted(line for line in text if not line.startswith("#") and "_created" not in line)


@given(st.lists(st.sampled_from([("a", "x"), ("b", "x"), ("b", "y")])))
def test_counters_agree_with_the_library(events: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = TallyCounter("requests", "Help.", ["one", "two"], ours)
    counter = Counter("requests", "Help.", ["one", "two"], registry=theirs)
    for labels in events:
        tally.inc(labels)
        counter.labels(*labels).inc()

    assert lines(ours) == lines(theirs)
    assert sum(tally.value(*labels) for labels in set(events)) == len(events)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3_000_000).map(lambda n: n * 64 // 64)), max_size=50))
def test_histograms_agree_with_the_library(events: list[tuple[str, int]]) -> None:
    """Bounds included: an observation equal to a bound lies in its bucket."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bounds = (1_000, 50_000, 1_000_000)
    tally = TallyHistogram("took_seconds", "Help.", ["who"], bounds, ours)
    histogram = Histogram("took_seconds", "Help.", ["who"], buckets=[us / 1e6 for us in bounds], registry=theirs)
    for who, value in [*events, *((who, bound) for who, _ in events for bound in bounds)]:
        tally.observe((who,), value)
        histogram.labels(who).observe(value / 1e6)

    def counted(registry: CollectorRegistry) -> list[tuple[str, float]]:
        return [(name, round(float(value), 6)) for name, value in (line.rsplit(" ", 1) for line in lines(registry))]

    assert sorted(counted(ours)) == sorted(counted(theirs))


def test_both_show_their_names_before_anything_happened() -> None:
    registry = CollectorRegistry()
    TallyCounter("requests", "Help.", ["one"], registry)
    TallyHistogram("took_seconds", "Help.", [], (1,), registry)

    assert b"# TYPE requests_total counter" in generate_latest(registry)
    assert b"# TYPE took_seconds histogram" in generate_latest(registry)

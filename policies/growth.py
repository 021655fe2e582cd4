"""Does the memory of this process grow, and will it go on?

A line is fitted to the samples of half an hour (least squares). A leak is suspected when the growth along it is large,
when the line explains most of what the memory did, and when each third of the time has its part in it: a cache that
fills up, a burst of work or a single large answer grow too, and then stop. What is kept on purpose, and bounded, is
taken off first; the first minutes of a process do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

WINDOW_US: Final = 1_800_000_000
WARM_UP_US: Final = 600_000_000
AGAIN_US: Final = 3_600_000_000
LEAST_BYTES: Final = 32 << 20
_MOST_SAMPLES: Final = 256
_LEAST_SAMPLES: Final = 90
_LEAST_SPAN_US: Final = WINDOW_US - WINDOW_US // 30


class Sample(NamedTuple):
    at_us: int
    rss_bytes: int
    kept_bytes: int = 0
    """What of it is kept on purpose."""


class Growth(NamedTuple):
    """What is known so far: the samples of the window, at most 256."""

    began_us: int | None = None
    samples: tuple[Sample, ...] = ()
    told_us: int | None = None
    """When a leak was suspected last."""


class Suspicion(NamedTuple):
    bytes_per_second: int
    grown_bytes: int
    """Along the line, without what is kept on purpose."""
    over_us: int


def noted(growth: Growth, sample: Sample) -> Growth:
    began_us = sample.at_us if growth.began_us is None else growth.began_us
    known = [each for each in growth.samples if sample.at_us - WINDOW_US <= each.at_us < sample.at_us]
    return Growth(began_us, (*known, sample)[-_MOST_SAMPLES:], growth.told_us)


def bytes_per_second(growth: Growth) -> int:
    """Of all the memory, over what the window holds; 0 until there are two samples."""
    return _Line([(each.at_us, each.rss_bytes) for each in growth.samples]).per_second


def judged(growth: Growth, now_us: int) -> tuple[Growth, Suspicion | None]:
    """Whether a leak is to be reported now; not again for an hour."""
    if growth.told_us is not None and now_us - growth.told_us < AGAIN_US:
        return growth, None
    suspicion = _suspected(growth)
    return (growth, None) if suspicion is None else (growth._replace(told_us=now_us), suspicion)


def _suspected(growth: Growth) -> Suspicion | None:
    warm_us = (growth.began_us or 0) + WARM_UP_US
    points = [(each.at_us, each.rss_bytes - each.kept_bytes) for each in growth.samples if each.at_us >= warm_us]
    if len(points) < _LEAST_SAMPLES or (span_us := points[-1][0] - points[0][0]) < _LEAST_SPAN_US:
        return None
    line = _Line(points)
    grown_bytes = line.per_second * span_us // 1_000_000
    if grown_bytes < LEAST_BYTES or not line.explains:
        return None
    edges = [points[0][0] + span_us * part // 3 for part in range(4)]
    thirds = [[point for point in points if low <= point[0] <= high] for low, high in pairwise(edges)]
    if any(3 * _Line(third).per_second < line.per_second for third in thirds):
        return None
    return Suspicion(line.per_second, grown_bytes, span_us)


class _Line:
    """The best one through some points, (microseconds, bytes). Whole numbers: their sums are exact."""

    def __init__(self, points: Sequence[tuple[int, int]]) -> None:
        n = len(points)
        at = [x - points[0][0] for x, _ in points]
        held = [y - points[0][1] for _, y in points]
        sum_x, sum_y = sum(at), sum(held)
        spread_x = n * sum(x * x for x in at) - sum_x * sum_x
        spread_y = n * sum(y * y for y in held) - sum_y * sum_y
        together = n * sum(x * y for x, y in zip(at, held, strict=True)) - sum_x * sum_y
        self.per_second = 1_000_000 * together // spread_x if spread_x else 0
        self.explains = 2 * together * together >= spread_x * spread_y
        """At least half of the variance: what is left is noise around it."""

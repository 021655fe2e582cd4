"""A quantile from the buckets of a histogram, as Prometheus' histogram_quantile() estimates it."""

from __future__ import annotations

from collections.abc import Sequence


def quantile_us(bounds_us: Sequence[int], counts: Sequence[int], percent: int) -> int | None:
    """So many percent of the observations were at most this. Within a bucket they are taken to lie evenly.

    `counts` has one place for each bound and one for what lies beyond the last, of which no more is known than that:
    the answer is the last bound then. None where nothing was observed.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank, below = total * percent / 100, 0
    for place, count in enumerate(counts):
        if below + count >= rank and count:
            if place == len(bounds_us):
                break
            lower = bounds_us[place - 1] if place else 0
            return round(lower + (bounds_us[place] - lower) * (rank - below) / count)
        below += count
    return bounds_us[-1]

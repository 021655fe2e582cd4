"""What a histogram says of the last minutes, for gauges and pages: its buckets now less its buckets then."""

from __future__ import annotations

from collections import deque
from typing import Final

from policies.quantile import quantile_us
from proxy.clock import Clock
from proxy.tally import Labels, TallyHistogram

STEP_S: Final = 10.0
_SPAN_US: Final = 300_000_000


class Lately:
    """note() is called every STEP_S; what is asked reaches back five minutes, or as far as has been noted."""

    def __init__(self, histogram: TallyHistogram, clock: Clock) -> None:
        self._histogram = histogram
        self._clock = clock
        self.bounds_us = histogram.bounds_us
        self._noted: deque[tuple[int, dict[Labels, list[int]]]] = deque()

    def note(self) -> None:
        now_us = self._clock()
        self._noted.append((now_us, self._histogram.counts()))
        while len(self._noted) > 1 and self._noted[1][0] <= now_us - _SPAN_US:
            self._noted.popleft()

    def counts(self) -> dict[Labels, list[int]]:
        """Observations of that time in each bucket, by labels; those with none are left out."""
        now = self._histogram.counts()
        then = self._noted[0][1] if self._noted else {}
        counts = {}
        for labels, series in now.items():
            before = then.get(labels)
            since = series if before is None else [new - old for new, old in zip(series, before, strict=True)]
            if any(since):
                counts[labels] = since
        return counts

    def quantiles_us(self, percent: int) -> dict[Labels, int]:
        """By labels."""
        bounds = self._histogram.bounds_us
        found = {labels: quantile_us(bounds, series, percent) for labels, series in self.counts().items()}
        return {labels: value for labels, value in found.items() if value is not None}

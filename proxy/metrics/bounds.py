"""Upper bounds of the buckets of histograms, in microseconds."""

from __future__ import annotations

from typing import Final

CALL_US: Final = (
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    10**6,
    2_500_000,
    5 * 10**6,
    10**7,
    3 * 10**7,
)
HISTORY_US: Final = (*CALL_US, 60 * 10**6, 300 * 10**6, 900 * 10**6, 3_600 * 10**6)
STORE_US: Final = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000)
RESPONSE_US: Final = (500, 1_000, 2_500, *CALL_US)
ADDED_US: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 10**6, 4 * 10**6, 10**7)

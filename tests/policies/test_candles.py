"""The calendar of candles."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import candles


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("interval", "inside", "opens", "ends"),
    [
        ("1", ms(2026, 3, 5, 12, 34, 56), ms(2026, 3, 5, 12, 34), ms(2026, 3, 5, 12, 35)),
        ("15", ms(2026, 3, 5, 12, 34, 56), ms(2026, 3, 5, 12, 30), ms(2026, 3, 5, 12, 45)),
        ("720", ms(2026, 3, 5, 12, 34, 56), ms(2026, 3, 5, 12), ms(2026, 3, 6)),
        ("D", ms(2026, 3, 5, 12, 34, 56), ms(2026, 3, 5), ms(2026, 3, 6)),
        ("W", ms(2026, 3, 5, 12), ms(2026, 3, 2), ms(2026, 3, 9)),
        ("W", ms(2026, 3, 2), ms(2026, 3, 2), ms(2026, 3, 9)),
        ("W", ms(2026, 3, 1, 23, 59, 59), ms(2026, 2, 23), ms(2026, 3, 2)),
        ("M", ms(2026, 12, 31, 23, 59), ms(2026, 12, 1), ms(2027, 1, 1)),
        ("M", ms(2024, 2, 29), ms(2024, 2, 1), ms(2024, 3, 1)),
    ],
)
def test_opens_and_ends(interval: str, inside: int, opens: int, ends: int) -> None:
    assert candles.open_of(interval, inside) == opens
    assert candles.end_of(interval, opens) == ends


@given(interval=st.sampled_from(sorted(candles.INTERVALS)), instant=st.integers(ms(2018, 1, 1), ms(2040, 1, 1)))
def test_candles_cover_time_without_gap_or_overlap(interval: str, instant: int) -> None:
    """Every instant lies in exactly one candle, and the next candle opens where this one ends."""
    opens = candles.open_of(interval, instant)
    ends = candles.end_of(interval, opens)

    assert opens <= instant < ends
    assert candles.open_of(interval, opens) == opens
    assert candles.open_of(interval, ends) == ends
    assert candles.open_of(interval, ends - 1) == opens


def test_a_candle_settles_only_some_time_after_its_end() -> None:
    opens = ms(2026, 3, 5, 12)

    assert not candles.settled("1", opens, 5_000, opens + 60_000)
    assert not candles.settled("1", opens, 5_000, opens + 64_999)
    assert candles.settled("1", opens, 5_000, opens + 65_000)

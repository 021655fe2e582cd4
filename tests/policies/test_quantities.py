"""Durations, sizes and quotas as operators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import quantities


@pytest.mark.parametrize(
    ("text", "value_us"),
    [("250ms", 250_000), ("5s", 5_000_000), ("10m", 600_000_000), ("1h", 3_600_000_000), ("7d", 604_800_000_000)],
)
def test_durations(text: str, value_us: int) -> None:
    assert quantities.duration_us(text) == value_us
    assert quantities.duration_text(value_us) == text


@pytest.mark.parametrize("text", ["5", "s", "5 s", "-5s", "1.5s", "5S", "5sec", "", "٥s", "400d", "1m30s"])
def test_what_is_no_duration_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        quantities.duration_us(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("600/5s", (600, 5_000_000)), ("10/s", (10, 1_000_000)), ("3000000/1h", (3_000_000, 3_600_000_000))],
)
def test_quotas(text: str, rate: tuple[int, int]) -> None:
    assert quantities.rate(text) == rate


@pytest.mark.parametrize("text", ["600", "600/5", "/5s", "0/5s", "600/0s", "600/5us", "-1/s", "1.5/s", "6e2/5s"])
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        quantities.rate(text)


@pytest.mark.parametrize(("text", "value"), [("512KiB", 524_288), ("64MiB", 67_108_864), ("10MB", 10_000_000)])
def test_sizes(text: str, value: int) -> None:
    assert quantities.size_bytes(text) == value


@pytest.mark.parametrize("text", ["64", "64 MiB", "MiB", "-1MiB", "64mb", "1.5GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        quantities.size_bytes(text)


@given(st.integers(0, quantities.MAX_DURATION_US))
def test_every_duration_can_be_written_and_read_back(value_us: int) -> None:
    assert quantities.duration_us(quantities.duration_text(value_us)) == value_us

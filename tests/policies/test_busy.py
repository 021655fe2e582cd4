"""How much of a budget is in use, roughly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.busy import Busy

WINDOW_US = 5_000_000
SLOT_US = WINDOW_US // 10


@given(st.lists(st.integers(0, 2 * WINDOW_US), max_size=60).map(sorted), st.integers(1, 50), st.integers(1, 4))
def test_what_was_sent_within_the_window_is_in_use(sent_us: list[int], limit: int, sharers: int) -> None:
    """To within a tenth of the window: never less than what lies in nine tenths, never more than in all of it."""
    busy = Busy(limit, WINDOW_US)
    for at_us in sent_us:
        busy.note(at_us)
    now_us = sent_us[-1] if sent_us else 0
    surely = sum(at_us > now_us - WINDOW_US + SLOT_US for at_us in sent_us)
    possibly = sum(at_us > now_us - WINDOW_US for at_us in sent_us)

    assert 100 * surely * sharers // limit <= busy.percent(now_us, sharers) <= 100 * possibly * sharers // limit
    assert busy.percent(now_us + WINDOW_US, sharers) == 0


def test_memory_does_not_grow_with_time() -> None:
    busy = Busy(600, WINDOW_US)
    for number in range(1000):
        busy.note(number * SLOT_US)

    assert len(busy._counts) == 10


def test_who_shares_with_nobody_uses_what_he_sends() -> None:
    busy = Busy(600, WINDOW_US)
    for _ in range(300):
        busy.note(0)

    assert busy.percent(0) == 50
    assert busy.percent(0, 0) == 50
    assert busy.percent(0, 2) == 100
    assert Busy(0, 0).percent(0) == 0

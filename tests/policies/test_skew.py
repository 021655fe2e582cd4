"""What is learned of the exchange's clock, and what may be concluded from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.skew import AHEAD_US, Clock, Skew

NOW = 1_800_000_000_000_000


@given(
    offset_us=st.integers(-3_000_000, 3_000_000),
    trips=st.lists(st.tuples(st.integers(100, 200_000), st.integers(100, 200_000)), min_size=1, max_size=80),
)
def test_the_offset_is_right_to_within_its_uncertainty(offset_us: int, trips: list[tuple[int, int]]) -> None:
    """Whatever the ways there and back take: the true offset is never further off than is said."""
    skew, now = Skew(), NOW
    for there, back in trips:
        stamp_us = now + there + offset_us
        skew.observe(now, now + there + back, stamp_us // 1000)
        now += 1_500_000

    assert skew.known == (len(trips) > 1)
    if skew.known:
        assert abs(skew.offset_us - offset_us) <= skew.uncertainty_us
        assert skew.one_way_us >= max(there + back for there, back in trips[-64:]) // 2


def test_nothing_is_concluded_from_nothing() -> None:
    skew = Skew()

    assert skew.judge(NOW + 10**9, NOW + 10**9, NOW) is Clock.GOOD
    assert skew.judge(NOW - 10**9, NOW - 10**9, NOW) is Clock.GOOD
    assert skew.latest_send_us(NOW) == NOW - 250_000


@given(
    offset_us=st.integers(-2_000_000, 2_000_000),
    there=st.integers(100, 100_000),
    back=st.integers(100, 100_000),
    stamp_us=st.integers(-8_000_000, 3_000_000),
    window_ms=st.sampled_from([1_000, 5_000, 20_000]),
)
def test_nothing_good_is_refused(offset_us: int, there: int, back: int, stamp_us: int, window_ms: int) -> None:
    """What is called ahead or expired is refused by the exchange, if it travels as the measured ones did."""
    skew = Skew()
    for number in range(3):
        sent = NOW - (4 - number) * 1_000_000
        skew.observe(sent, sent + there + back, (sent + there + offset_us) // 1000)
    timestamp = NOW + stamp_us
    expiry = timestamp + window_ms * 1000
    server_on_arrival = NOW + there + offset_us
    verdict = skew.judge(timestamp, expiry, NOW)
    if verdict is Clock.AHEAD:
        assert timestamp >= server_on_arrival + AHEAD_US
    if verdict is Clock.EXPIRED:
        assert expiry < server_on_arrival


@given(offset_us=st.integers(-2_000_000, 2_000_000), there=st.integers(100, 100_000), back=st.integers(100, 100_000))
def test_what_leaves_in_time_arrives_in_time(offset_us: int, there: int, back: int) -> None:
    skew = Skew()
    for number in range(3):
        sent = NOW - (4 - number) * 1_000_000
        skew.observe(sent, sent + there + back, (sent + there + offset_us) // 1000)
    expiry = NOW + 5_000_000 + offset_us
    arrival_on_server_clock = skew.latest_send_us(expiry) + there + offset_us

    assert arrival_on_server_clock <= expiry


def test_a_clock_that_is_set_right_is_believed_once_it_agrees_with_itself() -> None:
    skew = Skew()
    for number in range(3):
        skew.observe(NOW + number * 10**6, NOW + number * 10**6 + 100, (NOW + number * 10**6 + 5_000_000) // 1000)
    assert skew.offset_us > 4_000_000
    later = NOW + 10_000_000
    skew.observe(later, later + 1_000, (later + 500) // 1000)
    assert not skew.known
    skew.observe(later + 10**6, later + 10**6 + 1_000, (later + 10**6 + 500) // 1000)

    assert skew.known
    assert abs(skew.offset_us) <= skew.uncertainty_us


def test_a_stamp_that_stands_still_is_no_clock() -> None:
    """A stub that always answers with the same stamp must not make good signatures look bad."""
    skew = Skew()
    for number in range(500):
        now = NOW + number * 20_000
        skew.observe(now, now + 800, NOW // 1000)

    assert not skew.known


def test_a_stamp_of_another_year_is_no_clock() -> None:
    skew = Skew()
    for number in range(5):
        now = NOW + number * 10**6
        skew.observe(now, now + 800, (now - 10**13) // 1000)

    assert not skew.known


def test_an_answer_that_took_for_ever_teaches_nothing() -> None:
    skew = Skew()
    for number in range(5):
        now = NOW + number * 20_000_000
        skew.observe(now, now + 10_000_000, now // 1000)

    assert not skew.known


def test_nobody_is_locked_out_by_what_was_learned_long_ago() -> None:
    """Refused requests bring no new stamps: what they are refused for must end by itself."""
    skew = Skew()
    for number in range(3):
        now = NOW + number * 10**6
        skew.observe(now, now + 1_000, (now + 500) // 1000)
    ahead = NOW + 2_000_000 + 5_000_000

    assert skew.judge(ahead, ahead + 5_000_000, NOW + 2_000_000) is Clock.AHEAD
    assert skew.judge(ahead + 40_000_000, ahead + 45_000_000, NOW + 40_000_000) is Clock.GOOD

"""How soon a stream is connected to again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies import stream_words as words
from policies.stream_reconnect import Opened, ReconnectRules, Reconnects

SECOND_US = 1_000_000
RULES = ReconnectRules(backoff_us=SECOND_US, max_backoff_us=60 * SECOND_US, steady_us=60 * SECOND_US, connections=1_000)
SHORTEST, LONGEST = 0, 999_999


def pauses(lives_us: list[int], chance: int) -> list[int]:
    """The pause after each of these connections, in seconds, when each is tried as soon as it may be."""
    reconnects = Reconnects(RULES, Opened(RULES.connections))
    now_us, found = 0, []
    for life_us in lives_us:
        now_us += reconnects.wait_us(now_us)
        reconnects.opening(now_us)
        now_us += life_us
        reconnects.ended(now_us, chance)
        found.append(-(-reconnects.wait_us(now_us) // SECOND_US))
    return found


def test_the_first_connection_is_made_at_once() -> None:
    assert Reconnects(RULES, Opened(1)).wait_us(0) == 0


def test_pauses_double_up_to_a_bound_and_half_of_each_is_drawn() -> None:
    assert pauses([0] * 9, LONGEST) == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses([0] * 9, SHORTEST) == [1, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_connection_that_stood_for_a_while_makes_good_for_all_failures_before() -> None:
    assert pauses([0, 0, 0, RULES.steady_us, 0], LONGEST) == [1, 2, 4, 1, 2]
    assert pauses([0, 0, 0, RULES.steady_us - 1, 0], LONGEST) == [1, 2, 4, 8, 16]


def test_who_was_told_of_too_many_connections_stays_away_for_the_whole_window() -> None:
    reconnects = Reconnects(RULES, Opened(RULES.connections))
    reconnects.opening(0)
    reconnects.ended(0, SHORTEST, refused=True)
    assert reconnects.wait_us(0) > words.CONNECTIONS_IN_US


def test_a_connection_that_nobody_wanted_any_more_is_no_failure() -> None:
    reconnects = Reconnects(RULES, Opened(RULES.connections))
    for _ in range(3):
        reconnects.opening(0)
        reconnects.closed(0)
        assert reconnects.wait_us(0) == 0


@given(
    lives=st.lists(st.integers(0, 90 * SECOND_US), min_size=1, max_size=120),
    chances=st.lists(st.integers(SHORTEST, LONGEST), min_size=1, max_size=10),
    categories=st.integers(1, 3),
)
def test_all_categories_together_open_no_more_than_their_share_of_the_window(
    lives: list[int], chances: list[int], categories: int
) -> None:
    rules = RULES._replace(connections=7, steady_us=0)
    opened = Opened(rules.connections)
    feeds = [Reconnects(rules, opened) for _ in range(categories)]
    now_us, times = 0, []
    for number, life_us in enumerate(lives):
        feed = feeds[number % categories]
        now_us += feed.wait_us(now_us)
        feed.opening(now_us)
        times.append(now_us)
        now_us += life_us
        feed.ended(now_us, chances[number % len(chances)])
    for first, last in zip(times, times[rules.connections :], strict=False):
        assert last - first >= words.CONNECTIONS_IN_US

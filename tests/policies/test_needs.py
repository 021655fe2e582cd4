"""Which request completes a page, and what a page says of itself."""

from __future__ import annotations

import pytest

from policies import candles
from policies.caching import CandleQuery
from policies.history import REACH
from policies.pages import Reach, need
from policies.segments import SLOTS, Series, bounds_of, segment_of, slot_of
from policies.selection import select
from tests.policies.small_exchange import Keeper, Market

MINUTE = candles.MINUTE_MS
HOUR = 60 * MINUTE
SERIES = Series("kline", "linear", "BTCUSDT", "1")
NOON = 1_790_596_800_000
SLOT = slot_of("1", NOON)
NOW = NOON + 30_000
BORDER = bounds_of("1", segment_of("1", NOON))[0]
"""280 minutes before noon."""


def query(start: int | None = None, end: int | None = None, limit: int | None = None) -> CandleQuery:
    return CandleQuery(*SERIES, start, end, limit)


def knowing(*learned: CandleQuery, at_ms: int = NOW, **market: object) -> Keeper:
    keeper = Keeper(SERIES, Market("1", SLOT - 3_000, **market))
    for each in learned:
        keeper.learn(each, at_ms, at_ms)
    return keeper


def needed(keeper: Keeper, asked: CandleQuery, now_ms: int = NOW) -> tuple[Reach, CandleQuery]:
    assert keeper.page(asked, now_ms) is None
    found = keeper.need(asked, now_ms)
    assert found is not None
    keeper.answer(asked, now_ms)  # with it, there is a page
    return found.reach, found.query


@pytest.mark.parametrize(
    "asked",
    [query(), query(limit=7), query(end=NOON - 5), query(NOON - HOUR), query(NOON - HOUR, NOON), query(0, NOON)],
)
def test_who_is_the_first_is_asked_for_as_he_has_asked(asked: CandleQuery) -> None:
    assert needed(knowing(), asked) == (Reach.OWN, asked)


@pytest.mark.parametrize(
    "asked", [query(limit=100), query(limit=5), query(end=NOON + HOUR, limit=50), query(NOON - HOUR), query(NOON)]
)
def test_the_newest_candles_are_the_same_request_for_everybody(asked: CandleQuery) -> None:
    """As many as have come since, and those that were young when they were read."""
    keeper = knowing(query(limit=100))

    assert needed(keeper, asked, NOW + 5_000) == (Reach.TAIL, query(limit=4))
    assert needed(keeper, asked, NOW + 10 * MINUTE) == (Reach.TAIL, query(limit=14))


def test_after_a_long_silence_the_newest_candles_are_fetched_as_asked_for() -> None:
    """More have come since than an answer holds."""
    keeper = knowing(query(limit=100))

    assert needed(keeper, query(limit=100), NOW + 1_000 * MINUTE) == (Reach.OWN, query(limit=100))


def test_more_than_is_known_of_the_newest_is_asked_for_as_a_whole_where_the_tail_is_old() -> None:
    """The tail alone would not complete it, and it must not take two requests."""
    keeper = knowing(query(limit=100))

    assert needed(keeper, query(limit=120), NOW + 5_000) == (Reach.OWN, query(limit=120))


def test_what_lies_below_is_asked_for_up_to_what_is_known() -> None:
    keeper = knowing(query(limit=100))
    first = NOON - 99 * MINUTE

    assert needed(keeper, query(limit=350)) == (Reach.PART, query(end=first - 1, limit=250))


def test_a_part_of_a_segment_that_is_in_use_is_fetched_as_the_whole_segment() -> None:
    """What of it is final: the same for everybody who asks for another part."""
    keeper = knowing(query(BORDER + 10 * MINUTE, BORDER + 20 * MINUTE))

    assert needed(keeper, query(BORDER + 15 * MINUTE, BORDER + 30 * MINUTE)) == (
        Reach.SEGMENT,
        query(BORDER, NOON - 1, SLOTS),
    )
    assert needed(keeper, query(BORDER - 15 * MINUTE, BORDER - 5 * MINUTE))[0] is Reach.OWN
    assert needed(keeper, query(BORDER - 25 * MINUTE, BORDER - 10 * MINUTE)) == (
        Reach.SEGMENT,
        query(BORDER - 1000 * MINUTE, BORDER - 1, SLOTS),
    )


def test_a_range_over_two_segments_is_asked_for_up_to_what_is_known() -> None:
    keeper = knowing(query(BORDER, BORDER + 20 * MINUTE))
    asked = query(BORDER - 100 * MINUTE, BORDER + 10 * MINUTE)

    assert needed(keeper, asked) == (Reach.PART, query(BORDER - 100 * MINUTE, BORDER - 1, 200 - 11))


def test_a_part_that_is_not_final_is_asked_for_with_all_that_is_newer() -> None:
    """Right after a candle's end: the candle before the running one would not stay, and a second request would be
    needed."""
    keeper = knowing(query(limit=1), at_ms=NOON + 2_000)

    assert needed(keeper, query(limit=50), NOON + 2_500) == (Reach.OWN, query(limit=50))


def test_what_follows_is_asked_for_from_where_knowledge_ends() -> None:
    """And a little more than is missing, so that it reaches up to now where it ends about now."""
    keeper = knowing(query(NOON - 600 * MINUTE, NOON - 500 * MINUTE))
    start = NOON - 600 * MINUTE

    assert needed(keeper, query(start, limit=300)) == (Reach.PART, query(NOON - 499 * MINUTE, limit=199 + 2))


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_a_page_that_ends_among_candles_that_are_not_final_is_completed_at_once(missing: int) -> None:
    keeper = knowing(query(NOON - 200 * MINUTE, NOON - 140 * MINUTE), at_ms=NOON + 2_000)
    asked = query(NOON - 200 * MINUTE, limit=202 - missing)

    assert needed(keeper, asked, NOON + 2_000)[0] is Reach.PART
    assert keeper.market.asked == 1


def test_what_would_be_more_than_an_answer_holds_is_asked_for_as_it_was_asked() -> None:
    keeper = knowing(query(NOON - 2_000 * MINUTE, NOON - 1_999 * MINUTE))

    assert needed(keeper, query(NOON - 2_000 * MINUTE, limit=1000))[0] is Reach.PART
    other = knowing(query(NOON - 2_000 * MINUTE, NOON - 2_000 * MINUTE))
    assert needed(other, query(NOON - 2_000 * MINUTE, limit=1000))[0] is Reach.OWN


def test_from_where_knowledge_ends_near_now_the_newest_candles_complete_any_page() -> None:
    keeper = knowing(query(limit=100))
    later = NOW + (REACH - 3) * MINUTE

    assert needed(keeper, query(NOON - HOUR), later) == (Reach.TAIL, query(limit=REACH))


# What a page says of itself


def test_a_page_is_as_old_as_what_can_still_change_of_it_or_else_as_its_oldest_part() -> None:
    keeper = knowing()
    keeper.learn(query(BORDER - 50 * MINUTE, BORDER - MINUTE), NOW - 60_000, NOW - 60_000)
    keeper.learn(query(BORDER, NOON - 30 * MINUTE, 1000), NOW - 20_000, NOW - 20_000)
    keeper.learn(query(limit=60), NOW, NOW)
    asked = {
        "newest": query(limit=300),
        "newer segment": query(end=NOON - HOUR, limit=10),
        "both segments": query(end=NOON - HOUR, limit=230),
        "older segment": query(end=BORDER - MINUTE, limit=10),
    }
    pages = {what: keeper.page(each, NOW + 500) for what, each in asked.items()}

    ages = {what: NOW - each.stored_us // 1000 for what, each in pages.items() if each is not None}
    assert ages == {"newest": 0, "newer segment": 0, "both segments": 60_000, "older segment": 60_000}


def test_a_page_without_a_running_candle_is_final() -> None:
    keeper = knowing(query(limit=100))
    past, newest = keeper.page(query(end=NOON - HOUR, limit=10), NOW), keeper.page(query(limit=10), NOW)
    assert past is not None and newest is not None  # noqa: PT018

    assert (past.tail, past.until_us) == (None, None)
    assert newest.tail is not None
    assert newest.opens == (NOON, NOON - 9 * MINUTE)


def test_a_page_that_rests_on_a_belief_is_good_for_as_long_as_that() -> None:
    """Of several, the shortest."""
    keeper = Keeper(SERIES, Market("1", SLOT - 50, missing=frozenset(range(SLOT - 30, SLOT))))
    keeper.learn(query(end=NOON - 20 * MINUTE, limit=1000), NOW, NOW)
    keeper.learn(query(NOON - 19 * MINUTE, NOON - 10 * MINUTE), NOW, NOW)
    first, both = (keeper.page(query(end=NOON - minutes * MINUTE), NOW + 100) for minutes in (20, 10))
    below = keeper.page(query(end=NOON - 40 * MINUTE), NOW + 100)
    assert first is not None and both is not None and below is not None  # noqa: PT018

    assert below.until_us == (NOW + HOUR) * 1000
    assert first.until_us == both.until_us == (NOW + 2_000) * 1000


def test_forward_too_what_is_believed_to_be_empty_is_passed_by() -> None:
    """Before the first candle."""
    keeper = Keeper(SERIES, Market("1", SLOT - 50))
    keeper.learn(query(limit=100), NOW, NOW)
    found = keeper.page(query(NOON - 200 * MINUTE, limit=20), NOW + 100)
    assert found is not None

    assert found.length == 20
    assert found.opens == (NOON - 31 * MINUTE, NOON - 50 * MINUTE)
    assert found.until_us == (NOW + HOUR) * 1000


def test_where_candles_settle_very_late_the_newest_ones_are_fetched_as_asked_for() -> None:
    """There are more of them than an answer holds. A reload may have said so."""
    keeper, asked = knowing(query(limit=100)), query(NOON, limit=5)
    selection = select(asked, NOW + 1_100 * MINUTE)
    assert selection is not None

    found = need(keeper.history, asked, selection, (NOW + 1_100 * MINUTE) * 1000, 2_000 * MINUTE * 1000)

    assert found == (Reach.OWN, asked)

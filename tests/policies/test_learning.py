"""What an answer teaches about a series, and for how long that is believed."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from policies import candles
from policies.caching import CandleQuery
from policies.history import REACH, History, Lifetimes
from policies.segments import Rows, Segment, Series, bounds_of, open_of_slot, segment_of, slot_of
from policies.selection import BEGINNING_MS, select
from tests.policies.small_exchange import JOINT, LIFETIMES, Keeper, Market

MINUTE = candles.MINUTE_MS
HOUR = 60 * MINUTE
NOON = 1_790_596_800_000
"""A Monday in September 2026; the segments of minutes have a border 280 minutes before."""
SLOT = slot_of("1", NOON)
SERIES = Series("kline", "linear", "BTCUSDT", "1")


def query(start: int | None = None, end: int | None = None, limit: int | None = None) -> CandleQuery:
    return CandleQuery(*SERIES, start, end, limit)


def keeper(depth: int = 2_000, **market: object) -> Keeper:
    return Keeper(SERIES, Market("1", SLOT - depth, **market))


def final(history: History) -> list[int]:
    """Open times, oldest first."""
    return sorted(open_ms for segment in history.segments.values() for open_ms in segment.opens)


def answered(desk: Keeper, asked: CandleQuery, now_ms: int) -> int:
    """How often the exchange was asked for it; the answer is right."""
    before = desk.market.asked
    assert desk.answer(asked, now_ms) in {desk.market.text(asked, now_ms - late) for late in range(0, 2_001, 100)}
    return desk.market.asked - before


# What is final


@pytest.mark.parametrize(("given_ms", "last"), [(NOON + 4_999, NOON - 2 * MINUTE), (NOON + 5_000, NOON - MINUTE)])
def test_a_row_is_kept_for_good_when_the_exchange_gave_it_long_enough_after_its_end(given_ms: int, last: int) -> None:
    """However long the answer was on its way."""
    desk = keeper()
    desk.learn(query(limit=10), given_ms, given_ms + 30_000)

    assert final(desk.history)[-1] == last
    desk.audit(given_ms)


def test_the_running_candle_is_good_for_a_moment_and_never_past_its_end() -> None:
    desk = keeper()
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)
    desk.learn(query(limit=10), NOON + 59_000, NOON + 59_000)

    assert desk.page(query(limit=10), NOON + 59_999) is not None
    assert desk.page(query(limit=10), NOON + MINUTE) is None
    assert desk.page(query(limit=10), NOON + MINUTE, stale=True) is not None


def test_an_older_answer_that_comes_late_does_not_take_the_newest_candles_back() -> None:
    desk = keeper()
    desk.learn(query(limit=10), NOON + 30_500, NOON + 30_600)
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_700)

    found = desk.page(query(limit=1), NOON + 30_800)
    assert found is not None
    assert found.tail is not None
    assert found.tail.at_ms == NOON + 30_500


def test_rows_that_turn_out_to_be_otherwise_are_replaced_and_counted() -> None:
    """One is another one, one is gone; one that had not been there is not a revision."""
    desk = keeper(missing=frozenset({SLOT - 8}))
    desk.learn(query(limit=20), NOON + 30_000, NOON + 30_000)
    rows = desk.market.rows(query(limit=20), NOON + 31_000)
    changed = dict(zip(rows.opens, rows.texts, strict=True))
    changed[NOON - 5 * MINUTE] = b'["%d","1"]' % (NOON - 5 * MINUTE)
    del changed[NOON - 6 * MINUTE]
    changed[NOON - 8 * MINUTE] = b'["%d","2"]' % (NOON - 8 * MINUTE)
    told = Rows(sorted(changed, reverse=True), [changed[at] for at in sorted(changed, reverse=True)])
    selection = select(query(limit=20), NOON + 31_000)
    assert selection is not None

    learned = desk.history.learn(selection, told, JOINT, NOON + 31_000, (NOON + 31_000) * 1000, LIFETIMES)

    assert learned.revised == 2
    kept = dict(zip(*desk.history.segments[segment_of("1", NOON)].rows(), strict=True))
    assert {at: changed.get(at) for at in kept} == kept
    assert NOON - 6 * MINUTE not in kept


def test_a_segment_of_which_no_row_is_left_is_revised_too() -> None:
    border_ms = bounds_of("1", segment_of("1", NOON))[0]
    asked, desk = query(border_ms - 3 * MINUTE, border_ms + 3 * MINUTE), keeper()
    desk.learn(asked, NOON, NOON)
    desk.market = replace(desk.market, missing=frozenset(range(SLOT - 290, SLOT - 280)))

    learned = desk.learn(asked, NOON, NOON)

    assert learned is not None
    assert learned.revised == 3
    assert final(desk.history) == [border_ms + number * MINUTE for number in range(4)]


def test_what_is_new_is_told_to_those_who_keep_it_elsewhere() -> None:
    desk = keeper()
    first = desk.learn(query(NOON - 10 * MINUTE, NOON - 5 * MINUTE), NOON + 30_000, NOON + 30_000)
    second = desk.learn(query(NOON - 7 * MINUTE, NOON - 2 * MINUTE), NOON + 30_000, NOON + 30_000)
    border_ms = bounds_of("1", segment_of("1", NOON))[0]
    third = desk.learn(query(border_ms - MINUTE, border_ms), NOON + 30_000, NOON + 30_000)
    assert first is not None and second is not None and third is not None  # noqa: PT018

    assert first.fresh == ((NOON - 10 * MINUTE, NOON - 4 * MINUTE),)
    assert second.fresh == ((NOON - 4 * MINUTE, NOON - MINUTE),)
    assert (second.low_ms, second.high_ms, second.revised) == (NOON - 7 * MINUTE, NOON - MINUTE, 0)
    assert third.segments == {segment_of("1", NOON) - 1, segment_of("1", NOON)}


# Slots without a row


def test_slots_behind_the_last_row_are_not_final_before_a_later_row_has_shown_that_trading_went_on() -> None:
    desk = keeper(missing=frozenset({SLOT - 2, SLOT - 1, SLOT}))
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)
    assert desk.history.covered[-1][1] == NOON - 2 * MINUTE

    desk.learn(query(limit=10), NOON + 2 * MINUTE, NOON + 2 * MINUTE)
    assert desk.history.covered[-1][1] == NOON + MINUTE


def test_an_hour_later_no_candle_appears_any_more() -> None:
    desk = keeper(missing=frozenset(range(SLOT - 90, SLOT + 10)))
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)

    assert desk.history.covered[-1][1] == NOON - HOUR


def test_a_candle_that_begins_late_is_not_missed() -> None:
    """The answer was empty because the first trade came later. That it was is good for as long as any tail."""
    desk = keeper(missing=frozenset(range(SLOT - 5, SLOT)), late={SLOT: 20_000})
    asked = query(NOON - 2 * MINUTE, NOON + 5 * MINUTE)

    assert answered(desk, asked, NOON + 100) == 1
    assert answered(desk, asked, NOON + 1_000) == 0
    assert answered(desk, asked, NOON + 25_000) == 1
    assert desk.answer(asked, NOON + 25_000) == b'["%d","25000"]' % NOON


def test_an_empty_stretch_of_the_past_is_believed_for_a_minute() -> None:
    desk = keeper(depth=100)
    asked = query(NOON - 300 * MINUTE, NOON - 200 * MINUTE)

    asked_of_the_exchange = [answered(desk, asked, NOON + second * 1000) for second in (0, 30, 59, 60, 61)]

    assert asked_of_the_exchange == [1, 0, 0, 1, 0]


def test_the_first_candle_is_believed_for_an_hour() -> None:
    desk = keeper(depth=100)
    asked = query(end=NOON - 50 * MINUTE, limit=1000)

    asked_of_the_exchange = [answered(desk, asked, NOON + minute * MINUTE) for minute in (0, 1, 59, 60, 61)]

    assert asked_of_the_exchange == [1, 0, 0, 1, 0]


def test_a_quiet_market_does_not_drive_out_what_is_known_of_the_first_candle() -> None:
    """Twenty quiet minutes, each of which is believed to be empty for a moment."""
    desk = keeper(depth=100, missing=frozenset(range(SLOT, SLOT + 60)))
    for minute in range(20):
        assert answered(desk, query(limit=1000), NOON + minute * MINUTE + 30_000) <= 1

    assert any(each.low_ms == BEGINNING_MS for each in desk.history.empty)
    assert len(desk.history.empty) < 12


def test_candles_of_a_stretch_that_was_believed_to_be_empty_end_the_belief() -> None:
    """The exchange had mislaid all but the last rows; then it answers to somebody with an older one."""
    desk = keeper(depth=1000)
    whole, desk.market = desk.market, replace(desk.market, listed=SLOT - 10)
    desk.learn(query(limit=100), NOON + 30_000, NOON + 30_000)
    assert desk.page(query(limit=100), NOON + 30_000) is not None

    desk.market = whole
    desk.learn(query(NOON - 50 * MINUTE, NOON - 40 * MINUTE), NOON + 30_500, NOON + 30_500)

    assert desk.page(query(limit=100), NOON + 30_600) is None
    assert answered(desk, query(limit=100), NOON + 31_000) == 1


def test_nothing_is_believed_that_final_rows_contradict() -> None:
    desk = keeper(depth=1000)
    desk.learn(query(NOON - 50 * MINUTE, NOON - 40 * MINUTE), NOON + 30_000, NOON + 30_000)
    whole, desk.market = desk.market, replace(desk.market, listed=SLOT - 10)
    desk.learn(query(limit=100), NOON + 30_500, NOON + 30_500)
    desk.learn(query(NOON - 60 * MINUTE, NOON - 20 * MINUTE), NOON + 30_600, NOON + 30_600)
    desk.market = whole

    assert desk.page(query(limit=100), NOON + 31_000) is None
    assert desk.page(query(NOON - 60 * MINUTE, NOON - 20 * MINUTE), NOON + 31_000) is None


@pytest.mark.parametrize("most_rows", [200, 500])
def test_a_page_that_was_cut_short_is_not_the_beginning_of_history(most_rows: int) -> None:
    """An exchange that never gives more, whatever is asked for: what is missing is asked for, never made up."""
    desk = keeper(most_rows=most_rows)
    desk.learn(query(limit=1000), NOON + 30_000, NOON + 30_000)
    desk.learn(query(NOON - 1500 * MINUTE, limit=1000), NOON + 30_000, NOON + 30_000)

    assert not desk.history.empty
    assert desk.history.covered[-1][0] == NOON - (most_rows - 1) * MINUTE
    assert desk.history.covered[0] == (NOON - 1500 * MINUTE, NOON - (1500 - most_rows) * MINUTE)
    assert desk.page(query(limit=most_rows + 1), NOON + 31_000) is None
    assert answered(desk, query(limit=most_rows), NOON + 31_000) == 0


# Once more


def test_rows_that_were_young_when_they_were_read_are_read_once_more() -> None:
    """With the next look at the newest candles, and then not again."""
    desk = keeper()
    desk.answer(query(limit=10), NOON + 30_000)
    asked = [desk.need(query(limit=10), at_ms) for at_ms in (NOON + 40_000, NOON + 5 * MINUTE)]
    desk.answer(query(limit=10), NOON + 5 * MINUTE)
    later = desk.need(query(limit=10), NOON + 5 * MINUTE + 10_000)

    # At noon 11:58 was not yet two minutes old; and one more for a clock that is a little behind.
    assert [each.query.limit for each in asked if each is not None] == [4, 9]
    assert later is not None
    assert later.query.limit == 4


def test_it_is_not_looked_further_back_for_young_rows_than_is_worth_it() -> None:
    desk = keeper()
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)
    desk.learn(query(end=NOON + 299 * MINUTE, limit=10), NOON + 300 * MINUTE, NOON + 300 * MINUTE)

    needed = desk.need(query(limit=5), NOON + 300 * MINUTE + 10_000)
    assert needed is not None
    assert needed.query.limit == REACH


# What does not trade

DORMANT = Lifetimes(LIFETIMES.tail_us, LIFETIMES.settle_us, 60_000_000)


def looked(history: History, market: Market, asked: CandleQuery, now_ms: int) -> int:
    """The newest candles are learned; how long they are good, in milliseconds."""
    selection = select(asked, now_ms)
    assert selection is not None
    history.learn(selection, market.rows(asked, now_ms), JOINT, now_ms, now_ms * 1000, DORMANT)
    assert history.tail is not None
    return history.tail.expires_us // 1000 - now_ms


DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("quiet_ms", "interval", "good_ms"),
    [
        (HOUR, "1", 2_000),
        (DAY, "1", 2_000),
        (DAY + MINUTE, "1", 60_000),
        (30 * DAY, "1", 60_000),
        (59 * HOUR, "60", 2_000),
        (61 * HOUR, "60", 60_000),
        (60 * DAY, "D", 2_000),
        (61 * DAY, "D", 60_000),
    ],
)
def test_of_what_has_not_traded_for_long_the_newest_candles_are_good_for_longer(
    quiet_ms: int, interval: str, good_ms: int
) -> None:
    """For sixty candles, and a day."""
    series, midnight_ms = SERIES._replace(interval=interval), NOON - 12 * HOUR
    ended = slot_of(interval, midnight_ms - quiet_ms) + 1
    market = Market(interval, ended - 100, ended)

    assert looked(History(series), market, CandleQuery(*series, None, None, 5), midnight_ms) == good_ms


def test_a_series_that_nobody_has_asked_for_in_days_has_not_stopped_trading() -> None:
    """The first answer after a long silence is good for as short a time as any other."""
    history, market = History(SERIES), Market("1", SLOT - 300)

    assert looked(history, market, query(limit=5), NOON) == 2_000
    assert looked(history, market, query(limit=5), NOON + 2 * DAY) == 2_000
    assert looked(history, market, query(NOON + 4 * DAY - 5 * MINUTE, NOON + 5 * DAY), NOON + 4 * DAY) == 2_000


def test_what_trades_again_is_noticed_with_the_next_answer() -> None:
    history, market = History(SERIES), Market("1", SLOT - 300, missing=frozenset(range(SLOT, SLOT + 3_000)))

    assert looked(history, market, query(limit=5), NOON + 2 * DAY) == 60_000
    assert history.dormant(NOON + 2 * DAY)
    assert looked(history, market, query(limit=5), NOON + 3_000 * MINUTE) == 2_000
    assert not history.dormant(NOON + 3_000 * MINUTE)


def test_what_has_never_traded_is_not_dormant() -> None:
    """It may begin at any moment."""
    history = History(SERIES)
    assert not history.dormant(NOON)
    market = Market("1", SLOT + 10_000)

    assert looked(history, market, query(NOON - 10 * DAY), NOON) == 2_000
    assert looked(history, market, query(NOON - 20 * DAY, NOON), NOON) == 2_000


# Memory, and other gateways


def test_a_segment_that_is_forgotten_is_asked_for_again() -> None:
    desk = keeper()
    desk.learn(query(limit=1000), NOON + 30_000, NOON + 30_000)
    older = min(desk.history.segments)
    size_bytes = desk.history.size_bytes
    desk.history.forget(older)
    desk.history.forget(older)  # nothing of it is left

    assert desk.history.size_bytes < size_bytes
    assert desk.history.covered_in(older) == ()
    assert desk.page(query(limit=250), NOON + 31_000) is not None
    assert desk.page(query(limit=1000), NOON + 31_000) is None
    assert answered(desk, query(limit=1000), NOON + 31_000) == 1


def test_what_is_known_here_is_not_replaced_by_what_was_kept_elsewhere() -> None:
    desk, number = keeper(), segment_of("1", NOON)
    desk.learn(query(NOON - 10 * MINUTE, NOON - 5 * MINUTE), NOON + 30_000, NOON + 30_000)
    begin_ms, end_ms = bounds_of("1", number)
    opens = list(range(NOON - 2 * MINUTE, NOON - 20 * MINUTE, -MINUTE))
    other = Segment.of(Rows(opens, [b'["%d","other"]' % open_ms for open_ms in opens]), JOINT, 5)

    desk.history.restore(number, other, ((begin_ms - HOUR, begin_ms), (NOON - 19 * MINUTE, NOON - MINUTE)))

    kept = dict(zip(*desk.history.segments[number].rows(), strict=True))
    ours = {open_ms for open_ms, text in kept.items() if b"other" not in text}
    assert ours == {NOON - minutes * MINUTE for minutes in range(5, 11)}
    assert sorted(kept, reverse=True) == opens
    assert desk.history.covered == ((NOON - 19 * MINUTE, NOON - MINUTE),)
    assert end_ms > NOON


def test_of_another_gateways_knowledge_only_what_it_covers_is_taken() -> None:
    history, number = History(SERIES), segment_of("1", NOON)
    other = Segment.of(Rows([NOON], [b'["%d","1"]' % NOON]), JOINT, 5)
    history.restore(number, other, ((NOON - 5 * MINUTE, NOON),))

    assert history.covered == ((NOON - 5 * MINUTE, NOON),)
    assert final(history) == []


# The exchange's stream


def test_a_candle_that_the_exchange_declares_closed_is_final_at_once() -> None:
    desk = keeper()
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)
    closed = desk.market.row(SLOT, NOON + HOUR)
    assert closed is not None
    assert desk.history.reaches(NOON)
    assert not desk.history.reaches(NOON + MINUTE)

    learned = desk.history.settle_row(NOON, closed, JOINT, (NOON + MINUTE) * 1000)

    assert learned.fresh == ((NOON, NOON + MINUTE),)
    assert final(desk.history)[-1] == NOON
    assert desk.history.reaches(NOON + MINUTE)


def test_the_running_candle_of_the_stream_is_the_tail_where_all_before_it_is_known() -> None:
    desk = keeper()
    row = desk.market.row(SLOT, NOON + 40_000)
    assert row is not None
    assert not desk.history.run(NOON, row, NOON + 40_000, (NOON + 40_000) * 1000, 2_000_000)
    desk.learn(query(limit=10), NOON + 30_000, NOON + 30_000)

    assert desk.history.run(NOON, row, NOON + 40_000, (NOON + 40_000) * 1000, 2_000_000)
    assert not desk.history.run(NOON, row, NOON + 39_000, (NOON + 41_000) * 1000, 2_000_000)
    assert desk.answer(query(limit=10), NOON + 41_000) == desk.market.text(query(limit=10), NOON + 40_000)
    assert desk.page(query(limit=10), NOON + 42_000) is None


def test_the_memory_of_a_series_is_that_of_its_rows() -> None:
    desk = keeper()
    desk.learn(query(limit=1000), NOON + 30_000, NOON + 30_000)
    rows = sum(len(segment) for segment in desk.history.segments.values())

    assert rows == 999
    assert desk.history.size_bytes > 999 * (12 + len(b'["1790596800000","63000"],'))
    assert isinstance(next(iter(desk.history.segments.values())).opens, array)
    assert open_of_slot("1", SLOT) == NOON

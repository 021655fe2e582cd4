"""The candle store of a process: bounded memory, answers made of what is known, and what it does not believe."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from policies import candles
from policies.caching import CandleLifetimes, CandleQuery
from policies.history import Learned
from policies.kline_text import Envelope, Told
from policies.segments import Rows, Series, bounds_of, segment_of, slot_of
from policies.selection import select
from proxy.candles import CandleRules, Candles, segments_for
from tests.policies.small_exchange import Market

MINUTE = candles.MINUTE_MS
NOON = 1_790_596_800_000
SLOT = slot_of("1", NOON)
BORDER = bounds_of("1", segment_of("1", NOON))[0]
SERIES = Series("kline", "linear", "BTCUSDT", "1")
ENVELOPE = Envelope(b'{"retCode":0,"result":{"list":[', b",", b']},"time":', b"}")
SPACED = Envelope(b'{"retCode": 0, "result": {"list": [', b", ", b']}, "time": ', b"}")
LINES = b"HTTP/1.1 200 OK\r\nServer: Openresty\r\n"
DAY_US = 86_400_000_000
LIFETIMES = CandleLifetimes(2_000_000, 7 * DAY_US, 5_000_000, 1_000_000, 60_000_000)


class Desk:
    """A store, its clocks, what it has told others, and the exchange that it learns from."""

    def __init__(self, *, max_bytes: int = 1 << 20, ahead_us: int = 0, tagged: bool = True) -> None:
        self.now_us = NOON * 1000 + 30_000_000
        self.revised: list[tuple[Series, int]] = []
        self.learned: list[tuple[Series, Learned]] = []
        self.wanted: list[Series] = []
        self.market = Market("1", SLOT - 3_000)
        self.store = Candles(
            CandleRules(LIFETIMES, max_bytes, tagged),
            clock=lambda: self.now_us - ahead_us,
            exchange_clock=lambda: self.now_us,
            revised=lambda series, rows: self.revised.append((series, rows)),
            learned=lambda series, learned: self.learned.append((series, learned)),
            wanted=self.wanted.append,
        )

    def learn(self, query: CandleQuery, at_ms: int | None = None, envelope: Envelope = ENVELOPE) -> bool:
        at_ms = self.now_us // 1000 if at_ms is None else at_ms
        return self.store.learn(query, Told(envelope, self.market.rows(query, at_ms), at_ms), LINES)

    def answer(self, query: CandleQuery) -> Any:
        page = self.store.page(query)
        assert page is not None
        return self.store.entry("key", query, page)

    @property
    def known(self) -> list[Series]:
        """The one that was asked for longest ago first."""
        return list(self.store._known)

    def adds_up(self) -> bool:
        return self.store.size_bytes == sum(known.size_bytes for known in self.store._known.values())


def query(
    start: int | None = None, end: int | None = None, limit: int | None = None, *, symbol: str = "BTCUSDT"
) -> CandleQuery:
    return CandleQuery("kline", "linear", symbol, "1", start, end, limit)


# Memory


def test_memory_is_bounded_whatever_is_learned() -> None:
    rnd, desk = random.Random(5), Desk(max_bytes=60_000)
    for _ in range(400):
        start = NOON - rnd.randrange(3_000) * MINUTE
        symbol = f"S{rnd.randrange(20)}USDT"
        desk.learn(query(start, start + rnd.randrange(400) * MINUTE, 1000, symbol=symbol))
        if rnd.random() < 0.1 and desk.known:
            desk.store.forget(rnd.choice(desk.known))

        assert desk.store.size_bytes <= 60_000
        assert desk.adds_up()
    assert len(desk.store) > 1


def test_what_nobody_has_asked_for_goes_first_and_its_oldest_candles_before_the_rest() -> None:
    desk = Desk()
    for symbol in ("AUSDT", "BUSDT", "CUSDT"):
        desk.learn(query(BORDER - 100 * MINUTE, BORDER + 100 * MINUTE, 1000, symbol=symbol))
    assert desk.store.page(query(end=BORDER, limit=1, symbol="AUSDT")) is not None
    size_bytes = desk.store.size_bytes

    desk.store.adopt(desk.store.rules._replace(max_bytes=size_bytes - 1))

    assert [each.symbol for each in desk.known] == ["BUSDT", "CUSDT", "AUSDT"]
    history = desk.store.known(SERIES._replace(symbol="BUSDT"))
    assert history is not None
    assert list(history.segments) == [segment_of("1", NOON)]
    assert desk.adds_up()

    desk.store.adopt(desk.store.rules._replace(max_bytes=size_bytes * 7 // 10))
    assert [each.symbol for each in desk.known] == ["CUSDT", "AUSDT"]
    assert desk.adds_up()


def test_what_does_not_fit_is_not_kept_and_still_told_to_those_who_keep_more() -> None:
    desk = Desk(max_bytes=3_000)
    assert desk.learn(query(limit=1000))

    assert len(desk.store) == 0
    assert desk.store.size_bytes == 0
    assert len(desk.learned) == 1


def test_a_candle_of_the_stream_does_not_miscount_the_memory_of_a_series_that_had_no_room() -> None:
    desk = Desk(max_bytes=8_000)
    desk.learn(query(limit=5))
    desk.store.heard(SERIES, NOON, b'["1","2"]', desk.now_us, 2_000_000, confirmed=True)
    desk.learn(query(limit=1000))

    assert desk.adds_up()


# Answers


def test_an_answer_is_in_the_words_of_the_exchanges_last_one() -> None:
    desk = Desk()
    desk.learn(query(limit=10))
    desk.now_us += 500_000
    entry = desk.answer(query(limit=3))

    assert entry.lines.startswith(LINES)
    assert json.loads(entry.body)["time"] == NOON + 30_000
    assert entry.body == ENVELOPE.around(desk.market.text(query(limit=3), NOON + 30_000), NOON + 30_000)
    assert entry.rows == 3
    assert entry.tag
    assert entry.lines.endswith(f"ETag: {entry.tag}\r\n".encode())


def test_an_answer_of_final_candles_is_as_of_now() -> None:
    desk = Desk(tagged=False)
    desk.learn(query(limit=10))
    desk.now_us += 500_000
    entry = desk.answer(query(end=NOON - 5 * MINUTE, limit=3))

    assert json.loads(entry.body)["time"] == NOON + 30_500
    assert entry.tag == ""


@pytest.mark.parametrize("ahead_us", [0, 3_000_000, -3_000_000])
def test_lives_are_counted_on_our_own_clock(ahead_us: int) -> None:
    """However far the exchange's is from it."""
    desk = Desk(ahead_us=ahead_us)
    desk.learn(query(limit=10))
    own_us = desk.now_us - ahead_us
    desk.now_us += 500_000
    newest, past = desk.answer(query(limit=3)), desk.answer(query(end=NOON - 5 * MINUTE, limit=3))

    assert newest.stored_us == own_us
    assert newest.expires_us == own_us + 2_000_000
    assert newest.revalidate_us == own_us + 3_000_000
    assert newest.error_us == own_us + 62_000_000
    assert past.expires_us == own_us + 500_000 + 7 * DAY_US


def test_an_answer_lives_no_longer_than_what_it_rests_on_is_believed() -> None:
    desk = Desk()
    desk.market.listed = SLOT - 10
    desk.learn(query(limit=100))
    desk.now_us += 500_000

    assert desk.answer(query(end=NOON - 5 * MINUTE)).expires_us == desk.now_us + 3_599_500_000
    assert desk.answer(query(limit=100)).expires_us == desk.now_us + 1_500_000


def test_only_who_asks_for_what_runs_wants_the_newest_candles() -> None:
    desk = Desk()
    desk.store.page(query(end=NOON - MINUTE))
    assert not desk.store.knows(query(limit=5))
    assert desk.wanted == []

    desk.store.page(query(limit=5))
    desk.store.page(query(NOON - MINUTE))
    assert desk.wanted == [SERIES, SERIES]


def test_requests_that_are_the_exchanges_to_answer_are_not_for_the_store() -> None:
    desk, odd = Desk(), query(NOON - 5)
    desk.learn(query(limit=10))

    assert desk.store.page(odd) is None
    assert desk.store.need(odd) is None
    assert not desk.store.knows(odd)
    assert not desk.learn(odd)


# What is not believed


def test_a_stamp_of_the_future_makes_nothing_final() -> None:
    """Nothing is before our own estimate of the exchange's time says so."""
    desk = Desk()
    desk.now_us = (NOON + 2_000) * 1000
    query_ = query(limit=10)
    told = Told(ENVELOPE, desk.market.rows(query_, NOON + 2_000), NOON + 3_600_000)
    assert desk.store.learn(query_, told, LINES)

    history = desk.store.known(SERIES)
    assert history is not None
    assert history.covered[-1][1] == NOON - MINUTE
    assert history.tail is not None
    assert history.tail.ends_us == (NOON + MINUTE) * 1000


def test_rows_that_were_not_asked_for_are_not_learned() -> None:
    desk = Desk()
    rows = Rows([NOON, NOON - MINUTE], [b'["1"]', b'["0"]'])

    assert not desk.store.learn(query(limit=1), Told(ENVELOPE, rows, NOON), LINES)
    assert len(desk.store) == 0


def test_an_exchange_that_writes_otherwise_is_learned_anew() -> None:
    """Rows that are joined by a comma do not go with others that are joined by a comma and a blank."""
    desk = Desk()
    desk.learn(query(limit=100))
    desk.learn(query(limit=10), envelope=SPACED)
    entry = desk.answer(query(limit=10))

    assert entry.body == SPACED.around(
        b", ".join(desk.market.rows(query(limit=10), NOON + 30_000).texts), NOON + 30_000
    )
    assert desk.store.page(query(limit=100)) is None
    assert desk.store.within(SERIES, ENVELOPE, LINES).covered == ()
    desk.store.resized(SERIES)
    assert desk.adds_up()


def test_revised_rows_are_told_with_their_series() -> None:
    desk = Desk()
    desk.learn(query(limit=10))
    desk.market.settle_ms = 4_000
    desk.learn(query(limit=10))

    assert desk.revised == [(SERIES, 9)]


def test_after_a_week_a_series_is_learned_anew() -> None:
    """The last line against corrections that nobody has told of."""
    desk = Desk()
    desk.learn(query(limit=10))
    past = query(end=NOON - 5 * MINUTE, limit=3)
    desk.now_us += 7 * DAY_US
    assert desk.store.page(past) is not None

    desk.now_us += 1
    assert desk.store.page(past) is None
    assert len(desk.store) == 0
    assert desk.store.size_bytes == 0


def test_what_others_have_heard_is_as_old_as_they_have_heard_it() -> None:
    desk = Desk()
    heard_us, asked = desk.now_us - 1_500_000, query(limit=10)
    told = Told(ENVELOPE, desk.market.rows(asked, heard_us // 1000), heard_us // 1000)
    assert desk.store.learn(asked, told, LINES, heard_us)

    assert desk.answer(asked).expires_us == desk.now_us + 500_000


def test_what_is_not_known_has_no_envelope_and_no_history() -> None:
    desk = Desk()

    assert desk.store.envelope(SERIES) is None
    assert desk.store.known(SERIES) is None
    assert desk.store.tail(SERIES) is None
    desk.store.forget(SERIES)
    desk.learn(query(limit=10))
    assert desk.store.envelope(SERIES) == (ENVELOPE, LINES)
    assert desk.store.tail(SERIES) is not None


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (query(limit=1), [0, -1]),
        (query(limit=1000), [0, -1]),
        (query(end=BORDER - MINUTE, limit=5), [-1, -2]),
        (query(BORDER, NOON, 1000), [0]),
        (query(BORDER - MINUTE, NOON), [0, -1]),
        (query(BORDER - 2_500 * MINUTE, NOON), [0, -1]),
        (query(BORDER - 2_500 * MINUTE), [-2, -3]),
        (query(NOON), [0]),
        (query(end=NOON + 10_000 * MINUTE, limit=5), [0, -1]),
    ],
)
def test_the_segments_that_an_answer_is_likely_to_be_made_of(asked: CandleQuery, numbers: list[int]) -> None:
    """The newest first, none of the future, and one more where rows may be missing."""
    chosen = select(asked, NOON)
    assert chosen is not None

    newest = segment_of("1", NOON)
    assert segments_for(asked, chosen, NOON) == [newest + number for number in numbers]

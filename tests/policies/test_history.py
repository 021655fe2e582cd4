"""The candle store against the fake exchange's own selection of rows: pages are equal, and cost no more than asking."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from policies import candles
from policies.caching import CandleQuery
from policies.history import History, Lifetimes
from policies.pages import Reach, need, page
from policies.segments import Rows, Series
from policies.selection import fits, select
from tests.fake_bybit import candles as fake_candles
from tests.fake_bybit import klines
from tests.fake_bybit.settings import Settings
from tests.gateway_fixture import DEEP

SEED = 7
NOW_MS = 1_790_000_003_000
LIFETIMES = Lifetimes(2_000_000, 5_000_000)
KINDS = {"kline": "kline", "mark-price-kline": "mark", "index-price-kline": "index"}


@dataclass
class Exchange:
    """Answers by the fake exchange's rules, and counts how often it is asked."""

    settings: Settings = field(default_factory=Settings)
    asked: int = 0

    def rows(self, query: CandleQuery, now_ms: int) -> Rows:
        kind: Any = KINDS[query.endpoint]
        assert query.category is not None
        series = fake_candles.series_of(SEED, kind, query.category, query.symbol)
        assert series is not None
        request = klines.Request(
            kind, query.category, query.symbol, query.interval, query.start_ms, query.end_ms, query.limit or 200
        )
        listed = klines.select(request, series, self.settings, now_ms)
        return Rows(
            [int(row[0]) for row in listed], [json.dumps(row, separators=(",", ":")).encode() for row in listed]
        )

    def answer(self, query: CandleQuery, now_ms: int) -> Rows:
        self.asked += 1
        return self.rows(query, now_ms)


def page_of(history: History, exchange: Exchange, query: CandleQuery, now_ms: int) -> tuple[bytes, int] | None:
    """What a client gets, and how many requests that took; None when it is the exchange's to answer."""
    selection = select(query, now_ms)
    if selection is None:
        return None
    before = exchange.asked
    known = page(history, selection, now_ms * 1000)
    if known is None:
        needed = need(history, query, selection, now_ms * 1000, LIFETIMES.settle_us)
        asked = select(needed.query, now_ms)
        assert asked is not None, needed
        rows = exchange.answer(needed.query, now_ms)
        assert fits(query.interval, asked, rows.opens)
        history.learn(asked, rows, b",", now_ms, now_ms * 1000, LIFETIMES)
        if needed.reach is Reach.OWN:
            return b",".join(rows.texts), exchange.asked - before
        known = page(history, selection, now_ms * 1000)
        assert known is not None, (query, needed)
    text = b",".join(known.texts)
    assert known.length == (len(text.split(b"],[")) if text else 0)
    return text, exchange.asked - before


def random_query(rnd: random.Random, series: Series, now_ms: int) -> CandleQuery:
    """All four paths, aligned or not, short and long, in the past, at the edges, in the future."""
    interval = series.interval
    length_ms = candles.FIXED_MS.get(interval, 30 * candles.DAY_MS)
    reach = rnd.choice([5, 50, 1500, 4000])

    def instant(around_ms: int) -> int:
        at = max(0, around_ms - rnd.randrange(-3, reach) * length_ms)
        return at if rnd.random() < 0.3 else candles.open_of(interval, at)

    limit = rnd.choice([None, 1, 2, 3, 200, 500, 999, 1000, rnd.randrange(1, 1001)])
    shape = rnd.randrange(4)
    start = instant(now_ms) if shape in {1, 2} else None
    end = instant(now_ms) if shape in {1, 3} else None
    if start is not None and end is not None and start > end:
        start, end = end, start
    return CandleQuery(*series, None if start is None else max(0, start), end, limit)


SERIES = [
    Series("kline", "linear", "BTCUSDT", "1"),
    Series("kline", "spot", "BTCUSDT", "5"),
    Series("mark-price-kline", "linear", "BTCUSDT", "15"),
    Series("kline", "inverse", "BTCUSD", "60"),
    Series("kline", "linear", "ETHUSDT", "D"),
    Series("kline", "linear", "BTCUSDT", "W"),
    Series("kline", "linear", "BTCUSDT", "M"),
    Series("kline", "spot", "BTCUSDT", "M"),
    Series("kline", "linear", "GAPUSDT", "1"),
    Series("kline", "linear", "GAPUSDT", "3"),
    Series("kline", "linear", "NEWUSDT", "D"),
    Series("kline", "linear", "OLDUSDT", "60"),
]


@pytest.mark.parametrize("series", SERIES, ids=":".join)
@pytest.mark.parametrize("seed", range(20 if DEEP else 2))
def test_any_range_is_what_the_exchange_answers(series: Series, seed: int) -> None:
    """Row by row and byte by byte, with the clock moving over boundaries; never more than one request each."""
    rnd = random.Random(f"{series}{seed}")
    exchange, history = Exchange(Settings(kline_settle_ms=3000, kline_gap_fill=False)), History(series)
    now_ms, pages, decided = NOW_MS, 1000, 0
    length_ms = candles.FIXED_MS.get(series.interval, 7 * candles.DAY_MS)
    for _ in range(pages):
        now_ms += rnd.choice([0, 10, 500, 1000, 2500, 7000, length_ms // 3, length_ms])
        query = random_query(rnd, series, now_ms)
        got = page_of(history, exchange, query, now_ms)
        if got is None:
            continue
        decided += 1
        text, asked = got
        assert asked <= 1
        instants = {now_ms} if history.tail is None else {now_ms, history.tail.at_ms}
        assert text in {b",".join(exchange.rows(query, instant).texts) for instant in instants}, query
    assert decided > pages // 3
    assert exchange.asked < decided
    for segment in history.segments.values():
        for open_ms, row in zip(*segment.rows(), strict=True):
            assert candles.settled(series.interval, open_ms, 5000, now_ms)
            final = CandleQuery(*series, open_ms, open_ms, 1)
            assert exchange.rows(final, open_ms + 10**11).texts == [row]


def test_an_answer_is_as_old_as_what_can_still_change_of_it() -> None:
    """Final rows do not age: who wants nothing older than a second gets the newest with those of an hour ago."""
    series, exchange = SERIES[0], Exchange()
    history, later_ms = History(series), NOW_MS + 90_000
    page_of(history, exchange, CandleQuery(*series, None, None, 50), NOW_MS)
    newest = CandleQuery(*series, None, None, 40)
    page_of(history, exchange, newest, later_ms)
    selection = select(newest, later_ms)
    assert selection is not None
    known = page(history, selection, later_ms * 1000)

    assert known is not None
    assert known.length == 40
    assert known.stored_us == later_ms * 1000

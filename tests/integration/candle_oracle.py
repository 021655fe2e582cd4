"""What the fake exchange itself answers to a request for candles at any instant, and whether a gateway's answer is one
that it may give: byte by byte what the exchange said at an instant that is not too long ago."""

from __future__ import annotations

import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl

import pytest

from policies import candles as calendar
from policies.history import History
from policies.segments import Series
from proxy.app import App
from tests.conversation import Told
from tests.fake_bybit import FakeBybit, answers, klines
from tests.fake_bybit import candles as fake_candles
from tests.fake_bybit.intervals import next_open

OPEN_MS: Final = 2_000
"""How long the newest candles are good,"""
REVALIDATE_MS: Final = 1_000
"""how much longer they may be given while newer ones are fetched,"""
ERROR_MS: Final = 60_000
"""and while none can be."""
CLOCK_MS: Final = 1_000
"""How wrong the gateway may be about the exchange's clock: half of the longest trip by which it judges it."""
LONG_AFTER_MS: Final = 10**11
_STAMP: Final = re.compile(rb'"time":([0-9]{13})\}$')

SERIES: Final = [
    Series(*words.split())
    for words in """
        kline linear BTCUSDT 1
        kline linear GAPUSDT 1
        kline spot GAPUSDT 3
        kline linear GAPUSDT 5
        kline spot BTCUSDT 15
        kline inverse BTCUSD 30
        kline linear NEWUSDT 60
        kline linear OLDUSDT 120
        kline spot ETHUSDT 240
        kline linear ETHUSDT 360
        kline linear BTCUSDT 720
        kline linear BTCUSDT D
        kline spot NEWUSDT W
        kline linear BTCUSDT W
        kline linear BTCUSDT M
        kline spot BTCUSDT M
        mark-price-kline linear BTCUSDT 1
        mark-price-kline inverse BTCUSD D
        index-price-kline linear ETHUSDT 5
        index-price-kline inverse BTCUSD W
        premium-index-price-kline linear BTCUSDT 1
        premium-index-price-kline linear NEWUSDT D
    """.strip().splitlines()
]


def target_of(series: Series, **more: Any) -> str:
    named = {"category": series.category, "symbol": series.symbol, "interval": series.interval, **more}
    given = "&".join(f"{name}={value}" for name, value in named.items() if value is not None)
    return f"/v5/market/{series.endpoint}?{given}"


def random_target(rnd: random.Random, series: Series, now_ms: int) -> str:
    """All shapes of a range, aligned or not, short and long, in the past, at the edges, in the future; and some that
    the gateway must leave to the exchange."""
    interval = series.interval
    length_ms = calendar.FIXED_MS.get(interval, (7 if interval == "W" else 30) * calendar.DAY_MS)
    reach = rnd.choice([4, 60, 1_200, 2_500]) if interval not in "WM" else rnd.choice([4, 60])

    def instant() -> int:
        at = max(0, now_ms - rnd.randrange(-3, reach) * length_ms)
        return at if rnd.random() < 0.2 else calendar.open_of(interval, at)

    shape, more = rnd.randrange(4), dict[str, Any]()
    if shape in {1, 2}:
        more["start"] = instant()
    if shape in {1, 3}:
        more["end"] = instant()
    if shape == 1 and rnd.random() < 0.97:
        more["start"], more["end"] = sorted((more["start"], more["end"]))
    limit = rnd.choice([None, 1, 2, 5, 50, 100, 200, 499, 1000, rnd.randrange(1, 1001)])
    if rnd.random() < 0.02:
        limit = rnd.choice([0, 1001, -1])
    more["limit"] = limit
    if rnd.random() < 0.02:
        more["startTime"] = 1
    if rnd.random() < 0.02:
        more["category"] = None
    if rnd.random() < 0.3:
        more["symbol"] = more.pop("symbol", series.symbol)
        more = dict(rnd.sample(list(more.items()), len(more)))
    return target_of(series, **more)


class Oracle:
    """`judge()` raises AssertionError for an answer that no honest gateway gives."""

    def __init__(self, exchange: FakeBybit) -> None:
        self._exchange = exchange
        self._served: defaultdict[str, list[int]] = defaultdict(list)
        """When the exchange answered, by the path."""
        self.verdicts: Counter[str] = Counter()

    def body(self, target: str, at_ms: int, stamp_ms: int) -> bytes:
        path, _, query = target.partition("?")
        reply = self._exchange.market.handle(path, parse_qsl(query), at_ms * 1000)
        assert reply is not None
        return answers.envelope(reply, stamp_ms * 1000).body

    def judge(self, target: str, told: Told, flight_ms: Callable[[int], int]) -> str:
        """In one word, what it was: fresh, aged, stale or refused. `flight_ms`: how long an answer that the exchange
        gave at an instant was on its way at most."""
        verdict = self._judge(target, told, flight_ms)
        self.verdicts[verdict] += 1
        return verdict

    def _judge(self, target: str, told: Told, flight_ms: Callable[[int], int]) -> str:
        if told.status != 200 or told.code in {10006, 10016, 10000}:
            return "refused"
        found = _STAMP.search(told.body)
        assert found is not None, told.body[-200:]
        stamp_ms, asked_ms, told_ms = int(found[1]), told.asked_us // 1000, told.told_us // 1000
        instants = [stamp_ms, *self._served_about(target.partition("?")[0], stamp_ms, flight_ms(stamp_ms))]
        given_ms = next((at_ms for at_ms in instants if self.body(target, at_ms, stamp_ms) == told.body), None)
        assert given_ms is not None, (
            f"{target}: {told.body[:300]!r}, not {self.body(target, stamp_ms, stamp_ms)[:300]!r}"
        )
        assert given_ms <= told_ms + CLOCK_MS, target
        if any(self.body(target, at_ms, stamp_ms) == told.body for at_ms in (asked_ms, told_ms)):
            return "fresh"
        status, oldest_ms = told.headers.get("Cache-Status", ""), asked_ms - OPEN_MS - flight_ms(given_ms)
        if "stale-if-error" in status or "breaker" in status:
            assert given_ms >= oldest_ms - ERROR_MS, (target, asked_ms - given_ms)
            return "stale"
        assert given_ms >= oldest_ms - REVALIDATE_MS, (target, asked_ms - given_ms, status)
        interval = dict(parse_qsl(target.partition("?")[2]))["interval"]
        ends_ms = calendar.end_of(interval, calendar.open_of(interval, given_ms))
        assert ends_ms > asked_ms - CLOCK_MS, (target, asked_ms - ends_ms, status)
        return "aged"

    def _served_about(self, path: str, at_ms: int, flight_ms: int) -> list[int]:
        record = self._exchange.record
        for entry in record.entries:
            self._served[entry.target.partition("?")[0]].append(entry.time_us // 1000)
        record.clear()
        served = self._served[path]
        return served[bisect_left(served, at_ms - CLOCK_MS) : bisect_right(served, at_ms + CLOCK_MS + flight_ms)]

    def audit(self, app: App, now_ms: int) -> int:
        """Nothing that is kept for good is of a candle that has changed since, or leaves one out. How many rows."""
        candles, l1 = app.caches.candles, app.caches.lookup.l1
        assert candles is not None
        assert l1 is not None
        for entry in l1._entries.values():
            if entry.expires_us > now_ms * 1000 + 10_000_000:
                target = _target_of_key(entry.key)
                stamp = _STAMP.search(entry.body)
                assert stamp is not None
                assert entry.body == self.body(target, now_ms + LONG_AFTER_MS, int(stamp[1])), target
        return sum(self.audit_history(history) for history in histories(app))

    def audit_history(self, history: History) -> int:
        series, settings = history.series, self._exchange.settings
        kind = klines.PAGES[f"/v5/market/{series.endpoint}"].kind
        made = fake_candles.series_of(1, kind, series.category, series.symbol)
        assert made is not None
        kept = {
            open_ms: text
            for segment in history.segments.values()
            for open_ms, text in zip(*segment.rows(), strict=True)
        }
        truth: dict[int, bytes] = {}
        for low_ms, high_ms in history.covered:
            open_ms = low_ms
            while open_ms < high_ms:
                row = fake_candles.row(
                    made,
                    series.interval,
                    open_ms,
                    open_ms + LONG_AFTER_MS,
                    settle_ms=settings.kline_settle_ms,
                    gap_fill=settings.kline_gap_fill,
                )
                if row is not None:
                    truth[open_ms] = b'["' + '","'.join(row).encode() + b'"]'
                open_ms = next_open(series.interval, open_ms)
        assert kept == truth, series
        return len(kept)


def histories(app: App) -> Iterator[History]:
    candles = app.caches.candles
    assert candles is not None
    for known in candles._known.values():
        yield known.history


def _target_of_key(key: str) -> str:
    _, _, category, symbol, interval, endpoint, start, end, limit = key.split(":")
    words = (category, symbol, interval, start, end, limit)
    named = zip(("category", "symbol", "interval", "start", "end", "limit"), words, strict=True)
    return f"/v5/market/{endpoint}?" + "&".join(f"{name}={value}" for name, value in named if value != "-")


@contextmanager
def remembered_rows() -> Iterator[None]:
    """The exchange's rows that are final are computed once: they depend on nothing but their time."""
    kept: dict[Any, Any] = {}
    row: Callable[..., Any] = fake_candles.row

    def remembered(series: Any, interval: str, open_ms: int, now_ms: int, **how: Any) -> Any:
        if now_ms < next_open(interval, open_ms) + how.get("settle_ms", 0):
            return row(series, interval, open_ms, now_ms, **how)
        key = (series, interval, open_ms)
        if key not in kept:
            kept[key] = row(series, interval, open_ms, now_ms, **how)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_candles, "row", remembered)
        yield

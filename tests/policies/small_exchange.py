"""An exchange that has one series of candles, by the rules of market/kline alone; and one who keeps what it tells.

Rows have two fields, the second of which grows as long as the candle may change: a row that was kept too early can be
told from the one that is final.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from policies import candles
from policies.caching import DEFAULT_ROWS, CandleQuery
from policies.history import History, Learned, Lifetimes
from policies.pages import Need, Page, Reach, need, page
from policies.segments import Rows, Series, open_of_slot, slot_of
from policies.selection import fits, select

LIFETIMES: Final = Lifetimes(tail_us=2_000_000, settle_us=5_000_000)
AMBIGUOUS: Final = frozenset({200, 500})
LONG_AFTER_MS: Final = 10**11
JOINT: Final = b","


@dataclass
class Market:
    """Candles from one slot to another. `missing` never come to be, those of `late` so long after their time."""

    interval: str
    listed: int
    ended: int | None = None
    missing: frozenset[int] = frozenset()
    late: dict[int, int] = field(default_factory=dict)
    settle_ms: int = 3_000
    most_rows: int = 1000
    asked: int = 0

    def row(self, slot: int, now_ms: int) -> bytes | None:
        open_ms, next_ms = open_of_slot(self.interval, slot), open_of_slot(self.interval, slot + 1)
        traded = self.listed <= slot and (self.ended is None or slot < self.ended) and slot not in self.missing
        if not traded or now_ms < open_ms + self.late.get(slot, 0):
            return None
        return b'["%d","%d"]' % (open_ms, min(now_ms, next_ms + self.settle_ms) - open_ms)

    def rows(self, query: CandleQuery, now_ms: int) -> Rows:
        """Newest first. A start within a candle selects that candle."""
        limit = min(query.limit or DEFAULT_ROWS, self.most_rows)
        first, last = self.listed, slot_of(self.interval, now_ms)
        if self.ended is not None:
            last = min(last, self.ended - 1)
        if query.start_ms is not None:
            first = max(first, slot_of(self.interval, query.start_ms))
        if query.end_ms is not None:
            last = min(last, slot_of(self.interval, query.end_ms))
        forward = query.start_ms is not None and query.end_ms is None
        found: dict[int, bytes] = {}
        for slot in range(first, last + 1) if forward else range(last, first - 1, -1):
            row = self.row(slot, now_ms)
            if row is not None:
                found[open_of_slot(self.interval, slot)] = row
            if len(found) == limit:
                break
        opens = sorted(found, reverse=True)
        return Rows(opens, [found[open_ms] for open_ms in opens])

    def text(self, query: CandleQuery, now_ms: int) -> bytes:
        return JOINT.join(self.rows(query, now_ms).texts)


class Keeper:
    """Answers from what it knows, and asks for what is missing."""

    def __init__(self, series: Series, market: Market) -> None:
        self.history = History(series)
        self.market = market

    def learn(self, query: CandleQuery, given_ms: int, now_ms: int) -> Learned | None:
        """What the exchange gave to this request then comes to its ears now."""
        selection = select(query, given_ms)
        if selection is None:
            return None
        rows = self.market.rows(query, given_ms)
        assert fits(query.interval, selection, rows.opens)
        return self.history.learn(selection, rows, JOINT, given_ms, now_ms * 1000, LIFETIMES)

    def page(self, query: CandleQuery, now_ms: int, *, stale: bool = False) -> Page | None:
        selection = select(query, now_ms)
        return None if selection is None else page(self.history, selection, now_ms * 1000, stale=stale)

    def need(self, query: CandleQuery, now_ms: int) -> Need | None:
        selection = select(query, now_ms)
        if selection is None:
            return None
        return need(self.history, query, selection, now_ms * 1000, LIFETIMES.settle_us)

    def answer(self, query: CandleQuery, now_ms: int, took_ms: int = 0) -> bytes | None:
        """What a client gets; None where only the exchange can tell. It is asked once at most: with what it has told
        there is a page."""
        found = self.page(query, now_ms)
        if found is not None:
            self.check(query, found, now_ms)
            return JOINT.join(found.texts)
        needed = self.need(query, now_ms)
        if needed is None:
            return None
        given_ms, back_ms = now_ms + took_ms // 2, now_ms + took_ms
        self.market.asked += 1
        learned = self.learn(needed.query, given_ms, back_ms)
        assert learned is not None, needed
        if needed.reach is Reach.OWN:
            return self.market.text(query, given_ms)
        found = self.page(query, now_ms, stale=True)
        if found is None:
            # So many rows may be all that an exchange ever gives: whether there are more is not known, and asked.
            assert len(learned.rows.opens) in AMBIGUOUS, (query, needed)
            self.market.asked += 1
            return self.market.text(query, back_ms)
        text = JOINT.join(found.texts)
        instants = {now_ms, given_ms, back_ms} | ({found.tail.at_ms} if found.tail is not None else set())
        assert text in {self.market.text(query, at_ms) for at_ms in instants}, (query, needed)
        return text

    def check(self, query: CandleQuery, found: Page, now_ms: int) -> None:
        """A page is what the exchange answers now, or what it answered when the tail was told: a moment ago, and within
        the same candle."""
        text, instants = JOINT.join(found.texts), {now_ms}
        if found.tail is not None:
            assert candles.open_of(query.interval, found.tail.at_ms) == candles.open_of(query.interval, now_ms)
            assert found.tail.stored_us + LIFETIMES.tail_us >= now_ms * 1000
            instants.add(found.tail.at_ms)
        assert text in {self.market.text(query, at_ms) for at_ms in instants}, query
        assert found.length == text.count(b"[")
        assert found.opens == (None if not found.length else _ends(text))

    def audit(self, now_ms: int) -> None:
        """All that is taken for final is so: long after, the exchange says the same."""
        interval, long_after_ms = self.history.series.interval, now_ms + LONG_AFTER_MS
        kept = {
            open_ms: text
            for segment in self.history.segments.values()
            for open_ms, text in zip(*segment.rows(), strict=True)
        }
        covered = [
            slot
            for low_ms, high_ms in self.history.covered
            for slot in range(slot_of(interval, low_ms), slot_of(interval, high_ms))
        ]
        rows = {open_of_slot(interval, slot): self.market.row(slot, long_after_ms) for slot in covered}
        assert kept == {open_ms: row for open_ms, row in rows.items() if row is not None}
        assert all(candles.settled(interval, open_ms, LIFETIMES.settle_us // 1000, now_ms) for open_ms in kept)


def _ends(text: bytes) -> tuple[int, int]:
    opens = [int(row.split(b'"')[1]) for row in text.split(b"],[")]
    return opens[0], opens[-1]

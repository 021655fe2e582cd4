"""Answers put together from what is known of a series; and where something is missing, the one request that completes
them.

A page is walked from the newest row down, or from its start up, through the tail, the final rows and what is believed
to be empty, for as long as these join. What is missing is never more than one request away, which the client's own
would have cost too: the tail, where it certainly completes the page; a whole segment, where the missing part lies in
one that somebody has asked for before; otherwise as much of the client's own request as is not known yet.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from policies import coverage
from policies.caching import CandleQuery
from policies.history import REACH, History, Tail
from policies.segments import SLOTS, Rows, bounds_of, segment_of
from policies.selection import BEGINNING_MS, ENDLESS_MS, Selection, final_before, latest, span


class Page(NamedTuple):
    """Rows, newest first, in pieces that are joined like rows."""

    texts: list[bytes]
    length: int
    opens: tuple[int, int] | None
    """Of the newest and the oldest row."""
    stored_us: int
    """When what can still change of it was told; where nothing can, when the oldest part of it was learned."""
    tail: Tail | None
    """What of it can still change; None when it is final."""
    until_us: int | None
    """Until when a part of it is believed to be empty."""


class Reach(Enum):
    """Which answer completes a page."""

    OWN = "own"
    """The client's own request."""
    PART = "part"
    """A part of it."""
    TAIL = "tail"
    """What has happened since: the same for everybody who asks for the newest."""
    SEGMENT = "segment"
    """The whole segment: the same for everybody who asks for a part of it."""


class Need(NamedTuple):
    """The one request that completes a page."""

    reach: Reach
    query: CandleQuery


def page(history: History, selection: Selection, now_us: int, *, stale: bool = False) -> Page | None:
    """The answer, if it is known. `stale`: as it was known last, for when nothing newer is to be had."""
    tail = history.tail if stale else history.good_tail(now_us)
    walk = _Walk(history, selection, tail, now_us)
    return walk.page() if walk.whole else None


def need(history: History, query: CandleQuery, selection: Selection, now_us: int, settle_us: int) -> Need:
    """What to ask for, when there is no page."""
    walk = _Walk(history, selection, history.good_tail(now_us), now_us)
    final_ms = final_before(query.interval, now_us // 1000, settle_us // 1000)
    if selection.forward:
        return _need_forward(walk, query, now_us, final_ms)
    return _need_backward(walk, query, now_us, final_ms)


class _Walk:
    """As far as a page is known. `edge_ms` is where that ends: below it, or from it on when the page runs forward."""

    def __init__(self, history: History, selection: Selection, tail: Tail | None, now_us: int) -> None:
        self.history = history
        self.selection = selection
        self.edge_ms = selection.low_ms if selection.forward else selection.high_ms
        self.whole = False
        self.length = 0
        self._pieces: list[list[bytes]] = []
        self._opens: list[int] = []
        self._stored_us = now_us
        self._tail: Tail | None = None
        self._until_us: int | None = None
        if selection.forward:
            self._up(tail, now_us)
        else:
            self._down(tail, now_us)

    def page(self) -> Page:
        pieces = reversed(self._pieces) if self.selection.forward else self._pieces
        opens = (max(self._opens), min(self._opens)) if self._opens else None
        texts = [text for piece in pieces for text in piece]
        stored_us = self._stored_us if self._tail is None else self._tail.stored_us
        return Page(texts, self.length, opens, stored_us, self._tail, self._until_us)

    @property
    def believes(self) -> bool:
        """It goes across what is believed to hold nothing."""
        return self._until_us is not None

    def _down(self, tail: Tail | None, now_us: int) -> None:
        low_ms, _, limit, _ = self.selection
        while self.length < limit and self.edge_ms > low_ms:
            known = coverage.holding(self.history.covered, self.edge_ms - 1)
            if known is not None:
                floor_ms = max(known[0], low_ms)
                self._take(floor_ms, self.edge_ms)
                self.edge_ms = floor_ms
            elif tail is not None and self.edge_ms > tail.low_ms:
                self._use_tail(tail, tail.rows.opening_in(low_ms, self.edge_ms).newest(limit))
                self.edge_ms = max(low_ms, tail.low_ms)
            elif not self._skip_empty(now_us):
                return
        self.whole = True

    def _up(self, tail: Tail | None, now_us: int) -> None:
        while self.length < self.selection.limit and self._tail is None:
            known = coverage.holding(self.history.covered, self.edge_ms)
            if known is not None:
                self._take(self.edge_ms, known[1])
                self.edge_ms = known[1]
            elif tail is not None and tail.low_ms <= self.edge_ms:
                left = self.selection.limit - self.length
                self._use_tail(tail, tail.rows.opening_in(self.edge_ms, ENDLESS_MS).oldest(left))
            elif not self._skip_empty(now_us):
                return
        self.whole = True

    def _take(self, low_ms: int, high_ms: int) -> None:
        """Final rows within [low, high)."""
        selection = self.selection
        for segment, cut in self.history.cuts(low_ms, high_ms, selection.limit - self.length, oldest=selection.forward):
            self._pieces.append([cut.text])
            self._opens += (cut.newest_ms, cut.oldest_ms)
            self.length += cut.length
            self._stored_us = min(self._stored_us, segment.stored_us)

    def _use_tail(self, tail: Tail, rows: Rows) -> None:
        self._pieces.append(rows.texts)
        self._opens += rows.opens
        self.length += len(rows.opens)
        self._tail = tail

    def _skip_empty(self, now_us: int) -> bool:
        """Past what is believed to hold nothing; whether there was such a stretch."""
        if self.selection.forward:
            edge_ms, until_us = self.history.above_empty(self.edge_ms, now_us)
        else:
            edge_ms, until_us = self.history.below_empty(self.selection.low_ms, self.edge_ms, now_us)
        if until_us is None:
            return False
        self.edge_ms = edge_ms
        self._until_us = until_us if self._until_us is None else min(self._until_us, until_us)
        return True


def _need_backward(walk: _Walk, query: CandleQuery, now_us: int, final_ms: int) -> Need:
    selection, edge_ms = walk.selection, walk.edge_ms
    if edge_ms > final_ms and edge_ms == selection.high_ms:
        return _sure_tail(walk.history, selection, now_us) or Need(Reach.OWN, query)
    if selection.low_ms > BEGINNING_MS and edge_ms <= final_ms:
        below_ms, above_ms = bounds_of(query.interval, segment_of(query.interval, edge_ms - 1))
        touched = bool(coverage.within(walk.history.covered, below_ms, above_ms))
        if selection.low_ms >= below_ms and touched:
            return Need(Reach.SEGMENT, span(walk.history.series, below_ms, min(above_ms, final_ms)))
    if edge_ms == selection.high_ms or edge_ms <= 0 or edge_ms > final_ms:
        return Need(Reach.OWN, query)  # a part that is not final would not stay
    return Need(Reach.PART, query._replace(end_ms=edge_ms - 1, limit=max(1, selection.limit - walk.length)))


def _need_forward(walk: _Walk, query: CandleQuery, now_us: int, final_ms: int) -> Need:
    covered, edge_ms = walk.history.covered, walk.edge_ms
    begun = edge_ms > walk.selection.low_ms
    if not begun and covered and edge_ms >= covered[-1][1]:
        edge_ms, begun = covered[-1][1], True  # what has happened since then holds what is asked for
    sure = begun and not walk.believes  # the tail may tell otherwise
    if sure and (edge_ms >= final_ms or walk.history.slots_since(edge_ms, now_us // 1000) <= REACH):
        tail = _tail(walk.history, edge_ms, now_us)
        if tail is not None:
            return tail
    # So many more that the answer reaches up to now where the page ends among candles that are not final: of such alone
    # nothing would stay.
    limit = walk.selection.limit - walk.length + walk.history.slots_since(final_ms, now_us // 1000)
    if walk.edge_ms == walk.selection.low_ms or limit > SLOTS or walk.believes:
        return Need(Reach.OWN, query)
    return Need(Reach.PART, query._replace(start_ms=walk.edge_ms, limit=limit))


def _sure_tail(history: History, selection: Selection, now_us: int) -> Need | None:
    """The tail, when with it the page is certain to be complete: this must not take a second request."""
    if not history.covered:
        return None
    low_ms, high_ms = history.covered[-1]
    floor_ms, edge_ms = max(low_ms, selection.low_ms), min(high_ms, selection.high_ms)
    if floor_ms > selection.low_ms:
        bottom_ms, _ = history.below_empty(selection.low_ms, floor_ms, now_us)
        if bottom_ms > selection.low_ms:
            length = sum(cut.length for _, cut in history.cuts(floor_ms, edge_ms, selection.limit))
            if history.tail is not None:  # rows that have been seen will be there
                seen = history.tail.rows.opening_in(max(high_ms, selection.low_ms), selection.high_ms)
                length += len(seen.opens)
            if length < selection.limit:
                return None
    return _tail(history, high_ms, now_us)


def _tail(history: History, edge_ms: int, now_us: int) -> Need | None:
    """Everything since the edge, and young rows once more. None when that is more than an answer holds."""
    at_ms = now_us // 1000
    rows = history.slots_since(edge_ms, at_ms)
    if rows > SLOTS:
        return None
    young = history.slots_since(history.verified_ms, at_ms) if history.verified_ms > BEGINNING_MS else 0
    return Need(Reach.TAIL, latest(history.series, max(rows, min(young, REACH))))

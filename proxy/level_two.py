"""What the gateways of one Redis give each other: answers by request, the newest candles, segments of closed ones; and
that only one of them fetches.

Whatever is read here was written by another, so it is taken as it would be from the exchange: every row is checked,
and what is not as documented is a miss (policies/kline_text.py). Segments are written some time after they were
learned: the newest grows by a row with every candle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson

from policies import bybit, columns, coverage, kline_text, selection
from policies import candles as calendar
from policies.caching import CandleQuery, Life, is_sensible
from policies.conditions import tag_of
from policies.frame import Kind
from policies.kline_text import Envelope
from policies.segments import SLOTS, Segment, Series, bounds_of
from proxy import headers
from proxy.answers import SharedAnswer, digest, is_object, is_whole
from proxy.cache import Entry
from proxy.candles import Candles, segments_for
from proxy.clock import Clock, Sleep
from proxy.l2 import L2
from proxy.lease import HeldElsewhere, Lease, Leases

T = TypeVar("T")
F = TypeVar("F")
Found_co = TypeVar("Found_co", covariant=True)

_WRITE_EVERY_S: Final = 5.0
_WAIT_US: Final = 10_000_000
"""How long another gateway's fetch is waited for at most."""
_ABSENT_US: Final = 2_000_000
"""How long it is remembered that Redis has no such segment."""
_TRIES: Final = 3
_SKEW_US: Final = 1_000_000
_SOME_MS: Final = 10**12
"""An instant with as many digits as any."""


class SharedRules(NamedTuple):
    lock: str
    """auto, always, never."""
    lock_above: int
    """Percent of the budget, for auto."""
    open_us: int
    closed_us: int
    tagged: bool
    place: str
    """Which exchange it is about, where that is not the usual one: part of every key."""


class Look(Protocol[Found_co]):
    """What there is of something. `again`: another gateway may have put it there since the last look."""

    def __call__(self, *, again: bool) -> Awaitable[Found_co | None]: ...


class LevelTwo:
    """`busy` tells how much of the budget is in use, in percent. Instants in Redis are of the exchange's clock."""

    def __init__(
        self,
        l2: L2,
        leases: Leases,
        candles: Candles | None,
        rules: SharedRules,
        *,
        busy: Callable[[], int],
        clock: Clock,
        exchange_clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.l2 = l2
        self.rules = rules
        self.candles = candles
        self._leases = leases
        self._busy = busy
        self._clock = clock
        self._exchange_clock = exchange_clock
        self._sleep = sleep
        self._unwritten: dict[tuple[Series, int], None] = {}
        self._absent: dict[tuple[Series, int], int] = {}

    # One fetch for all

    async def once(
        self,
        name: str,
        look: Look[T],
        fetch: Callable[[], Awaitable[F]],
        *,
        ranged: bool,
    ) -> T | F:
        """What look() finds, or what fetch() brings: fetched by one gateway, as far as that is worth it. The fetch
        puts its result where look() finds it."""
        found = await look(again=False)
        if found is not None:
            return found
        if not self.locks(ranged=ranged):
            return await fetch()
        name, until_us = name + self.rules.place, self._clock() + _WAIT_US
        for _ in range(_TRIES):
            taken = await self._leases.take(name)
            if isinstance(taken, Lease):
                async with taken:
                    found = await look(again=True)  # the holder before may just have put it there
                    return await fetch() if found is None else found
            if not isinstance(taken, HeldElsewhere):
                break
            found = await self._leases.await_other(name, lambda: look(again=True), until_us)
            if found is not None:
                return found
        return await fetch()

    def locks(self, *, ranged: bool) -> bool:
        """Whether other gateways are waited for."""
        if self.rules.lock == "auto":
            return ranged or self._busy() > self.rules.lock_above
        return self.rules.lock == "always"

    # Answers by request

    async def entry(self, key: str, error_us: int) -> Entry | None:
        """An answer that another gateway has kept, while it is fresh. `error_us`: how much longer it may be given where
        none can be fetched."""
        frame = await self.l2.get(key + self.rules.place, Kind.ENTRY)
        if frame is None or frame.status != 200 or frame.encoding or not headers.believable(frame.head):
            return None
        if bybit.ret_code(frame.body) != bybit.OK or not is_object(frame.body):
            return None
        offset_us = self._exchange_clock() - self._clock()
        stored_us, expires_us = frame.stored_us - offset_us, frame.expires_us - offset_us
        now_us = self._clock()
        # Clocks of gateways differ a little; a value from the future, or for longer than we keep any, is not believed.
        if stored_us > now_us + _SKEW_US or not now_us < expires_us <= now_us + self.rules.closed_us + _SKEW_US:
            return None
        tag = tag_of(digest(frame.body)) if self.rules.tagged else ""
        fresh_us = expires_us - stored_us
        life = Life(fresh_us, fresh_us, fresh_us + error_us)
        return Entry.of(key, frame.head, frame.body, 0, stored_us, life, tag)

    async def put_entry(self, entry: Entry, *, ranged: bool) -> None:
        """For the others: at once, where they may be waiting for it."""
        offset_us = self._exchange_clock() - self._clock()
        bare = entry.lines.removesuffix(f"ETag: {entry.tag}\r\n".encode()) if entry.tag else entry.lines
        stored_us, expires_us = entry.stored_us + offset_us, entry.expires_us + offset_us
        await self._put(
            entry.key, Kind.ENTRY, bare, entry.body, stored_us, expires_us, through=self.locks(ranged=ranged)
        )

    # The newest candles

    async def put_tail(self, query: CandleQuery, answer: SharedAnswer, lines: bytes) -> None:
        """An answer that reaches up to now, for as long as the newest candles are good."""
        if answer.told is None or answer.plain is None:
            return
        head = orjson.dumps([query.start_ms, query.end_ms, query.limit]) + b"\n" + lines
        now_us = self._exchange_clock()
        through = self.locks(ranged=query.start_ms is not None or query.end_ms is not None)
        key, until_us = f"{query.series.key()}:tail", now_us + self.rules.open_us
        await self._put(key, Kind.TAIL, head, answer.plain.body, now_us, until_us, through=through)

    async def restore(self, query: CandleQuery, *, newest_only: bool, again: bool = False) -> bool:
        """Take over what the others know of what a request needs; whether there was anything. `again`: what was not
        there a moment ago is looked for all the same."""
        if self.candles is None:
            return False
        chosen = self.candles.select(query)
        if chosen is None:
            return False
        series, now_us = query.series, self._exchange_clock()
        restored = False
        history = self.candles.known(series)
        covered = () if history is None else history.covered
        if (history is None or history.good_tail(now_us) is None) and chosen.high_ms > now_us // 1000:
            restored = await self._restore_tail(series)
        for number in () if newest_only else segments_for(query, chosen, now_us // 1000):
            low_ms, high_ms = bounds_of(series.interval, number)
            if coverage.gaps(covered, low_ms, min(high_ms, now_us // 1000)):
                restored = await self._restore_segment(series, number, again=again) or restored
        return restored

    async def _restore_tail(self, series: Series) -> bool:
        frame = await self.l2.get(f"{series.key()}:tail{self.rules.place}", Kind.TAIL)
        if frame is None or frame.expires_us <= self._exchange_clock() or self.candles is None:
            return False
        said, _, lines = frame.head.partition(b"\n")
        query = _query(series, said)
        told = kline_text.read(series, frame.body)
        if query is None or told is None or not is_whole(told) or not headers.believable(lines):
            return False
        if told.at_ms > frame.stored_us // 1000 + 1000:
            return False
        return self.candles.learn(query, told, lines, min(frame.stored_us, self._exchange_clock()))

    # Segments

    def learned(self, series: Series, numbers: set[int]) -> None:
        """They hold something new, which is written some time later."""
        for number in numbers:
            self._unwritten[series, number] = None
            self._absent.pop((series, number), None)

    async def write(self) -> None:
        """As long as the gateway runs."""
        while True:
            await self._sleep(_WRITE_EVERY_S)
            unwritten, self._unwritten = self._unwritten, {}
            for series, number in unwritten:
                await self._put_segment(series, number, through=False)
                await asyncio.sleep(0)  # each takes a millisecond: requests go between
            now_us = self._clock()
            self._absent = {key: until_us for key, until_us in self._absent.items() if until_us > now_us}

    async def write_series(self, series: Series) -> None:
        """What has been learned of it, at once: others are waiting for it."""
        for number in [number for other, number in self._unwritten if other == series]:
            self._unwritten.pop((series, number), None)
            await self._put_segment(series, number, through=True)

    async def _put_segment(self, series: Series, number: int, *, through: bool) -> None:
        around = None if self.candles is None else self.candles.envelope(series)
        history = None if self.candles is None else self.candles.known(series)
        segment = None if history is None else history.segments.get(number)
        if around is None or history is None or segment is None:
            return
        envelope, lines = around
        about = {
            "covered": history.covered_in(number),
            "before": envelope.before.decode("latin-1"),
            "joint": envelope.joint.decode("latin-1"),
            "between": envelope.between.decode("latin-1"),
            "after": envelope.after.decode("latin-1"),
        }
        now_us = self._exchange_clock()
        head, body = orjson.dumps(about) + b"\n" + lines, columns.packed(segment.blob, segment.joint)
        until_us = now_us + self.rules.closed_us
        await self._put(_segment_key(series, number), Kind.SEGMENT, head, body, now_us, until_us, through=through)

    async def _put(
        self, key: str, kind: Kind, head: bytes, body: bytes, stored_us: int, expires_us: int, *, through: bool
    ) -> None:
        """Instants are of the exchange's clock; Redis counts from now on."""
        key += self.rules.place
        if through:
            await self.l2.put_through(key, kind, 200, head, "", body, stored_us, expires_us)
        else:
            self.l2.put(key, kind, 200, head, "", body, stored_us, expires_us)

    async def _restore_segment(self, series: Series, number: int, *, again: bool) -> bool:
        if self.candles is None or (not again and self._absent.get((series, number), 0) > self._clock()):
            return False
        frame = await self.l2.get(_segment_key(series, number) + self.rules.place, Kind.SEGMENT)
        kept = None if frame is None else _read_segment(series, number, frame.head, frame.body, frame.stored_us)
        if kept is None or frame is None or frame.expires_us <= self._exchange_clock():
            self._absent[series, number] = self._clock() + _ABSENT_US
            return False
        history = self.candles.within(series, kept.envelope, kept.lines)
        settle_ms = self.candles.rules.lifetimes.settle_us // 1000
        final_ms = selection.final_before(series.interval, self._exchange_clock() // 1000, settle_ms)
        history.restore(number, kept.segment, coverage.within(kept.covered, 0, final_ms))
        self.candles.resized(series)
        return True


class _KeptSegment(NamedTuple):
    segment: Segment
    covered: coverage.Ranges
    envelope: Envelope
    lines: bytes


def _read_segment(series: Series, number: int, head: bytes, body: bytes, stored_us: int) -> _KeptSegment | None:
    """None when anything about it is not as this gateway would have written it."""
    said, _, lines = head.partition(b"\n")
    try:
        about: Any = orjson.loads(said)
        covered = tuple((int(low), int(high)) for low, high in about["covered"])
        envelope = Envelope(*(about[name].encode("latin-1") for name in ("before", "joint", "between", "after")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    blob = columns.unpacked(body, envelope.joint)
    told = None if blob is None else kline_text.read(series, envelope.around(blob, _SOME_MS))
    if told is None or not is_whole(told) or not headers.believable(lines) or len(told.rows.opens) > SLOTS:
        return None
    rows = told.rows
    if told.envelope != envelope:  # rows may not hide in what stands around them
        return None
    low_ms, high_ms = bounds_of(series.interval, number)
    within = all(low_ms <= open_ms < high_ms for open_ms in (*rows.opens[:1], *rows.opens[-1:]))
    ordered = all(low < high and low_ms <= low and high <= high_ms for low, high in covered)
    if not within or not ordered or not calendar.on_calendar(series.interval, rows.opens):
        return None
    return _KeptSegment(Segment.of(rows, envelope.joint, stored_us), covered, envelope, lines)


def _segment_key(series: Series, number: int) -> str:
    return f"{series.key()}:segment:{number}"


def _query(series: Series, said: bytes) -> CandleQuery | None:
    try:
        start_ms, end_ms, limit = orjson.loads(said)
    except (ValueError, TypeError):
        return None
    numbers = (start_ms, end_ms, limit)
    if any(each is not None and type(each) is not int for each in numbers):
        return None
    query = CandleQuery(*series, start_ms, end_ms, limit)
    if not is_sensible(query):
        return None
    return query if selection.select(query, selection.ENDLESS_MS) is not None else None

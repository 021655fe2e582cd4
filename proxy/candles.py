"""The candle store of this process: what is known of every series, within a bounded memory.

Decides nothing about candles itself (policies/history.py, policies/pages.py) and fetches nothing: it is asked for an
answer, says what is needed for one, and is told what the exchange has said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from policies import candles as calendar
from policies import pages, selection
from policies.caching import CandleLifetimes, CandleQuery, Life, closed_life, open_life
from policies.conditions import tag_of
from policies.history import History, Learned, Lifetimes, Tail
from policies.kline_text import Envelope, Told
from policies.pages import Need, Page
from policies.segments import SLOTS, Series, segment_of
from policies.selection import Selection
from proxy.answers import digest
from proxy.cache import Entry
from proxy.clock import Clock

_PER_SERIES_BYTES: Final = 2_000
"""What a series costs beside its rows (measured with sys.getsizeof)."""
STREAM_JOINT: Final = b","
"""How rows of the stream are written here: they go with answers that are written alike."""
_DORMANT_US: Final = 60_000_000
"""How long the newest candles of what does not trade are good."""


class CandleRules(NamedTuple):
    lifetimes: CandleLifetimes
    max_bytes: int
    tagged: bool


class _Closed(NamedTuple):
    open_ms: int
    text: bytes
    heard_us: int


class _Known:
    """One series. The envelope and the header lines are those of its last answer."""

    def __init__(self, series: Series, envelope: Envelope, lines: bytes, now_us: int) -> None:
        self.history = History(series)
        self.envelope = envelope
        self.lines = lines
        self.began_us = now_us
        self.size_bytes = 0
        self.closed: _Closed | None = None
        """The last candle that the stream has declared closed."""


class Candles:
    """`exchange_clock` tells the exchange's time, by which candles end; `clock` is our own, by which entries expire.

    `revised` is called with the series when rows turned out to be otherwise; `learned` with a series and what has
    become final of it; `wanted` when the newest candles of a series are asked for.
    """

    def __init__(
        self,
        rules: CandleRules,
        *,
        clock: Clock,
        exchange_clock: Clock,
        revised: Callable[[Series, int], None],
        learned: Callable[[Series, Learned], None],
        wanted: Callable[[Series], None],
    ) -> None:
        self.rules = rules
        self._clock = clock
        self._exchange_clock = exchange_clock
        self._revised = revised
        self._learned = learned
        self._wanted = wanted
        self._gaps: dict[Series, int] = {}
        """When the stream of a series lost something that no answer has told since."""
        self._known: OrderedDict[Series, _Known] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def adopt(self, rules: CandleRules) -> None:
        self.rules = rules
        self._make_room()

    def select(self, query: CandleQuery) -> Selection | None:
        """What a request selects; None when only the exchange can tell."""
        return selection.select(query, self._exchange_clock() // 1000)

    def page(self, query: CandleQuery, *, stale: bool = False, asked_us: int | None = None) -> Page | None:
        """The rows of an answer that somebody asks for, if they are known. `stale`: as they were known last; what is
        only believed, as it was believed when he asked."""
        chosen = self.select(query)
        if chosen is None:
            return None
        now_us = self._exchange_clock()
        if chosen.high_ms > now_us // 1000:
            self._wanted(query.series)
        return self._page(query.series, chosen, now_us if asked_us is None else asked_us, stale=stale)

    def knows(self, query: CandleQuery) -> bool:
        """Whether there is a page. Nobody asks for it by that."""
        chosen = self.select(query)
        return chosen is not None and self._page(query.series, chosen, self._exchange_clock()) is not None

    def need(self, query: CandleQuery) -> Need | None:
        """What to ask for, when there is no page; None when the request is not for the store."""
        chosen = self.select(query)
        if chosen is None:
            return None
        series = query.series
        known = self._get(series)
        history = History(series) if known is None else known.history
        return pages.need(history, query, chosen, self._exchange_clock(), self.rules.lifetimes.settle_us)

    def entry(self, key: str, query: CandleQuery, page: Page) -> Entry:
        """The page as an answer of the exchange."""
        known = self._known[query.series]
        now_us, exchange_us = self._clock(), self._exchange_clock()
        # What can still change is as of when it was told; the rest is so by now.
        at_ms = exchange_us // 1000 if page.tail is None else page.tail.at_ms
        text = known.envelope.around(known.envelope.joint.join(page.texts), at_ms)
        tag = tag_of(digest(text)) if self.rules.tagged else ""
        stored_us = now_us - (exchange_us - page.stored_us)
        life = self._life(page, exchange_us)
        return Entry.of(key, known.lines, text, page.length, now_us, life, tag, stored_us=stored_us)

    def learn(self, query: CandleQuery, told: Told, lines: bytes, heard_us: int | None = None) -> bool:
        """Take over what the exchange has answered to this request; whether it was such as was asked for.

        `heard_us`: when another gateway heard it, by the exchange's clock; None: now.
        """
        chosen = selection.select(query, max(told.at_ms, self._exchange_clock() // 1000))
        if chosen is None or not selection.fits(query.interval, chosen, told.rows.opens):
            return False
        series, now_us = query.series, self._exchange_clock() if heard_us is None else heard_us
        known = self._get(series)
        if known is None or known.envelope.joint != told.envelope.joint:
            self.forget(series)
            known = self._known[series] = _Known(series, told.envelope, lines, now_us)
        known.envelope, known.lines = told.envelope, lines
        lifetimes = self.rules.lifetimes
        # Its stamp may be of a clock that is ahead of what we know: nothing is final before our own estimate says so.
        at_ms = min(told.at_ms, now_us // 1000)
        good = Lifetimes(lifetimes.open_us, lifetimes.settle_us, _DORMANT_US)
        changed = known.history.learn(chosen, told.rows, told.envelope.joint, at_ms, now_us, good)
        tail = known.history.tail
        if tail is not None and tail.at_ms * 1000 > self._gaps.get(series, tail.at_ms * 1000):
            del self._gaps[series]
        self._after(known, changed)
        self._settle(known)
        return True

    def heard(self, series: Series, open_ms: int, text: bytes, heard_us: int, good_us: int, *, confirmed: bool) -> None:
        """A candle of the exchange's stream; `confirmed`: it has declared it closed. `heard_us` is by the exchange's
        clock. Of use where all before it is known, and nothing was lost since."""
        known = self._known.get(series)
        if known is None or known.envelope.joint != STREAM_JOINT:
            return
        if confirmed:
            known.closed = _Closed(open_ms, text, heard_us)
            self._settle(known)
        elif series not in self._gaps:
            known.history.run(open_ms, text, heard_us // 1000, heard_us, good_us)

    def gap(self, series: Series) -> None:
        """The stream has lost something: nothing more of it until an answer has told what."""
        known = self._known.get(series)
        if known is not None:  # else there is nothing that it could go on from
            self._gaps[series], known.closed = self._exchange_clock(), None

    def is_fed(self, series: Series) -> bool:
        """What the stream tells of the candle that runs, or has just ended, is of use: all before it is known."""
        known = self._known.get(series)
        if known is None or series in self._gaps or not known.history.covered:
            return False
        running_ms = calendar.open_of(series.interval, self._exchange_clock() // 1000)
        return known.history.covered[-1][1] >= calendar.open_of(series.interval, running_ms - 1)

    def known(self, series: Series) -> History | None:
        """For those who keep segments elsewhere, and those who look ahead. Change nothing in it."""
        known = self._known.get(series)
        return None if known is None else known.history

    def tail(self, series: Series) -> Tail | None:
        """The newest candles of a series as they were told last, however long ago."""
        known = self._known.get(series)
        return None if known is None else known.history.tail

    def envelope(self, series: Series) -> tuple[Envelope, bytes] | None:
        """Around the rows of a series, and the header lines of its answers."""
        known = self._known.get(series)
        return None if known is None else (known.envelope, known.lines)

    def within(self, series: Series, envelope: Envelope, lines: bytes) -> History:
        """The history of a series into which something is restored; resized() must be called afterwards."""
        known = self._get(series)
        if known is None or known.envelope.joint != envelope.joint:
            self.forget(series)
            known = self._known[series] = _Known(series, envelope, lines, self._exchange_clock())
        return known.history

    def resized(self, series: Series) -> None:
        self._measure(self._known[series])

    def forget(self, series: Series) -> None:
        self._gaps.pop(series, None)
        known = self._known.pop(series, None)
        if known is not None:
            self.size_bytes -= known.size_bytes

    def _page(self, series: Series, chosen: Selection, now_us: int, *, stale: bool = False) -> Page | None:
        known = self._get(series)
        return None if known is None else pages.page(known.history, chosen, now_us, stale=stale)

    def _get(self, series: Series) -> _Known | None:
        known = self._known.get(series)
        if known is None:
            return None
        if self._exchange_clock() - known.began_us > self.rules.lifetimes.closed_us:
            self.forget(series)  # the last line against corrections that nobody told of
            return None
        self._known.move_to_end(series)
        return known

    def _life(self, page: Page, exchange_us: int) -> Life:
        """From now on; negative where its time is over."""
        lifetimes = self.rules.lifetimes
        if page.tail is None:
            until_us = lifetimes.closed_us if page.until_us is None else page.until_us - exchange_us
            return closed_life(lifetimes, until_us)
        left_us = page.tail.expires_us - exchange_us
        if page.until_us is not None:
            left_us = min(left_us, page.until_us - exchange_us)
        return open_life(lifetimes, left_us, page.tail.ends_us - exchange_us)

    def _settle(self, known: _Known) -> None:
        """The candle that the stream has closed, if all before it is known: else an answer that is on its way, or the
        next one, tells of that. Bots ask when a candle has ended, and then the one before has only just settled."""
        closed, history = known.closed, known.history
        if closed is None or history.series in self._gaps or not history.reaches(closed.open_ms):
            return
        known.closed = None
        self._after(known, history.settle_row(closed.open_ms, closed.text, STREAM_JOINT, closed.heard_us))

    def _after(self, known: _Known, changed: Learned) -> None:
        series = known.history.series
        if changed.revised:
            self._revised(series, changed.revised)
        self._measure(known)
        if changed.segments:
            self._learned(series, changed)

    def _measure(self, known: _Known) -> None:
        if self._known.get(known.history.series) is not known:
            return  # there was no room for it
        self.size_bytes -= known.size_bytes
        known.size_bytes = known.history.size_bytes + _PER_SERIES_BYTES
        self.size_bytes += known.size_bytes
        self._make_room()

    def _make_room(self) -> None:
        """Series that nobody has asked for go first, their oldest candles before the rest."""
        while self.size_bytes > self.rules.max_bytes and self._known:
            series, known = next(iter(self._known.items()))
            segments = known.history.segments
            if len(segments) > 1:
                known.history.forget(min(segments))
                self.size_bytes -= known.size_bytes
                known.size_bytes = known.history.size_bytes + _PER_SERIES_BYTES
                self.size_bytes += known.size_bytes
            else:
                self.forget(series)


def segments_for(query: CandleQuery, chosen: Selection, now_ms: int) -> list[int]:
    """The numbers of the segments that an answer is likely to be made of, the newest first."""
    interval = query.interval
    if chosen.forward:
        first = segment_of(interval, chosen.low_ms)
        return [number for number in (first + 1, first) if number <= segment_of(interval, now_ms)]
    newest = segment_of(interval, min(chosen.high_ms - 1, now_ms))
    oldest = max(newest - 1 - (chosen.limit - 1) // SLOTS, segment_of(interval, max(0, chosen.low_ms)))
    return list(range(newest, oldest - 1, -1))

"""Between the candle store and the archive: what is learned goes there once, and a cold start is served from it.

The archive keeps rows, not envelopes: it serves a series from the exchange's first answer about it on.
"""

from __future__ import annotations

from policies import candles as calendar
from policies import coverage, kline_text
from policies.caching import CandleQuery
from policies.history import Learned
from policies.kline_text import Told
from policies.segments import Rows, Segment, Series, bounds_of
from policies.selection import BEGINNING_MS, final_before
from proxy.archive.archive import Archive
from proxy.candles import Candles, segments_for
from proxy.clock import Clock

_JOINT = b","


class Archived:
    def __init__(self, archive: Archive, exchange_clock: Clock) -> None:
        self._archive = archive
        self._exchange_clock = exchange_clock

    def learned(self, series: Series, learned: Learned) -> None:
        """Offer what is new; where something was revised, what it is now."""
        if learned.revised:
            whole = learned.rows.opening_in(learned.low_ms, learned.high_ms)
            self._archive.offer(series, whole.texts, (learned.low_ms, learned.high_ms), revised=True)
            return
        for low_ms, high_ms in learned.fresh:
            self._archive.offer(series, learned.rows.opening_in(low_ms, high_ms).texts, (low_ms, high_ms))

    def seen(self, series: Series, told: Told, settle_us: int) -> None:
        """An answer that is not kept row by row: its final candles, and nothing of what may lie between them."""
        at_ms = min(told.at_ms, self._exchange_clock() // 1000)
        final = told.rows.opening_in(BEGINNING_MS, final_before(series.interval, at_ms, settle_us // 1000))
        if final.opens and calendar.on_calendar(series.interval, final.opens):
            self._archive.offer(series, final.texts)

    async def restore(self, candles: Candles, query: CandleQuery) -> bool:
        """Take over what the archive has of the segments that a request needs; whether there was anything."""
        now_us = self._exchange_clock()
        chosen, series, now_ms = candles.select(query), query.series, now_us // 1000
        around, history = candles.envelope(series), candles.known(series)
        if chosen is None or around is None or history is None or around[0].joint != _JOINT:
            return False
        if not chosen.forward and chosen.high_ms > now_ms and history.good_tail(now_us) is None:
            return False  # the exchange is asked anyway: the running candle is not there
        restored = False
        for number in segments_for(query, chosen, now_ms):
            low_ms, high_ms = bounds_of(series.interval, number)
            if not coverage.gaps(history.covered, low_ms, min(high_ms, now_ms)):
                continue
            found = await self._archive.read(series, low_ms, high_ms)
            rows = _rows(series, found.rows)
            if not found.covered or rows is None:
                continue
            history = candles.within(series, *around)
            history.restore(number, Segment.of(rows, _JOINT, now_us), tuple(found.covered))
            candles.resized(series)
            restored = True
        return restored


def _rows(series: Series, written: list[bytes]) -> Rows | None:
    """None when they are not such as the exchange writes: others than gateways may have put them there."""
    read = kline_text.rows_in(series, _JOINT.join(written))
    return read[0] if read is not None and calendar.on_calendar(series.interval, read[0].opens) else None

"""Between the candle store and the archive: what is learned goes there once, and a cold start is served from it.

The archive keeps rows, not envelopes: it serves a series from the exchange's first answer about it on.
"""

from __future__ import annotations

from policies import coverage, kline_text
from policies.caching import CandleQuery
from policies.history import Learned
from policies.segments import Segment, Series, bounds_of
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

    async def restore(self, candles: Candles, query: CandleQuery) -> bool:
        """Take over what the archive has of the segments that a request needs; whether there was anything."""
        chosen, series, now_ms = candles.select(query), query.series, self._exchange_clock() // 1000
        around, history = candles.envelope(series), candles.known(series)
        if chosen is None or around is None or history is None or around[0].joint != _JOINT:
            return False
        restored = False
        for number in segments_for(query, chosen, now_ms):
            low_ms, high_ms = bounds_of(series.interval, number)
            if not coverage.gaps(history.covered, low_ms, min(high_ms, now_ms)):
                continue
            found = await self._archive.read(series, low_ms, high_ms)
            read = kline_text.rows_in(series, _JOINT.join(found.rows))
            if not found.covered or read is None or (read[0].opens and not low_ms <= read[0].opens[-1]):
                continue
            history = candles.within(series, *around)
            history.restore(number, Segment.of(read[0], _JOINT, self._exchange_clock()), tuple(found.covered))
            candles.resized(series)
            restored = True
        return restored

"""One kline topic on one connection: what is pushed, and when. It does no I/O; the time is an argument."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.fake_bybit import candles
from tests.fake_bybit.intervals import INTERVALS, next_open, open_at_or_before

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings

MOST_AT_ONCE: Final = 1_000
"""A clock that leaps further than so many candles leaves those in between untold."""
_KEPT: Final = 16

# bybit.md 4.6: the kline topic; 3.1: traded candles exist in these categories
CATEGORIES: Final = ("spot", "linear", "inverse")


class KlineTopic:
    """`kline.{interval}.{symbol}` from its subscription on.

    bybit.md 4.6: the first message is the running candle, not history; `confirm` is true once, when it has closed;
    then the next one begins.
    """

    def __init__(self, topic: str, series: candles.Series, interval: str, settings: Settings, now_us: int) -> None:
        self.topic = topic
        self.sent: deque[bytes] = deque(maxlen=_KEPT)
        """The last messages, oldest first."""
        self._series = series
        self._interval = interval
        self._settings = settings
        self._open_ms = open_at_or_before(interval, now_us // 1000)
        self._due_us = now_us

    def due(self, now_us: int) -> list[tuple[bytes, bool]]:
        """What is to be sent now, and whether it confirms a candle."""
        now_ms, settings = now_us // 1000, self._settings
        found: list[tuple[bytes, bool]] = []
        if now_us < self._due_us - settings.stream_push_ms * 1000:  # the clock was set back
            self._begin(open_at_or_before(self._interval, now_ms), now_us)
        while (end_ms := self._end_ms) + settings.stream_confirm_delay_ms <= now_ms:
            if len(found) == MOST_AT_ONCE:
                self._begin(open_at_or_before(self._interval, now_ms), now_us)
                found.clear()
                break
            # Final whatever `kline_settle_ms` says: bybit.md 3.1, only the stream's word is official, REST may lag.
            row = candles.row(self._series, self._interval, self._open_ms, end_ms, gap_fill=settings.kline_gap_fill)
            if row is not None:
                found.append((self._message(row, end_ms, now_ms, confirm=True), True))
            self._begin(end_ms, now_us)
        if now_us >= self._due_us:
            self._due_us = now_us + settings.stream_push_ms * 1000
            row = candles.row(
                self._series,
                self._interval,
                self._open_ms,
                now_ms,
                settle_ms=settings.kline_settle_ms,
                gap_fill=settings.kline_gap_fill,
            )
            if row is not None:
                found.append((self._message(row, self._end_ms, now_ms, confirm=False), False))
        self.sent.extend(message for message, _ in found)
        return found

    @property
    def _end_ms(self) -> int:
        return next_open(self._interval, self._open_ms)

    def _begin(self, open_ms: int, now_us: int) -> None:
        self._open_ms, self._due_us = open_ms, now_us

    def _message(self, row: list[str], end_ms: int, now_ms: int, *, confirm: bool) -> bytes:
        start, opened, high, low, closed, volume, turnover = row
        last_ms = min(now_ms, end_ms - 1)
        candle: dict[str, Any] = {
            # bybit.md 4.6: JSON numbers here, strings in REST; end is the last millisecond inside
            "start": int(start),
            "end": end_ms - 1,
            "interval": self._interval,
            # bybit.md 4.6: open, close, high, low
            "open": opened,
            "close": closed,
            "high": high,
            "low": low,
            "volume": volume,
            "turnover": turnover,
            "confirm": confirm,
            # bybit.md 4.6: the last matched order in the candle; the generator trades once in a bucket
            "timestamp": max(int(start), last_ms - last_ms % candles.BUCKET_MS),
        }
        # bybit.md 4.6: always a snapshot
        return orjson.dumps({"topic": self.topic, "data": [candle], "ts": now_ms, "type": "snapshot"})


def kline_topic(category: str, topic: str, seed: int, settings: Settings, now_us: int) -> KlineTopic | None:
    """Begin a topic, or None for what is none: another name, interval or symbol than there are."""
    name, _, rest = topic.partition(".")
    interval, _, symbol = rest.partition(".")
    if name != "kline" or interval not in INTERVALS or category not in CATEGORIES:
        return None
    series = candles.series_of(seed, "kline", category, symbol)
    return None if series is None else KlineTopic(topic, series, interval, settings, now_us)

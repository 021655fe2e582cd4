"""What a candle stream says, as the rows that REST would write.

A message is exactly as documented, or it is refused with a reason and nothing is made of it: a candle that the stream
does not bring is asked for, one that it brings wrongly would be believed. Whether messages follow upon one another is
another question: a `Line` tells the next candle from a late message, and both from a hole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypeGuard

from policies import candles
from policies.segments import Series

_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,23})(?:\.[0-9]{1,24})?")
_FIELDS: Final = ("open", "high", "low", "close", "volume", "turnover")
"""In the order of REST; the stream has the close before the high."""
_LATEST_MS: Final = 10**14
_MOST_ROWS: Final = 8
"""Of one message. The documents show one; at a candle's end two have been seen, the closed and the open one."""


class Odd(StrEnum):
    """Why a message is refused; values of a label."""

    SHAPE = "odd-shape"  # a field is missing or of another type
    TOPIC = "unasked"  # not subscribed to, or not any more
    INTERVAL = "odd-interval"  # not the topic's
    CALENDAR = "odd-calendar"  # no such candle, or it ends at another time
    TIME = "odd-time"  # it begins after the message, or closed before its end
    NUMBER = "odd-number"  # not a plain decimal


class Row(NamedTuple):
    """A candle of the stream. `text` is the row as REST writes it."""

    open_ms: int
    text: bytes
    confirmed: bool
    sent_ms: int
    """When it was made, by the exchange's clock."""


class Push(NamedTuple):
    series: Series
    rows: tuple[Row, ...]


def read(message: object, topics: Mapping[str, Series]) -> Push | Odd:
    """One message with a topic. `topics`: those subscribed to."""
    if not isinstance(message, dict):
        return Odd.SHAPE
    topic, sent_ms, data = message.get("topic"), message.get("ts"), message.get("data")
    series = topics.get(topic) if isinstance(topic, str) else None
    if series is None:
        return Odd.TOPIC
    if message.get("type") != "snapshot" or not _instant(sent_ms) or not isinstance(data, list):
        return Odd.SHAPE
    if not 1 <= len(data) <= _MOST_ROWS:
        return Odd.SHAPE
    rows = []
    for candle in data:
        row = _row(series.interval, candle, sent_ms)
        if isinstance(row, Odd):
            return row
        rows.append(row)
    return Push(series, tuple(rows))


def _row(interval: str, candle: object, sent_ms: int) -> Row | Odd:
    if not isinstance(candle, dict):
        return Odd.SHAPE
    open_ms, end_ms, confirmed = candle.get("start"), candle.get("end"), candle.get("confirm")
    if not _instant(open_ms) or not _instant(end_ms) or not isinstance(confirmed, bool):
        return Odd.SHAPE
    if candle.get("interval") != interval:
        return Odd.INTERVAL
    if candles.open_of(interval, open_ms) != open_ms or end_ms != candles.end_of(interval, open_ms) - 1:
        return Odd.CALENDAR
    if sent_ms < open_ms or (confirmed and sent_ms <= end_ms):
        return Odd.TIME
    fields = [str(open_ms)]
    for name in _FIELDS:
        number = candle.get(name)
        if not isinstance(number, str) or not _NUMBER.fullmatch(number):
            return Odd.NUMBER
        fields.append(number)
    return Row(open_ms, '["{}"]'.format('","'.join(fields)).encode(), confirmed, sent_ms)


def _instant(value: object) -> TypeGuard[int]:
    """A JSON number of milliseconds; True is an int in Python."""
    return type(value) is int and 0 < value < _LATEST_MS


class Step(StrEnum):
    """How a row follows upon what was heard before; values of a label."""

    FIRST = "first"  # of this subscription: what lies before it is not known
    NEXT = "next"  # the same candle later, its end, or the candle behind one that was heard to close
    JUMP = "jump"  # behind a candle that was not heard to close, or not the one behind it
    LATE = "late"  # older than what is known
    REPEATED = "repeated"  # a closed candle once more, the same
    CONTRADICTED = "contradicted"  # a closed candle once more, and different


TOLD: Final = frozenset({Step.FIRST, Step.NEXT, Step.JUMP})
"""The row is news."""
HOLES: Final = frozenset({Step.FIRST, Step.JUMP, Step.CONTRADICTED})
"""What was heard before cannot be relied upon any more."""


class Line:
    """What has been heard of one series since it was subscribed to."""

    __slots__ = ("_closed_ms", "_closed_text", "_interval", "_open_ms", "_sent_ms")

    def __init__(self, interval: str) -> None:
        self._interval = interval
        self._open_ms = self._sent_ms = self._closed_ms = -1
        self._closed_text = b""

    @property
    def begun(self) -> bool:
        return self._open_ms >= 0

    def take(self, row: Row) -> Step:
        step = self._step(row)
        if step in TOLD:
            if row.open_ms >= self._open_ms:
                self._open_ms, self._sent_ms = row.open_ms, row.sent_ms
            if row.confirmed:
                self._closed_ms, self._closed_text = row.open_ms, row.text
        return step

    def _step(self, row: Row) -> Step:
        if not self.begun:
            return Step.FIRST
        if row.open_ms > self._open_ms:
            joins = self._closed_ms == self._open_ms and row.open_ms == candles.end_of(self._interval, self._open_ms)
            return Step.NEXT if joins else Step.JUMP
        if not row.confirmed:
            stale = row.open_ms < self._open_ms or row.open_ms == self._closed_ms or row.sent_ms < self._sent_ms
            return Step.LATE if stale else Step.NEXT
        if row.open_ms == self._closed_ms:
            return Step.REPEATED if row.text == self._closed_text else Step.CONTRADICTED
        if row.open_ms > self._closed_ms and self._open_ms in (
            row.open_ms,
            candles.end_of(self._interval, row.open_ms),
        ):
            return Step.NEXT  # the end of the open candle, or of the one before, which it has overtaken
        return Step.LATE

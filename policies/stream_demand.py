"""Which series are worth a subscription.

One that is asked for twice within the time that it is kept: whoever loads a thousand charts once has his answers by
then. It stays as long as it is asked for at least once in that time, which is longer than its candle, so that it does
not come and go with each; longer candles than those of an hour are not worth that. When a connection is full, who was
asked for lately takes the place of who was not for half of that time; those two cannot change places again soon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from policies import candles
from policies import stream_words as words
from policies.segments import Series

_MOST_KNOWN: Final = 10_000
"""Series of one category that are remembered to have been asked for."""
_ARGS: Final = 200
"""Of one request, where the exchange names no number: what it refuses it refuses as a whole."""
_BRACKETS: Final = 2
_LONGEST_MS: Final = 3_600_000


class DemandRules(NamedTuple):
    asks: int = 2
    """So often a series must be asked for to be subscribed to."""
    keep_us: int = 600_000_000
    """So long it stays subscribed to after it was asked for the last time,"""
    keep_candles: int = 2
    """or for so many of its candles, up to those of an hour: bots ask once for each, and it must not come and go."""
    refused_us: int = 600_000_000
    """So long a series is left alone that the exchange has refused."""
    most_topics: int = 500
    """Of one connection; the exchange's own limit, in characters, is kept besides."""


class Changes(NamedTuple):
    """To what is subscribed to. First what goes, to make room for what comes."""

    remove: tuple[Series, ...]
    add: tuple[Series, ...]


class _Asked:
    __slots__ = ("asks", "last_us", "refused_until_us")

    def __init__(self) -> None:
        self.asks = self.last_us = self.refused_until_us = 0


class Demand:
    """Of one category."""

    def __init__(self, rules: DemandRules) -> None:
        self._rules = rules
        self._asked: dict[Series, _Asked] = {}
        self._cleared_us = 0

    def __len__(self) -> int:
        return len(self._asked)

    def want(self, series: Series, now_us: int) -> bool:
        """It was asked for. True: from now on a subscription is due, if it is not there."""
        asked = self._asked.get(series)
        if asked is None:
            if len(self._asked) >= _MOST_KNOWN and not self._clear(now_us):
                return False
            asked = self._asked[series] = _Asked()
        elif now_us - asked.last_us >= self._kept_us(series):
            asked.asks = 0
        asked.last_us = now_us
        if now_us < asked.refused_until_us:
            return False
        asked.asks += 1
        return asked.asks == self._rules.asks

    def refuse(self, series: Series, now_us: int) -> None:
        """The exchange has no such topic."""
        asked = self._asked.get(series)
        if asked is not None:
            asked.asks, asked.refused_until_us = 0, now_us + self._rules.refused_us

    def plan(self, subscribed: Collection[Series], now_us: int) -> Changes:
        """What to change. `subscribed`: what is, or has been asked for."""
        self._forget(now_us)
        gone = [series for series in subscribed if series not in self._asked]
        room = _Room(self._rules.most_topics, (series for series in subscribed if series in self._asked))
        latest_first = sorted((series for series in subscribed if series in self._asked), key=self._age)
        wanted = (
            series
            for series, asked in self._asked.items()
            if asked.asks >= self._rules.asks and series not in subscribed
        )
        added = []
        for series in sorted(wanted, key=self._age):
            while not room.fits(series) and latest_first and self._yields(latest_first[-1], series):
                gone.append(latest_first.pop())
                room.leave(gone[-1])
            if room.fits(series):
                room.enter(series)
                added.append(series)
        return Changes(tuple(gone), tuple(added))

    def _age(self, series: Series) -> tuple[int, Series]:
        return -self._asked[series].last_us, series

    def _yields(self, old: Series, new: Series) -> bool:
        return self._asked[new].last_us - self._asked[old].last_us >= self._kept_us(old) // 2

    def _kept_us(self, series: Series) -> int:
        length_us = candles.FIXED_MS.get(series.interval, _LONGEST_MS + 1) * 1000
        return max(self._rules.keep_us, self._rules.keep_candles * length_us if length_us <= _LONGEST_MS * 1000 else 0)

    def _clear(self, now_us: int) -> bool:
        """Make room in a full memory, which takes a walk through it: not for everybody who asks."""
        if now_us - self._cleared_us < self._rules.keep_us // 10:
            return False
        self._cleared_us = now_us
        self._forget(now_us)
        return len(self._asked) < _MOST_KNOWN

    def _forget(self, now_us: int) -> None:
        old = [
            series
            for series, asked in self._asked.items()
            if now_us - asked.last_us >= self._kept_us(series) and now_us >= asked.refused_until_us
        ]
        for series in old:
            del self._asked[series]


class _Room:
    """What a connection still takes."""

    def __init__(self, most_topics: int, taken: Iterable[Series]) -> None:
        self._topics = most_topics
        self._characters = words.CHARACTERS - _BRACKETS
        for series in taken:
            self.enter(series)

    def fits(self, series: Series) -> bool:
        return self._topics > 0 and self._characters >= _length(series)

    def enter(self, series: Series) -> None:
        self._topics -= 1
        self._characters -= _length(series)

    def leave(self, series: Series) -> None:
        self._topics += 1
        self._characters += _length(series)


def _length(series: Series) -> int:
    return words.length_of(words.topic_of(series))


def batches(category: str, series: Collection[Series]) -> Iterator[list[Series]]:
    """As many series as one request may name."""
    listed, size = list(series), words.SPOT_ARGS if category == "spot" else _ARGS
    for begin in range(0, len(listed), size):
        yield listed[begin : begin + size]


def halves(series: list[Series]) -> Iterator[list[Series]]:
    """A request that was refused, in two: the half without the bad one will be accepted."""
    middle = len(series) // 2
    yield from filter(None, (series[:middle], series[middle:]))

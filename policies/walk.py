"""A way through a range of candles, page by page, from either end.

Pages are as many slots as an answer holds rows, so each page is one question with one answer, whatever is missing in
it. A symbol that was listed late, or has gone, leaves pages empty: where the series goes on is found with questions
for the newest candle up to some slot, which is all that has to be known of the exchange for it.
"""

from __future__ import annotations

from collections.abc import Generator

from policies.blocks import Block, Span

Asking = Generator[int, int | None, int | None]
"""Yields slots, is sent the slot of the newest candle that opens no later (None: there is none), returns the slot to go
on from (None: there is nothing more)."""


class Walk:
    """Forward from the range's first slot, or back from its last one."""

    def __init__(self, span: Span, *, newest_first: bool) -> None:
        self._span = span
        self._newest_first = newest_first

    @property
    def slots(self) -> int:
        """What no page has been made of."""
        return max(0, self._span.end - self._span.first)

    def next(self, most: int | None = None) -> Block | None:
        """The next page, of at most so many slots; None at the end."""
        interval, first, end, size = self._span
        if first >= end:
            return None
        size = size if most is None else min(size, most)
        if self._newest_first:
            block = Block(interval, max(first, end - size), end)
            self._span = self._span._replace(end=block.first)
        else:
            block = Block(interval, first, min(end, first + size))
            self._span = self._span._replace(first=block.end)
        return block

    def seek(self) -> Asking:
        """Where the next candle lies; next() goes on from there afterwards."""
        span = self._span
        found = yield from _newest(span) if self._newest_first else _oldest(span)
        if found is None:
            self._span = span._replace(first=span.end)
        elif self._newest_first:
            self._span = span._replace(end=found + 1)
        else:
            self._span = span._replace(first=found)
        return found


def _newest(span: Span) -> Asking:
    found = yield span.end - 1
    return found if found is not None and found >= span.first else None


def _oldest(span: Span) -> Asking:
    """A slot with no candle of the range before it, and one less than a page after it."""
    found = yield from _newest(span)
    if found is None:
        return None
    low, high = span.first, found
    while high - low >= span.size:
        middle = (low + high) // 2
        found = yield middle
        if found is None or found < span.first:
            low = middle + 1
        else:
            high = found
    return low

"""A range of candles cut into blocks, each of which the exchange answers in one go.

Candles are counted as in policies/segments.py: slots from 1970 on. Blocks are aligned as segments are: a gateway that
keeps candles finds whole ones in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from policies import candles
from policies.segments import SLOTS, open_of_slot, slot_of

_FEWER: Final = {"option": 500}
"""Categories whose answers the exchange cuts shorter (market/mark-kline)."""


class Block(NamedTuple):
    """The slots [first, end) of an interval."""

    interval: str
    first: int
    end: int

    @property
    def low_ms(self) -> int:
        return open_of_slot(self.interval, self.first)

    @property
    def high_ms(self) -> int:
        """When the first candle after the block opens."""
        return open_of_slot(self.interval, self.end)

    @property
    def slots(self) -> int:
        return self.end - self.first

    def opens(self) -> list[int]:
        """The open time of every slot, oldest first."""
        if self.interval == "M":  # months differ in length
            return [open_of_slot(self.interval, slot) for slot in range(self.first, self.end)]
        step_ms = candles.WEEK_MS if self.interval == "W" else candles.FIXED_MS[self.interval]
        return list(range(self.low_ms, self.high_ms, step_ms))


class Span(NamedTuple):
    """The slots [first, end) of an interval, in blocks of `size` slots."""

    interval: str
    first: int
    end: int
    size: int = SLOTS

    @property
    def block_count(self) -> int:
        return -(-self.end // self.size) - self.first // self.size if self.first < self.end else 0

    def block_of(self, slot: int) -> Block:
        """The block that holds a slot of the range, cut off where the range ends."""
        begin = slot // self.size * self.size
        return Block(self.interval, max(begin, self.first), min(begin + self.size, self.end))

    def blocks(self) -> Iterator[Block]:
        """Oldest first."""
        slot = self.first
        while slot < self.end:
            block = self.block_of(slot)
            yield block
            slot = block.end

    def after(self, slot: int) -> Span:
        """What is left of it from that slot on."""
        return self._replace(first=max(self.first, slot))


def span_of(category: str, interval: str, low_ms: int, high_ms: int) -> Span:
    """All candles that open within [low, high)."""
    size = _FEWER.get(category, SLOTS)
    return Span(interval, slot_at_or_after(interval, low_ms), slot_at_or_after(interval, high_ms), size)


def slot_at_or_after(interval: str, instant_ms: int) -> int:
    """The first slot that opens no earlier."""
    slot = slot_of(interval, candles.open_of(interval, instant_ms))
    return slot if open_of_slot(interval, slot) >= instant_ms else slot + 1

"""The pages of a walk through the candles of a series, in their order, some of them fetched ahead."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from policies.blocks import Block, Span
from policies.caching import CandleQuery
from policies.market_questions import page_rows
from policies.segments import SLOTS, Series, open_of_slot, slot_of
from policies.walk import Walk
from proxy.marketdata.ahead import Ahead
from proxy.marketdata.asking import CLAMPED, Asker, Page
from proxy.tasks import TaskOwner

_WORTH_SEEKING: Final = 4 * SLOTS
"""So many slots that may all be empty are worth a few questions about where candles are."""


class Pages:
    """`parallel`: questions at one time. They are asked as pages are taken: who takes none causes none."""

    def __init__(self, series: Series, asker: Asker, *, parallel: int, tasks: TaskOwner) -> None:
        self._series = series
        self._asker = asker
        self._parallel = parallel
        self._tasks = tasks

    async def newest(self, limit: int, end_ms: int | None) -> AsyncGenerator[Page]:
        """The newest candles, or the newest that open no later than `end_ms`, newest page first. Must be closed by who
        does not take all of them."""
        series = self._series
        size = page_rows(series.category)
        page = await self._asker.page(CandleQuery(*series, None, end_ms, min(limit, size)))
        yield page
        count = len(page.rows.opens)
        if limit <= size or not count or (count < size and count not in CLAMPED):
            return
        before = Span(series.interval, 0, slot_of(series.interval, page.rows.opens[-1]), size)
        async with aclosing(self.along(Walk(before, newest_first=True), rows=limit - count, sure=True)) as older:
            async for page in older:
                yield page

    async def along(self, walk: Walk, *, rows: int | None = None, sure: bool = False) -> AsyncGenerator[Page]:
        """Pages that hold candles. `rows`: so many are wanted. `sure`: the series is known to exist; if it is not, one
        question comes before the others. Must be closed by who does not take all of them."""
        hollow, under_way = False, 0
        with Ahead[tuple[Block, Page]](self._tasks, "marketdata-page") as ahead:
            while rows is None or rows > 0:
                while not hollow and len(ahead) < (self._parallel if sure else 1):
                    wanted = None if rows is None else rows - under_way
                    block = walk.next(wanted) if wanted is None or wanted > 0 else None
                    if block is None:
                        break
                    under_way += block.slots
                    ahead.begin(self._block(block))
                if ahead:
                    block, page = await ahead.next()
                    sure, under_way = True, under_way - block.slots
                    if page.rows.opens:
                        rows = None if rows is None else rows - len(page.rows.opens)
                        yield page
                    hollow = not page.rows.opens and walk.slots >= _WORTH_SEEKING
                elif hollow and await self._seek(walk) is not None:
                    hollow = False
                else:
                    return

    async def _block(self, block: Block) -> tuple[Block, Page]:
        query = CandleQuery(*self._series, block.low_ms, block.high_ms - 1, block.slots)
        return block, await self._asker.whole(query)

    async def _seek(self, walk: Walk) -> int | None:
        seeking = walk.seek()
        try:
            slot = next(seeking)
            while True:
                slot = seeking.send(await self._newest_before(slot))
        except StopIteration as found:
            there: int | None = found.value
            return there

    async def _newest_before(self, slot: int) -> int | None:
        """The slot of the newest candle that opens no later than this one."""
        interval = self._series.interval
        page = await self._asker.page(CandleQuery(*self._series, None, open_of_slot(interval, slot), 1))
        return slot_of(interval, page.rows.opens[0]) if page.rows.opens else None

"""The blocks of one series in order, many of them asked for at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from policies.block_rows import NO_LINES, Lines
from policies.blocks import Block, Span
from proxy.download.fetching import Fetcher
from proxy.tasks import TaskOwner, noted


class Stretch(NamedTuple):
    """All there is up to (not including) a slot. `blocks`: how many blocks of the range that were."""

    lines: Lines
    end: int
    blocks: int


class InOrder:
    """`ahead`: how many blocks may be asked for, or be here and wait for an earlier one: the bound of its memory."""

    def __init__(self, fetcher: Fetcher, span: Span, ahead: int) -> None:
        self._fetcher = fetcher
        self._span = span
        self._ahead = ahead
        self._one_by_one = False
        self._left: Iterator[Block] = iter(())
        self._under_way: deque[tuple[Block, asyncio.Task[Lines]]] = deque()

    async def stretches(self) -> AsyncGenerator[Stretch]:
        """Oldest first, without a hole between them. Raises SymbolRefused, RunEnded."""
        tasks = TaskOwner()
        self._left = self._span.blocks()
        try:
            self._fill(tasks)
            while self._under_way:
                block, task = self._under_way.popleft()
                lines = await task
                if lines.opens:
                    self._fill(tasks)
                    yield Stretch(lines, block.end, 1)
                    continue
                stretch = await self._after_nothing(block)
                self._fill(tasks)
                yield stretch
        finally:
            await tasks.close()

    def _fill(self, tasks: TaskOwner) -> None:
        while len(self._under_way) < self._ahead and (block := next(self._left, None)) is not None:
            task = tasks.spawn(self._fetcher.block(block), f"block {block.first}", reported=False)
            task.add_done_callback(noted)
            self._under_way.append((block, task))

    async def _after_nothing(self, block: Block) -> Stretch:
        """What an empty block means: nothing but itself, or nothing for a long time."""
        on = None if self._one_by_one else await self._fetcher.onward(block)
        if on is None:
            self._one_by_one = True
            return Stretch(await self._fetcher.sure(block, NO_LINES), block.end, 1)
        skipped = self._span._replace(first=block.first, end=on)
        if on > block.end:
            while self._under_way and self._under_way[0][0].first < on:
                self._under_way.popleft()[1].cancel()
            if not self._under_way:
                self._left = self._span.after(on).blocks()
        return Stretch(NO_LINES, on, skipped.block_count)

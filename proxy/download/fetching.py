"""The blocks of one series, each asked for until there is no doubt about it.

A block with fewer rows than slots may be a gap at the exchange or an answer that was not whole: it is asked once more,
and only what two answers agree about is taken. An empty block asks where the series goes on, if it does: a symbol that
was listed late, or is gone, costs a few questions and not one for each block of nothing.
"""

from __future__ import annotations

from typing import Final

from policies.block_rows import Lines, Unfit, first_open, read_block
from policies.blocks import Block, Span
from policies.segments import Series, open_of_slot, slot_of
from proxy.download.asking import Asker, SymbolRefused

_TRIES: Final = 4


class Fetcher:
    def __init__(self, series: Series, span: Span, asker: Asker) -> None:
        self._series = series
        self._span = span
        self._asker = asker

    async def block(self, block: Block) -> Lines:
        """The candles of a block. None of them: believed as it stands, see onward(). Raises SymbolRefused, RunEnded."""
        lines = await self._read(block, anew=False)
        return lines if not lines.opens or len(lines.opens) == block.slots else await self.sure(block, lines)

    async def sure(self, block: Block, lines: Lines) -> Lines:
        """What the exchange says twice in a row. `lines`: what it has said before."""
        for _ in range(_TRIES):
            again = await self._read(block, anew=True)
            if again == lines:
                return lines
            lines = again
        raise SymbolRefused(f"the exchange says something else each time about {self._about(block)}")

    async def onward(self, block: Block) -> int | None:
        """After an empty block: the slot where the series goes on, the range's end where it does not; None where the
        answers do not fit together, and every block has to be asked for."""
        span = self._span
        target = f"{self._target()}&start={block.low_ms}&limit=1"
        try:
            open_ms = first_open(self._series, await self._asker.ask(target, anew=True))
        except Unfit:
            return None
        slot = span.end if open_ms is None else min(slot_of(span.interval, open_ms), span.end)
        if slot < block.end:
            return None  # the block is not empty after all
        on = max(block.end, slot // span.size * span.size) if slot < span.end else span.end
        if on == block.end:
            return on
        # It was another kind of question: that it was understood shows in the last block that would be left out.
        last = await self._read(span.block_of(on - 1), anew=True)
        return None if last.opens else on

    async def _read(self, block: Block, *, anew: bool) -> Lines:
        first_ms, last_ms = block.low_ms, block.high_ms - 1
        target = f"{self._target()}&start={first_ms}&end={last_ms}&limit={self._span.size}"
        unfit: Unfit | None = None
        for _ in range(_TRIES):
            try:
                anew = anew or unfit is not None
                return read_block(self._series, block, await self._asker.ask(target, anew=anew))
            except Unfit as error:
                unfit = error
        raise SymbolRefused(f"no good answer about {self._about(block)}: {unfit}")

    def _target(self) -> str:
        endpoint, category, symbol, interval = self._series
        return f"/v5/market/{endpoint}?category={category}&symbol={symbol}&interval={interval}"

    def _about(self, block: Block) -> str:
        return f"{self._series.symbol} from {block.low_ms} to {open_of_slot(block.interval, block.end - 1)}"

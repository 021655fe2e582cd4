"""One file from beginning to end: what is there, what is fetched, what is checked, what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final, NamedTuple

from policies.blocks import Span, span_of
from policies.collected import Collected
from policies.segments import open_of_slot
from policies.selection import final_before
from proxy.clock import Clock
from proxy.download import text
from proxy.download.asking import Asker, RunEnded, SymbolRefused
from proxy.download.fetching import Fetcher
from proxy.download.journal import Conflict
from proxy.download.ordered import InOrder, Stretch
from proxy.download.progress import Progress
from proxy.download.request import instant_text
from proxy.download.target import Target
from proxy.tasks import TaskOwner, noted

_SAVE_US: Final = 1_000_000
_SAVE_BYTES: Final = 8 << 20
_MOST_BYTES: Final = 4 * _SAVE_BYTES
"""More than that is not held in memory: a disk that cannot keep up is waited for."""


class Report(NamedTuple):
    """How it ended. `ends_run`: nothing else would go better."""

    complete: bool
    words: str
    ends_run: bool = False


class Means(NamedTuple):
    """What the files of a run share. `now_ms`: the exchange's time; may raise RunEnded."""

    asker: Asker
    now_ms: Callable[[], Awaitable[int]]
    progress: Progress
    clock: Clock
    settle_ms: int
    ahead: int


class Download:
    """`force`, `extend`: what may be done with files that are there."""

    def __init__(self, target: Target, means: Means, *, force: bool, extend: bool) -> None:
        self._target = target
        self._force = force
        self._extend = extend
        self._request = target.request
        self._means = means
        self._written = text.writer(self._request)
        self._saved_us = means.clock()
        self._saving: asyncio.Task[None] | None = None

    async def run(self) -> Report:
        """To the end, or as far as it goes: what is good is kept in any case."""
        target = self._target
        tasks = TaskOwner()
        try:
            await asyncio.to_thread(target.begin, force=self._force, extend=self._extend)
            await self._fetch(tasks)
            await asyncio.to_thread(target.finish)
        except (SymbolRefused, RunEnded) as error:
            await self._keep()
            kept = target.collected.rows
            note = f" ({kept:,} candles are kept)" if kept else ""
            return Report(
                complete=False, words=f"{self._request.symbol}: {error}{note}", ends_run=isinstance(error, RunEnded)
            )
        except (Conflict, OSError) as error:
            return Report(complete=False, words=f"{self._request.symbol}: {failure(error)}")
        finally:
            # A thread that is writing cannot be stopped: save() waits for it.
            await tasks.close()
            with suppress(OSError):
                target.save()
            target.close()
        return Report(complete=True, words=summary(target))

    async def _fetch(self, tasks: TaskOwner) -> None:
        span = await self._left()
        if not span.block_count:
            return
        means = self._means
        means.progress.blocks += span.block_count
        in_order = InOrder(Fetcher(self._request.series, span, means.asker), span, means.ahead)
        async with aclosing(in_order.stretches()) as stretches:
            async for stretch in stretches:
                self._take(stretch)
                await self._save(tasks)
        if self._saving is not None:
            await self._saving

    async def _left(self) -> Span:
        """What is still to be fetched, as the exchange's clock stands."""
        request, covered_ms = self._request, self._target.covered_ms
        if request.to_ms is not None and request.to_ms <= covered_ms:
            return span_of(request.category, request.interval, covered_ms, covered_ms)
        until_ms = final_before(request.interval, await self._means.now_ms(), self._means.settle_ms)
        if request.to_ms is not None:
            until_ms = min(until_ms, request.to_ms)
        if until_ms <= request.from_ms:
            raise SymbolRefused("nothing of this range has closed yet")
        return span_of(request.category, request.interval, covered_ms, max(covered_ms, until_ms))

    def _take(self, stretch: Stretch) -> None:
        interval, lines, progress = self._request.interval, stretch.lines, self._means.progress
        collected = self._target.collected.further(interval, lines.opens)
        self._target.add(self._written(lines.text), open_of_slot(interval, stretch.end), collected)
        progress.done += stretch.blocks
        progress.fetched += bool(lines.opens)
        progress.rows += len(lines.opens)

    async def _save(self, tasks: TaskOwner) -> None:
        """Now and then, beside the in_order."""
        target, now_us = self._target, self._means.clock()
        if now_us - self._saved_us < _SAVE_US and target.held_bytes < _SAVE_BYTES:
            return
        if self._saving is not None:
            if not self._saving.done() and target.held_bytes < _MOST_BYTES:
                return
            await self._saving
        self._saved_us = now_us
        self._saving = tasks.spawn(asyncio.to_thread(target.save), "save", reported=False)
        self._saving.add_done_callback(noted)

    async def _keep(self) -> None:
        with suppress(OSError):
            await asyncio.to_thread(self._target.save)


def summary(target: Target) -> str:
    """What the finished file holds, and what the exchange does not have of it."""
    request, collected = target.request, target.collected
    size = target.size_bytes / (1 << 20)
    where = f"{target.paths.out} ({size:.1f} MiB)"
    if collected.first_ms is None or collected.last_ms is None:
        return f"{request.symbol}: the exchange has no candles of this range; {where}"
    first, last = instant_text(collected.first_ms), instant_text(collected.last_ms)
    held = f"{collected.rows:,} candles from {first} to {last}, {_gaps(collected)}"
    return f"{request.symbol}: {held}; {where}{_edges(target)}"


def _gaps(collected: Collected) -> str:
    if not collected.gaps:
        return "none missing"
    after = instant_text(collected.longest_after_ms or 0)
    gaps = f"{collected.gaps:,} gap{'s' if collected.gaps > 1 else ''} at the exchange"
    return f"{gaps} ({collected.missing:,} candles; the longest of {collected.longest:,} after {after})"


def _edges(target: Target) -> str:
    """Where the exchange has nothing at the beginning or the end of what was asked for."""
    request, collected = target.request, target.collected
    covered = span_of(request.category, request.interval, request.from_ms, target.covered_ms)
    words = ""
    if collected.first_ms is not None and collected.first_ms > open_of_slot(request.interval, covered.first):
        words += "; the exchange has nothing earlier"
    if collected.last_ms is not None and collected.last_ms < open_of_slot(request.interval, covered.end - 1):
        words += "; the exchange has nothing later"
    return words


def failure(error: Conflict | OSError) -> str:
    """What went wrong on the disk, in words."""
    if isinstance(error, Conflict):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}cannot be written: {error.strerror or error}; the same command goes on once that is mended"

"""A whole run: every file that was ordered, several at a time, through one gateway; and its exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import uvloop

from policies import bybit
from policies.routing import RouteTable
from proxy import log
from proxy.clock import Clock, system_clock
from proxy.config import Config
from proxy.download.alone import own_gateway
from proxy.download.asking import Asker, RunEnded, SymbolRefused
from proxy.download.command import Order
from proxy.download.journal import Conflict
from proxy.download.progress import Progress
from proxy.download.symbol import Download, Means, Report, failure, summary
from proxy.download.target import Target
from proxy.tasks import TaskOwner

COMPLETE: Final = 0
INCOMPLETE: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130
_AT_A_TIME: Final = 16
"""Files. Each holds some blocks in memory."""


def download(order: Order, config: Config, routes: RouteTable) -> int:
    """Carry out the order; the answer is the exit code."""
    sink = log.Sink(sys.stderr.fileno())
    log.set_up("error" if order.quiet else "warning", "console", sink)
    try:
        return uvloop.run(_Run(order, config, routes).to_the_end())
    finally:
        sink.close()


class _Run:
    def __init__(self, order: Order, config: Config, routes: RouteTable) -> None:
        self._order = order
        self._config = config
        self._routes = routes
        self._clock = system_clock()
        self._progress = Progress(sys.stderr, sys.stdout, self._clock, quiet=order.quiet)
        self._reports: list[Report] = []
        self._over = False
        """Something has happened after which nothing else would go better."""

    async def to_the_end(self) -> int:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await self._all_files()
        except asyncio.CancelledError:
            self._progress.say("interrupted: the same command goes on", always=True)
            return INTERRUPTED
        finally:
            self._progress.close()

    async def _all_files(self) -> int:
        try:
            targets = [target for target in self._targets() if not self._stands(target)]
        except (Conflict, OSError) as error:
            self._progress.say(failure(error), always=True)
            return UNUSABLE
        if not targets:
            return COMPLETE
        try:
            await self._fetch(targets)
        except RunEnded as error:
            self._progress.say(str(error), always=True)
            return INCOMPLETE
        return COMPLETE if all(report.complete for report in self._reports) else INCOMPLETE

    def _targets(self) -> list[Target]:
        upstream = None if self._order.gateway is not None else self._config.upstream.url
        return [Target(paths, request, upstream) for request, paths in self._order.files]

    def _stands(self, target: Target) -> bool:
        """Whether there is nothing to do for it."""
        if self._order.force or not target.stands(extend=self._order.extend):
            return False
        self._progress.tell(f"complete already: {summary(target)}")
        return True

    async def _fetch(self, targets: list[Target]) -> None:
        order = self._order
        tasks = TaskOwner()
        connector = aiohttp.TCPConnector(limit=order.parallel)
        async with self._gateway() as base, aiohttp.ClientSession(connector=connector) as session:
            asker = Asker(
                session,
                base,
                headers={"User-Agent": "bybit-gateway-download", **order.headers},
                parallel=order.parallel,
                patience_us=order.patience_us,
                told=self._progress.waits,
                clock=self._clock,
            )
            at_a_time = min(len(targets), _AT_A_TIME)
            means = Means(
                asker=asker,
                now_ms=_ExchangeTime(asker, self._clock).now_ms,
                progress=self._progress,
                clock=self._clock,
                settle_ms=self._config.cache.settle // 1000,
                ahead=max(2, 2 * order.parallel // at_a_time),
            )
            self._progress.begin()
            shows = tasks.spawn(self._progress.run(), "progress")
            places = asyncio.Semaphore(at_a_time)
            try:
                async with asyncio.TaskGroup() as group:
                    for target in targets:
                        group.create_task(self._one(target, means, places))
            finally:
                shows.cancel()
                await tasks.close()
            self._tell(asker.asked)

    @asynccontextmanager
    async def _gateway(self) -> AsyncIterator[str]:
        if self._order.gateway is not None:
            yield self._order.gateway
            return
        async with own_gateway(self._config, self._routes) as base:
            yield base

    async def _one(self, target: Target, means: Means, places: asyncio.Semaphore) -> None:
        async with places:
            if self._over:
                report = Report(complete=False, words=f"{target.request.symbol}: not tried")
            else:
                order = self._order
                report = await Download(target, means, force=order.force, extend=order.extend).run()
        self._over = self._over or report.ends_run
        self._reports.append(report)
        if report.complete:
            self._progress.tell(report.words)
        else:
            self._progress.say(report.words, always=True)

    def _tell(self, asked: int) -> None:
        seconds = self._progress.elapsed_us / 1e6
        lacking = sum(not report.complete for report in self._reports)
        end = f"; {lacking} of {len(self._reports)} files not complete" if lacking else ""
        self._progress.tell(
            f"{self._progress.rows:,} candles in {seconds:.1f} s, {asked:,} questions "
            f"({asked / max(seconds, 0.001):.1f}/s){end}"
        )


class _ExchangeTime:
    """The exchange's clock, asked for once: what has closed must not depend on the machine's, which may be wrong."""

    def __init__(self, asker: Asker, clock: Clock) -> None:
        self._asker = asker
        self._clock = clock
        self._ahead_ms: int | None = None
        self._asking = asyncio.Lock()

    async def now_ms(self) -> int:
        async with self._asking:
            if self._ahead_ms is None:
                try:
                    told_ms = bybit.server_ms(await self._asker.ask(bybit.TIME_PATH))
                except SymbolRefused as error:
                    raise RunEnded(str(error)) from None
                if told_ms is None:
                    raise RunEnded("the exchange does not tell its time")
                self._ahead_ms = told_ms - self._clock() // 1000
        return self._clock() // 1000 + self._ahead_ms

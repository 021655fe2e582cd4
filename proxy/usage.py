"""Counts what every client has asked for, for bills: a few additions for each request, everything else behind it.

    note()     adds to the running hour: once for every request, never I/O
    flush()    now and then: what was noted goes into the store in numbered batches, each until it is known to be there
    report()   the store's figures, and this process' own that are not there yet

While the store is lost what is noted waits here, added up and bounded: names may be lost for want of room, sums never.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from typing import Any, Final

import structlog

from policies.usage import COUNTS, HOUR_US, OTHERS, Batch, Ledger, named
from policies.usage_report import Question, Report, Wholeness, wholeness
from proxy.clock import Clock, Sleep
from proxy.config import Config
from proxy.identity import account_names, pepper_of
from proxy.metrics import Metrics
from proxy.store.client import StoreLost, connect_s, connected
from proxy.store.commands import Commands
from proxy.story import Story
from proxy.tasks import TaskOwner
from proxy.usage_files import FileUsage, directory_of
from proxy.usage_store import Keeping, MemoryUsage, RedisUsage, UsageStore

_LAST_WORDS_S: Final = 5.0
_AT_ONCE: Final = 500
_PATIENCE_US: Final = 2_000_000
"""Nobody waits for a flush."""
_NOT_OURS: Final = frozenset({"client-gone", "only-if-cached"})
"""Outcomes that are no errors of the gateway's."""


class Usage:
    """`accounts`: the names of accounts by the hashes that stand for them."""

    def __init__(
        self, store: UsageStore, *, accounts: Mapping[str, str], flush_us: int, metrics: Metrics, clock: Clock
    ) -> None:
        self.store = store
        self.flush_us = flush_us
        self._accounts = dict(accounts)
        self._metrics = metrics
        self._clock = clock
        self._source = secrets.token_hex(6)
        self._rows: dict[tuple[str | None, str | None], list[int]] = {}
        self._ends_us = 0
        """When the hour of these rows is over."""
        self._over: list[tuple[int, dict[tuple[str | None, str | None], list[int]]]] = []
        self._waiting = Ledger(store.keeping.most_clients)
        self._pending: dict[int, Batch] = {}
        """By hour, what may be in the store already: it is sent again as it is until that is known."""
        self._numbers: dict[int, int] = {}
        self._flushing = asyncio.Lock()
        self._failing = False
        self._log: Any = structlog.get_logger()
        for result in ("stored", "repeated", "failed"):
            metrics.usage_flushes.labels(result)

    def note(self, story: Story) -> None:
        """One request has ended. On the hot path."""
        ended_us = story.began_us + story.took_us
        if ended_us >= self._ends_us:
            self._turn(ended_us)
        descriptor = story.descriptor
        who = (None, None) if descriptor is None else (descriptor.client, descriptor.tier)
        row = self._rows.get(who)
        if row is None:
            row = self._new(who)
        row[0] += 1
        row[6] += story.body_bytes
        if story.source == "cache":
            row[2] += 1
        else:
            row[5] += story.asked_bytes
            if story.rule:
                row[3] += 1
            elif story.source == "gateway" and story.outcome not in _NOT_OURS:
                row[4] += 1
        if story.attempts:
            row[1] += story.attempts

    @classmethod
    def of(cls, config: Config, metrics: Metrics, clock: Clock, sleep: Sleep) -> Usage | None:
        """As configured; None where nothing is counted. Nothing is connected before start()."""
        if not config.usage.enabled:
            return None
        store = _store_of(config, clock, sleep)
        return cls(store, accounts=_accounts(config), flush_us=config.usage.flush, metrics=metrics, clock=clock)

    def start(self, loops: TaskOwner, sleep: Sleep) -> None:
        self.store.start()
        loops.spawn(self._run(sleep), "usage")

    def adopt(self, config: Config) -> None:
        """After a reload. Names that accounts had are remembered for what was asked before."""
        self._accounts.update(_accounts(config))
        self.flush_us, self.store.keeping = config.usage.flush, _keeping(config)
        self._waiting.most_clients = self.store.keeping.most_clients

    def show(self) -> None:
        """The gauge."""
        self._metrics.usage_waiting.set(self.waiting_rows)

    @property
    def waiting_rows(self) -> int:
        """Not known to be in the store."""
        noted = len(self._rows) + sum(len(rows) for _, rows in self._over)
        return noted + len(self._waiting) + sum(len(batch.rows) for batch in self._pending.values())

    async def close(self) -> None:
        """The last figures are put into the store, if it can be had."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.flush()
        except TimeoutError:
            pass
        if left := self.waiting_rows:
            self._log.warning("usage_lost", rows=left)
        await self.store.close()

    async def flush(self) -> None:
        async with self._flushing:
            await self._settle()
            for hour in sorted({*self._pending, *self._waiting.hours()}):
                if not await self._send(hour):
                    break

    async def report(self, question: Question) -> tuple[Report, Wholeness]:
        """Raises TooManyRows. Flushes go on meanwhile: only an hour of which something waits here is read between two
        of them."""
        report, wanted = Report(question), question.hours
        async with self._flushing:
            await self._settle()
            own = {*self._pending, *self._waiting.hours()}
        read: set[int] = set()
        damaged: set[int] = set()
        known: list[int] = []
        reason = None
        try:
            known = await self.store.hours()
            for hour in sorted(own.union(known).intersection(wanted)):
                if hour in own:
                    async with self._flushing:  # what is being put there must be counted here or there
                        found = await self.store.read(hour, self._source)
                        self._add_own(report, hour, 0 if found is None else found.number)
                else:
                    found = await self.store.read(hour, self._source)
                read.add(hour)
                if found is not None:
                    await asyncio.to_thread(report.add, hour, found.rows)
                if hour in known if found is None else found.holed:
                    damaged.add(hour)
        except StoreLost as lost:
            reason = lost.reason
            damaged.update(each for each in wanted if each not in read)
        for hour in own.intersection(wanted) - read:
            self._add_own(report, hour, 0)
        known = sorted(own.union(known))
        return report, wholeness(wanted, known, damaged, self._settled_hour(), reason)

    async def _run(self, sleep: Sleep) -> None:
        while True:
            await sleep(self.flush_us / 1e6)
            await self.flush()

    def _turn(self, now_us: int) -> None:
        """Another hour has begun."""
        if self._rows:
            self._over.append((self._ends_us // HOUR_US - 1, self._rows))
            self._rows = {}
        self._ends_us = (now_us // HOUR_US + 1) * HOUR_US

    def _new(self, who: tuple[str | None, str | None]) -> list[int]:
        """A flood of addresses takes no more room than there are names in an hour; the ledger says who is named."""
        if len(self._rows) >= self.store.keeping.most_clients:
            who = (OTHERS, who[1])
        return self._rows.setdefault(who, [0] * len(COUNTS))

    async def _settle(self) -> None:
        """What was noted waits for the store, under the names of bills."""
        if self._rows:
            self._over.append((self._ends_us // HOUR_US - 1, self._rows))
            self._rows = {}
        while self._over:
            hour, rows = self._over[0]
            while rows:
                for _ in range(min(len(rows), _AT_ONCE)):
                    (client, tier), sums = rows.popitem()
                    self._waiting.add(hour, named(client, tier, self._accounts), sums)
                await asyncio.sleep(0)  # requests come first
            self._over.pop(0)

    def _batch(self, hour: int) -> Batch | None:
        """What is to be sent of an hour next."""
        if hour not in self._pending and (rows := self._waiting.take(hour, self.store.most_rows)):
            number = self._numbers[hour] = self._numbers.get(hour, 0) + 1
            self._pending[hour] = Batch(
                hour, self._source, number, tuple((who, tuple(sums)) for who, sums in rows.items())
            )
        return self._pending.get(hour)

    async def _send(self, hour: int) -> bool:
        """Whether it is worth trying another hour."""
        while (batch := self._batch(hour)) is not None:
            try:
                added = await self.store.add(batch)
            except StoreLost as lost:
                self._metrics.usage_flushes.labels("failed").inc()
                if not self._failing:
                    self._log.warning("usage_not_stored", reason=lost.reason, hour=hour, rows=self.waiting_rows)
                self._failing = True
                return lost.of_its_own
            self._metrics.usage_flushes.labels("stored" if added else "repeated").inc()
            self._failing = False
            del self._pending[hour]
        return True

    def _add_own(self, report: Report, hour: int, number: int) -> None:
        """What is not in the store, whose last batch of ours is this one."""
        batch = self._pending.get(hour)
        if batch is not None and batch.number > number:
            report.add(hour, dict(batch.rows))
        report.add(hour, self._waiting.rows(hour))

    def _settled_hour(self) -> int:
        """The first one that may still grow: others bring their figures a little later."""
        late_us = 2 * self.flush_us if self.store.shared else 0
        return (self._clock() - late_us) // HOUR_US


def _store_of(config: Config, clock: Clock, sleep: Sleep) -> UsageStore:
    keeping, store = _keeping(config), config.store
    if store.shared:
        patient = store.model_copy(update={"timeout": _PATIENCE_US})
        commands = Commands(
            connected(patient),
            clock,
            timeout_us=_PATIENCE_US,
            connect_s=connect_s(store),
            sleep=sleep,
            name="usage-store",
            connections=1,
        )
        return RedisUsage(commands, config.egress.id, keeping, clock)
    # A port of the system's choice is for trials: they leave nothing behind, and begin with nothing.
    if store.state_file is not None and config.listen.port:
        directory = directory_of(store.state_file, (config.egress.id, config.upstream.url), os.environ)
        if directory is not None:
            return FileUsage(directory, keeping, clock)
        structlog.get_logger().info("usage_nowhere", remedy="none needed, but usage figures end with this process")
    return MemoryUsage(keeping, clock)


def _keeping(config: Config) -> Keeping:
    return Keeping(config.usage.retention, config.usage.clients)


def _accounts(config: Config) -> dict[str, str]:
    return account_names(config.identity, pepper_of(config.store, config.egress.id))

"""The counting for bills as a gateway has it, without the gateway, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.descriptor import Descriptor
from policies.usage import COUNTS, HOUR_US, Who
from policies.usage_report import By, Question, Report, Wholeness
from proxy.config_store import StoreSection
from proxy.metrics import Metrics
from proxy.store.client import connect_s, connected
from proxy.store.commands import Commands
from proxy.story import Story
from proxy.usage import Usage
from proxy.usage_files import FileUsage
from proxy.usage_store import Keeping, MemoryUsage, RedisUsage, UsageStore
from tests.level import PATIENT_US, Pauses, Standing

DAY_US = 24 * HOUR_US
KEEPING = Keeping(90 * DAY_US, 10_000)


@dataclass
class Counting:
    """`one()` is a request that has ended now."""

    usage: Usage
    store: Any
    metrics: Metrics
    clock: Standing
    pauses: Pauses = field(default_factory=Pauses)

    @property
    def hour(self) -> int:
        return self.clock.now_us // HOUR_US

    def one(self, client: str | None = "token:a", tier: str | None = "FREE", **story: Any) -> None:
        told = Story("id", "GET", self.clock.now_us - 1_000)
        told.took_us = 1_000
        given = {"source": "exchange", "status": 200, "attempts": 1, "body_bytes": 10, **story}
        for name, value in given.items():
            setattr(told, name, value)
        if client is not None:
            path = "/v5/market/time"
            told.descriptor = Descriptor("GET", path, "", "time", "default", "10.0.0.1", client=client, tier=tier)
        self.usage.note(told)

    async def told(
        self, back: int = 24, ahead: int = 1, by: By = By.TOTAL
    ) -> tuple[dict[Who, dict[str, int]], Wholeness]:
        """What is known of the hours from `back` before this one on, added up."""
        begin_us = (self.hour - back) * HOUR_US
        report, wholeness = await self.usage.report(Question(begin_us, (self.hour + ahead) * HOUR_US, by, csv=False))
        return summed(report), wholeness

    async def requests(self, back: int = 24) -> dict[str, int]:
        """Of each client."""
        found, _ = await self.told(back)
        return {client: counts["requests"] for (client, _), counts in found.items()}

    def flushes(self) -> dict[str, int]:
        value = self.metrics.registry.get_sample_value
        results = ("stored", "repeated", "failed")
        found = {each: int(value("gateway_usage_flushes_total", {"result": each}) or 0) for each in results}
        return {each: count for each, count in found.items() if count}


def summed(report: Report) -> dict[Who, dict[str, int]]:
    found: dict[Who, list[int]] = {}
    for rows in report.periods():
        for _, client, tier, sums in rows:
            known = found.setdefault((client, tier), [0] * len(COUNTS))
            found[client, tier] = [a + b for a, b in zip(known, sums, strict=True)]
    return {who: dict(zip(COUNTS, sums, strict=True)) for who, sums in found.items()}


def half_past() -> Standing:
    clock = Standing()
    clock.now_us += HOUR_US // 2 - clock.now_us % HOUR_US
    return clock


@asynccontextmanager
async def counting(
    where: str | Path | None,
    clock: Standing | None = None,
    keeping: Keeping = KEEPING,
    *,
    patience_us: int = PATIENT_US,
    accounts: dict[str, str] | None = None,
) -> AsyncIterator[Counting]:
    """`where`: the URL of a Redis, a directory, or None for this process."""
    clock, metrics, pauses = clock or half_past(), Metrics(), Pauses()
    store: UsageStore
    if isinstance(where, str):
        section = StoreSection(url=where, timeout="1s")
        commands = Commands(
            connected(section),
            clock,
            timeout_us=patience_us,
            connect_s=connect_s(section),
            sleep=pauses,
            name="usage-store",
            connections=1,
        )
        store = RedisUsage(commands, "default", keeping, clock)
    elif where is not None:
        store = FileUsage(where, keeping, clock)
    else:
        store = MemoryUsage(keeping, clock)
    usage = Usage(store, accounts=accounts or {}, flush_us=10_000_000, metrics=metrics, clock=clock)
    store.start()
    try:
        yield Counting(usage, store, metrics, clock, pauses)
    finally:
        await usage.close()
        await asyncio.sleep(0)

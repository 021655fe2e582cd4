"""Where the figures for bills are kept: in the Redis of all gateways, or in the memory of this process.

In Redis an hour is a hash, `bybit:usage:{EGRESS}:YYYYMMDDHH`, to which every gateway adds;
`bybit:usage:{EGRESS}:hours` tells of which hours there are figures. Clients stand there by the names that they have in
a bill: API keys as keyed hashes and in no other form. proxy/usage_files.py keeps hours as files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from policies.usage import COUNTS, HOUR_US, MOST, MOST_ROWS, OTHERS, Batch, Ledger, Who, hour_name
from proxy.clock import Clock
from proxy.store.commands import Commands
from proxy.store.link import Script
from proxy.tasks import TaskOwner

_ADD: Final = Script("usage_add").text
_SCAN: Final = "return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])"
"""Bit by bit: the limits of all gateways may be in this Redis, and wait meanwhile. As a script it is answered in the
same form by a cluster."""
_HOURS: Final = "return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf')"
_AT_ONCE: Final = 250
_LONG: Final = 5_000
_LONGEST: Final = 20
_HOUR_DIGITS: Final = 7
_MOST_FIELDS: Final = 2_000_000
_PLACES: Final = {name: place for place, name in enumerate(COUNTS)}


class Keeping(NamedTuple):
    """How much is kept for how long."""

    retention_us: int
    most_clients: int


class Found(NamedTuple):
    """An hour as it is kept. `number`: of the last batch of the source that asks, 0 for none."""

    rows: dict[Who, list[int]]
    number: int
    holed: bool
    """Something that was added is not in it."""


class UsageStore(Protocol):
    """Everything raises StoreLost."""

    keeping: Keeping
    shared: bool
    """Others may add to it."""
    most_rows: int
    """Of a batch."""

    def start(self) -> None:
        """Once there is an event loop."""
        ...

    async def close(self) -> None: ...

    async def add(self, batch: Batch) -> bool:
        """Once and for all; False: this batch had been added before."""
        ...

    async def hours(self) -> list[int]:
        """That there should be figures of, as long as they are kept."""
        ...

    async def read(self, hour: int, source: str) -> Found | None:
        """None: there is nothing of it."""
        ...


class MemoryUsage:
    """In this process, and lost with it."""

    shared = False
    most_rows = MOST_ROWS

    def __init__(self, keeping: Keeping, clock: Clock) -> None:
        self.keeping = keeping
        self._clock = clock
        self._ledger = Ledger(keeping.most_clients)
        self._number = 0

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def add(self, batch: Batch) -> bool:
        self._ledger.most_clients = self.keeping.most_clients
        self._ledger.forget_before(oldest(self._clock(), self.keeping))
        for who, sums in batch.rows:
            self._ledger.add(batch.hour, who, sums)
        self._number = batch.number
        return True

    async def hours(self) -> list[int]:
        return [hour for hour in self._ledger.hours() if hour >= oldest(self._clock(), self.keeping)]

    async def read(self, hour: int, source: str) -> Found | None:  # noqa: ARG002  # there is only one
        rows = self._ledger.rows(hour)
        return Found({who: list(sums) for who, sums in rows.items()}, self._number, holed=False) if rows else None


class RedisUsage:
    shared = True
    most_rows = 100
    """Redis does nothing else while it adds a batch: this many take it about a millisecond."""

    def __init__(self, commands: Commands, egress: str, keeping: Keeping, clock: Clock) -> None:
        self.keeping = keeping
        self._commands = commands
        self._prefix = f"bybit:usage:{{{egress}}}:"
        self._clock = clock
        self._tasks = TaskOwner()

    def start(self) -> None:
        self._commands.start(self._tasks)

    async def close(self) -> None:
        await self._tasks.close()
        await self._commands.close()

    async def add(self, batch: Batch) -> bool:
        now_us = self._clock()
        left_us = (batch.hour + 1) * HOUR_US - now_us
        answer = await self._commands.script(
            _ADD,
            self._prefix + hour_name(batch.hour),
            batch.source,
            batch.number,
            (self.keeping.retention_us + max(0, left_us)) // 1000,
            self.keeping.most_clients,
            batch.hour,
            oldest(now_us, self.keeping),
            " ".join(COUNTS),
            OTHERS,
            *_told(batch),
            also=(self._prefix + "hours",),
        )
        return bool(int(answer))

    async def hours(self) -> list[int]:
        found = await self._commands.script(_HOURS, self._prefix + "hours", oldest(self._clock(), self.keeping))
        return [int(each) for each in found if each.isdigit() and len(each) <= _HOUR_DIGITS]

    async def read(self, hour: int, source: str) -> Found | None:
        fields: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, pairs = await self._commands.script(_SCAN, self._prefix + hour_name(hour), cursor, _AT_ONCE)
            fields.update(zip(pairs[::2], pairs[1::2], strict=True))
            if cursor in {b"0", 0} or len(fields) > _MOST_FIELDS:
                break
        if not fields:
            return None
        number = fields.get(b"#" + source.encode(), b"0")
        rows, holed = _rows(fields) if len(fields) < _LONG else await asyncio.to_thread(_rows, fields)
        return Found(rows, int(number[:_LONGEST]) if number.isdigit() else 0, holed or b"#holes" in fields)


def oldest(now_us: int, keeping: Keeping) -> int:
    """The first hour that is kept."""
    return (now_us - keeping.retention_us) // HOUR_US


def _told(batch: Batch) -> Iterable[str | int]:
    for (client, tier), sums in batch.rows:
        yield tier
        yield client
        yield from sums


def _rows(fields: dict[bytes, bytes]) -> tuple[dict[Who, list[int]], bool]:
    """The rows of an hour, and whether something in it cannot be read."""
    rows: dict[Who, list[int]] = {}
    odd = False
    for field, value in fields.items():
        if field.startswith(b"#"):
            continue
        name, _, whose = field.decode("utf-8", "replace").partition(":")
        tier, _, client = whose.partition(":")
        if name in _PLACES and client and value.isdigit() and int(value[:_LONGEST]) <= MOST:
            rows.setdefault((client, tier), [0] * len(COUNTS))[_PLACES[name]] = int(value)
        else:
            odd = True
    return rows, odd

"""The cache's level in Redis as a gateway has it, without the gateway; its pauses end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from policies.frame import Kind
from proxy.clock import Clock
from proxy.config_store import StoreSection
from proxy.l2 import L2, mac_key_of
from proxy.lease import Leases, LeaseTimes
from proxy.metrics import Metrics
from proxy.store.client import connect_s, connected
from proxy.store.commands import Commands
from proxy.tasks import TaskOwner
from tests.virtual import EPOCH_US

SECRET: Final = "planted-seal-secret"
PATIENT_US: Final = 5_000_000
"""For tests in which nothing is lost, on a busy machine."""
BRIEF_US: Final = 50_000
KEY: Final = "bybit:klines:linear:BTCUSDT:1:kline:-:-:200"
BODY: Final = b'{"retCode":0,"result":{"list":[' + b",".join(b'["%d","1.5"]' % n for n in range(900)) + b"]}}"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MAX_VALUE: Final = 1 << 20


class Standing:
    """A clock that only moves when somebody sleeps by it, or moves it."""

    def __init__(self) -> None:
        self.now_us = EPOCH_US

    def __call__(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)
        await asyncio.sleep(0)


@dataclass
class Pauses:
    """Sleeps that last until end() is called, and how long each would have been."""

    begun: list[float] = field(default_factory=list)
    _ends: list[asyncio.Event] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.begun.append(seconds)
        end = asyncio.Event()
        self._ends.append(end)
        await end.wait()

    def end(self) -> None:
        self._ends[-1].set()

    async def ended(self, number: int) -> None:
        """End the one that is the `number`th, once it has begun."""
        await until(lambda: len(self.begun) >= number, f"pause {number}")
        self._ends[number - 1].set()


@dataclass
class Level:
    commands: Commands
    l2: L2
    leases: Leases
    metrics: Metrics
    tasks: TaskOwner
    clock: Clock
    pauses: Pauses
    renewals: Pauses

    def counted(self, operation: str) -> dict[str, int]:
        counts = self.metrics.l2_operations.counts
        return {result: count for (name, result), count in counts.items() if name == operation}

    async def store(self, key: str = KEY, body: bytes = BODY, **changes: Any) -> bool:
        now_us = self.clock()
        given: dict[str, Any] = {
            "kind": Kind.ENTRY,
            "status": 200,
            "head": HEAD,
            "encoding": "",
            "stored_us": now_us,
            "expires_us": now_us + 60_000_000,
        }
        return await self.l2.put_through(key, body=body, **(given | changes))

    async def found(self, key: str = KEY, kind: Kind = Kind.ENTRY) -> bytes | None:
        frame = await self.l2.get(key, kind)
        return None if frame is None else frame.body

    def raw(self) -> Any:
        """The client, for what a stranger could do to the same Redis."""
        return self.commands._client

    async def kill(self) -> None:
        """As a process is killed: nothing is released, nothing renewed."""
        await self.tasks.close()


@asynccontextmanager
async def level(
    url: str,
    *,
    timeout_us: int = PATIENT_US,
    secret: str = SECRET,
    clock: Clock | None = None,
    times: LeaseTimes = LeaseTimes(),  # noqa: B008  # frozen
    lease_sleep: Any = None,
    max_value_bytes: int = MAX_VALUE,
    ca_file: str | None = None,
    connecting_s: float | None = None,
    started: bool = True,
    **bounds: int,
) -> AsyncIterator[Level]:
    """`lease_sleep`: instead of pauses that the test ends."""
    section = StoreSection(url=url, timeout="1s", ca_file=ca_file)
    clock, metrics, tasks, pauses, renewals = clock or Standing(), Metrics(), TaskOwner(), Pauses(), Pauses()
    commands = Commands(
        connected(section), clock, timeout_us=timeout_us, connect_s=connecting_s or connect_s(section), sleep=pauses
    )
    key = mac_key_of(secret, section.address.password)
    l2 = L2(commands, metrics, clock, mac_key=key, max_value_bytes=max_value_bytes, **bounds)
    leases = Leases(commands, metrics, tasks, clock, sleep=lease_sleep or renewals, times=times)
    commands.start(tasks)
    if started:
        l2.start(tasks)
    try:
        yield Level(commands, l2, leases, metrics, tasks, clock, pauses, renewals)
    finally:
        await tasks.close()
        await commands.close()


async def until(holds: Callable[[], Any], what: str) -> None:
    """Bounded polling: the other side is a process or a socket, which sets no Event."""
    for _ in range(2_000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within 10 s: {what}")

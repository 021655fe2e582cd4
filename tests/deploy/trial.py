"""The limits of a configuration on a virtual clock: who asks when, what the exchange sees, who is refused.

The gateway's own describer, door, queue and windows; the exchange's own books; 20 ms and an exponential 4 ms each way.
There is no cache here: what a trial asks for, has to be asked of the exchange.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from multidict import CIMultiDict

from policies.admission import Counts, Refused, Rulebook
from proxy.app import describer_of
from proxy.config import Config, load, load_routes
from proxy.describe import claim_of
from proxy.limiter import Limiter, QueueBounds
from proxy.store.memory import MemoryStore
from proxy.tasks import TaskOwner
from tests.fake_bybit.books import IpBook
from tests.virtual import VirtualLoop, run_virtually

ROUTES = load_routes()
ADDRESS = "203.0.113.1"
"""The one that the exchange sees."""
_BREATH_S = 0.25
"""What a client lets pass after a refusal."""


@dataclass
class Trial:
    """`arrived`: instants in seconds at which the exchange saw a client's requests; `waited`: how long each had waited,
    at the door and for the exchange together."""

    config: Config
    loop: VirtualLoop
    book: IpBook = field(default_factory=IpBook)
    arrived: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    waited: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By client and rule."""

    def __post_init__(self) -> None:
        self._dice, self.tasks = random.Random(1), TaskOwner()
        queue = self.config.queue
        bounds = QueueBounds(queue.max_waiting, queue.max_waiting_per_client, queue.max_wait)
        self._rules = Rulebook(self.config.quotas(Counts.UPSTREAM), self.config.learned(ROUTES))
        self._describer = describer_of(self.config, ROUTES, self.loop.clock_us)
        store = MemoryStore(self.loop.clock_us)
        self._door = Limiter(store, self.loop.clock_us, self.tasks, bounds)
        self._limiter = Limiter(store, self.loop.clock_us, self.tasks, bounds)

    async def __aenter__(self) -> Self:
        self.tasks.spawn(self._door.run(), "door")
        self.tasks.spawn(self._limiter.run(), "limiter")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.close()

    async def ask(
        self, who: str, target: str, *, peer: str, method: str = "GET", line: str = "", **headers: str
    ) -> Refused | None:
        """One request. `line`: the business line that its body would tell."""
        lines = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
        asked = self._describer.describe(method, target, peer, lines)
        assert asked.refusal is None, asked.refusal
        began_us = self.loop.clock_us()
        if asked.claim.charges and isinstance(spent := await self._door.spend(asked.claim), Refused):
            return self._told_no(who, spent)
        descriptor = asked.descriptor._replace(line=line) if line else asked.descriptor
        claim = claim_of(descriptor, self._rules)
        permit = await self._limiter.acquire(claim._replace(deadline_us=began_us + self.config.queue.max_wait))
        if isinstance(permit, Refused):
            return self._told_no(who, permit)
        self.waited[who].append((self.loop.clock_us() - began_us) / 1e6)
        await self._leg()
        self.foreign()
        self.arrived[who].append(self.loop.passed)
        await self._leg()
        await permit.complete()
        return None

    def foreign(self) -> None:
        """A request arrives from this address, whoever has sent it."""
        self.book.arrive(ADDRESS, self.loop.clock_us())

    async def never_enough(self, who: str, target: str, *, until_s: float, at_once: int = 20, **how: Any) -> None:
        """A client that has so many requests under way at all times."""

        async def one() -> None:
            while self.loop.passed < until_s:
                if await self.ask(who, target, **how) is not None:
                    await asyncio.sleep(_BREATH_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one())

    def rate(self, who: str, since_s: float, until_s: float) -> float:
        """Requests a second that the exchange saw of this client."""
        return sum(since_s <= at < until_s for at in self.arrived[who]) / (until_s - since_s)

    def _told_no(self, who: str, refused: Refused) -> Refused:
        self.refused[who, refused.charge.quota.name] += 1
        return refused

    def _leg(self) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(0.02 + self._dice.expovariate(250))


def tried(file: Path, course: Callable[[Trial], Coroutine[Any, Any, None]]) -> Trial:
    """Load the file as the gateway does, and let `course` happen."""
    config = load(file, {}, ROUTES)

    async def main(loop: VirtualLoop) -> Trial:
        async with Trial(config, loop) as trial:
            await course(trial)
            return trial

    return run_virtually(main)

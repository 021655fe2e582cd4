"""One fetch for all gateways: whoever takes the lease fetches, the others look for what he puts into the cache.

A lease is a key in Redis that lives for two seconds and is renewed while its holder fetches, so that a holder who dies
does not keep the others for longer. It is a courtesy, not a promise: when Redis is lost, or the lease is gone without a
result, everybody fetches for himself. Nothing here raises, and no wait outlasts its given instant by more than the
timeouts of Redis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from proxy.clock import Clock, Sleep
from proxy.metrics import Metrics
from proxy.store.client import StoreLost
from proxy.store.commands import Commands
from proxy.tasks import TaskOwner

T = TypeVar("T")

_LIFE_US: Final = 2_000_000
_RENEWED_US: Final = 500_000
_LONGEST_US: Final = 60_000_000
_FIRST_LOOK_S: Final = 0.005
_SELDOM_S: Final = 0.05

_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RENEW: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another one fetches: await_other()."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody knows. Fetch by yourself."""

    reason: str


class LeaseTimes(NamedTuple):
    """`life_us`: how long a lease outlives a holder who has died. `longest_us`: no holder renews it for longer."""

    life_us: int = _LIFE_US
    renewed_us: int = _RENEWED_US
    longest_us: int = _LONGEST_US


_TIMES: Final = LeaseTimes()


class Lease:
    """Held until release(), which may be called more than once; `async with` calls it."""

    def __init__(self, leases: Leases, key: str, token: str, taken_us: int) -> None:
        self._leases = leases
        self.key = key
        self.token = token
        self.taken_us = taken_us
        self.held_until_us = taken_us + leases.times.life_us
        self._ended = False
        self._renewing = leases.tasks.spawn(leases.renew(self), "lease-renewal")

    @property
    def held(self) -> bool:
        """As far as anybody here can tell. One that is lost does no harm but that another may fetch too."""
        return not self._ended and self._leases.clock() < self.held_until_us

    async def release(self) -> None:
        """First put the result where the others look. A lease that another has taken since stays his."""
        if not self._ended:
            self._ended = True
            self._renewing.cancel()
            await asyncio.shield(self._leases.let_go(self.key, self.token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


class Leases:
    def __init__(
        self,
        commands: Commands,
        metrics: Metrics,
        tasks: TaskOwner,
        clock: Clock,
        *,
        sleep: Sleep = asyncio.sleep,
        times: LeaseTimes = _TIMES,
    ) -> None:
        self.tasks = tasks
        self.clock = clock
        self.times = times
        self._commands = commands
        self._metrics = metrics
        self._sleep = sleep

    async def take(self, name: str) -> Lease | HeldElsewhere | Unavailable:
        """`name`: of what will be fetched, such as its key in the cache. Does not wait for another holder.

        Whoever gets it looks into the cache once more: the holder before him may just have put it there.
        """
        key, token, began_us = _key_of(name), secrets.token_hex(8), self.clock()
        life_ms = self.times.life_us // 1000
        try:
            taken = await self._commands.ask(
                "SET", key, token, "NX", "PX", life_ms, orphaned=lambda: self.let_go(key, token)
            )
        except StoreLost as lost:
            self._count(lost.reason)
            return Unavailable(lost.reason)
        self._metrics.l2_seconds.observe(("lease",), self.clock() - began_us)
        if not taken:
            self._count("elsewhere")
            return HeldElsewhere()
        self._count("taken")
        return Lease(self, key, token, began_us)

    async def await_other(self, name: str, look: Callable[[], Awaitable[T | None]], until_us: int) -> T | None:
        """What look() finds while another one fetches; None when he has ended without a result, when the time is over,
        or when nobody knows: then fetch by yourself."""
        pause_s = _FIRST_LOOK_S
        while True:
            found = await look()
            if found is not None:
                self._count("followed")
                return found
            left_s = (until_us - self.clock()) / 1e6
            if left_s <= 0:
                self._count("too-late")
                return None
            if not await self._is_held(name):
                found = await look()  # he puts the result first, and lets go then
                self._count("followed" if found is not None else "without-result")
                return found
            await self._sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _SELDOM_S)

    async def _is_held(self, name: str) -> bool:
        try:
            left_ms = int(await self._commands.ask("PTTL", _key_of(name)))
        except StoreLost:
            return False
        # A key without an end, or with a distant one, is none of ours: nobody would ever let it go.
        return 0 <= left_ms <= self.times.life_us // 1000

    async def renew(self, lease: Lease) -> None:
        """Until it is cancelled, or the lease is lost."""
        times = self.times
        while lease.held and self.clock() - lease.taken_us < times.longest_us:
            await self._sleep(times.renewed_us / 1e6)
            asked_us = self.clock()
            try:
                renewed = await self._commands.script(_RENEW, lease.key, lease.token, times.life_us // 1000)
            except StoreLost:
                continue  # it lives on for a while: perhaps the next one reaches it
            lease.held_until_us = asked_us + times.life_us if renewed else 0
        self._count("lost")

    def let_go(self, key: str, token: str) -> asyncio.Task[None]:
        return self.tasks.spawn(self._let_go(key, token), "lease-release")

    async def _let_go(self, key: str, token: str) -> None:
        try:
            released = await self._commands.script(_RELEASE, key, token)
        except StoreLost as lost:
            self._count(f"release-{lost.reason}")
        else:
            self._count("released" if released else "release-late")

    def _count(self, result: str) -> None:
        self._metrics.l2_operations.inc(("lease", result))


def _key_of(name: str) -> str:
    return f"{name}:fetching"

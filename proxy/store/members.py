"""Who shares the budget: signs of life in the store, everybody's share, and what the gateways say of themselves."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson
import structlog

from policies.admission import Charge, Quota
from policies.quantities import duration_text
from policies.sharing import WHOLE, Standing, exact
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.store import Usage, server_check
from proxy.store.client import StoreLost
from proxy.store.peers import Doorbell, Verdict, ring, this_machine
from proxy.store.remote import RemoteWindows, Void
from proxy.store.windows_in_use import WindowsInUse
from proxy.tasks import TaskOwner

EVERY_S: Final = 0.3
LOST_AFTER_US: Final = 1_500_000
"""A gateway that has not been heard of for so long is lost to the others."""
_FORGOTTEN_AFTER_US: Final = 900_000_000
"""Nobody knows what became of it, and nobody keeps its share for it any longer."""
_RETRY_S: Final = (0.0, 0.05, 0.1, 0.2, EVERY_S)
_STARVED_AFTER_US: Final = 30_000_000
_READ_AGAIN_US: Final = 10_000_000
_RING_AGAIN_US: Final = 2_000_000


class Member(NamedTuple):
    share: int
    at_us: int
    """Its last sign of life, by the store's clock."""
    shared: bool


class About(NamedTuple):
    address: str
    host: str
    """The same for gateways on one machine."""
    rules: dict[str, str]
    keyed_by: str


class Members:
    def __init__(
        self,
        remote: RemoteWindows,
        *,
        replicas: int,
        towards: tuple[str, int],
        keyed_by: str,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._remote = remote
        self._replicas = replicas
        self._towards = towards
        self._keyed_by = keyed_by
        """A fingerprint of what keys the hashes of API keys: gateways that differ in it do not share those windows."""
        self._clock = clock
        self._metrics = metrics
        self._in_use = WindowsInUse(remote, clock)
        self._doorbell = Doorbell(remote.replica)
        self._host = this_machine()
        self._me = remote.replica.encode()
        self._tasks = TaskOwner()
        self._table: dict[bytes, Member] = {}
        self._about: dict[bytes, About] = {}
        self._reached: set[bytes] = set()
        self._rung_us: dict[bytes, int] = {}
        self._restore: list[Any] = []
        self._boot = b""
        self.emptied = False
        """The store has lost its memory; for whoever sees it to switch off."""
        self._longest_us = 0
        """Of the exact windows: so long after it has lost its memory the store grants nothing of them."""
        self._said = b""
        self._rules: dict[str, str] = {}
        self._read_us = 0
        self._reason = ""
        self._told: set[tuple[bytes, str]] = set()
        self._lost: set[bytes] = set()
        self._hurry = asyncio.Event()
        self._numbers = itertools.count()
        self._log: Any = structlog.get_logger()

    @property
    def count(self) -> int:
        """How many gateways give signs of life, this one included."""
        return max(1, sum(self._alive(member) for member in self._table.values()))

    def next_id(self) -> str:
        return f"s{next(self._numbers)}"

    def adopt(self, quotas: Iterable[Quota]) -> None:
        rules = list(quotas)
        self._in_use.adopt(rules)
        self._longest_us = max((quota.window_us for quota in rules if exact(quota)), default=0)
        self._rules = {quota.name: _in_words(quota) for quota in rules}
        self._said = b""
        self._told.clear()

    def saw(self, charges: tuple[Charge, ...]) -> None:
        self._in_use.saw(charges)

    async def usage(self) -> list[Usage]:
        return await self._in_use.usage()

    async def warnings(self, *, up: bool) -> list[str]:
        """What should be known of the server."""
        if not up:
            self._log.warning("store_not_reached", reason=self._reason or "timeout")
            return [
                f"store.url: not reached ({self._reason or 'timeout'}); until it is, this gateway goes by its own share"
            ]
        found = await server_check.warnings(self._remote.link.client, self._remote.state, self._remote.offset_us)
        for warning in found:
            self._log.warning("doubtful_store", warning=warning)
        return found

    async def close(self) -> None:
        await self._tasks.close()
        await self._doorbell.close()

    async def leave(self) -> None:
        """Our share is free, and nothing of ours is in flight."""
        await self._remote.bury(self._remote.replica.encode(), [])

    def hurry(self) -> None:
        """Something has gone wrong: look at once whether the store is there."""
        self._hurry.set()

    async def pause(self, failures: int) -> None:
        """Until the next sign of life is due. Soon after a failure, then less often."""
        seconds = _RETRY_S[min(failures, len(_RETRY_S) - 1)] if failures else EVERY_S
        try:
            async with asyncio.timeout(seconds * random.uniform(0.8, 1.0)):  # noqa: S311  # so that not all come at once
                await self._hurry.wait()
        except TimeoutError:
            return
        finally:
            self._hurry.clear()

    async def beat(self, standing: Standing) -> bool:
        """Give a sign of life; raises StoreLost. False: it came too late and counts for nothing."""
        words = await self._words()
        try:
            answer = await self._remote.beat(
                [
                    int(standing.says(self._clock())),
                    standing.share,
                    self._replicas,
                    LOST_AFTER_US,
                    _FORGOTTEN_AFTER_US,
                    b"" if words == self._said else words,
                    *self._restore,
                ]
            )
        except StoreLost as lost:
            self._reason, self._said = lost.reason, b""
            raise
        if isinstance(answer, Void):
            return False
        self._said, self._reason = words, ""
        self._take(answer)
        standing.heard(int(answer[3]), self._clock())
        if self._longest_us:
            standing.holds(int(self._boot) + self._longest_us - self._remote.offset_us)
        await self._in_use.tell()
        await self._look_around()
        return True

    def status(self) -> dict[str, Any]:
        return {
            "kind": "redis",
            "replica": self._remote.replica,
            "replicas": self.count,
            "failure": self._reason or None,
            "clock_offset_ms": round(self._remote.offset_us / 1000),
        }

    def _alive(self, member: Member) -> bool:
        return self._clock() + self._remote.offset_us - member.at_us <= LOST_AFTER_US

    def _take(self, answer: list[Any]) -> None:
        """The table as it is now; where the store has lost it, what we remember is entered again with the next sign."""
        table = {
            answer[at]: Member(int(answer[at + 2]), int(answer[at + 1]), answer[at + 3] == b"shared")
            for at in range(5, len(answer), 4)
        }
        self._restore = []
        if answer[1] != self._boot:
            self.emptied = self.emptied or bool(self._boot)
            self._in_use.forget()
            if self._boot:
                gone = [(name, member.share) for name, member in self._table.items() if name not in table]
                self._restore = [word for pair in gone for word in pair]
                self._log.warning("store_emptied", replicas=len(self._table))
            self._boot, self._said = answer[1], b""
        if table.keys() != self._table.keys():
            self._read_us = 0
        self._table = table
        self._tell_of_lost()

    def _tell_of_lost(self) -> None:
        lost = {name for name, member in self._table.items() if not self._alive(member)}
        for name in lost - self._lost:
            about, member = self._about.get(name), self._table[name]
            self._log.warning(
                "replica_lost",
                replica=name.decode(),
                address="" if about is None else about.address,
                share_kept=member.share / WHOLE,
            )
        self._lost = lost
        if self._replicas > 1 and self.count > self._replicas:
            declared = f"store.replicas: {self._replicas}, and there are more of this egress"
            self._warn(b"", f"{declared}: one that starts while the store is away takes too much")

    async def _words(self) -> bytes:
        """What we say of ourselves."""
        if not self._doorbell.address:
            with suppress(OSError):  # a store whose name is not known yet: the next time
                await self._doorbell.open(self._towards)
        about = About(self._doorbell.address, self._host, self._rules, self._keyed_by)
        return orjson.dumps(about._asdict())

    async def _look_around(self) -> None:
        now_us = self._clock()
        if now_us - self._read_us >= _READ_AGAIN_US or not self._read_us:
            self._read_us = now_us
            self._read(await self._remote.what_they_say())
        for name, member in list(self._table.items()):
            about = self._about.get(name)
            if name == self._me or about is None or not about.address:
                continue
            wanted = name not in self._reached if self._alive(member) else True
            if wanted and now_us - self._rung_us.get(name, 0) >= _RING_AGAIN_US:
                self._rung_us[name] = now_us
                self._tasks.spawn(self._ring(name, about.address), "store-ring")

    async def _ring(self, name: bytes, address: str) -> None:
        """Is it dead? Then its share and what it had in flight are free."""
        verdict = await ring(address, name.decode())
        member = self._table.get(name)
        if verdict is Verdict.ALIVE:
            self._reached.add(name)
            if member is not None and not self._alive(member):
                with suppress(StoreLost):
                    await self._remote.keep(name)
        elif member is not None and not self._alive(member) and self._is_dead(name, member, verdict):
            try:
                held = [charge for charge in await self._in_use.charges() if exact(charge.quota)]
                await self._remote.bury(name, held)
            except StoreLost:
                return
            self._reached.discard(name)
            self._log.warning("replica_dead", replica=name.decode(), address=address, share=member.share / WHOLE)

    def _is_dead(self, name: bytes, member: Member, verdict: Verdict) -> bool:
        """A closed door proves it where the door was reached before, or is on this machine. And where nobody alive has
        a share, all would starve for a gateway that is probably dead: that ends after a while."""
        if verdict is Verdict.DEAD and (name in self._reached or self._about[name].host == self._host):
            return True
        starving = not any(other.share for other in self._table.values() if self._alive(other))
        silent_us = self._clock() + self._remote.offset_us - member.at_us
        return starving and silent_us > _STARVED_AFTER_US

    def _read(self, said: dict[bytes, bytes]) -> None:
        """Gateways that go by different rules are told apart by name and number."""
        self._about = {}
        for name, words in said.items():
            about = _about(words)
            if about is None:
                continue
            self._about[name] = about
            if name == self._me:
                continue
            names = sorted(self._rules.keys() | about.rules.keys())
            both = [(rule, self._rules.get(rule, "no rule"), about.rules.get(rule, "no rule")) for rule in names]
            differ = [f"{rule} is {ours} here and {theirs} there" for rule, ours, theirs in both if ours != theirs]
            if differ:
                self._warn(name, f"limits differ in replica {name.decode()} ({about.address}): {', '.join(differ)}")
            if about.keyed_by != self._keyed_by:
                self._warn(
                    name, f"identity.hash_key: replica {name.decode()} hashes API keys otherwise: no shared limits"
                )

    def _warn(self, name: bytes, warning: str) -> None:
        if (name, warning) not in self._told:
            self._told.add((name, warning))
            self._log.warning("replicas_disagree", warning=warning)


def _about(words: bytes) -> About | None:
    """None for what no gateway of ours says of itself."""
    try:
        said = orjson.loads(words)
        rules = {str(name): str(rule) for name, rule in said["rules"].items()}
        return About(str(said["address"]), str(said.get("host", "")), rules, str(said["keyed_by"]))
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None


def _in_words(quota: Quota) -> str:
    burst = f", burst {quota.burst}" if quota.burst else ""
    each = " and ".join(quota.partition) or "everybody"
    return f"{quota.limit}/{duration_text(quota.window_us)} {quota.window} per {each}{burst}"

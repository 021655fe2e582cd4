"""The other gateways of an egress: which of them are lost, which are dead, and whether all go by the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson
import structlog

from policies.admission import WHOLE, Quota
from policies.quantities import duration_text
from policies.sharing import exact
from proxy.clock import Clock
from proxy.store.client import StoreLost
from proxy.store.peers import Doorbell, Verdict, ring, this_machine
from proxy.store.remote import RemoteWindows
from proxy.store.windows_in_use import WindowsInUse
from proxy.tasks import TaskOwner

LOST_AFTER_US: Final = 1_500_000
"""A gateway that has not been heard of for so long is lost to the others."""
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


class Neighbours:
    def __init__(
        self, remote: RemoteWindows, in_use: WindowsInUse, *, towards: tuple[str, int], keyed_by: str, clock: Clock
    ) -> None:
        self._remote = remote
        self._in_use = in_use
        self._towards = towards
        self._keyed_by = keyed_by
        self._clock = clock
        self._doorbell = Doorbell(remote.replica)
        self._host = this_machine()
        self._me = remote.replica.encode()
        self._tasks = TaskOwner()
        self._table: Mapping[bytes, Member] = {}
        self._about: dict[bytes, About] = {}
        self._rules: dict[str, str] = {}
        self._reached: set[bytes] = set()
        self._rung_us: dict[bytes, int] = {}
        self._read_us = 0
        self._lost: set[bytes] = set()
        self._told: set[tuple[bytes, str]] = set()
        self._log: Any = structlog.get_logger()

    def adopt(self, quotas: Iterable[Quota]) -> None:
        self._rules = {quota.name: _in_words(quota) for quota in quotas}
        self._told.clear()

    async def close(self) -> None:
        await self._tasks.close()
        await self._doorbell.close()

    def alive(self, member: Member) -> bool:
        return self._clock() + self._remote.offset_us - member.at_us <= LOST_AFTER_US

    async def words(self) -> bytes:
        """What we say of ourselves."""
        if not self._doorbell.address:
            with suppress(OSError):  # a store whose name is not known yet: the next time
                await self._doorbell.open(self._towards)
        about = About(self._doorbell.address, self._host, self._rules, self._keyed_by)
        return orjson.dumps(about._asdict())

    async def look_around(self, table: Mapping[bytes, Member]) -> None:
        """After each sign of life: `table` is who else gives them. Raises StoreLost."""
        if table.keys() != self._table.keys():
            self._read_us = 0
        self._table = table
        now_us = self._clock()
        if now_us - self._read_us >= _READ_AGAIN_US or not self._read_us:
            self._read_us = now_us
            self._read(await self._remote.what_they_say())
        self._tell_of_lost()
        for name, member in table.items():
            about = self._about.get(name)
            if name == self._me or about is None or not about.address:
                continue
            unknown = name not in self._reached or not self.alive(member)
            if unknown and now_us - self._rung_us.get(name, 0) >= _RING_AGAIN_US:
                self._rung_us[name] = now_us
                self._tasks.spawn(self._ring(name, about.address), "store-ring")

    def _tell_of_lost(self) -> None:
        """Once for each time. One whose share is kept because it was reached is lost until it spends with us again."""
        silent = {name for name, member in self._table.items() if not self.alive(member)}
        lost = silent | {name for name in self._lost if name in self._table and not self._table[name].shared}
        for name in lost - self._lost:
            about, member = self._about.get(name), self._table[name]
            self._log.warning(
                "replica_lost",
                replica=name.decode(),
                address="" if about is None else about.address,
                share_kept=member.share / WHOLE,
            )
        self._lost = lost

    async def _ring(self, name: bytes, address: str) -> None:
        """Is it dead? Then its share and what it had in flight are free."""
        verdict = await ring(address, name.decode())
        member = self._table.get(name)
        if verdict is Verdict.ALIVE:
            self._reached.add(name)
            if member is not None and not self.alive(member):
                with suppress(StoreLost):
                    await self._remote.keep(name)
        elif member is not None and not self.alive(member) and self._is_dead(name, member, verdict):
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
        starving = not any(other.share for other in self._table.values() if self.alive(other))
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

"""Who shares the budget: signs of life in the store, and everybody's share."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog

from policies.admission import Charge, Quota
from policies.sharing import Standing, exact
from proxy.clock import Clock
from proxy.store import Usage, server_check
from proxy.store.client import StoreLost
from proxy.store.neighbours import LOST_AFTER_US, Member, Neighbours
from proxy.store.news import News
from proxy.store.remote import RemoteWindows, Void
from proxy.store.windows_in_use import WindowsInUse

EVERY_S: Final = 0.3
_FORGOTTEN_AFTER_US: Final = 900_000_000
"""Nobody knows what became of it, and nobody keeps its share for it any longer."""
_RETRY_S: Final = (0.0, 0.05, 0.1, 0.2, EVERY_S)


class Members:
    def __init__(
        self,
        remote: RemoteWindows,
        *,
        replicas: int,
        towards: tuple[str, int],
        keyed_by: str,
        clock: Clock,
    ) -> None:
        self._remote = remote
        self._replicas = replicas
        self._clock = clock
        self._in_use = WindowsInUse(remote, clock)
        self._neighbours = Neighbours(remote, self._in_use, towards=towards, keyed_by=keyed_by, clock=clock)
        self.news = News(remote)
        self._table: dict[bytes, Member] = {}
        self._restore: list[Any] = []
        self._boot = b""
        self.emptied = False
        """The store has lost its memory; for whoever sees it to switch off."""
        self._longest_us = 0
        """Of the exact windows: so long after it has lost its memory the store grants nothing of them."""
        self._said = b""
        self._reason = ""
        self._told_of_more = False
        self._hurry = asyncio.Event()
        self._numbers = itertools.count()
        self._log: Any = structlog.get_logger()

    @property
    def count(self) -> int:
        """How many gateways give signs of life, this one included."""
        return max(1, sum(self._neighbours.alive(member) for member in self._table.values()))

    def next_id(self) -> str:
        return f"s{next(self._numbers)}"

    def adopt(self, quotas: Iterable[Quota]) -> None:
        rules = list(quotas)
        self._in_use.adopt(rules)
        self._longest_us = max((quota.window_us for quota in rules if exact(quota)), default=0)
        self._neighbours.adopt(rules)
        self._said = b""

    def saw(self, charges: tuple[Charge, ...]) -> None:
        self._in_use.saw(charges)

    async def usage(self, charges: Sequence[Charge] | None) -> list[Usage]:
        """Of these windows; None: of all that are in use."""
        return await (self._in_use.usage() if charges is None else self._remote.usage(charges))

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
        await self._neighbours.close()

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
        words = await self._neighbours.words()
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
        standing.heard(int(answer[2]), self._clock())
        if self._longest_us:
            standing.holds(int(self._boot) + self._longest_us - self._remote.offset_us)
        await self.news.heard(answer[4:11])
        await self._in_use.tell()
        await self._neighbours.look_around(self._table)
        return True

    def status(self) -> dict[str, Any]:
        return {
            "kind": "redis",
            "replica": self._remote.replica,
            "replicas": self.count,
            "failure": self._reason or None,
            "clock_offset_ms": round(self._remote.offset_us / 1000),
        }

    def _take(self, answer: list[Any]) -> None:
        """The table as it is now; where the store has lost it, what we remember is entered again with the next sign."""
        table = {
            answer[at]: Member(int(answer[at + 2]), int(answer[at + 1]), answer[at + 3] == b"shared")
            for at in range(11, len(answer), 4)
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
        self._table = table
        if 1 < self._replicas < self.count and not self._told_of_more:
            self._told_of_more = True
            self._log.warning("more_replicas_than_declared", declared=self._replicas, counted=self.count)

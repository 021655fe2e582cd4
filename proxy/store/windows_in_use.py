"""Which windows there are in the store: noted when a gateway first uses one, so that any gateway can show them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from policies.admission import Charge, Quota
from proxy.clock import Clock
from proxy.store import Usage
from proxy.store.remote import RemoteWindows

_AGAIN_US: Final = 60_000_000
_SHOWN: Final = 5_000
_TOGETHER: Final = 100
_REMEMBERED: Final = 100_000


class WindowsInUse:
    def __init__(self, remote: RemoteWindows, clock: Clock) -> None:
        self._remote = remote
        self._clock = clock
        self._rules: dict[str, Quota] = {}
        self._noted: dict[tuple[str, ...], int] = {}
        self._new: set[tuple[str, ...]] = set()

    def adopt(self, quotas: Iterable[Quota]) -> None:
        self._rules = {quota.name: quota for quota in quotas}

    def saw(self, charges: Iterable[Charge]) -> None:
        """On the way of every request: a look into a dictionary, and nothing else most of the time."""
        noted, now_us = self._noted, self._clock()
        for charge in charges:
            if noted.get(charge.key, 0) < now_us:
                if len(noted) >= _REMEMBERED:
                    noted.clear()
                noted[charge.key] = now_us + _AGAIN_US
                self._new.add(charge.key)

    def forget(self) -> None:
        """The store has lost what was noted."""
        self._noted.clear()

    async def tell(self) -> None:
        """Enter what is new; raises StoreLost, and then it is still new."""
        if not self._new:
            return
        batch = list(self._new)[:_SHOWN]
        await self._remote.note_windows(
            [orjson.dumps(key) for key in batch], forgotten_after_us=self._forgotten_after_us(), most=0
        )
        self._new.difference_update(batch)

    async def charges(self) -> list[Charge]:
        """One of each window in use, by any gateway, that belongs to a rule we know."""
        await self.tell()
        names = await self._remote.note_windows([], forgotten_after_us=self._forgotten_after_us(), most=_SHOWN)
        return [charge for name in names if (charge := self._charge(name)) is not None]

    def _charge(self, name: bytes) -> Charge | None:
        """None for what is not a window of a rule of ours: an older rule's, or somebody else's doing."""
        try:
            key = orjson.loads(name)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(key, list) or not all(isinstance(part, str) for part in key) or not key:
            return None
        rule = self._rules.get(key[0])
        return None if rule is None or len(key) != len(rule.partition) + 1 else Charge(rule, tuple(key), 1)

    async def usage(self) -> list[Usage]:
        charges = await self.charges()
        rows = []
        for at in range(0, len(charges), _TOGETHER):
            rows += await self._remote.usage(charges[at : at + _TOGETHER])
        return [row for row in rows if row.used]

    def _forgotten_after_us(self) -> int:
        return 2 * _AGAIN_US + max((quota.window_us for quota in self._rules.values()), default=0)

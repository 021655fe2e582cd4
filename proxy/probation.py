"""Sees a ban through: everything is stopped, the other gateways are told, and once it should be over one question is
asked. Only its answer lifts the ban.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any, Final

import structlog

from policies import bybit
from policies.admission import Admitted, Charge
from proxy.answered import read_through
from proxy.clock import Clock, Sleep
from proxy.egress import Egress
from proxy.errors import UpstreamError
from proxy.store import Reservation, Store
from proxy.tasks import TaskOwner
from proxy.upstream import Upstream

_LOOK_S: Final = 0.5
"""How often a gateway looks whether its turn to ask has come, or another's question was answered."""
_PAUSES_S: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Before another question, when one was not answered at all."""
_FORBIDDEN: Final = 403
_PROBE_S: Final = 20.0
_LEADS_US: Final = 35_000_000
"""So long whoever was chosen to ask goes on asking: less than the store keeps the others from it."""
_ROOM_S: Final = 0.05


class Probation:
    """`charges`: what the question spends, by the rules of today."""

    def __init__(
        self,
        *,
        egress: Egress,
        store: Store,
        upstream: Upstream,
        charges: Callable[[], tuple[Charge, ...]],
        tasks: TaskOwner,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._egress = egress
        self._store = store
        self._upstream = upstream
        self._charges = charges
        self._tasks = tasks
        self._clock = clock
        self._sleep = sleep
        self._began = asyncio.Event()
        self._unanswered = 0
        self._leads_until_us = 0
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._log: Any = structlog.get_logger()
        egress.stopped.append(self._began.set)
        egress.stopped.append(upstream.shut)
        egress.struck.append(self._announce)
        egress.resumed.append(upstream.reopen)

    async def run(self) -> None:
        while True:
            await self._began.wait()
            self._began.clear()
            while self._egress.banned:
                try:
                    await self._wait_and_ask()
                except Exception as error:  # noqa: BLE001  # whatever it is: nobody else would end the ban
                    self._log.error("probation_failed", error=type(error).__name__)
                    await self._sleep(_PAUSES_S[0])

    def _announce(self) -> None:
        self._tasks.spawn(self._store.news.strike(self._egress.rules.ban_us), "announce-ban")

    async def _wait_and_ask(self) -> None:
        left_us = self._egress.ban_left_us
        if left_us:
            await self._sleep(min(left_us / 1e6, _LOOK_S))
        elif self._clock() < self._leads_until_us:
            await self._ask()
        elif await self._store.news.may_probe():
            self._leads_until_us = self._clock() + _LEADS_US
            await self._ask()
        else:
            await self._sleep(_LOOK_S)

    async def _ask(self) -> None:
        """The one question. A 403 of whatever kind says that it is not over, the exchange's own answer that it is; all
        else says nothing."""
        reservation = await self._reserved()
        try:
            async with asyncio.timeout(_PROBE_S):
                reply = await self._upstream.probe(bybit.TIME_PATH)
                answered = await read_through(reply)
                reply.close()
            status = answered.status
            # A page of somebody in between is no answer of the exchange.
            trouble = "" if status == _FORBIDDEN or answered.ret_code == bybit.OK else f"http-{status}"
        except (UpstreamError, TimeoutError) as error:
            status, trouble = 0, error.reason if isinstance(error, UpstreamError) else "upstream-timeout"
        finally:
            await self._store.complete(reservation)
        if trouble:
            pause_s = _PAUSES_S[min(self._unanswered, len(_PAUSES_S) - 1)]
            self._unanswered += 1
            self._log.warning("probe_unanswered", reason=trouble, again_s=pause_s)
            await self._sleep(pause_s)
            return
        self._unanswered = 0
        self._log.info("probe_answered", status=status)
        self._leads_until_us = 0
        if status == _FORBIDDEN:
            self._egress.strike()
        else:
            await self._store.news.lift()  # first: what is sent next is granted there
            self._egress.lift()

    async def _reserved(self) -> Reservation:
        reservation = Reservation(f"{self._prefix}:{next(self._numbers)}", self._charges(), despite_ban=True)
        while not isinstance(await self._store.reserve(reservation), Admitted):
            await self._sleep(_ROOM_S)
        return reservation

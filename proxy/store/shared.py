"""The store that several gateways share, and how one of them goes on when it is lost.

    SHARED      the scripts in Redis decide; what they grant is noted in our own book
    HOLDING     Redis is there and has lost its memory: what was set aside is spent until a window has passed
    EMERGENCY   Redis does not answer: what was set aside, at once
    DIVIDED     ... and after a while our own share
    RETURNING   Redis answers again: our own share, entered in Redis, until what counts is written there

policies/sharing.py has the theory. Nobody ever waits for a store that is lost: the first call that fails changes over,
and only the heartbeat goes on asking.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import structlog

from policies.admission import Admission, Admitted, Charge, Deferred, Filled, Quota
from policies.sharing import Mode, Standing, exact
from proxy.clock import Clock
from proxy.store import Reservation, Usage
from proxy.store.client import StoreLost
from proxy.store.local import LocalShare
from proxy.store.members import Members
from proxy.store.remote import Banned, Ending, Granted, Holding, RemoteWindows, Void
from proxy.tasks import TaskOwner

_TOGETHER: Final = 128
_KEPT_ENDINGS: Final = 100_000
_ENDINGS_WAIT_S: Final = 0.002
"""So long an ending waits for a request to go to the store with."""
_FIRST_LOOK_S: Final = 1.0
_POLL_US: Final = (8_000, 14_000)
_JITTER_US: Final = 2_000
"""Gateways that wait for the same instant do not all ask in it."""


class SharedStore:
    """`members` gives the signs of life."""

    def __init__(
        self, remote: RemoteWindows, local: LocalShare, standing: Standing, members: Members, clock: Clock
    ) -> None:
        self._remote = remote
        self._local = local
        self._standing = standing
        self._members = members
        self._clock = clock
        self._windows_us: list[int] = []
        """Of the exact quotas."""
        self._flying: dict[str, tuple[Reservation, bool]] = {}
        """What is on its way, and whether the store knows."""
        self._endings: deque[Ending] = deque()
        self._due = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._mode = Mode.EMERGENCY
        self._divided: frozenset[int] = frozenset()
        self._tasks = TaskOwner()
        self._looked = asyncio.Event()
        self.warnings: Sequence[str] = ()
        self._log: Any = structlog.get_logger()

    # What every store does.

    @property
    def poll_us(self) -> int:
        return random.randint(*_POLL_US)  # noqa: S311  # so that not all ask at once

    async def start(self) -> None:
        self._remote.start(self._tasks)
        self._tasks.spawn(self._beat(), "store-beat")
        self._tasks.spawn(self._send_endings(), "store-endings")
        try:
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._looked.wait()
        except TimeoutError:
            pass  # it goes on without, as at any other time
        self.warnings = await self._members.warnings(up=self._standing.up)

    async def stop(self) -> None:
        """The last words: what has ended, and that our share is free."""
        try:
            while self._endings and self._standing.up:
                await self._send_some()
            if self._standing.up:
                await self._members.leave()
        except StoreLost:
            pass  # the others will notice
        await self._tasks.close()
        await self._members.close()
        await self._remote.link.close()

    async def reserve(self, reservation: Reservation) -> Admission:
        return await self._reserve(reservation, ended_by_reply=True)

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        return await self._reserve(Reservation(self._members.next_id(), charges), ended_by_reply=False)

    def spend_now(self, charges: tuple[Charge, ...]) -> Admission | None:  # noqa: ARG002  # somebody must be asked
        return None

    async def complete(self, reservation: Reservation) -> None:
        await self._local.complete(reservation)
        self._end(reservation, completed=True)

    async def refund(self, reservation: Reservation) -> None:
        await self._local.refund(reservation)
        self._end(reservation, completed=False)

    def adopt(self, quotas: Iterable[Quota]) -> None:
        rules = list(quotas)
        self._windows_us = sorted({quota.window_us for quota in rules if exact(quota)})
        self._local.adopt(rules)
        self._members.adopt(rules)

    async def usage(self) -> list[Usage]:
        """Of every window that any gateway uses, as the store has it; nothing while it is lost."""
        try:
            return await self._members.usage()
        except StoreLost:
            return []

    def listen(self, changed: Callable[[], None]) -> None:
        """To be called when what was foreseen holds no more: the store was lost, or is back."""
        self._listeners.append(changed)

    def status(self) -> dict[str, Any]:
        mode = self._standing.mode(self._windows_us, self._clock())
        return {**self._members.status(), "mode": mode, "status": "ok" if mode is Mode.SHARED else "degraded"}

    # How it is decided.

    async def _reserve(self, reservation: Reservation, *, ended_by_reply: bool) -> Admission:
        known = self._flying.get(reservation.id)
        if known is not None:
            return Admitted()
        if not self._standing.shared(self._clock()):
            return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
        if self._endings:
            self._due.set()  # both go together
        for _ in range(2):  # a void call is made once more, by the right time
            try:
                answer = await self._asked(
                    reservation,
                    ended_by_reply=ended_by_reply,
                    orphaned=(lambda: self._orphaned(reservation)) if ended_by_reply else None,
                )
            except StoreLost as lost:
                self._lost(lost.reason)
                self._doubtful(reservation, ended_by_reply=ended_by_reply)
                return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
            match answer:
                case Granted(admitted):
                    self._members.saw(reservation.charges)
                    self._local.note(reservation, admitted, ended_by_reply=ended_by_reply)
                    self._admitted(reservation, admitted, ended_by_reply=ended_by_reply, known=True)
                    return admitted._replace(filled=self._among(admitted.filled)) if admitted.filled else admitted
                case Deferred():
                    return self._jittered(answer)
                case Holding(wait_us):
                    self._standing.holds(self._clock() + wait_us)
                    return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
                case Banned(wait_us):
                    return Deferred(wait_us, reservation.charges[0])
                case Void():
                    continue
        self._lost("late")
        return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)

    async def _asked(
        self, reservation: Reservation, *, ended_by_reply: bool, orphaned: Callable[[], None] | None
    ) -> Granted | Deferred | Holding | Banned | Void:
        answer = await self._remote.reserve(reservation, ended_by_reply=ended_by_reply, orphaned=orphaned)
        if self._remote.stepped:
            self._log.warning("store_clock_stepped")
            await self._remote.forget()
        return answer

    async def _reserve_alone(self, reservation: Reservation, *, ended_by_reply: bool) -> Admission:
        now_us = self._clock()
        admission = self._local.reserve(
            reservation, lambda window_us: self._standing.divides(window_us, now_us), ended_by_reply=ended_by_reply
        )
        if isinstance(admission, Deferred):
            return admission
        self._admitted(reservation, admission, ended_by_reply=ended_by_reply, known=False)
        if ended_by_reply and self._standing.returning(now_us):
            try:
                await self._record(self._flying[reservation.id][0])
            except asyncio.CancelledError:
                await self.refund(reservation)
                raise
        return admission

    def _admitted(self, reservation: Reservation, admitted: Admitted, *, ended_by_reply: bool, known: bool) -> None:
        if ended_by_reply:
            taken = reservation.charges
            if admitted.over:
                taken = tuple(charge for charge in taken if charge not in admitted.over)
            self._flying[reservation.id] = (Reservation(reservation.id, taken), known)

    def _among(self, filled: tuple[Filled, ...]) -> tuple[Filled, ...]:
        return tuple(each._replace(sharers=self._members.count) for each in filled)

    async def _record(self, reservation: Reservation) -> None:
        """While the budget is being handed back, what is sent by our own share is entered in the store."""
        # By a name of its own: under the first one the store may still be told to forget a call of unknown fate.
        entry = Reservation(f"{reservation.id}+", reservation.charges)
        try:
            known = await self._remote.record(entry)
        except StoreLost as lost:
            self._lost(lost.reason)
            return
        if not known:
            self._lost("late")
        elif reservation.id in self._flying:
            self._flying[reservation.id] = (entry, True)
        else:
            self._add_ending(Ending(entry, completed=True))

    def _jittered(self, deferred: Deferred) -> Deferred:
        if deferred.in_flight or self._members.count < 2:
            return deferred
        # Not for unpredictability: so that those who wait for one instant ask one after the other.
        return deferred._replace(wait_us=deferred.wait_us + random.randrange(_JITTER_US * self._members.count))  # noqa: S311

    def _end(self, reservation: Reservation, *, completed: bool) -> None:
        entry, known = self._flying.pop(reservation.id, (reservation, False))
        if known and self._remote.ends(entry):
            self._add_ending(Ending(entry, completed))

    def _orphaned(self, reservation: Reservation) -> None:
        """It was taken, or may have been, for a request that has gone meanwhile."""
        self._add_ending(Ending(reservation, completed=False))

    def _doubtful(self, reservation: Reservation, *, ended_by_reply: bool) -> None:
        """Nobody knows whether the store has taken it; what becomes of the request is decided here alone."""
        if ended_by_reply:
            self._add_ending(Ending(reservation, completed=False))

    def _add_ending(self, ending: Ending) -> None:
        if len(self._endings) >= _KEPT_ENDINGS:
            return  # the leases end them
        if not self._endings:
            asyncio.get_running_loop().call_later(_ENDINGS_WAIT_S, self._due.set)
        self._endings.append(ending)

    async def _send_endings(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                while self._endings and self._standing.up:
                    await self._send_some()
            except StoreLost as lost:
                self._lost(lost.reason)

    async def _send_some(self) -> None:
        batch = [self._endings.popleft() for _ in range(min(_TOGETHER, len(self._endings)))]
        try:
            await self._remote.end(batch)
        except StoreLost:
            self._endings.extendleft(reversed(batch))
            raise

    # How it learns what has become of the store.

    async def _beat(self) -> None:
        failures = 0
        while True:
            was_up = self._standing.up
            try:
                heard = await self._members.beat(self._standing)
            except StoreLost as lost:
                failures += 1
                self._lost(lost.reason)
            except Exception as error:  # noqa: BLE001  # whatever stands in the store must not end the heartbeat
                failures += 1
                self._lost("unreadable")
                self._log.error("store_unreadable", error=type(error).__name__)
            else:
                failures = 0
                if heard and not was_up:
                    await self._found()
                    continue  # the others must hear at once how we spend from now on
            self._looked.set()
            self._look()
            await self._members.pause(failures)

    async def _found(self) -> None:
        # Who sends nothing while the store is lost has nothing to hand back.
        windows_us = [] if self._local.closed else self._windows_us
        self._standing.found(windows_us, self._clock())
        if self._standing.returning(self._clock()):
            for reservation, known in list(self._flying.values()):
                if not known and self._standing.up:
                    await self._record(reservation)
        self._due.set()
        self._look()

    def _lost(self, reason: str) -> None:
        was_up = self._standing.up
        self._standing.lost(self._clock())
        if was_up:
            self._members.hurry()
            self._log.warning("store_lost", reason=reason)
        self._look()

    def _look(self) -> None:
        """Has anything changed that those who wait should know?"""
        now_us = self._clock()
        mode = self._standing.mode(self._windows_us, now_us)
        divided = frozenset(window_us for window_us in self._windows_us if self._standing.divides(window_us, now_us))
        self._local.fit(self._standing.share, alone=not self._standing.shared(now_us))
        if (mode, divided) == (self._mode, self._divided):
            return
        if mode is not self._mode:
            self._log.info("store_mode", mode=mode, share=round(self._standing.share / 1e6, 3))
        self._mode, self._divided = mode, divided
        for changed in self._listeners:
            changed()

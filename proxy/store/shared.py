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
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from policies.admission import WHOLE, Admission, Admitted, Charge, Deferred, Filled, Quota
from policies.pacing import Lesson
from policies.restart import new_exact
from policies.sharing import Mode, Standing, exact
from proxy.clock import Clock
from proxy.store import Reservation, Usage
from proxy.store.client import StoreLost
from proxy.store.endings import Endings
from proxy.store.lessons import Lessons
from proxy.store.local import LocalShare
from proxy.store.members import Members
from proxy.store.memory import sooner
from proxy.store.remote import Banned, Ending, Granted, Holding, RemoteWindows, Void
from proxy.tasks import TaskOwner

_FIRST_LOOK_S: Final = 1.0
_LAST_WORDS_S: Final = 1.0
_POLL_US: Final = (8_000, 14_000)
_JITTER_US: Final = 2_000
"""Gateways that wait for the same instant do not all ask in it."""


_INSTEAD: Final = {"closed": Mode.CLOSED, "open": Mode.OPEN}
_SOON_US: Final = 2_000_000
"""A store that fails again so soon after it was found is not simply believed once more."""
_DISTRUST_US: Final = (250_000, 30_000_000)
_UNTOLD_US: Final = 100_000
"""How soon to ask again for what a ban forbids whose end is not known yet."""
_TOGETHER: Final = 128
_ODD_REFUSALS: Final = 3
"""So many calls in a row that end in an error of their own are no single key's fault."""


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
        self._rules: dict[str, Quota] | None = None
        self._new_until_us: dict[str, int] = {}
        """Exact rules that a reload has brought: until then their windows lack what was sent before."""
        self._windows_us: list[int] = []
        """Of the exact quotas."""
        self._flying: dict[str, tuple[Reservation, bool]] = {}
        """What is on its way, and whether the store knows."""
        self.news, self.way = members.news, remote.link
        self.windows = local.windows
        self._part: Callable[[], int] = lambda: WHOLE
        self._endings = Endings(remote.end, may_send=lambda: standing.up)
        self._listeners: list[Callable[[], None]] = []
        self._mode = Mode.EMERGENCY
        self._divided: frozenset[int] = frozenset()
        self._entries = itertools.count(1)
        self._refusals = 0
        self._troubles = 0
        self._found_us = 0
        self._distrusted_until_us = 0
        self._tasks = TaskOwner()
        self._lessons = Lessons(remote, local, self._tasks, clock, failed=self._failed, raised=self._tell_all)
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
        self._tasks.spawn(self._endings.run(self._failed), "store-endings")
        try:
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._looked.wait()
        except TimeoutError:
            pass  # it goes on without, as at any other time
        self.warnings = await self._members.warnings(up=self._standing.up)

    async def stop(self) -> None:
        """The last words: what has ended, and that our share is free."""
        with suppress(StoreLost, TimeoutError):  # the others will notice
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._endings.flush()
                if self._standing.up:
                    await self._members.leave()
        await self._tasks.close()
        await self._members.close()
        await self._remote.link.close()

    async def reserve(self, reservation: Reservation) -> Admission:
        return await self._reserve(reservation, ended_by_reply=True)

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        return await self._reserve(Reservation(self._members.next_id(), charges), ended_by_reply=False)

    def spend_now(self, charges: tuple[Charge, ...]) -> Admission | None:  # noqa: ARG002  # somebody must be asked
        return None

    async def complete(self, reservation: Reservation, lesson: Lesson | None = None) -> None:
        await self._local.complete(reservation, lesson)
        if lesson is not None and self._standing.up:
            entry, _ = self._flying.get(reservation.id, (reservation, False))
            self._lessons.pass_on(Reservation(entry.id, reservation.charges), lesson)
        self._end(reservation, completed=True)

    async def refund(self, reservation: Reservation) -> None:
        await self._local.refund(reservation)
        self._end(reservation, completed=False)

    def adopt(self, quotas: Iterable[Quota]) -> None:
        rules = list(quotas)
        self._windows_us = sorted({quota.window_us for quota in rules if exact(quota)})
        today = {quota.name: quota for quota in rules}
        before, self._rules = self._rules, today
        if before is not None:
            now_us = self._clock()
            new = {name: now_us + today[name].window_us for name in new_exact(before, today)}
            self._new_until_us = {**self._new_until_us, **new}
        self._local.adopt(rules)
        self._members.adopt(rules)

    async def usage(self, charges: Sequence[Charge] | None = None) -> list[Usage]:
        """Of every window that any gateway uses, as the store has it; nothing while it is lost."""
        if not self._standing.up:
            return []
        try:
            return await self._members.usage(charges)
        except StoreLost:
            return []

    def narrow(self, part: Callable[[], int]) -> None:
        self._part = part
        self._local.narrow(part)

    def allows(self, charge: Charge) -> int:
        return self._local.allows(charge)

    def listen(self, changed: Callable[[], None]) -> None:
        """To be called when what was foreseen holds no more: the store was lost, or is back."""
        self._listeners.append(changed)

    def status(self) -> dict[str, Any]:
        mode = self._standing.mode(self._windows_us, self._clock())
        if mode in {Mode.EMERGENCY, Mode.DIVIDED}:
            mode = _INSTEAD.get(self._local.on_failure, mode)
        return {
            **self._members.status(),
            "share": round(self._standing.share / WHOLE, 4),
            "mode": mode,
            "status": "ok" if mode is Mode.SHARED else "degraded",
        }

    # How it is decided.

    async def _reserve(self, reservation: Reservation, *, ended_by_reply: bool) -> Admission:
        known = self._flying.get(reservation.id)
        if known is not None:
            return Admitted()
        if not self._standing.shared(self._clock()) or (self._new_until_us and self._is_new(reservation)):
            return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
        self._endings.hurry()  # both go together
        for _ in range(2):  # a void call is made once more, by the right time
            try:
                answer = await self._asked(
                    reservation,
                    ended_by_reply=ended_by_reply,
                    orphaned=(lambda: self._orphaned(reservation)) if ended_by_reply else None,
                )
            except StoreLost as lost:
                self._failed(lost)
                if ended_by_reply and not lost.definite:  # nobody knows whether the store has taken it
                    self._endings.add(Ending(reservation, completed=False))
                return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
            self._refusals = 0
            match answer:
                case Granted(admitted):
                    self._members.saw(reservation.charges)
                    self._local.note(reservation, admitted, ended_by_reply=ended_by_reply)
                    self._admitted(reservation, admitted, ended_by_reply=ended_by_reply, known=True)
                    return admitted._replace(filled=self._among(admitted.filled)) if admitted.filled else admitted
                case Deferred():
                    return sooner(self._jittered(answer), self._part())
                case Holding(wait_us):
                    self._standing.holds(self._clock() + wait_us)
                    if self._mode is not Mode.HOLDING:
                        self._members.hurry()  # what is in flight must be entered again
                    return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)
                case Banned(wait_us):
                    self._members.hurry()  # to hear since when, and until when
                    return Deferred(max(wait_us, _UNTOLD_US), reservation.charges[0])
                case Void():
                    continue
        self._lost("late")
        return await self._reserve_alone(reservation, ended_by_reply=ended_by_reply)

    def _is_new(self, reservation: Reservation) -> bool:
        now_us = self._clock()
        self._new_until_us = {name: until_us for name, until_us in self._new_until_us.items() if until_us > now_us}
        return any(charge.quota.name in self._new_until_us for charge in reservation.charges)

    async def _asked(
        self, reservation: Reservation, *, ended_by_reply: bool, orphaned: Callable[[], None] | None
    ) -> Granted | Deferred | Holding | Banned | Void:
        answer = await self._remote.reserve(
            reservation, ended_by_reply=ended_by_reply, orphaned=orphaned, part=self._part()
        )
        if self._remote.stepped:
            self._log.warning("store_clock_stepped")
            if isinstance(answer, Void):
                await self._remote.forget()  # before it is asked again
            else:
                self._tasks.spawn(self._forget(), "store-forget")
        return answer

    async def _forget(self) -> None:
        with suppress(StoreLost):
            await self._remote.forget()

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
                await self._record(reservation.id)
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

    async def _record(self, number: str) -> None:
        """Enter in the store what is sent all the same, by a name of its own.

        Under the first one the store may still be told to forget a call of unknown fate, or may lack it.
        """
        if number not in self._flying:
            return  # it has ended while others were entered
        before, known = self._flying[number]
        entry = Reservation(f"{number}+{next(self._entries)}", before.charges)
        if known:
            self._endings.add(Ending(before, completed=True))
        self._flying[number] = (entry, True)  # whatever becomes of the call: its end is told, and changes nothing else
        try:
            entered = await self._remote.record(entry)
        except StoreLost as lost:
            self._failed(lost)
            return
        if not entered:
            self._lost("late")

    async def _enter_flying(self) -> None:
        """What is in flight counts at the exchange: the store must have it, all of it where its memory is gone."""
        emptied = self._members.emptied
        missing = [number for number, (_, known) in self._flying.items() if emptied or not known]
        while missing:
            if not self._standing.up:
                return
            together, missing = missing[:_TOGETHER], missing[_TOGETHER:]
            await asyncio.gather(*(self._record(number) for number in together if number in self._flying))
        self._members.emptied = False

    def _jittered(self, deferred: Deferred) -> Deferred:
        if deferred.in_flight or self._members.count < 2:
            return deferred
        # Not for unpredictability: so that those who wait for one instant ask one after the other.
        return deferred._replace(wait_us=deferred.wait_us + random.randrange(_JITTER_US * self._members.count))  # noqa: S311

    def _end(self, reservation: Reservation, *, completed: bool) -> None:
        entry, known = self._flying.pop(reservation.id, (reservation, False))
        if known and self._remote.ends(entry):
            self._endings.add(Ending(entry, completed))

    def _orphaned(self, reservation: Reservation) -> None:
        """It was taken, or may have been, for a request that has gone meanwhile."""
        self._endings.add(Ending(reservation, completed=False))

    # How it learns what has become of the store.

    async def _beat(self) -> None:
        failures = 0
        while True:
            try:
                came_back = await self._beat_once()
                failures = 0
            except StoreLost as lost:
                came_back, failures = False, failures + 1
                self._lost(lost.reason)
            except Exception as error:  # noqa: BLE001  # whatever stands in the store must not end the heartbeat
                came_back, failures = False, failures + 1
                self._lost("unreadable")
                self._log.error("store_unreadable", error=type(error).__name__)
            if not came_back:  # else the others must hear at once how we spend from now on
                self._looked.set()
                self._look()
                await self._members.pause(failures)

    async def _beat_once(self) -> bool:
        """A sign of life, and what follows from its answer. True: we spend otherwise from now on."""
        was_up = self._standing.up
        heard = await self._members.beat(self._standing)
        if heard and not was_up and self._clock() >= self._distrusted_until_us:
            await self._found()
            return True
        if self._members.emptied and self._standing.up:
            await self._enter_flying()
        return False

    async def _found(self) -> None:
        # Who sends nothing while the store is lost has nothing to hand back.
        windows_us = [] if self._local.on_failure == "closed" else self._windows_us
        self._found_us = self._clock()
        self._standing.found(windows_us, self._found_us)
        if self._members.emptied or self._standing.returning(self._found_us):
            await self._enter_flying()
        self._endings.hurry()
        self._look()

    def _failed(self, lost: StoreLost) -> None:
        """A call was not answered as it should be. One that is refused for its own keys says nothing of the store."""
        if lost.of_its_own:
            self._refusals += 1
            if self._refusals < _ODD_REFUSALS:
                self._log.warning("store_refused", reason=lost.reason)
                return
        self._lost(lost.reason)

    def _lost(self, reason: str) -> None:
        was_up, now_us = self._standing.up, self._clock()
        self._standing.lost(now_us)
        if was_up:
            self._troubles = self._troubles + 1 if now_us - self._found_us < _SOON_US else 0
            least, most = _DISTRUST_US
            distrust_us = min(most, least << (self._troubles - 1)) if 0 < self._troubles < 16 else most
            self._distrusted_until_us = now_us + (distrust_us if self._troubles else 0)
            self._members.hurry()
            self._log.warning("store_lost", reason=reason)
        self._look()

    def _look(self) -> None:
        """Has anything changed that those who wait should know?"""
        now_us = self._clock()
        mode = self._standing.mode(self._windows_us, now_us)
        divided = frozenset(window_us for window_us in self._windows_us if self._standing.divides(window_us, now_us))
        standing = self._standing
        self._local.fit(standing.share, alone=not standing.shared(now_us), returning=standing.returning(now_us))
        if (mode, divided) == (self._mode, self._divided):
            return
        if mode is not self._mode:
            self._log.info("store_mode", mode=mode, share=round(self._standing.share / 1e6, 3))
        self._mode, self._divided = mode, divided
        self._tell_all()

    def _tell_all(self) -> None:
        for changed in self._listeners:
            changed()

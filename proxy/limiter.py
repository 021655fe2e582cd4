"""Takes what a request must spend before it may go on: at once, after waiting its turn, or not at all.

acquire() has exactly three ends: a Permit, a Refused, or the caller's cancellation, after which nothing is held. One
dispatcher serves all waiting requests and hands permits over directly; nobody sleeps and asks again. A permit is ended
exactly once: completed when the reply is here, given back when the request is known not to have been sent.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets

from policies.admission import Admitted, Charge, Deferred, Refused, WhenFull, Why
from policies.queueing import UNTIL_COMPLETION, Ticket, WaitingRoom
from proxy.clock import Clock
from proxy.store import Reservation, Store
from proxy.tasks import TaskOwner


class Permit:
    """What an admitted request holds until it is completed or given back."""

    __slots__ = ("_ended", "_limiter", "over", "reservation", "waited_us")

    def __init__(self, limiter: Limiter, reservation: Reservation, over: tuple[Charge, ...], waited_us: int) -> None:
        self._limiter = limiter
        self._ended = False
        self.reservation = reservation
        self.over = over
        self.waited_us = waited_us

    async def complete(self) -> None:
        """The reply is here, or enough time has passed for the request to have arrived if it ever does."""
        if not self._ended:
            self._ended = True
            await self._limiter.complete(self.reservation)

    async def refund(self) -> None:
        """Not one byte was sent."""
        if not self._ended:
            self._ended = True
            await self._limiter.refund(self.reservation)


class Limiter:
    def __init__(self, store: Store, clock: Clock, tasks: TaskOwner, *, max_waiting: int, max_wait_us: int) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._max_waiting = max_waiting
        self._max_wait_us = max_wait_us
        self._room = WaitingRoom()
        self._grants: dict[Ticket, asyncio.Future[Permit | Refused]] = {}
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        return len(self._room)

    async def acquire(self, charges: tuple[Charge, ...], deadline_us: int | None = None) -> Permit | Refused:
        """Admission for all charges together. `deadline_us`: the last instant at which sending is still worth it."""
        wait_us = 0
        if not self._room.must_queue(charges):
            reservation = self._reservation(charges)
            admission = await self._store.reserve(reservation)
            if isinstance(admission, Admitted):
                return Permit(self, reservation, admission.over, 0)
            binding = admission.binding
            if binding.quota.when_full is WhenFull.REFUSE:
                return Refused(Why.FULL, binding, _some(admission))
            wait_us = _some(admission)
        else:
            binding = charges[0]
        return await self._queue(charges, binding, wait_us, deadline_us)

    async def spend(self, charges: tuple[Charge, ...], deadline_us: int | None = None) -> Admitted | Refused:
        """acquire() for quotas that no reply ends: what was taken needs no permit to be kept and completed."""
        if not self._room.must_queue(charges):
            admission = await self._store.spend(charges)
            if isinstance(admission, Admitted):
                return admission
        answer = await self.acquire(charges, deadline_us)
        if isinstance(answer, Refused):
            return answer
        await answer.complete()
        return Admitted(answer.over)

    async def complete(self, reservation: Reservation) -> None:
        await self._store.complete(reservation)
        if self._room.completed(reservation.charges):
            self._wake.set()

    async def refund(self, reservation: Reservation) -> None:
        await self._store.refund(reservation)
        if self._room.refunded(reservation.charges):
            self._wake.set()

    async def run(self) -> None:
        """The dispatcher: serves everybody whose turn it is, then sleeps until something can have changed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._serve()
            self._set_alarm()

    async def _queue(
        self, charges: tuple[Charge, ...], binding: Charge, wait_us: int, deadline_us: int | None
    ) -> Permit | Refused:
        now_us = self._clock()
        last_us = now_us + self._max_wait_us
        if deadline_us is not None:
            last_us = min(last_us, deadline_us)
        if len(self._room) >= self._max_waiting:
            return Refused(Why.QUEUE, binding, max(wait_us, binding.quota.window_us))
        foreseen_us = wait_us + self._room.ahead(charges) * binding.quota.window_us // binding.quota.limit
        if now_us + foreseen_us > last_us:
            return Refused(Why.DEADLINE, binding, foreseen_us)
        ticket = self._room.enter(charges, last_us)
        grant: asyncio.Future[Permit | Refused] = asyncio.get_running_loop().create_future()
        self._grants[ticket] = grant
        self._wake.set()
        try:
            answer = await grant
        except asyncio.CancelledError:
            self._give_up(ticket, grant)
            raise
        finally:
            self._grants.pop(ticket, None)
        if isinstance(answer, Permit):
            answer.waited_us = self._clock() - now_us
        return answer

    def _give_up(self, ticket: Ticket, grant: asyncio.Future[Permit | Refused]) -> None:
        """The client has gone. A permit that was handed over in the same instant is given back."""
        self._room.leave(ticket)
        if grant.done() and not grant.cancelled():
            answer = grant.result()
            if isinstance(answer, Permit):
                self._tasks.spawn(answer.refund(), "refund-abandoned-permit")

    async def _serve(self) -> None:
        while True:
            now_us = self._clock()
            for late in self._room.expired(now_us):
                self._answer(late, Refused(Why.DEADLINE, *self._room.binding(late, now_us)))
            ticket = self._room.next(now_us)
            if ticket is None:
                return
            reservation = self._reservation(ticket.charges)
            admission = await self._store.reserve(reservation)
            if isinstance(admission, Admitted):
                await self._grant(ticket, reservation, admission)
            elif ticket.gone:
                continue
            elif admission.binding.quota.when_full is WhenFull.REFUSE:
                self._room.leave(ticket)
                self._answer(ticket, Refused(Why.FULL, admission.binding, _some(admission)))
            else:
                until_us = UNTIL_COMPLETION if admission.in_flight else self._clock() + admission.wait_us
                self._room.park(ticket, admission.binding, until_us)

    async def _grant(self, ticket: Ticket, reservation: Reservation, admission: Admitted) -> None:
        if ticket.gone:  # while the store was asked
            await self.refund(reservation)
            return
        self._room.served(ticket)
        self._answer(ticket, Permit(self, reservation, admission.over, 0))

    def _answer(self, ticket: Ticket, answer: Permit | Refused) -> None:
        grant = self._grants.get(ticket)
        if grant is not None and not grant.done():
            grant.set_result(answer)
        elif isinstance(answer, Permit):
            self._tasks.spawn(answer.refund(), "refund-abandoned-permit")

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        instant_us = self._room.next_instant()
        if instant_us is not None:
            delay_us = max(0, instant_us - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_us / 1e6, self._wake.set)

    def _reservation(self, charges: tuple[Charge, ...]) -> Reservation:
        return Reservation(f"{self._prefix}:{next(self._numbers)}", charges)


def _some(admission: Deferred) -> int:
    """A wait to tell a client when the exact one depends on replies that are still out."""
    return max(admission.wait_us, 1) if not admission.in_flight else admission.binding.quota.window_us

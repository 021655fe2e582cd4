"""Takes what a request must spend before it may go on: at once, after waiting its turn, or not at all.

acquire() has exactly three ends: a Permit, a Refused, or the caller's cancellation, after which nothing is held. One
dispatcher serves all waiting requests and hands permits over directly; nobody sleeps and asks again. A permit is ended
exactly once: completed when the reply is here, given back when the request is known not to have been sent.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from policies.admission import Admitted, Charge, Deferred, Quota, Refused, WhenFull, Why, WindowKind
from policies.lines import Ticket
from policies.pacing import Lesson
from policies.priority import Priority
from policies.queueing import SPACED, UNTIL_COMPLETION, WaitingRoom
from policies.spacing import Spacing
from proxy.clock import Clock
from proxy.store import Reservation, Store
from proxy.tasks import TaskOwner

_AFTER_FAILURE_S: Final = 0.1
_LOOK_AGAIN_US: Final = 250_000


class Claim(NamedTuple):
    """What a request asks of the limiter. `deadline_us`: the last instant at which sending is still worth it."""

    charges: tuple[Charge, ...]
    priority: Priority = Priority.ACCOUNT
    client: str = ""
    deadline_us: int | None = None


class QueueBounds(NamedTuple):
    max_waiting: int
    max_waiting_per_client: int
    max_wait_us: int


class Permit:
    """What an admitted request holds until it is completed or given back."""

    __slots__ = ("_ended", "_limiter", "admitted", "reservation", "waited_us")

    def __init__(self, limiter: Limiter, reservation: Reservation, admitted: Admitted) -> None:
        self._limiter = limiter
        self._ended = False
        self.reservation = reservation
        self.admitted = admitted
        self.waited_us = 0

    def also(self, charge: Charge) -> None:
        """The answer says something of a further quota, which was not charged."""
        self.reservation = self.reservation._replace(charges=(*self.reservation.charges, charge))

    async def complete(self, lesson: Lesson | None = None) -> None:
        """The reply is here, or enough time has passed for the request to have arrived if it ever does."""
        if not self._ended:
            self._ended = True
            await self._limiter.complete(self.reservation, lesson)

    async def refund(self) -> None:
        """Not one byte was sent."""
        if not self._ended:
            self._ended = True
            await self._limiter.refund(self.reservation)


class Limiter:
    def __init__(self, store: Store, clock: Clock, tasks: TaskOwner, bounds: QueueBounds) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._bounds = bounds
        self._room = WaitingRoom()
        self._spacings: dict[tuple[str, ...], Spacing] = {}
        self._grants: dict[Ticket, asyncio.Future[Permit | Refused]] = {}
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        store.listen(self._reconsider)
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._barred = False

    def bar(self) -> None:
        """Nothing is to be sent: who waits is turned away at once, and whoever comes."""
        self._barred = True
        now_us = self._clock()
        for ticket in list(self._grants):
            if not ticket.gone:
                refused = Refused(Why.BAN, *self._room.binding(ticket, now_us))
                self._room.leave(ticket)
                self._answer(ticket, refused)

    def unbar(self) -> None:
        self._barred = False
        self._reconsider()

    @property
    def waiting(self) -> int:
        return len(self._room)

    def waiting_of(self, priority: Priority) -> int:
        return self._room.waiting(priority)

    def waiting_on(self, key: tuple[str, ...]) -> int:
        """Requests that wait and spend the window of this key."""
        return self._room.waiting_on(key)

    async def acquire(self, claim: Claim) -> Permit | Refused:
        """Admission for all charges of a claim together, now or after its turn has come."""
        wait_us = 0
        if not self._room.must_queue(claim.charges, claim.priority, self._clock()):
            reservation = self._reservation(claim.charges)
            admission = await self._store.reserve(reservation)
            if isinstance(admission, Admitted):
                if self._room:
                    self._room.granted(claim.priority)
                return self._permit(reservation, admission, claim.priority)
            binding = admission.binding
            if self._barred:
                return Refused(Why.BAN, binding, _some(admission))
            if binding.quota.when_full is WhenFull.REFUSE:
                return Refused(Why.FULL, binding, _some(admission))
            wait_us = _some(admission)
        else:
            binding = claim.charges[0]
        return await self._queue(claim, binding, wait_us)

    def spend_now(self, claim: Claim) -> Admitted | None:
        """The usual end of spend(), without a suspension: nobody waits, there is room, the store is here."""
        if self._room.empty:
            admission = self._store.spend_now(claim.charges)
            if isinstance(admission, Admitted):
                return admission
        return None

    async def spend(self, claim: Claim) -> Admitted | Refused:
        """acquire() for quotas that no reply ends: what was taken needs no permit to be kept and completed."""
        if not self._room.must_queue(claim.charges, claim.priority, self._clock()):
            admission = await self._store.spend(claim.charges)
            if isinstance(admission, Admitted):
                return admission
        answer = await self.acquire(claim)
        if isinstance(answer, Refused):
            return answer
        await answer.complete()
        return answer.admitted

    def adopt(self, bounds: QueueBounds, quotas: Sequence[Quota]) -> None:
        """The rules have changed. Who waits keeps the rules that he met, under their numbers of today."""
        self._bounds = bounds
        self._store.adopt(quotas)
        rules = {quota.name: quota for quota in quotas}
        for key, spacing in self._spacings.items():
            if (quota := rules.get(key[0])) is not None:
                spacing.resize(quota.limit, quota.window_us)
        self._reconsider()

    def _reconsider(self) -> None:
        """Nothing that was foreseen holds any more."""
        self._room.reconsider()
        self._wake.set()

    async def complete(self, reservation: Reservation, lesson: Lesson | None = None) -> None:
        await self._store.complete(reservation, lesson)
        if self._spacings:
            now_us = self._clock()
            for spacing, cost in self._spaced(reservation.charges):
                spacing.completed(cost, now_us)
        if self._room.completed(reservation.charges):
            self._wake.set()
        if lesson is not None and self._room:
            # Its limit, what others use of it, its end: nothing that was foreseen of such a window holds any more.
            learned = tuple(charge for charge in reservation.charges if charge.quota.window is WindowKind.LEARNED)
            if self._room.refunded(learned):
                self._wake.set()

    async def refund(self, reservation: Reservation) -> None:
        await self._store.refund(reservation)
        for spacing, cost in self._spaced(reservation.charges):
            spacing.refunded(cost)
        if self._room.refunded(reservation.charges):
            self._wake.set()

    async def run(self) -> None:
        """The dispatcher: serves everybody whose turn it is, then sleeps until something can have changed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                self._set_alarm(await self._serve())
            except Exception as error:  # noqa: BLE001  # whatever it is: those who wait must not wait for ever
                structlog.get_logger().error("dispatcher_failed", error=type(error).__name__)
                self._alarm = asyncio.get_running_loop().call_later(_AFTER_FAILURE_S, self._wake.set)

    async def _queue(self, claim: Claim, binding: Charge, wait_us: int) -> Permit | Refused:
        now_us = self._clock()
        if self._barred:
            return Refused(Why.BAN, binding, wait_us)
        last_us = now_us + self._bounds.max_wait_us
        if claim.deadline_us is not None:
            last_us = min(last_us, claim.deadline_us)
        full = len(self._room) >= self._bounds.max_waiting
        if full or self._room.of_client(claim.client) >= self._bounds.max_waiting_per_client:
            return Refused(Why.QUEUE, binding, max(wait_us, binding.quota.window_us))
        binding = self._as_learned(binding)
        charges = tuple(map(self._as_learned, claim.charges))
        foreseen_us = wait_us + self._room.foreseen_us(charges, last_us, claim.priority, claim.client)
        if now_us + foreseen_us > last_us:
            return Refused(Why.DEADLINE, binding, foreseen_us)
        ticket = self._room.enter(claim.charges, last_us, claim.priority, claim.client)
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

    def _as_learned(self, charge: Charge) -> Charge:
        """With the limit as it is known by now: it foretells the wait, and the client is told of it."""
        if charge.quota.window is not WindowKind.LEARNED:
            return charge
        return charge._replace(quota=replace(charge.quota, limit=self._store.allows(charge)))

    def _give_up(self, ticket: Ticket, grant: asyncio.Future[Permit | Refused]) -> None:
        """The client has gone. A permit that was handed over in the same instant is given back."""
        self._room.leave(ticket)
        if grant.done() and not grant.cancelled():
            answer = grant.result()
            if isinstance(answer, Permit):
                self._tasks.spawn(answer.refund(), "refund-abandoned-permit")

    async def _serve(self) -> int:
        """Serve until nobody's turn has come; the answer is the instant for which that is true."""
        while True:
            now_us = self._clock()
            for late in self._room.expired(now_us):
                binding, wait_us = self._room.binding(late, now_us)
                self._answer(late, Refused(Why.DEADLINE, self._as_learned(binding), wait_us))
            ticket = self._room.next(now_us)
            if ticket is None:
                return now_us
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
                self._room.park(ticket, admission.binding, self._until_us(admission))

    def _until_us(self, admission: Deferred) -> int:
        """When to ask again for what has no room now."""
        poll_us = self._store.poll_us
        if not admission.in_flight:
            return self._clock() + admission.wait_us
        if admission.binding.quota.window is WindowKind.LEARNED:
            return self._clock() + _LOOK_AGAIN_US  # what is left to others may run out before the reply is here
        return UNTIL_COMPLETION if poll_us is None else self._clock() + poll_us

    async def _grant(self, ticket: Ticket, reservation: Reservation, admission: Admitted) -> None:
        if ticket.gone:  # while the store was asked
            await self._store.refund(reservation)
            return
        self._room.served(ticket)
        self._answer(ticket, self._permit(reservation, admission, ticket.priority))

    def _permit(self, reservation: Reservation, admission: Admitted, priority: Priority) -> Permit:
        """The permit; and if its class is spaced out, the instant of the next of them."""
        now_us = self._clock()
        gap_us = 0
        for place, (spacing, cost) in enumerate(self._spaced(reservation.charges)):
            spacing.sent(cost, now_us, urgent=priority < SPACED)
            if admission.filled:
                spacing.fit(admission.filled[place], now_us)
            else:
                spacing.alone()
            if priority >= SPACED:
                gap_us = max(gap_us, spacing.gap_us(now_us))
        if gap_us:
            self._room.space(now_us, gap_us)
        return Permit(self, reservation, admission)

    def _spaced(self, charges: tuple[Charge, ...]) -> list[tuple[Spacing, int]]:
        """Our own view of those windows that all classes share."""
        shared = []
        for charge in charges:
            quota = charge.quota
            if quota.spaces:
                spacing = self._spacings.get(charge.key)
                if spacing is None:
                    spacing = self._spacings[charge.key] = Spacing(quota.limit, quota.window_us)
                shared.append((spacing, charge.cost))
        return shared

    def _answer(self, ticket: Ticket, answer: Permit | Refused) -> None:
        grant = self._grants.get(ticket)
        if grant is not None and not grant.done():
            grant.set_result(answer)
        elif isinstance(answer, Permit):
            self._tasks.spawn(answer.refund(), "refund-abandoned-permit")

    def _set_alarm(self, looked_us: int) -> None:
        """Look again when something can have changed since the last look, which may lie behind us by now."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        instant_us = self._room.next_instant(looked_us)
        if instant_us is not None:
            delay_s = max(0, instant_us - self._clock()) / 1e6
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._wake.set)

    def _reservation(self, charges: tuple[Charge, ...]) -> Reservation:
        return Reservation(f"{self._prefix}:{next(self._numbers)}", charges)


def _some(admission: Deferred) -> int:
    """A wait to tell a client when the exact one depends on replies that are still out."""
    return max(admission.wait_us, 1) if not admission.in_flight else admission.binding.quota.window_us

"""How a request gets to the exchange: in its turn, admitted, sent; and again where that is safe (policies/retry.py).

Every attempt is admitted and counted; every permit is ended exactly once, whatever becomes of the attempt.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from typing import Any, Final, TypeGuard

import structlog

from policies import bybit, retry, trading
from policies.admission import Charge, Quota, Refused, RefuseWith, Rulebook, Why
from policies.descriptor import Descriptor
from policies.orders import is_batch
from policies.priority import Priority
from policies.retry import Failure, RetryBudget, RetryRules
from policies.skew import Clock as Verdict
from policies.skew import Skew
from proxy import errors
from proxy.answered import Answered, read_through
from proxy.ask import Ask
from proxy.breaker import Breaker, Tried
from proxy.clock import Clock, Sleep
from proxy.describe import claim_of
from proxy.egress import Egress
from proxy.errors import BadClock, Banned, Broken, BrokenAnswer, FateUnknown, Halted, NotSent, Shed, UpstreamError
from proxy.lanes import OrderGate, Passage
from proxy.limiter import Limiter, Permit
from proxy.observer import Observer
from proxy.pulse import UpstreamPulse
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.upstream import Upstream

READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing at the exchange: they may be cancelled, and sent again."""

AFTER_THE_CLIENT: Final = "after-the-client"
"""The name of tasks that wait for an answer nobody else waits for."""
_GRACE_S: Final = 1.0
"""A request whose answer never came may still be on its way: its permit is held that much longer."""
_NOTABLE_US: Final = 1_000
"""Less than that is no wait."""
_ORDER_LANE: Final = Charge(Quota("order-lane", 1, 1_000_000, (), refuse_with=RefuseWith.BYBIT), ("order-lane",), 1)
"""To blame when a request that must not be overtaken is not answered in time."""


class Attempts:
    def __init__(
        self,
        *,
        rules: Rulebook,
        retries: RetryRules,
        limiter: Limiter,
        upstream: Upstream,
        egress: Egress,
        breaker: Breaker,
        observer: Observer,
        telemetry: Telemetry,
        tasks: TaskOwner,
        clock: Clock,
        max_wait_us: int,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.rules = rules
        self.retries = retries
        self.sending: Callable[[], None] = _nothing
        """Called for every request that is sent."""
        self.sheds: Callable[[Priority], bool] = lambda _: False
        """Whether requests of a class are turned away for want of strength."""
        self.max_wait_us = max_wait_us
        self.gate = OrderGate(clock)
        self.skew = Skew()
        self.pulse = UpstreamPulse(clock)
        """What is heard of the exchange, and what should have been."""
        self._budget = RetryBudget()
        self._limiter = limiter
        self._upstream = upstream
        self._egress = egress
        self._breaker = breaker
        self._observer = observer
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._tasks = tasks
        self._clock = clock
        self._sleep = sleep
        self._log: Any = structlog.get_logger()

    async def send(self, ask: Ask, story: Story) -> Answered | Refused:
        """The exchange's answer, or why there is none; raises what proxy/errors.py names."""
        now_us = self._clock()
        self._may_be_sent(ask)
        self._shed((story.descriptor or ask.descriptor).priority)
        self._judge_clock(ask, now_us)
        until_us = self._until(ask, story.began_us)
        self._budget.pay_in(self.retries.budget_percent)
        if not ask.operations or ask.descriptor.api_key is None:
            return await self._until_answered(ask, until_us, story, None)
        passage = await self.gate.enter(ask.descriptor.api_key, ask.operations, until_us)
        held_us = self._clock() - now_us
        story.waited_us += held_us
        if story.steps is not None and held_us >= _NOTABLE_US:
            story.steps.wait("order-lane", now_us, now_us + held_us)
        if passage is None:
            return Refused(Why.DEADLINE, _ORDER_LANE, held_us)
        return await self._until_answered(ask, until_us, story, passage)

    def _may_be_sent(self, ask: Ask) -> None:
        """What forbids it as a whole: asked on arrival, so that it is answered at once, and right before sending."""
        descriptor = ask.descriptor
        if self._egress.banned:
            raise Banned
        if self._egress.halted and trading.places_orders(descriptor.method, descriptor.path, descriptor.endpoint):
            raise Halted
        self._breaker.may_pass(descriptor)

    def _shed(self, priority: Priority) -> None:
        """On arrival only: what has waited for its turn has been paid for. The class is that of who asks: what has to
        be fetched for him may be of another."""
        if self.sheds(priority):
            self._metrics.shed.labels(priority.name.lower()).inc()
            raise Shed

    def may_send(self, descriptor: Descriptor) -> bool:
        """Whether anything is sent at present to where this goes."""
        idle = self._egress.banned or self.sheds(descriptor.priority)
        return not idle and self._breaker.wait_us(descriptor) == 0

    def _judge_clock(self, ask: Ask, now_us: int) -> None:
        """Refuse at once what the exchange would certainly refuse: only the client can sign again."""
        stamp_us, expiry_us = ask.timestamp_us, ask.descriptor.deadline_us
        if stamp_us is None or expiry_us is None:
            return
        server_ms = (now_us + self.skew.offset_us) // 1000
        stamps = f"req_timestamp[{stamp_us // 1000}],server_timestamp[{server_ms}]"
        match self.skew.judge(stamp_us, expiry_us, now_us):
            case Verdict.AHEAD:
                ahead_ms = stamp_us // 1000 - server_ms
                detail = f"your clock is {ahead_ms} ms ahead of the exchange, which takes less than 1000. {stamps}"
                raise BadClock("clock-ahead", detail)
            case Verdict.EXPIRED:
                detail = f"the request has expired before it could be sent: it is too old for its recv_window. {stamps}"
                raise BadClock("expired", detail)
            case Verdict.GOOD:
                return

    def _until(self, ask: Ask, began_us: int) -> int:
        """The last instant at which sending is still worth it: for the signature, the client, and the queue."""
        until_us = began_us + self.max_wait_us
        if ask.max_wait_us is not None:
            until_us = min(until_us, began_us + ask.max_wait_us)
        if ask.descriptor.deadline_us is not None:
            until_us = min(until_us, self.skew.latest_send_us(ask.descriptor.deadline_us))
        return until_us

    async def _until_answered(
        self, ask: Ask, until_us: int, story: Story, passage: Passage | None
    ) -> Answered | Refused:
        """One attempt after another, as long as another is safe and worth it. Those that must not overtake this request
        wait until its last answer is here, not until its client has got it."""
        task: asyncio.Task[Answered] | None = None
        got: Answered | UpstreamError | None = None
        counted, failure = 0, None
        read = ask.descriptor.method in READS
        try:
            while True:
                try:
                    permit = await self._acquire(ask, until_us, story)
                    if isinstance(permit, Refused):
                        return permit if got is None else _result(got)
                    # One that had died idle is tried once more on a connection that had not.
                    task = await self._begun(ask, permit, story, fresh=failure is Failure.IDLE_CONNECTION)
                except (Banned, Broken, Halted):
                    if _was_sent(got):
                        return _result(got)
                    raise
                latest = await self._finished(task, ask, story)
                if isinstance(latest, NotSent) and _was_sent(got):
                    return _result(got)
                if read and isinstance(latest, UpstreamError) and isinstance(got, Answered):
                    return got  # what the exchange has said is worth more than what went wrong later
                got = latest
                failure = _failure(got, batch=is_batch(ask.descriptor.path))
                # To find out that a connection had died is not an attempt.
                counted += failure is not Failure.IDLE_CONNECTION
                if failure is None or not await self._again(failure, counted, ask, until_us, story):
                    return _result(got)
        finally:
            if passage is not None:
                if task is None or task.done():
                    passage.release()
                else:  # its client has hung up, and it is still on its way
                    task.add_done_callback(passage.release)

    async def _again(self, failure: Failure, counted: int, ask: Ask, until_us: int, story: Story) -> bool:
        """Whether to send it once more, after the pause that belongs to it."""
        if ask.once or counted >= self.retries.attempts or self.retries.attempts == 1:
            return False
        if not retry.may_repeat(failure, read=ask.descriptor.method in READS) or self._egress.banned:
            return False
        chance = random.randrange(1_000_000)  # noqa: S311  # so that not all come back at once
        pause_us = retry.pause_us(failure, max(1, counted), self.retries, chance)
        now_us = self._clock()
        if now_us + pause_us >= until_us or not self._budget.spend(failure):
            return False
        self._metrics.retries.labels(story.endpoint, failure.value).inc()
        if pause_us:
            story.waited_us += pause_us
            if story.steps is not None:
                story.steps.wait("pause", now_us, now_us + pause_us)
            await self._sleep(pause_us / 1e6)
        return True

    async def _acquire(self, ask: Ask, until_us: int, story: Story) -> Permit | Refused:
        claim = claim_of(ask.descriptor, self.rules)
        charges = self._observer.charges(ask.descriptor, claim.charges)
        asked_us, permit = self._clock(), None
        wait = None if story.steps is None else story.steps.wait("queue", asked_us)
        try:
            permit = await self._limiter.acquire(claim._replace(charges=charges, deadline_us=until_us))
        finally:  # who is refused, or hangs up, has waited as well
            waited_us = permit.waited_us if isinstance(permit, Permit) else self._clock() - asked_us
            story.waited_us += waited_us
            if wait is not None:
                wait.ended_us = asked_us + waited_us
        if isinstance(permit, Permit):
            story.sent_charges = permit.reservation.charges
            self._telemetry.count_admitted(permit.reservation.charges, permit.admitted)
            if permit.waited_us:
                self._metrics.queue_wait.observe((ask.descriptor.priority.name.lower(),), permit.waited_us)
        elif permit.why is Why.BAN:
            raise Banned
        return permit

    async def _begun(self, ask: Ask, permit: Permit, story: Story, *, fresh: bool) -> asyncio.Task[Answered]:
        """On the wire in a task of its own, so that the permit is held until the answer is here, whoever has left.

        A connection that is cut when its client hangs up does not take the request back: it may still arrive, and be
        counted, at any later time. `fresh`: on a connection that has not lain idle.
        """
        try:
            self._may_be_sent(ask)  # it may have waited for seconds
            tried = self._breaker.take(ask.descriptor)
        except BaseException:
            await permit.refund()
            raise
        work = self._on_the_wire(ask, permit, tried, story, fresh=fresh)
        return self._tasks.spawn(work, f"send {ask.descriptor.endpoint}", reported=False)

    async def _finished(self, task: asyncio.Task[Answered], ask: Ask, story: Story) -> Answered | UpstreamError:
        try:
            answered = await asyncio.shield(task)
        except UpstreamError as error:
            return error
        except asyncio.CancelledError:
            self._tasks.spawn(self._after_the_client(task, ask, story.request_id), AFTER_THE_CLIENT)
            raise
        story.upstream_status, story.ret_code = answered.status, answered.ret_code
        return answered

    async def _on_the_wire(self, ask: Ask, permit: Permit, tried: Tried, story: Story, *, fresh: bool) -> Answered:
        story.attempts += 1
        self.sending()
        self._metrics.in_flight.inc()
        sent_us = self._clock()
        attempt = None if story.steps is None else story.steps.sent(sent_us)
        try:
            reply = await self._upstream.send(
                ask.descriptor.method,
                ask.target,
                ask.headers,
                ask.body,
                within_us=self._within_us(ask, sent_us),
                fresh=fresh,
            )
            reply.sent_us, reply.received_us = sent_us, self._clock()
            self._metrics.duration.observe((story.endpoint,), reply.received_us - sent_us, story.exemplar)
            answered = await read_through(reply)
        except NotSent as error:
            if not error.of_ours:
                self.pulse.failed(error.reason)
            self._breaker.failed(tried, sent_us, of_ours=error.of_ours)
            await permit.refund()
            raise
        except BrokenAnswer as error:
            if error.forbidden is not None:
                self._observer.forbidden(error.forbidden)
            else:
                self.pulse.failed(error.reason)
            self._breaker.failed(tried, sent_us)
            await permit.complete()
            raise
        except BaseException as error:
            # A connection that had died while it lay idle says nothing of the upstream either.
            dead = isinstance(error, FateUnknown) and error.idle
            if isinstance(error, UpstreamError) and not dead:
                self.pulse.failed(error.reason)
            self._breaker.failed(tried, sent_us, of_ours=dead or not isinstance(error, UpstreamError))
            self._tasks.spawn(_complete_later(permit), "late-completion")
            raise
        finally:
            self._metrics.in_flight.dec()
            ended_us = self._clock()
            story.upstream_us += ended_us - sent_us
            if attempt is not None:
                attempt.ended_us, attempt.error = ended_us, errors.word_of(sys.exception())
        if attempt is not None:
            attempt.answered(answered.status, answered.ret_code)
        self._hear(answered)
        self.learn_time(answered, answered.text)
        try:
            await self._observer.observe(ask, permit, answered, tried)
        finally:
            await permit.complete()  # it is by now, unless something went wrong
        return answered

    def _hear(self, answered: Answered) -> None:
        """An answer that says it fails is no sign of health."""
        if retry.failure_of(answered.status, answered.ret_code, batch=False) is Failure.FAILING:
            self.pulse.failed(f"http-{answered.status}" if answered.status >= 500 else f"code-{answered.ret_code}")
        else:
            self.pulse.answered(answered.reply.received_us - answered.reply.sent_us)

    def learn_time(self, answered: Answered, text: bytes) -> None:
        """What the stamp in a (decoded) body says of the exchange's clock."""
        stamp_ms = bybit.server_ms(text)
        if stamp_ms is not None:
            self.skew.observe(answered.reply.sent_us, answered.reply.received_us, stamp_ms)

    def _within_us(self, ask: Ask, now_us: int) -> int | None:
        """How long its signature lets it wait for a connection."""
        if ask.descriptor.deadline_us is None or not self.skew.known:
            return None
        return self.skew.latest_send_us(ask.descriptor.deadline_us) - now_us

    async def _after_the_client(self, task: asyncio.Task[Answered], ask: Ask, request_id: str) -> None:
        """What became of a request whose client did not wait for it. A write's fate goes to the log, to be found."""
        try:
            answered = await task
        except UpstreamError as error:
            if ask.descriptor.method not in READS:
                self._metrics.unknown_writes.inc(not isinstance(error, NotSent))
                self._log.warning("orphaned_write", id=request_id, outcome=error.reason)
            return
        answered.reply.close()
        if ask.descriptor.method not in READS:
            self._log.warning("orphaned_write", id=request_id, status=answered.status, ret_code=answered.ret_code)


def _was_sent(got: Answered | UpstreamError | None) -> TypeGuard[Answered | UpstreamError]:
    """An attempt has reached the exchange: what becomes of a later one does not undo that."""
    return got is not None and not isinstance(got, NotSent)


def _result(got: Answered | UpstreamError) -> Answered:
    if isinstance(got, NotSent) and got.of_ours:
        raise Banned
    if isinstance(got, UpstreamError):
        raise got
    return got


def _failure(got: Answered | UpstreamError, *, batch: bool) -> Failure | None:
    match got:
        case Answered():
            return None if got.raw is None else retry.failure_of(got.status, got.ret_code, batch=batch)
        case NotSent():
            return Failure.NOT_SENT
        case FateUnknown(idle=True):
            return Failure.IDLE_CONNECTION
        case BrokenAnswer():
            return Failure.BROKEN_ANSWER if got.forbidden is None else None
        case _:
            return Failure.NO_ANSWER


def _nothing() -> None:
    pass


async def _complete_later(permit: Permit) -> None:
    await asyncio.sleep(_GRACE_S)
    await permit.complete()

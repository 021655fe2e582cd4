"""How a request gets to the exchange: in its turn, admitted, sent; a read once more where its connection was dead."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from policies import bybit
from policies.admission import Charge, Quota, Refused, RefuseWith, Rulebook, Why
from policies.skew import Clock as Verdict
from policies.skew import Skew
from proxy import coding
from proxy.ask import Ask
from proxy.clock import Clock
from proxy.describe import claim_of
from proxy.errors import BadClock, FateUnknown, NotSent, UpstreamError
from proxy.lanes import OrderGate, Passage
from proxy.limiter import Limiter, Permit
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.upstream import Reply, Upstream

READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing at the exchange: they may be cancelled, and sent again."""

AFTER_THE_CLIENT: Final = "after-the-client"
"""The name of tasks that wait for an answer nobody else waits for."""
_GRACE_S: Final = 1.0
"""A request whose answer never came may still be on its way: its permit is held that much longer."""
_ORDER_LANE: Final = Charge(Quota("order-lane", 1, 1_000_000, (), refuse_with=RefuseWith.BYBIT), ("order-lane",), 1)
"""To blame when a request that must not be overtaken is not answered in time."""


class Attempts:
    """Every attempt is admitted and counted; every permit is ended exactly once, whatever becomes of the attempt."""

    def __init__(
        self,
        *,
        rules: Rulebook,
        limiter: Limiter,
        upstream: Upstream,
        telemetry: Telemetry,
        tasks: TaskOwner,
        clock: Clock,
        max_wait_us: int,
    ) -> None:
        self.rules = rules
        self.max_wait_us = max_wait_us
        self.gate = OrderGate(clock)
        self.skew = Skew()
        self._limiter = limiter
        self._upstream = upstream
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._tasks = tasks
        self._clock = clock
        self._log: Any = structlog.get_logger()

    async def send(self, ask: Ask, story: Story) -> Reply | Refused:
        """The exchange's answer, or why there is none; raises BadClock, NotSent, FateUnknown."""
        now_us = self._clock()
        self._judge_clock(ask, now_us)
        until_us = self._until(ask, story.began_us)
        if ask.descriptor.method in READS:
            return await self._read(ask, until_us, story)
        if not ask.operations or ask.descriptor.api_key is None:
            return await self._write(ask, until_us, story, None)
        passage = await self.gate.enter(ask.descriptor.api_key, ask.operations, until_us)
        held_us = self._clock() - now_us
        story.waited_us += held_us
        if passage is None:
            return Refused(Why.DEADLINE, _ORDER_LANE, held_us)
        return await self._write(ask, until_us, story, passage)

    def learn(self, reply: Reply, text: bytes) -> None:
        """What the stamp in a (decoded) body says of the exchange's clock."""
        stamp_ms = bybit.server_ms(text)
        if stamp_ms is not None and reply.received_us:
            self.skew.observe(reply.sent_us, reply.received_us, stamp_ms)

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

    async def _read(self, ask: Ask, until_us: int, story: Story) -> Reply | Refused:
        """A read whose pooled connection turned out dead is sent once more, and admitted once more."""
        while True:
            permit = await self._acquire(ask, until_us, story)
            if isinstance(permit, Refused):
                return permit
            try:
                return await self._owned(ask, permit, story, None)
            except FateUnknown as error:
                if story.attempts > 1 or error.reason != "upstream-disconnected":
                    raise
                self._metrics.retries.labels(story.endpoint, error.reason).inc()

    async def _write(self, ask: Ask, until_us: int, story: Story, passage: Passage | None) -> Reply | Refused:
        """A write runs to its end even when its client hangs up: what it does at the exchange is done anyway.

        Those that must not overtake it wait until its answer is here, not until its client has got it.
        """
        permit: Permit | Refused | None = None
        try:
            permit = await self._acquire(ask, until_us, story)
        finally:
            if passage is not None and not isinstance(permit, Permit):
                passage.release()
        if isinstance(permit, Refused):
            return permit
        return await self._owned(ask, permit, story, passage)

    async def _owned(self, ask: Ask, permit: Permit, story: Story, passage: Passage | None) -> Reply:
        """On the wire in a task of its own, so that the permit is held until the answer is here, whoever has left.

        A connection that is cut when its client hangs up does not take the request back: it may still arrive, and be
        counted, at any later time.
        """
        work = self._on_the_wire(ask, permit, story)
        task = self._tasks.spawn(work, f"send {ask.descriptor.endpoint}", reported=False)
        if passage is not None:
            task.add_done_callback(passage.release)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._tasks.spawn(self._after_the_client(task, ask, story.request_id), AFTER_THE_CLIENT)
            raise

    async def _acquire(self, ask: Ask, until_us: int, story: Story) -> Permit | Refused:
        claim = claim_of(ask.descriptor, self.rules)._replace(deadline_us=until_us)
        permit = await self._limiter.acquire(claim)
        if isinstance(permit, Permit):
            self._telemetry.count_admitted(permit.reservation.charges, permit.admitted)
            if permit.waited_us:
                story.waited_us += permit.waited_us
                self._metrics.queue_wait.observe((), permit.waited_us)
        return permit

    async def _on_the_wire(self, ask: Ask, permit: Permit, story: Story) -> Reply:
        story.attempts += 1
        self._metrics.in_flight.inc()
        sent_us = self._clock()
        try:
            reply = await self._upstream.send(
                ask.descriptor.method, ask.target, ask.headers, ask.body, within_us=self._within_us(ask, sent_us)
            )
        except NotSent:
            await permit.refund()
            raise
        except BaseException:
            self._tasks.spawn(_complete_later(permit), "late-completion")
            raise
        finally:
            self._metrics.in_flight.dec()
            took_us = self._clock() - sent_us
            story.upstream_us += took_us
        self._metrics.duration.observe((story.endpoint,), took_us)
        reply.sent_us, reply.received_us = sent_us, sent_us + took_us
        await permit.complete()
        return reply

    def _within_us(self, ask: Ask, now_us: int) -> int | None:
        """How long its signature lets it wait for a connection."""
        if ask.descriptor.deadline_us is None or not self.skew.known:
            return None
        return self.skew.latest_send_us(ask.descriptor.deadline_us) - now_us

    async def _after_the_client(self, task: asyncio.Task[Reply], ask: Ask, request_id: str) -> None:
        """What became of a request whose client did not wait for it. A write's fate goes to the log, to be found."""
        try:
            reply = await task
            if ask.descriptor.method in READS:
                reply.close()
                return
            raw = coding.decode_if_short(await reply.read(), reply.encoding)
        except UpstreamError as error:
            if ask.descriptor.method not in READS:
                self._log.warning("orphaned_write", id=request_id, outcome=error.reason)
            return
        self._log.warning("orphaned_write", id=request_id, status=reply.status, ret_code=bybit.ret_code(raw))


async def _complete_later(permit: Permit) -> None:
    await asyncio.sleep(_GRACE_S)
    await permit.complete()

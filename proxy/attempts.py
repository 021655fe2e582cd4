"""How a request gets to the exchange: acquire, send, end the permit; once more where that is safe."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import structlog
from multidict import CIMultiDict

from policies import bybit
from policies.admission import Refused, Rulebook
from policies.descriptor import Descriptor
from proxy.clock import Clock
from proxy.describe import claim_of
from proxy.errors import FateUnknown, NotSent, UpstreamError
from proxy.limiter import Limiter, Permit
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.upstream import Reply, Upstream

READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing at the exchange: they may be cancelled, and sent again."""

_GRACE_S: Final = 1.0
"""A request whose answer never came may still be on its way: its permit is held that much longer."""


class Ask(NamedTuple):
    """A request as it will be sent."""

    descriptor: Descriptor
    target: str
    headers: CIMultiDict[str]
    body: bytes


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
    ) -> None:
        self._rules = rules
        self._limiter = limiter
        self._upstream = upstream
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._tasks = tasks
        self._clock = clock
        self._log: Any = structlog.get_logger()

    async def send(self, ask: Ask, story: Story) -> Reply | Refused:
        """Acquire, then send. A read whose pooled connection turned out dead is sent once more, and counted again."""
        claim = claim_of(ask.descriptor, self._rules)
        while True:
            permit = await self._limiter.acquire(claim)
            if isinstance(permit, Refused):
                return permit
            self._telemetry.count_shadow(permit.over)
            story.attempts += 1
            if permit.waited_us:
                story.waited_us += permit.waited_us
                self._metrics.queue_wait.observe((), permit.waited_us)
            began_us = self._clock()
            try:
                return await self._attempt(ask, permit, story)
            except FateUnknown as error:
                again = ask.descriptor.method in READS and story.attempts == 1
                if not again or error.reason != "upstream-disconnected":
                    raise
                self._metrics.retries.labels(story.endpoint, error.reason).inc()
            finally:
                took_us = self._clock() - began_us
                story.upstream_us += took_us
                self._metrics.duration.observe((story.endpoint,), took_us)

    async def _attempt(self, ask: Ask, permit: Permit, story: Story) -> Reply:
        """One request on the wire. A write runs to its end even when its client hangs up: the order exists anyway."""
        work = self._on_the_wire(ask, permit)
        if ask.descriptor.method in READS:
            return await work
        task = self._tasks.spawn(work, f"write {ask.descriptor.endpoint}", reported=False)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._tasks.spawn(self._after_the_client(task, story.request_id), "orphaned-write")
            raise

    async def _on_the_wire(self, ask: Ask, permit: Permit) -> Reply:
        self._metrics.in_flight.inc()
        try:
            reply = await self._upstream.send(ask.descriptor.method, ask.target, ask.headers, ask.body)
        except NotSent:
            await permit.refund()
            raise
        except BaseException:
            self._tasks.spawn(_complete_later(permit), "late-completion")
            raise
        finally:
            self._metrics.in_flight.dec()
        await permit.complete()
        return reply

    async def _after_the_client(self, task: asyncio.Task[Reply], request_id: str) -> None:
        """What became of a write whose client did not wait for it: for the log, so that its fate can be found."""
        try:
            reply = await task
            raw = await reply.read()
        except UpstreamError as error:
            self._log.warning("orphaned_write", id=request_id, outcome=error.reason)
            return
        self._log.warning("orphaned_write", id=request_id, status=reply.status, ret_code=bybit.ret_code(raw))


async def _complete_later(permit: Permit) -> None:
    await asyncio.sleep(_GRACE_S)
    await permit.complete()

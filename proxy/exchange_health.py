"""How the exchange fares: from what clients' requests were answered, and from one question of our own where nobody
has asked it anything for a while.

That question costs budget like any other request. So it is sent only when somebody wants to know, or when the last word
was a bad one and nobody else would find out that it no longer holds; at most once a minute, behind everybody who waits,
and never while nothing may be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from policies import bybit
from policies.admission import Refused
from policies.circuit import State
from policies.health import Observed, Status, exchange_status
from policies.priority import Priority
from proxy.ask import Ask
from proxy.attempts import Attempts
from proxy.breaker import Breaker
from proxy.clock import Clock, shown
from proxy.egress import Egress
from proxy.errors import Banned, Broken, Shed, UpstreamError
from proxy.inner import Inner
from proxy.tasks import TaskOwner

QUIET_US: Final = 60_000_000
"""What was heard more recently needs no question."""
EVERY_US: Final = 60_000_000
PATIENCE_S: Final = 2.0
"""So long the page waits for its question; then it answers from what is known."""


class Probe(StrEnum):
    NONE = "none"  # it is known already, or was asked a moment ago
    SENT = "sent"
    NOT_ALLOWED = "not-allowed"


class Fare(NamedTuple):
    status: Status
    since_us: int
    reason: str
    """Why it is down or banned, in one word; empty when it is not."""


class ExchangeHealth:
    """`may_ask`: whether this gateway serves. With several workers each hears and asks by itself."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        inner: Inner,
        egress: Egress,
        breaker: Breaker,
        tasks: TaskOwner,
        clock: Clock,
        may_ask: Callable[[], bool],
    ) -> None:
        self._attempts = attempts
        self._inner = inner
        self._egress = egress
        self._breaker = breaker
        self._tasks = tasks
        self._clock = clock
        self._may_ask = may_ask
        self._status = Status.UNKNOWN
        self._since_us = clock()
        self._asked_us: int | None = None
        self._asking: asyncio.Task[bool] | None = None

    def look(self) -> None:
        """Now and then: changes by mere time are noticed near to when they happen, and the exchange is asked where it
        was left with a failure."""
        self.fare()
        if self._attempts.pulse.vitals.failing(self._clock()) or self._breaker.state is State.HALF_OPEN:
            self._ask_if_quiet()

    def fare(self) -> Fare:
        """As it is now."""
        now_us, vitals = self._clock(), self._attempts.pulse.vitals
        answers, failures = self._attempts.pulse.minute.counted(now_us)
        breaker, ban = self._breaker.state, self._egress.ban
        observed = Observed(vitals.status(now_us), answers, failures, ban.stands, breaker)
        status = exchange_status(observed, self._status)
        if status is not self._status:
            heard = vitals.since_us > self._since_us or status is vitals.status(now_us) is Status.DOWN
            self._since_us = ban.begun_us if ban.stands else vitals.since_us if heard else now_us
            self._status = status
        return Fare(status, self._since_us, self._reason(status, breaker))

    @property
    def latency_us(self) -> int | None:
        return self._attempts.pulse.vitals.latency_us

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether it can be used, and all that is known of it."""
        probe = await self._asked()
        fare, vitals, skew = self.fare(), self._attempts.pulse.vitals, self._attempts.skew
        answers, failures = self._attempts.pulse.minute.counted(self._clock())
        return fare.status.serves, {
            "status": fare.status,
            "since": shown(fare.since_us),
            "reason": fare.reason or None,
            "latency_ms": None if vitals.latency_us is None else vitals.latency_us / 1000,
            "answered": shown(vitals.answered_us),
            "failed": shown(vitals.failed_us),
            "last_minute": {"answers": answers, "failures": failures},
            "clock_offset_ms": round(skew.offset_us / 1000) if skew.known else None,
            "banned_until": self._egress.status()["banned_until"],
            "breaker": self._breaker.state.name.lower(),
            "probe": probe,
        }

    def _reason(self, status: Status, breaker: State) -> str:
        if status is Status.BANNED:
            return "banned"
        if status is Status.DOWN:
            return self._attempts.pulse.vitals.reason or ("breaker-open" if breaker is State.OPEN else "")
        return ""

    def _ask_if_quiet(self) -> asyncio.Task[bool] | Probe:
        """The question that is on its way; or why there is none."""
        if self._asking is not None and not self._asking.done():
            return self._asking
        now_us, heard_us = self._clock(), self._attempts.pulse.vitals.heard_us
        if heard_us is not None and now_us - heard_us < QUIET_US:
            return Probe.NONE
        if self._asked_us is not None and now_us - self._asked_us < EVERY_US:
            return Probe.NONE
        ask, _ = self._inner.asking(bybit.TIME_PATH, priority=Priority.HISTORY)
        if not (self._may_ask() and self._attempts.may_send(ask.descriptor)):
            return Probe.NOT_ALLOWED
        self._asked_us = now_us
        self._asking = self._tasks.spawn(self._ask(ask), "exchange-probe")
        return self._asking

    async def _asked(self) -> Probe:
        asking = self._ask_if_quiet()
        if isinstance(asking, Probe):
            return asking
        # Whoever asks for the page meanwhile waits for the same answer; who hangs up does not take it back.
        await asyncio.wait({asking}, timeout=PATIENCE_S)
        left_unsent = asking.done() and not asking.cancelled() and asking.exception() is None and not asking.result()
        return Probe.NOT_ALLOWED if left_unsent else Probe.SENT

    async def _ask(self, ask: Ask) -> bool:
        """Whether it was sent. What is answered is heard where all answers are."""
        try:
            answer = await self._inner.by_itself(ask._replace(max_wait_us=round(PATIENCE_S * 1e6), once=True))
        except UpstreamError:
            return True
        except (Banned, Broken, Shed):
            return False
        return not isinstance(answer, Refused)

"""What a client is told when he cannot be given an answer of the exchange, and what is noted of that."""

from __future__ import annotations

from typing import Any

import structlog

from policies.admission import Refused, RefuseWith
from policies.descriptor import Descriptor
from proxy import errors
from proxy.attempts import READS
from proxy.clock import Clock
from proxy.egress import Egress
from proxy.errors import (
    BadClock,
    Banned,
    Broken,
    BrokenAnswer,
    Halted,
    Malformed,
    NotSent,
    Shed,
    Unauthorized,
    UpstreamError,
)
from proxy.telemetry import Story, Telemetry
from proxy.wire import Whole


class Replies:
    def __init__(self, egress: Egress, telemetry: Telemetry, clock: Clock) -> None:
        self._egress = egress
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._clock = clock
        self._log: Any = structlog.get_logger()

    def limited(self, refused: Refused, descriptor: Descriptor, story: Story, request_id: bytes) -> Whole:
        """A rule refuses it."""
        quota = refused.charge.quota
        story.outcome, story.rule = f"limit-{refused.why}", quota.name
        self._telemetry.count_refused(refused)
        self._metrics.limit_blocks.labels(*limited_as(descriptor)).inc()
        story.status = 200 if quota.refuse_with is RefuseWith.BYBIT else 429
        return errors.limited(refused, request_id, self._clock())

    def failed(self, error: Exception, story: Story, request_id: bytes) -> Whole:
        """By the name that proxy/errors.py has for it; what has none is a mistake of ours."""
        now_ms = self._clock() // 1000
        match error:
            case Malformed():
                story.status, story.outcome = error.status, error.reason
                return errors.malformed(error, request_id, now_ms)
            case Unauthorized():
                story.status, story.outcome = 401, "unauthorized"
                return errors.unauthorized(error, request_id, now_ms)
            case BadClock():
                story.status, story.outcome = 200, error.reason
                return errors.bad_clock(error, request_id, now_ms)
            case Banned():
                story.status, story.outcome = 403, "banned"
                return errors.banned(self._egress.ban_left_us, request_id)
            case Broken():
                story.status, story.outcome = 503, "breaker-open"
                return errors.broken(error, request_id)
            case Shed():
                story.status, story.outcome = 503, "overload"
                return errors.shed(error, request_id)
            case Halted():
                story.status, story.outcome = 200, "trading-halted"
                return errors.halted(request_id, now_ms)
            case UpstreamError():
                return self._unanswered(error, story, request_id, read=story.method in READS)
            case _:
                story.status, story.outcome = 500, "internal-error"
                self._log.error("internal_error", id=story.request_id, error=type(error).__name__, at=_where(error))
                return errors.internal(request_id)

    def _unanswered(self, error: UpstreamError, story: Story, request_id: bytes, *, read: bool) -> Whole:
        """No answer of the exchange, or not all of it."""
        story.source, story.outcome = "gateway", error.reason
        if isinstance(error, NotSent):
            story.status = 502
            return errors.not_sent(error.reason, request_id)
        if isinstance(error, BrokenAnswer) and read:
            story.status = 502
            return errors.broken_answer(error.reason, request_id)
        if not read:
            self._metrics.unknown_writes.inc()
        story.status = 504
        return errors.fate_unknown(error.reason, request_id, self._clock() // 1000, write=not read)


def limited_as(descriptor: Descriptor) -> tuple[str, str, str]:
    """identifier_type, tier, endpoint: the labels of the limits' metrics."""
    client = descriptor.client
    kind = "ip" if client == descriptor.ip else "api_key" if client == descriptor.api_key else "client"
    return kind, descriptor.tier or "none", descriptor.endpoint


def _where(error: BaseException) -> str:
    """file:line of a mistake, without its text: that may hold what the client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"

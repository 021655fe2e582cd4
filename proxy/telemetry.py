"""What became of a request, told once: as one log event and as metrics, in the same words as the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from policies import bybit
from policies.admission import Admitted, Charge, Refused
from policies.descriptor import Descriptor, Outcome
from policies.traceparent import Trace
from proxy.clock import Clock
from proxy.log import request_events
from proxy.metrics import Metrics


class Story:
    """What is known of one request so far. The corridor writes it, nobody reads it before the end.

    What stays at its default is not written for every request: this is on the hot path.
    """

    endpoint = "unknown"
    descriptor: Descriptor | None = None
    """Who asks and what, once that is understood."""
    trace: Trace | None = None
    """The trace that it belongs to, if its client has named one."""
    source = "gateway"
    """Who made the answer: exchange, cache or gateway."""
    status = 0
    outcome = ""
    """Why the gateway answered itself, or what went wrong; empty for whole answers of the exchange."""
    rule = ""
    cache = ""
    ret_code: int | None = None
    attempts = 0
    waited_us = 0
    upstream_us = 0
    body_bytes = 0
    asked_bytes = 0
    """Of the bodies of the answer and of the request."""
    took_us = 0
    """Known at the end."""

    def __init__(self, request_id: str, method: str, began_us: int) -> None:
        self.request_id = request_id
        self.method = method
        self.began_us = began_us


class Telemetry:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics = metrics
        self.listeners: list[Callable[[Story], None]] = []
        """Told of every request at its end, on the hot path: what they do is as short."""
        self._clock = clock
        self._write = request_events()

    def count_admitted(self, charges: tuple[Charge, ...], admitted: Admitted) -> None:
        """For each rule: was there plenty of room, or little; or, of one on trial, none?"""
        decisions = self.metrics.decisions
        if not admitted.over and not admitted.near:
            for charge in charges:
                decisions.counts[charge.quota.name, "within"] += 1
            return
        for charge in charges:
            result = "shadow" if charge in admitted.over else "near" if charge in admitted.near else "within"
            decisions.inc((charge.quota.name, result))

    def count_refused(self, refused: Refused) -> None:
        """The rule that is to blame."""
        name = refused.charge.quota.name
        self.metrics.decisions.inc((name, "over"))
        self.metrics.refusals.labels(name, refused.why.value).inc()

    def observe(self, outcome: Outcome) -> None:
        """What the exchange itself says of a request."""
        code = outcome.ret_code
        if outcome.status in bybit.NOTABLE_STATUSES:
            self.metrics.exchange_codes.labels(f"http-{outcome.status}").inc()
        if code is None or code == bybit.OK:
            return
        self.metrics.exchange_codes.labels(str(code) if code in bybit.NOTABLE_CODES else "other").inc()
        if code == bybit.TOO_MANY_VISITS:
            self.metrics.exchange_limited.inc()

    def tell(self, story: Story) -> None:
        """The end of a request. On the hot path: tallies and plain values."""
        metrics = self.metrics
        took_us = story.took_us = self._clock() - story.began_us
        source, trace_id = story.source, "" if story.trace is None else story.trace.trace_id
        metrics.requests.counts[story.endpoint, _CLASSES.get(story.status // 100, "none"), source] += 1
        metrics.added.observe((source,), took_us - story.waited_us - story.upstream_us, trace_id)
        metrics.response.observe((story.endpoint,), took_us, trace_id)
        metrics.bytes.counts[_OUT] += story.body_bytes
        if source != "cache":
            metrics.bytes.counts[_IN] += story.asked_bytes
            self._tell_errors(story)
        for listener in self.listeners:
            listener(story)
        self._write(_event(story))

    def _tell_errors(self, story: Story) -> None:
        if story.source == "gateway":
            self.metrics.errors.labels(story.outcome or "none").inc()
        kind = _kind_of_error(story)
        if kind:
            self.metrics.error_rate.inc((kind, story.endpoint))


def _kind_of_error(story: Story) -> str:
    """Why a request did not end well; empty when it did. Words of a bounded set."""
    if story.source == "gateway" or story.outcome:
        return "" if story.outcome in _NO_ERROR else story.outcome or "none"
    if story.status >= 400:
        return "http-5xx" if story.status >= 500 else "http-4xx"
    return "refused" if story.ret_code else ""


def _event(story: Story) -> dict[str, Any]:
    """What the log says of it."""
    descriptor = story.descriptor
    event: dict[str, Any] = {
        "id": story.request_id,
        "method": story.method,
        "endpoint": story.endpoint,
        "ip": "" if descriptor is None else descriptor.ip,
        "status": story.status,
        "source": story.source,
        "took_us": story.took_us,
        "bytes": story.body_bytes,
    }
    if story.source != "cache":
        event["waited_us"] = story.waited_us
        event["upstream_us"] = story.upstream_us
        event["attempts"] = story.attempts
        if story.ret_code is not None:
            event["ret_code"] = story.ret_code
        if story.outcome:
            event["outcome"] = story.outcome
        if story.rule:
            event["rule"] = story.rule
    if story.cache:
        event["cache"] = story.cache
    return event


_IN: Final = ("in",)
_OUT: Final = ("out",)
_NO_ERROR: Final = frozenset({"client-gone", "only-if-cached"})
_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

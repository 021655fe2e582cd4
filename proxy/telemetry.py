"""What became of a request, told once: as one log event and as metrics, in the same words as the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web

from policies import bybit
from policies.admission import Admitted, Charge, Refused
from policies.descriptor import Outcome
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.request_event import RequestLog
from proxy.story import Story

__all__ = ["Story", "Telemetry"]


class Telemetry:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics = metrics
        self.listeners: list[Callable[[Story], None]] = []
        """Told of every request at its end, on the hot path: what they do is as short."""
        self.begin: Callable[[Story, web.BaseRequest], None] | None = None
        """Told of every request as it begins, where spans are made."""
        self._clock = clock
        self._log: Any = structlog.get_logger()
        self._requests, self._bytes = metrics.requests.counts, metrics.bytes.counts
        self._added, self._response = metrics.added.observe, metrics.response.observe
        self.requests = RequestLog(metrics)

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
        took_us = story.took_us = self._clock() - story.began_us
        source, trace_id = story.source, "" if story.trace is None else story.exemplar
        self._requests[story.endpoint, _CLASSES.get(story.status // 100, "none"), source] += 1
        # What is streamed goes at the pace of its reader: its time is the one until it began.
        answered_us = story.streamed_us - story.began_us if story.streamed_us else took_us
        self._added((source,), max(0, answered_us - story.waited_us - story.upstream_us), trace_id)
        self._response((story.endpoint,), answered_us, trace_id)
        self._bytes[_OUT] += story.body_bytes
        if source != "cache":
            self._bytes[_IN] += story.asked_bytes
            self._tell_errors(story)
        self.requests.tell(story)
        try:
            for listener in self.listeners:
                listener(story)
        except Exception as error:  # noqa: BLE001  # an answer of the exchange must not be lost for our own sums
            self._log.error("listener_failed", id=story.request_id, error=type(error).__name__)

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


_IN: Final = ("in",)
_OUT: Final = ("out",)
_NO_ERROR: Final = frozenset({"client-gone", "only-if-cached"})
_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

"""What became of a request, told once: as one log event and as metrics, in the same words as the code."""

from __future__ import annotations

from typing import Any

from policies import bybit
from policies.admission import Admitted, Charge, Refused
from policies.descriptor import Outcome
from proxy.clock import Clock
from proxy.log import request_events
from proxy.metrics import Metrics


class Story:
    """What is known of one request so far. The corridor writes it, nobody reads it before the end.

    What stays at its default is not written for every request: this is on the hot path.
    """

    endpoint = "unknown"
    ip = ""
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

    def __init__(self, request_id: str, method: str, began_us: int) -> None:
        self.request_id = request_id
        self.method = method
        self.began_us = began_us


class Telemetry:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics = metrics
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
        took_us = self._clock() - story.began_us
        source = story.source
        metrics.requests.counts[story.endpoint, _CLASSES.get(story.status // 100, "none"), source] += 1
        metrics.added.observe((source,), took_us - story.waited_us - story.upstream_us)
        if source == "gateway":
            metrics.errors.labels(story.outcome or "none").inc()
        event: dict[str, Any] = {
            "id": story.request_id,
            "method": story.method,
            "endpoint": story.endpoint,
            "ip": story.ip,
            "status": story.status,
            "source": source,
            "took_us": took_us,
            "bytes": story.body_bytes,
        }
        if source != "cache":
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
        self._write(event)


_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

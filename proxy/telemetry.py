"""What became of a request, told once: as one log event and as metrics, in the same words as the code."""

from __future__ import annotations

from typing import Any

import structlog

from policies.admission import Charge
from proxy.clock import Clock
from proxy.log import REQUEST
from proxy.metrics import Metrics


class Story:
    """What is known of one request so far. The corridor writes it, nobody reads it before the end."""

    __slots__ = (
        "attempts",
        "began_us",
        "body_bytes",
        "cache",
        "endpoint",
        "ip",
        "method",
        "outcome",
        "request_id",
        "ret_code",
        "rule",
        "source",
        "status",
        "upstream_us",
        "waited_us",
    )

    def __init__(self, request_id: str, method: str, began_us: int) -> None:
        self.request_id = request_id
        self.method = method
        self.began_us = began_us
        self.endpoint = "unknown"
        self.ip = ""
        self.source = "gateway"
        """Who made the answer: exchange, cache or gateway."""
        self.status = 0
        self.outcome = ""
        """Why the gateway answered itself; empty for the exchange's own answers."""
        self.rule = ""
        self.cache = ""
        self.ret_code: int | None = None
        self.attempts = 0
        self.waited_us = 0
        self.upstream_us = 0
        self.body_bytes = 0


class Telemetry:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics = metrics
        self._clock = clock
        self._log: Any = structlog.get_logger()

    def count_shadow(self, over: tuple[Charge, ...]) -> None:
        """Rules on trial that would not have admitted a request."""
        for charge in over:
            self.metrics.shadow.labels(charge.quota.name).inc()

    def tell(self, story: Story) -> None:
        """The end of a request. On the hot path: only bound children and plain values."""
        metrics = self.metrics
        took_us = self._clock() - story.began_us
        source = story.source
        metrics.requests_of(story.endpoint, _CLASSES.get(story.status // 100, "none"), source).inc()
        metrics.added_of(source).observe((took_us - story.waited_us - story.upstream_us) / 1e6)
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
        self._log.info(REQUEST, **event)


_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

"""Requests of clients and how they were answered."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.metrics.bounds import ADDED_US, CALL_US, RESPONSE_US
from proxy.tally import TallyCounter, TallyHistogram


class Traffic:
    """Requests of clients and how they were answered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = TallyCounter(
            "bybit_api_requests",
            "Requests of clients, by endpoint, answer status class and where the answer came from.",
            ["endpoint", "status", "source"],
            registry,
        )
        self.duration = TallyHistogram(
            "bybit_api_duration_seconds",
            "Time from sending a request to the exchange until its answer began.",
            ["endpoint"],
            CALL_US,
            registry,
        )
        self.added = TallyHistogram(
            "gateway_added_seconds",
            "Time that the gateway itself adds to a request, without queueing and without the exchange.",
            ["source"],
            ADDED_US,
            registry,
        )
        self.response = TallyHistogram(
            "gateway_response_seconds",
            "Time from a request's arrival until its answer was on its way, queueing and the exchange included.",
            ["endpoint"],
            RESPONSE_US,
            registry,
        )
        self.response_p95 = Gauge(
            "response_time_p95_seconds",
            "95 of 100 requests of the last five minutes were answered within this time, by endpoint.",
            ["endpoint"],
            registry=registry,
        )
        self.bytes = TallyCounter(
            "gateway_client_bytes",
            "Bytes of bodies from clients (in) and to them (out).",
            ["direction"],
            registry,
        )
        self.errors = Counter(
            "bybit_errors", "Answers that are not the exchange's, by reason.", ["error_type"], registry=registry
        )
        self.error_rate = TallyCounter(
            "error_rate",
            "Requests that did not end well, by the gateway's reason, or the exchange's: http-4xx, http-5xx, refused.",
            ["error_type", "endpoint"],
            registry,
        )
        self.unknown_writes = Counter(
            "gateway_unknown_writes",
            "Writes that were sent and never answered: they may have been executed.",
            registry=registry,
        )
        self.shed = Counter(
            "gateway_shed_requests",
            "Requests not sent to the exchange because the gateway has too much to do, by class.",
            ["priority"],
            registry=registry,
        )
        for priority in ("live", "history"):
            self.shed.labels(priority)
        self.slow = Counter(
            "gateway_slow_requests",
            "Requests that took longer than log.slow, by endpoint.",
            ["endpoint"],
            registry=registry,
        )
        self.unlogged = TallyCounter(
            "gateway_log_sampled_out_events",
            "Requests answered from the cache that log.sample_hits left out.",
            [],
            registry,
        )

"""The limits: who met which, what is left, who waits."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.metrics.bounds import ADDED_US
from proxy.tally import TallyCounter, TallyHistogram


class Limits:
    """The limits: who met which, what is left, who waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.limit_hits = TallyCounter(
            "rate_limit_hits",
            "Requests checked against the limits, by what identifies the client.",
            ["identifier_type", "tier", "endpoint"],
            registry,
        )
        self.limit_blocks = Counter(
            "rate_limit_blocks",
            "Requests refused, by what identifies the client.",
            ["identifier_type", "tier", "endpoint"],
            registry=registry,
        )
        self.limit_remaining = Gauge(
            "rate_limit_remaining_requests",
            "What is left in the fullest window of a client, by what identifies it.",
            ["identifier_type", "tier"],
            registry=registry,
        )
        self.refusals = Counter(
            "gateway_refusals", "Requests refused, by rule and reason.", ["rule", "reason"], registry=registry
        )
        self.decisions = TallyCounter(
            "gateway_rule_decisions",
            "Requests a rule looked at: within its limit, near it (over 80 %), over it, shadow (over, not enforced).",
            ["rule", "result"],
            registry,
        )
        self.queue_depth = Gauge(
            "gateway_queue_depth", "Requests waiting for their turn, by class.", ["priority"], registry=registry
        )
        self.queue_wait = TallyHistogram(
            "gateway_queue_wait_seconds",
            "Time that admitted requests waited for their turn, by class.",
            ["priority"],
            ADDED_US,
            registry,
        )
        self.backed_off = Counter(
            "gateway_backed_off",
            "Refusals as too many that said nothing of a limit, by endpoint.",
            ["endpoint"],
            registry=registry,
        )
        self.nearly_used = Counter(
            "gateway_account_nearly_used",
            "Times an account had less than a fifth of a limit left, by learned rule, at most once a minute for each.",
            ["rule"],
            registry=registry,
        )
        self.learned_limit = Gauge(
            "gateway_learned_limit",
            "The smallest limit that any account has by the exchange's own word, by learned rule.",
            ["rule"],
            registry=registry,
        )
        self.learned_others = Gauge(
            "gateway_learned_others",
            "What is left to other programs of an account, the most of any, by learned rule.",
            ["rule"],
            registry=registry,
        )
        self.drift = Gauge(
            "gateway_limit_drift_ratio",
            "Learned limit over the published one, by learned rule; 1 where they agree.",
            ["rule"],
            registry=registry,
        )
        self.window_used = Gauge(
            "gateway_window_used", "Requests in the fullest window of a rule.", ["rule"], registry=registry
        )
        self.window_limit = Gauge(
            "gateway_window_limit", "What a rule allows in a window.", ["rule"], registry=registry
        )

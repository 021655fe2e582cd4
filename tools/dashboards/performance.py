"""What clients get: how much, how well, how fast, and where the time goes."""

from __future__ import annotations

from typing import Final

from tools.dashboards.kinds import heat, lines, number, piled, quantiles, states, table
from tools.dashboards.parts import GREEN, ORANGE, RED, ZERO, Board, Choice, Panel, Query, Section, Word, above

BREAKER: Final = {0: Word("closed", GREEN), 1: Word("half-open", ORANGE), 2: Word("open", RED)}
FAILURES: Final = (
    "http-5xx|upstream-.+|exchange-.+|internal-error|breaker-open|banned|limit-(ban|deadline|queue)|overload"
    "|too-many-bodies|too-much-at-once"
)
"""What the gateway or the exchange owed and did not give, as in deploy/prometheus/recording.yml. Clients' mistakes and
quotas of their own are not among them."""
_FAILED: Final = f'rate(error_rate_total{{INSTANCE, ROUTE, error_type=~"{FAILURES}"}}[RATE])'
_ASKED: Final = "rate(bybit_api_requests_total{INSTANCE, ROUTE}[RATE])"
_SLOW: Final = above(5, 1)

_GLANCE: Final[tuple[Panel, ...]] = (
    number(
        "Requests",
        "Requests of clients a second, of the chosen routes. A sudden drop while your bots run means that they do not "
        "reach the gateway, or have given up.",
        "reqps",
        Query(f"sum({_ASKED})", "requests"),
    ),
    number(
        "Failures",
        "The part of all requests for which clients did not get what they were owed: the exchange failed or was not "
        "reached, a ban, no room in time. Their own mistakes and quotas are not counted. Worry above 5 %.",
        "percentunit",
        Query(
            f"(sum({_FAILED}) or vector(0)) / sum({_ASKED})",
            "failed",
        ),
        steps=above(0.05, 0.01),
        alerts=("ErrorRateHigh",),
    ),
    number(
        "Slowest route, p95",
        "95 of 100 requests of the slowest route were answered within this time in the last five minutes, waiting for "
        "a turn and the exchange included. Worry above 1 s.",
        "s",
        Query("max(response_time_p95_seconds{INSTANCE, ROUTE})", "p95"),
        steps=_SLOW,
        alerts=("ResponseTimeHigh", "ResponseTimeCritical"),
    ),
    number(
        "Answered from the cache",
        "The part of all requests for which the exchange was not asked. It depends on what your bots ask for; worry "
        "when it falls without their having changed.",
        "percentunit",
        Query(
            '(sum(rate(bybit_api_requests_total{INSTANCE, ROUTE, source="cache"}[RATE])) or vector(0))'
            f" / sum({_ASKED})",
            "from the cache",
        ),
    ),
    number(
        "On their way",
        "Requests that the exchange has got and not answered yet. Many of them with few requests a second: the "
        "exchange is slow, or silent.",
        "short",
        Query("sum(gateway_upstream_in_flight{INSTANCE})", "in flight"),
    ),
    number(
        "Breaker",
        "Whether the exchange is asked at all. Open: half of the latest calls failed, and for a moment nothing is "
        "sent. Worry when it opens again and again.",
        "none",
        Query('max(circuit_breaker_state{INSTANCE, service="bybit"})', "breaker"),
        words=BREAKER,
    ),
)

_TRAFFIC: Final[tuple[Panel, ...]] = (
    piled(
        "Requests by source",
        "Who made the answer: the exchange, the cache, or the gateway itself, which then refused. Worry when the "
        "part of `gateway` grows.",
        "reqps",
        Query(f"sum by (source) ({_ASKED})", "{{source}}"),
        width=12,
    ),
    piled(
        "Requests by status",
        "The class of the HTTP status that clients got. Most of the exchange's errors are 2xx with a retCode: see "
        "*Error codes of the exchange*. `none`: the client was gone before there was one.",
        "reqps",
        Query(f"sum by (status) ({_ASKED})", "{{status}}"),
        width=12,
    ),
    lines(
        "Busiest routes",
        "The ten routes that are asked most. Look here first when the budget runs out: which bot's appetite is it?",
        "reqps",
        Query(f"topk(10, sum by (endpoint) ({_ASKED}))", "{{endpoint}}"),
        width=12,
    ),
    lines(
        "Bytes",
        "Bodies of clients' requests (in) and of their answers (out).",
        "Bps",
        Query("sum by (direction) (rate(gateway_client_bytes_total{INSTANCE}[RATE]))", "{{direction}}"),
        width=12,
    ),
)

_ERRORS: Final[tuple[Panel, ...]] = (
    piled(
        "Failures, by kind",
        "The part of all requests for which clients did not get what they were owed, by the gateway's reason or the "
        "exchange's. The line is the alert's 5 %, of all kinds together; docs/answers.md says what each word means.",
        "percentunit",
        Query(f"sum by (error_type) ({_FAILED}) / on () group_left () sum({_ASKED})", "{{error_type}}"),
        steps=above(0.05),
        alerts=("ErrorRateHigh",),
        nothing="none so far",
        width=12,
    ),
    lines(
        "Failures, by route",
        "The ten routes with most failures a second. One route alone: the exchange's service behind it, or a limit "
        "that is too small. All at once: the way to the exchange, or a ban.",
        "reqps",
        Query(f"topk(10, sum by (endpoint) ({_FAILED}))", "{{endpoint}}"),
        nothing="none so far",
        width=12,
    ),
    lines(
        "All that did not end well",
        "Failures, and what clients brought upon themselves: mistakes (http-4xx, bad-...), quotas of their own "
        "(limit-full), a retCode in HTTP 200 (refused). Worry when a bot's line grows without end: it asks for the "
        "same again and again.",
        "reqps",
        Query("sum by (error_type) (rate(error_rate_total{INSTANCE, ROUTE}[RATE]))", "{{error_type}}"),
        nothing="none so far",
    ),
    lines(
        "Answers of the gateway's own",
        "Answers that the gateway gave itself, by reason: refusals, and failures of the way to the exchange. "
        "docs/answers.md says what each means.",
        "reqps",
        Query("sum by (error_type) (rate(bybit_errors_total{INSTANCE}[RATE]))", "{{error_type}}"),
        nothing="none so far",
    ),
    lines(
        "Error codes of the exchange",
        "Answers with a retCode other than 0, or a notable HTTP status. 10006 and http-429 mean that a limit was "
        "exceeded, which must not happen while nobody else uses the address; 10002 that clocks differ.",
        "reqps",
        Query("sum by (code) (rate(gateway_exchange_errors_total{INSTANCE}[RATE]))", "{{code}}"),
        nothing="none so far",
    ),
    lines(
        "Writes of unknown fate",
        "Orders and other writes that were sent and never answered, in ten minutes: they may have been executed. "
        "Worry about each; docs/pacing.md says how to ask what became of it.",
        "short",
        Query("sum by (instance) (increase(gateway_unknown_writes_total{INSTANCE}[10m]))", "{{instance}}"),
        steps=ZERO,
        alerts=("WriteFateUnknown",),
        width=12,
    ),
    lines(
        "Retries",
        "Attempts that were repeated, by what had gone wrong. They spend budget, and are held to a tenth of all "
        "requests. Worry when they go on: the exchange or the way to it is ailing.",
        "reqps",
        Query("sum by (reason) (rate(gateway_retries_total{INSTANCE, ROUTE}[RATE]))", "{{reason}}"),
        nothing="none so far",
        width=12,
    ),
)

_TIME: Final[tuple[Panel, ...]] = (
    lines(
        "Response time",
        "From a request's arrival until its answer is on its way: queueing and the exchange included. This is what a "
        "bot feels. A p99 far above the p95 is mostly waiting for a turn.",
        "s",
        *quantiles("gateway_response_seconds_bucket{INSTANCE, ROUTE}"),
        steps=_SLOW,
    ),
    lines(
        "Time that the exchange takes",
        "From sending a request until the exchange's answer begins. Worry above 2 s: then it is the exchange or "
        "the network, not the gateway.",
        "s",
        *quantiles("bybit_api_duration_seconds_bucket{INSTANCE, ROUTE}"),
        steps=above(2),
        alerts=("ApiLatencyHigh",),
    ),
    lines(
        "p95 by route",
        "The ten slowest routes. What the cache answers lies near zero; what waits for its turn stands out.",
        "s",
        Query(
            "topk(10, histogram_quantile(0.95,"
            " sum by (le, endpoint) (rate(gateway_response_seconds_bucket{INSTANCE, ROUTE}[RATE]))))",
            "{{endpoint}}",
        ),
        steps=_SLOW,
        alerts=("ResponseTimeHigh", "ResponseTimeCritical"),
    ),
    table(
        "Routes",
        "Each route as it stands: requests a second and the time they take. Sorted by p99: look at the top.",
        "s",
        Query(f"sum by (endpoint) ({_ASKED}) > 0", "requests"),
        *quantiles("gateway_response_seconds_bucket{INSTANCE, ROUTE}", by="endpoint"),
        columns={
            "endpoint": "route",
            "Value #A": "requests a second",
            "Value #B": "p50",
            "Value #C": "p95",
            "Value #D": "p99",
        },
        steps=_SLOW,
        width=12,
    ),
    heat(
        "Time that the gateway adds",
        "Requests by what the gateway itself adds to them, without queueing and without the exchange. Nearly all "
        "belong below a millisecond. A band that moves up: the machine has too little processor time.",
        "s",
        Query("sum by (le) (increase(gateway_added_seconds_bucket{INSTANCE}[RATE]))", "{{le}}"),
        width=12,
    ),
    lines(
        "Time that the gateway adds, p99",
        "The same as a figure, by who made the answer. Worry when that of the cache stays above 50 ms: the processor "
        "is taken.",
        "s",
        Query(
            "histogram_quantile(0.99, sum by (le, source) (rate(gateway_added_seconds_bucket{INSTANCE}[RATE])))",
            "{{source}}",
        ),
        steps=above(0.05),
        alerts=("AddedLatencyHigh",),
    ),
    lines(
        "Waiting for a turn, p95",
        "How long requests waited until the limits had room, by class; only of those that were then sent. Cancels and "
        "orders go first: worry when they wait at all. `queue.max_wait` bounds it (8 s).",
        "s",
        Query(
            "histogram_quantile(0.95, sum by (le, priority) (rate(gateway_queue_wait_seconds_bucket{INSTANCE}[RATE])))",
            "{{priority}}",
        ),
        steps=above(1),
        alerts=("QueueWaitHigh",),
        nothing="nobody had to wait so far",
    ),
    lines(
        "Slow requests",
        "Requests that took longer than `log.slow`, by route. Each has an event of its own in the log, with where the "
        "time went.",
        "reqps",
        Query("sum by (endpoint) (rate(gateway_slow_requests_total{INSTANCE, ROUTE}[RATE]))", "{{endpoint}}"),
        nothing="none so far",
    ),
)

_UPSTREAM: Final[tuple[Panel, ...]] = (
    lines(
        "In flight",
        "Requests on their way to the exchange. A plateau at `upstream.pool` means that they wait for a connection.",
        "short",
        Query("sum by (instance) (gateway_upstream_in_flight{INSTANCE})", "{{instance}}"),
        width=12,
    ),
    states(
        "Breaker over time",
        "When nothing was sent because the exchange failed. Each process has a breaker of its own: one alone points at "
        "its machine's network.",
        Query('max by (instance) (circuit_breaker_state{INSTANCE, service="bybit"})', "{{instance}}"),
        words=BREAKER,
        alerts=("BreakerOpen",),
        width=12,
    ),
)

PERFORMANCE: Final = Board(
    name="performance",
    title="Bybit gateway: performance",
    tells="What clients get: how much, how well, how fast, and where the time goes.",
    choices=(Choice.ROUTE,),
    sections=(
        Section("At a glance", _GLANCE),
        Section("Traffic", _TRAFFIC),
        Section("Errors", _ERRORS),
        Section("Time", _TIME),
        Section("The way to the exchange", _UPSTREAM),
    ),
)

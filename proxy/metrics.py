"""Every metric, declared once. Labels are names of the route table and of rules, never symbols, keys or raw paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.tally import TallyCounter, TallyHistogram

_CALL_US: Final = (
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    10**6,
    2_500_000,
    5 * 10**6,
    10**7,
    3 * 10**7,
)
_HISTORY_US: Final = (*_CALL_US, 60 * 10**6, 300 * 10**6, 900 * 10**6, 3_600 * 10**6)
_STORE_US: Final = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000)
_ADDED_US: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 10**6, 4 * 10**6, 10**7)

GAUGES: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {
    "bybit_cache_size_bytes": sum,
    "gateway_candle_store_bytes": sum,
    "gateway_queue_depth": sum,
    "gateway_upstream_in_flight": sum,
    "gateway_log_dropped_events": sum,
    # Windows are shared: each worker reads the same ones, a moment earlier or later.
    "gateway_window_used": max,
    "gateway_window_limit": max,
    "gateway_config_last_reload_successful": min,
    # Each worker counts in the store as a gateway of its own: 1 for every mode that some of them are in.
    "gateway_store_mode": max,
    "gateway_store_replicas": max,
    "gateway_store_share_ratio": sum,
    # One address, one set of accounts: what any worker knows, or the more careful of two views.
    "gateway_banned": max,
    "gateway_ban_left_seconds": max,
    "gateway_budget_part_ratio": min,
    "gateway_learned_limit": min,
    "gateway_learned_others": max,
    "gateway_limit_drift_ratio": min,
    "circuit_breaker_state": max,
    "gateway_trading_mode": max,
    "backpressure_db_queue_size": sum,
    "websocket_connections_active": sum,
}
"""How the values of several workers become one, for each gauge."""


class Metrics:
    """One instance per gateway; `registry` is what /metrics shows."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
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
            _CALL_US,
            registry,
        )
        self.added = TallyHistogram(
            "gateway_added_seconds",
            "Time that the gateway itself adds to a request, without queueing and without the exchange.",
            ["source"],
            _ADDED_US,
            registry,
        )
        self.cache_operations = TallyCounter(
            "bybit_cache_operations", "Look-ups and stores of the cache.", ["operation", "result"], registry
        )
        self.cache_bytes = Gauge(
            "bybit_cache_size_bytes", "Bytes held by the cache in this process.", registry=registry
        )
        self.candle_bytes = Gauge(
            "gateway_candle_store_bytes", "Bytes held by the candle store in this process.", registry=registry
        )
        self.revised = Counter(
            "gateway_candles_revised",
            "Rows of settled candles that were different when they were read again.",
            ["endpoint"],
            registry=registry,
        )
        self.boundary = Counter(
            "gateway_boundary_refreshes",
            "Series that were asked for lately when their candle ended, by what was done.",
            ["result"],
            registry=registry,
        )
        self.shadow_compared = Counter(
            "gateway_shadow_comparisons",
            "Answers put together from candles and compared with the exchange's. `different` must stay 0.",
            ["result"],
            registry=registry,
        )
        self.odd_answers = Counter(
            "gateway_candles_odd_answers",
            "Successful answers about candles from which nothing is learned, because they are not as documented.",
            ["endpoint"],
            registry=registry,
        )
        self.candles = TallyCounter(
            "bybit_candles_fetched", "Candles given to clients, by where they came from.", ["source"], registry
        )
        self.history_fetches = Counter(
            "bybit_historical_fetches",
            "Histories asked of /api/v1/marketdata, by how they ended: whole, failed (before the first candle), broken "
            "(in the middle), client-gone.",
            ["result"],
            registry=registry,
        )
        for result in ("whole", "failed", "broken", "client-gone"):
            self.history_fetches.labels(result)
        self.history_seconds = TallyHistogram(
            "bybit_historical_fetch_duration_seconds",
            "Time that they took, at their readers' pace.",
            [],
            _HISTORY_US,
            registry,
        )
        self.errors = Counter(
            "bybit_errors", "Answers that are not the exchange's, by reason.", ["error_type"], registry=registry
        )
        self.exchange_codes = Counter(
            "gateway_exchange_errors",
            "Answers of the exchange with an error code, by code.",
            ["code"],
            registry=registry,
        )
        self.exchange_limited = Counter(
            "bybit_rate_limit_hits",
            "Answers of the exchange that say a limit was exceeded. Must stay 0 while nobody else uses the budget.",
            registry=registry,
        )
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
            "Time that admitted requests waited for their turn.",
            [],
            _ADDED_US,
            registry,
        )
        self.collapsed = Counter(
            "gateway_collapsed_requests",
            "Requests that shared another's upstream request.",
            ["endpoint"],
            registry=registry,
        )
        self.retries = Counter(
            "gateway_retries",
            "Attempts that were repeated, by what had gone wrong.",
            ["endpoint", "reason"],
            registry=registry,
        )
        self.forbidden = Counter(
            "gateway_forbidden",
            "Answers of the exchange with HTTP 403: ban, blocked country, page of the CDN, other.",
            ["reason"],
            registry=registry,
        )
        self.banned = Gauge(
            "gateway_banned", "1 while nothing is sent because the exchange has banned the address.", registry=registry
        )
        self.ban_left = Gauge("gateway_ban_left_seconds", "How long nothing will be sent, at least.", registry=registry)
        self.bans = Counter("gateway_bans", "Bans of the address that this gateway has heard of.", registry=registry)
        self.budget_part = Gauge(
            "gateway_budget_part_ratio",
            "The part of the address's budget that may be used: less than 1 after a ban and while throttled.",
            registry=registry,
        )
        self.throttled = Counter(
            "gateway_throttled", "Times the budget was halved because the exchange protects itself.", registry=registry
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
        self.breaker_state = Gauge(
            "circuit_breaker_state", "0 closed, 1 half-open, 2 open.", ["service"], registry=registry
        )
        self.trading_mode = Gauge(
            "gateway_trading_mode", "1 for the position of the trade switch.", ["mode"], registry=registry
        )
        self.window_used = Gauge(
            "gateway_window_used", "Requests in the fullest window of a rule.", ["rule"], registry=registry
        )
        self.window_limit = Gauge(
            "gateway_window_limit", "What a rule allows in a window.", ["rule"], registry=registry
        )
        self.in_flight = Gauge(
            "gateway_upstream_in_flight", "Requests on their way to the exchange.", registry=registry
        )
        self.config_reloads = Counter(
            "gateway_config_reloads", "Loads of a changed configuration, by result.", ["result"], registry=registry
        )
        for result in ("applied", "refused", "unchanged"):
            self.config_reloads.labels(result)
        self.config_good = Gauge(
            "gateway_config_last_reload_successful", "0 while the file has a mistake.", registry=registry
        )
        self.store_mode = Gauge(
            "gateway_store_mode",
            "1 for how this gateway spends: shared (in the common store), or what it does without it.",
            ["mode"],
            registry=registry,
        )
        self.store_replicas = Gauge(
            "gateway_store_replicas", "Gateways that give signs of life in the store.", registry=registry
        )
        self.store_share = Gauge(
            "gateway_store_share_ratio",
            "The part of the budget that this gateway may use when it is cut off from the store.",
            registry=registry,
        )
        self.store_calls = TallyHistogram(
            "gateway_store_call_seconds",
            "Time that calls of the store took, by script.",
            ["script"],
            _STORE_US,
            registry,
        )
        self.store_failures = Counter(
            "gateway_store_failures", "Calls of the store that failed, by reason.", ["reason"], registry=registry
        )
        self.db_stores = Counter(
            "bybit_db_stores",
            "Candles given to the archive: stored, revised, duplicate (there already), expired (older than the "
            "retention), dropped (no room in the queue), failed (not such as the exchange writes).",
            ["result"],
            registry=registry,
        )
        for result in ("stored", "revised", "duplicate", "expired", "dropped", "failed"):
            self.db_stores.labels(result)
        self.db_queue = Gauge(
            "backpressure_db_queue_size", "Candles that wait to be written to the archive.", registry=registry
        )
        self.db_reads = Counter(
            "gateway_archive_reads",
            "Ranges that the archive was asked for: whole (it knew all of it), part, nothing, failed, skipped (it was "
            "lost a moment ago, or has too much to do).",
            ["result"],
            registry=registry,
        )
        for result in ("whole", "part", "nothing", "failed", "skipped"):
            self.db_reads.labels(result)
        self.l2_operations = TallyCounter(
            "gateway_l2_operations",
            "Look-ups and stores of the cache's level in Redis, and leases for fetching, by how they ended.",
            ["operation", "result"],
            registry,
        )
        self.l2_seconds = TallyHistogram(
            "gateway_l2_seconds",
            "Time that they took, unpacking included, where Redis answered.",
            ["operation"],
            _STORE_US,
            registry,
        )
        self.l2_bytes = TallyCounter(
            "gateway_l2_bytes", "Bytes of values read from Redis and written to it.", ["direction"], registry
        )
        self.websocket_connections = Gauge(
            "websocket_connections_active", "WebSocket connections that stand.", ["endpoint"], registry=registry
        )
        self.stream_reconnects = Counter(
            "gateway_stream_reconnects",
            "Connections to the exchange's streams that were lost or could not be had, by reason.",
            ["endpoint", "reason"],
            registry=registry,
        )
        self.stream_messages = TallyCounter(
            "gateway_stream_messages",
            "Messages of the exchange's streams, by what they were: open and closed candles, jump (behind a hole), "
            "late, repeated, contradicted, answers, odd ones.",
            ["endpoint", "result"],
            registry,
        )
        self.log_dropped = Gauge(
            "gateway_log_dropped_events", "Log events dropped because their reader was too slow.", registry=registry
        )

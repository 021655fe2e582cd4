"""The common store and the archive."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.metrics.bounds import STORE_US
from proxy.tally import TallyHistogram

QUERY_TYPES: Final = ("limits", "cache", "archive-read", "archive-write")


class Storage:
    """The common store and the archive."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
            STORE_US,
            registry,
        )
        self.store_failures = Counter(
            "gateway_store_failures", "Calls of the store that failed, by reason.", ["reason"], registry=registry
        )
        self.redis_queue = Gauge(
            "backpressure_redis_queue_size", "Calls that wait to be sent to Redis.", registry=registry
        )
        self.slow_queries = Counter(
            "slow_query_count",
            "Calls of Redis or PostgreSQL that took at least half of their timeout (writes to the archive: a second).",
            ["query_type"],
            registry=registry,
        )
        self.query_timeouts = Counter(
            "query_timeout_count",
            "Calls of Redis or PostgreSQL that were not answered in time.",
            ["query_type"],
            registry=registry,
        )
        for query_type in QUERY_TYPES:
            self.slow_queries.labels(query_type)
            self.query_timeouts.labels(query_type)
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
        self.usage_flushes = Counter(
            "gateway_usage_flushes",
            "Batches of usage figures put into the store: stored, repeated (was there already), failed (tried again).",
            ["result"],
            registry=registry,
        )
        self.usage_waiting = Gauge(
            "gateway_usage_waiting_rows", "Usage figures that are not in the store yet, rows.", registry=registry
        )

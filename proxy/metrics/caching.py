"""The caches of answers and candles, their level in Redis, and what is made of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.metrics.bounds import HISTORY_US, STORE_US
from proxy.tally import TallyCounter, TallyHistogram


class Caching:
    """The caches of answers and candles, their level in Redis, and what is made of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        for result in ("fetched", "not-needed", "busy", "held-back", "failed"):
            self.boundary.labels(result)
        self.shadow_compared = Counter(
            "gateway_shadow_comparisons",
            "Answers put together from candles and compared with the exchange's. `different` must stay 0.",
            ["result"],
            registry=registry,
        )
        for result in ("same", "different", "not-compared"):
            self.shadow_compared.labels(result)
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
            HISTORY_US,
            registry,
        )
        self.collapsed = Counter(
            "gateway_collapsed_requests",
            "Requests that shared another's upstream request.",
            ["endpoint"],
            registry=registry,
        )
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
            STORE_US,
            registry,
        )
        self.l2_bytes = TallyCounter(
            "gateway_l2_bytes", "Bytes of values read from Redis and written to it.", ["direction"], registry
        )

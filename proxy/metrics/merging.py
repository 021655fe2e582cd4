"""How the gauges of several worker processes become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

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
    "response_time_p95_seconds": max,
    "rate_limit_remaining_requests": min,
    "backpressure_redis_queue_size": sum,
    # The slowest of the workers is what a client may meet.
    "backpressure_event_loop_lag_seconds": max,
    "backpressure_async_tasks_pending": sum,
    "gateway_backpressure_level": max,
    "memory_rss_bytes": sum,
    "memory_vms_bytes": sum,
    "memory_objects_count": sum,
    "memory_growth_rate_bytes_per_second": sum,
    "dependency_health_status": min,
    "gateway_dependency_latency_seconds": max,
    "gateway_build_info": max,
    "gateway_started_seconds": max,
    "gateway_usage_waiting_rows": sum,
}
"""How the values of several workers become one, for each gauge."""

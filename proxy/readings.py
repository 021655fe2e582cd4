"""The gauges: read when somebody looks, not on every request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from policies.admission import WHOLE, Counts, Quota
from policies.priority import Priority
from policies.sharing import Mode
from policies.trading import TradingMode
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.drift import Drift
from proxy.egress import Egress
from proxy.limiter import Limiter
from proxy.log import Sink
from proxy.metrics import Metrics
from proxy.store import Store, Usage


class Readings:
    """`rules` count what is sent. `more` are called after the others: what other rooms read of themselves."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        store: Store,
        limiter: Limiter,
        caches: Caches,
        egress: Egress,
        breaker: Breaker,
        drift: Drift,
        rules: Callable[[], Iterable[Quota]],
        sink: Sink | None,
    ) -> None:
        self.more: list[Callable[[], None]] = []
        self._metrics = metrics
        self._store = store
        self._limiter = limiter
        self._caches = caches
        self._egress = egress
        self._breaker = breaker
        self._drift = drift
        self._rules = rules
        self._sink = sink

    async def take(self) -> None:
        metrics = self._metrics
        for priority in Priority:
            metrics.queue_depth.labels(priority.name.lower()).set(self._limiter.waiting_of(priority))
        l1, candles = self._caches.lookup.l1, self._caches.candles
        metrics.cache_bytes.set(0 if l1 is None else l1.size_bytes)
        metrics.candle_bytes.set(0 if candles is None else candles.size_bytes)
        metrics.log_dropped.set(0 if self._sink is None else self._sink.dropped)
        self._show_store(self._store.status())
        self._show_egress()
        usages = await self._store.usage()
        self._drift.show(usages, metrics)
        self._show_windows(usages)
        for read in self.more:
            read()

    def _show_windows(self, usages: list[Usage]) -> None:
        metrics = self._metrics
        fullest: dict[str, Usage] = {}
        least: dict[tuple[str, str], int] = {}
        for usage in usages:
            quota = usage.quota
            known = fullest.get(quota.name)
            if known is None or usage.used > known.used:
                fullest[quota.name] = usage
            if (whose := _identifier(usage)) is not None:
                left = max(0, usage.capacity - usage.used)
                least[whose] = min(left, least.get(whose, left))
        metrics.window_used.clear()  # rules come and go with a reload
        metrics.window_limit.clear()
        for quota in self._rules():
            if quota.of_address:  # its windows are forgotten while nothing is sent, and are there all the same
                metrics.window_used.labels(quota.name).set(0)
                metrics.window_limit.labels(quota.name).set(quota.burst or quota.limit)
        for rule, usage in fullest.items():
            metrics.window_used.labels(rule).set(usage.used)
            metrics.window_limit.labels(rule).set(
                usage.quota.burst or (usage.quota.limit if usage.learned is None else usage.learned.limit)
            )
        metrics.limit_remaining.clear()
        for whose, left in least.items():
            metrics.limit_remaining.labels(*whose).set(left)

    def _show_egress(self) -> None:
        metrics, egress = self._metrics, self._egress
        metrics.banned.set(egress.banned)
        metrics.ban_left.set(egress.ban_left_us / 1e6 if egress.banned else 0)
        metrics.budget_part.set(egress.part() / WHOLE)
        metrics.breaker_state.labels("bybit").set(self._breaker.state)
        for mode in TradingMode:
            metrics.trading_mode.labels(mode.value).set(mode is egress.trading.mode)

    def _show_store(self, status: dict[str, Any]) -> None:
        """How this gateway spends, where it shares a store."""
        if "mode" not in status:
            return
        metrics = self._metrics
        for mode in Mode:
            metrics.store_mode.labels(mode.value).set(mode is status["mode"])
        metrics.store_replicas.set(status["replicas"])
        metrics.store_share.set(status["share"])


def _identifier(usage: Usage) -> tuple[str, str] | None:
    """identifier_type and tier of a window that a client spends by asking; None of those that the exchange counts."""
    quota = usage.quota
    if quota.counts is not Counts.REQUESTS:
        return None
    tiers = quota.match.tier
    tier = next(iter(tiers)) if tiers is not None and len(tiers) == 1 else "any"
    kind = next((part for part in ("client", "api_key", "ip", "tier") if part in quota.partition), "all")
    return kind, tier

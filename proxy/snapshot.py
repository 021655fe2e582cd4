"""The gateway at one instant, for the status page: whole, small, and with nothing in it that is secret."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, Final

from prometheus_client import Gauge

from policies.admission import WHOLE, Counts, Quota, WindowKind
from policies.priority import Priority
from policies.published import place_of
from policies.quantile import quantile_us
from policies.sharing import Mode
from policies.situation import Facts, Level, Notice, notices
from proxy.admin import Admin
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.callers import Callers, short_name
from proxy.clock import Clock
from proxy.egress import Egress
from proxy.lately import Lately
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.store import Store, Usage
from proxy.trail import Trail

_MINUTES_US: Final = 300_000_000
_MOMENT_US: Final = 5_000_000
_ROWS: Final = 25
_CALLERS: Final = 10
_KINDS: Final = ("rules", "accounts", "clients")
"""Of windows: of the exchange, of accounts at the exchange, of clients here."""
_LOST: Final = {
    "postgres": "The archive (PostgreSQL)",
    "redis_cache": "The common cache (Redis)",
    "stream": "The exchange's stream of candles",
}
"""Dependencies, as /health calls them, in the words of a notice. Of the limits' store its mode tells."""
_SELDOM: Final = 50
"""Looking at all windows may take one part in so many of the time."""
_WORKERS_EVERY_US: Final = 10_000_000
_PERCENTS: Final = (50, 95, 99)


class Snapshots:
    """`unready` tells why it is not ready, `lost` what it goes on without; `times` are what histograms have noted, by
    name: response, added, exchange, queue."""

    def __init__(
        self,
        *,
        admin: Admin,
        metrics: Metrics,
        store: Store,
        limiter: Limiter,
        door: Limiter,
        caches: Caches,
        egress: Egress,
        breaker: Breaker,
        callers: Callers,
        trail: Trail,
        unready: Callable[[], Sequence[str]],
        lost: Callable[[], Sequence[str]],
        times: Mapping[str, Lately],
        version: str,
        clock: Clock,
    ) -> None:
        self._admin = admin
        self._metrics = metrics
        self._store = store
        self._limiters = (limiter, door)
        self._caches = caches
        self._egress = egress
        self._breaker = breaker
        self._callers = callers
        self._trail = trail
        self._unready = unready
        self._lost = lost
        self._times = times
        self._version = version
        self._clock = clock
        self.config_hash = ""
        self._began_us = clock()
        self._fullest: dict[str, list[Usage]] = {kind: [] for kind in _KINDS}
        self._more = dict.fromkeys(_KINDS, 0)
        self._blocked: list[Usage] = []
        self._looked_us = self._look_us = 0
        self._missing = 0
        self._count_us = 0

    async def take(self) -> dict[str, Any]:
        """In plain words and numbers whose units are in their names."""
        await self._look()
        await self._count_workers()
        now_us = self._clock()
        blocks = self._blocks(now_us)
        config = {} if self._admin.config_state is None else self._admin.config_state()
        store = self._store.status()
        told = notices(self._facts(config, store, len(blocks)))
        return {
            "now_ms": now_us // 1000,
            "status": self._status(told),
            "unready": list(self._unready()),
            "notices": [notice._asdict() for notice in told],
            "version": self._version,
            "uptime_s": (now_us - self._began_us) // 1_000_000,
            "worker": self._worker(),
            "budget": await self._budget(),
            "history": self._trail.shown(),
            "traffic": self._traffic(),
            "cache": self._cache(),
            "latency": self._latency(),
            "queue": self._queue(),
            "exchange": self._exchange(now_us),
            "ban": self._ban(),
            "blocks": blocks[:_ROWS],
            "windows": self._windows(),
            "callers": {"span_s": self._callers.span_us // 1_000_000, "rows": self._callers.top(_CALLERS)},
            "config": {"hash": self.config_hash, "status": "fixed", "loaded_at": None, "error_count": 0, **config},
            "store": {name: store[name] for name in ("kind", "mode", "replicas", "share") if name in store},
            "trading": self._egress.trading.mode.value,
        }

    async def _look(self) -> None:
        """At all windows; less often where there are so many that it takes time."""
        began_us = self._clock()
        if began_us < self._look_us:
            return
        kinds: dict[str, list[Usage]] = {kind: [] for kind in _KINDS}
        usages = await self._store.usage()
        for usage in usages:
            kinds[_kind(usage.quota)].append(usage)
        self._fullest = {kind: nsmallest(_ROWS, found, key=_emptiness) for kind, found in kinds.items()}
        self._more = {kind: max(0, len(found) - _ROWS) for kind, found in kinds.items()}
        blocked = [usage for usage in usages if usage.learned is not None and usage.learned.blocked_us > 0]
        self._blocked = sorted(blocked, key=lambda usage: -usage.learned.blocked_us if usage.learned else 0)
        self._looked_us = self._clock()
        self._look_us = self._looked_us + _SELDOM * (self._looked_us - began_us)

    async def _count_workers(self) -> None:
        if self._admin.siblings is not None and self._clock() >= self._count_us:
            gathered = await self._admin.siblings.gathered()
            self._missing = gathered.expected - gathered.up
            self._count_us = self._clock() + _WORKERS_EVERY_US

    def _facts(self, config: Mapping[str, object], store: Mapping[str, Any], blocked: int) -> Facts:
        return Facts(
            serving=self._admin.ready or self._admin.drains,
            draining=self._admin.drains,
            banned=self._egress.banned,
            ban_left_us=self._egress.ban_left_us,
            part=self._egress.part(),
            breaker=self._breaker.state,
            breaker_left_us=self._breaker.left_us,
            store=store.get("mode", Mode.SHARED),
            share=store.get("share", 1.0),
            cold=store.get("status") == "cold",
            halted=self._egress.halted,
            pressure=int(_value(self._metrics.pressure)),
            blocked=blocked,
            config_errors=int(str(config.get("error_count", 0))),
            restart_wanted=config.get("status") == "needs-restart",
            workers_missing=self._missing,
            lost=tuple(_LOST[name] for name in self._lost() if name in _LOST),
        )

    def _status(self, told: list[Notice]) -> str:
        """A word: banned, draining, failing, degraded, ok."""
        if self._egress.banned:
            return "banned"
        if not self._admin.ready:
            return "draining" if self._admin.drains else "starting"
        levels = {notice.level for notice in told}
        return "failing" if Level.BAD in levels else "degraded" if Level.CARE in levels else "ok"

    def _worker(self) -> dict[str, int] | None:
        if self._admin.siblings is None:
            return None
        index, count = self._admin.siblings.place
        return {"number": index + 1, "of": count}

    async def _budget(self) -> dict[str, Any] | None:
        budget = await self._trail.budget()
        return None if budget is None else budget._asdict() | {"part": round(self._egress.part() / WHOLE, 3)}

    def _traffic(self) -> dict[str, Any]:
        moment_us, moment = self._trail.lately(_MOMENT_US)
        minutes_us, minutes = self._trail.lately(_MINUTES_US)
        return {
            "requests_per_s": _rate(moment.requests, moment_us),
            "sent_per_s": _rate(moment.answered, moment_us),
            "requests": minutes.requests,
            "sent": minutes.answered,
            "span_s": round(minutes_us / 1e6),
        }

    def _cache(self) -> dict[str, Any] | None:
        l1, candles = self._caches.lookup.l1, self._caches.candles
        if l1 is None:
            return None
        span_us, lately = self._trail.lately(_MINUTES_US)
        return {
            "hits": lately.hits,
            "stale": lately.stale,
            "shared": lately.shared,
            "misses": lately.misses,
            "span_s": round(span_us / 1e6),
            "bytes": l1.size_bytes + (0 if candles is None else candles.size_bytes),
        }

    def _latency(self) -> list[dict[str, Any]]:
        return [{"what": name, **_percentiles(self._times[name])} for name in ("response", "added", "exchange")]

    def _queue(self) -> dict[str, Any]:
        counts, bounds = self._times["queue"].counts(), self._times["queue"].bounds_us
        classes = []
        for priority in Priority:
            waited = counts.get((priority.name.lower(),), [])
            classes.append(
                {
                    "class": priority.name.lower(),
                    "waiting": sum(limiter.waiting_of(priority) for limiter in self._limiters),
                    "waited": sum(waited),
                    "p50_us": quantile_us(bounds, waited, 50),
                    "p95_us": quantile_us(bounds, waited, 95),
                }
            )
        return {"waiting": sum(limiter.waiting for limiter in self._limiters), "classes": classes}

    def _exchange(self, now_us: int) -> dict[str, Any]:
        span_us, lately = self._trail.lately(_MINUTES_US)
        callers = self._callers
        return {
            "breaker": self._breaker.state.name.lower().replace("_", "-"),
            "tried_again_in_us": self._breaker.left_us,
            "in_flight": int(_value(self._metrics.in_flight)),
            "answered_ago_us": max(0, now_us - callers.answered_us) if callers.answered_us else None,
            "failed_ago_us": max(0, now_us - callers.failed_us) if callers.failed_us else None,
            "failure": callers.failure,
            "asked": lately.asked,
            "failed": lately.failed,
            "span_s": round(span_us / 1e6),
        }

    def _ban(self) -> dict[str, Any]:
        ban = self._egress.ban
        return {
            "banned": ban.stands,
            "left_s": math.ceil(self._egress.ban_left_us / 1e6) if ban.stands else 0,
            "until_ms": ban.until_us // 1000 if ban.stands else None,
            "since_ms": ban.begun_us // 1000 if ban.stands else None,
            "times": ban.times,
        }

    def _blocks(self, now_us: int) -> list[dict[str, Any]]:
        """Windows of accounts in which the exchange lets nothing pass, the longest first."""
        passed_us = now_us - self._looked_us
        left = [(usage, usage.learned.blocked_us - passed_us) for usage in self._blocked if usage.learned is not None]
        return [
            {"rule": _rule(usage.quota), "whose": _whose(usage), "left_ms": math.ceil(left_us / 1000)}
            for usage, left_us in left
            if left_us > 0
        ]

    def _windows(self) -> dict[str, Any]:
        rows = {kind: [self._row(usage) for usage in usages] for kind, usages in self._fullest.items()}
        return {**rows, **{f"{kind}_more": more for kind, more in self._more.items()}}

    def _row(self, usage: Usage) -> dict[str, Any]:
        quota = usage.quota
        capacity = usage.capacity
        if quota.of_address:
            capacity = max(1, capacity * self._egress.part() // WHOLE)
        return {
            "rule": _rule(quota),
            "whose": _whose(usage),
            "used": usage.used,
            "usable": capacity,
            "window_s": quota.window_us / 1e6,
            "waiting": sum(limiter.waiting_on(usage.charge_key) for limiter in self._limiters),
            "enforced": not quota.shadow,
            "told": usage.learned is not None and usage.learned.told,
            "others": 0 if usage.learned is None else usage.learned.others,
        }


def _emptiness(usage: Usage) -> tuple[float, tuple[str, ...]]:
    return -usage.used / max(1, usage.capacity), usage.charge_key


def _kind(quota: Quota) -> str:
    if quota.counts is Counts.REQUESTS:
        return "clients"
    return "accounts" if quota.window is WindowKind.LEARNED or "api_key" in quota.partition else "rules"


def _rule(quota: Quota) -> str:
    if quota.window is not WindowKind.LEARNED:
        return quota.name
    endpoint, line = place_of(quota.name)
    return f"{endpoint} ({line})" if line else endpoint


def _whose(usage: Usage) -> str:
    """The egress goes without saying: it is ours."""
    parts = zip(usage.quota.partition, usage.charge_key[1:], strict=True)
    return ", ".join(short_name(value) for name, value in parts if name != "egress")


def _percentiles(times: Lately) -> dict[str, int | None]:
    """Of all labels together."""
    total = [0] * (len(times.bounds_us) + 1)
    for series in times.counts().values():
        total = [a + b for a, b in zip(total, series, strict=True)]
    return {"count": sum(total), **{f"p{p}_us": quantile_us(times.bounds_us, total, p) for p in _PERCENTS}}


def _rate(count: int, span_us: int) -> float:
    return round(count * 1e6 / span_us, 1) if span_us else 0.0


def _value(gauge: Gauge) -> float:
    return next((sample.value for family in gauge.collect() for sample in family.samples), 0.0)

"""The gateway's own pages: health, metrics, limits. Never limited, never forwarded, never dependent on the exchange."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from proxy import errors
from proxy.cache import L1
from proxy.clock import Clock
from proxy.limiter import Limiter
from proxy.log import Sink
from proxy.metrics import Metrics
from proxy.store import Store
from proxy.wire import Whole, head

Page = Callable[[], Awaitable[tuple[int, bytes, bytes]]]

_JSON: Final = b"application/json; charset=utf-8"
_RESERVED: Final = ("/gateway", "/health", "/metrics", "/api/v1/health", "/api/v1/metrics")


class Admin:
    """`ready` is switched by the app: true once everything listens, false again while it drains."""

    def __init__(
        self, *, metrics: Metrics, store: Store, limiter: Limiter, l1: L1 | None, clock: Clock, sink: Sink | None
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._limiter = limiter
        self._l1 = l1
        self._clock = clock
        self._sink = sink
        self._began_us = clock()
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self.ready = False
        pages: dict[str, Page] = {
            "/health": self._health,
            "/health/live": self._live,
            "/health/liveness": self._live,
            "/health/ready": self._readiness,
            "/health/readiness": self._readiness,
            "/health/metrics": self._show_metrics,
        }
        self._pages: dict[str, Page] = {
            **pages,
            **{f"/api/v1{path}": page for path, page in pages.items()},
            "/metrics": self._show_metrics,
            "/gateway/limits": self._limits,
        }

    def owns(self, raw_target: str) -> bool:
        """Whether a target is the gateway's own. Such targets are never forwarded, known or not."""
        if not raw_target.startswith(_RESERVED):
            return False
        path = raw_target.partition("?")[0]
        return path in self._pages or any(path == own or path.startswith(f"{own}/") for own in _RESERVED)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"{self._prefix}{next(self._numbers):08x}".encode()
        page = self._pages.get(request.raw_path.partition("?")[0])
        if page is None:
            return errors.plain(404, "not-found", "The gateway has no such page.", request_id)
        if request.method not in {"GET", "HEAD"}:
            return errors.plain(405, "method-not-allowed", "This page can only be read.", request_id)
        status, content_type, body = await page()
        lines = [
            (b"Content-Type", content_type),
            (b"Cache-Control", b"no-store"),
            (b"X-Gateway", b"own-page"),
            (b"X-Request-Id", request_id),
            (b"Content-Length", b"%d" % len(body)),
        ]
        return Whole(head(status, lines), body)

    async def _live(self) -> tuple[int, bytes, bytes]:
        """The process answers: that is all that liveness means."""
        return 200, _JSON, _json({"status": "alive"})

    async def _readiness(self) -> tuple[int, bytes, bytes]:
        if self.ready:
            return 200, _JSON, _json({"status": "ready"})
        return 503, _JSON, _json({"status": "not ready", "reason": "starting or draining"})

    async def _health(self) -> tuple[int, bytes, bytes]:
        body = {
            "status": "ok" if self.ready else "draining",
            "uptime_s": (self._clock() - self._began_us) // 1_000_000,
            "waiting": self._limiter.waiting,
            "store": {"kind": "memory", "status": "ok"},
            "cache": None if self._l1 is None else {"entries": len(self._l1), "bytes": self._l1.size_bytes},
        }
        return 200, _JSON, _json(body)

    async def _limits(self) -> tuple[int, bytes, bytes]:
        rows = [
            {
                "rule": usage.charge_key[0],
                "partition": list(usage.charge_key[1:]),
                "limit": usage.limit,
                "window_s": usage.window_us / 1_000_000,
                "used": usage.used,
                "remaining": max(0, usage.limit - usage.used),
                "percentage": round(100 * usage.used / usage.limit, 2),
            }
            for usage in await self._store.usage()
        ]
        return 200, _JSON, _json({"waiting": self._limiter.waiting, "limits": rows})

    async def _show_metrics(self) -> tuple[int, bytes, bytes]:
        await self._take_readings()
        return 200, CONTENT_TYPE_LATEST.encode(), generate_latest(self._metrics.registry)

    async def _take_readings(self) -> None:
        """Gauges are read when somebody looks, not on every request."""
        metrics = self._metrics
        metrics.queue_depth.set(self._limiter.waiting)
        metrics.cache_bytes.set(0 if self._l1 is None else self._l1.size_bytes)
        metrics.log_dropped.set(0 if self._sink is None else self._sink.dropped)
        fullest: dict[str, tuple[int, int]] = {}
        for usage in await self._store.usage():
            rule = usage.charge_key[0]
            if rule not in fullest or usage.used > fullest[rule][0]:
                fullest[rule] = (usage.used, usage.limit)
        for rule, (used, limit) in fullest.items():
            metrics.window_used.labels(rule).set(used)
            metrics.window_limit.labels(rule).set(limit)


def _json(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

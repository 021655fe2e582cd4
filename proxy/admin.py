"""The gateway's own pages: health, metrics, limits. Never limited, never forwarded, never dependent on the exchange."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from policies.admission import WHOLE
from policies.trading import TradingMode
from proxy import combined, errors
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.clock import Clock
from proxy.drift import Drift
from proxy.egress import Egress, Trading
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.readings import Readings
from proxy.siblings import Siblings
from proxy.store import Store, Usage
from proxy.wire import Whole, head

Page = Callable[[], Awaitable[tuple[int, bytes, bytes]]]
"""Status, content type, body."""
Handler = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]
"""Of a request and the id that its answer shall name."""

_MOST_BYTES: Final = 4 << 10
_PATIENCE_S: Final = 5.0
_JSON: Final = b"application/json; charset=utf-8"
_LIMITS: Final = "/gateway/limits"
_TRADING: Final = "/gateway/trading"
_RESERVED: Final = ("/gateway", "/health", "/metrics", "/api/v1/health", "/api/v1/metrics")


class Admin:
    """Further pages come in by show() and serve().

    `ready` is switched by the app: true once everything listens, false again while it drains.
    """

    def __init__(
        self,
        *,
        readings: Readings,
        metrics: Metrics,
        store: Store,
        limiter: Limiter,
        caches: Caches,
        egress: Egress,
        breaker: Breaker,
        drift: Drift,
        clock: Clock,
        token: str | None = None,
    ) -> None:
        self._readings = readings
        self._metrics = metrics
        self._store = store
        self._limiter = limiter
        self._caches = caches
        self._egress = egress
        self._breaker = breaker
        self._drift = drift
        self.config_state: Callable[[], dict[str, object]] | None = None
        self.siblings: Siblings | None = None
        self._clock = clock
        self._token = None if token is None else token.encode()
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
            _LIMITS: self._limits,
            _TRADING: self._trading,
        }
        self._handlers: dict[str, Handler] = {_TRADING: self._switch}

    def show(self, path: str, page: Page) -> None:
        """A further page that can be read."""
        self._pages[path] = page

    def serve(self, path: str, handler: Handler) -> None:
        """A further page whose handler answers itself, whatever the method."""
        self._handlers[path] = handler

    def owns(self, raw_target: str) -> bool:
        """Whether a target is the gateway's own. Such targets are never forwarded, known or not."""
        return reserved(raw_target)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"{self._prefix}{next(self._numbers):08x}".encode()
        if not self._may_see(request):
            return errors.unauthorized_page(request_id)
        path, _, query = request.raw_path.partition("?")
        handler = self._handlers.get(path)
        if handler is not None and (path not in self._pages or request.method == "POST"):
            return await handler(request, request_id)
        page = self._drifting if path == _LIMITS and "drift=1" in query.split("&") else self._pages.get(path)
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

    def _may_see(self, request: web.BaseRequest) -> bool:
        """Health and metrics are for probes and scrapers; what tells of clients needs the token, when there is one."""
        if self._token is None or not request.raw_path.startswith("/gateway"):
            return True
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token
        )

    async def _live(self) -> tuple[int, bytes, bytes]:
        """The process answers: that is all that liveness means."""
        return 200, _JSON, _json({"status": "alive"})

    async def _readiness(self) -> tuple[int, bytes, bytes]:
        if self._egress.banned:
            return 503, _JSON, _json({**self._egress.status(), "status": "not ready", "reason": "banned"})
        if self.ready:
            return 200, _JSON, _json({"status": "ready"})
        return 503, _JSON, _json({"status": "not ready", "reason": "starting or draining"})

    async def _health(self) -> tuple[int, bytes, bytes]:
        body = {
            "status": self._status(),
            "uptime_s": (self._clock() - self._began_us) // 1_000_000,
            "waiting": self._limiter.waiting,
            "store": self._store.status(),
            "egress": self._egress.status(),
            "breaker": self._breaker.state.name.lower(),
            **self._caches.status(),
            "config": None if self.config_state is None else self.config_state(),
        }
        if self.siblings is not None:
            gathered = await self.siblings.gathered()
            body["workers"] = {"expected": gathered.expected, "up": gathered.up}
        return 200, _JSON, _json(body)

    def _status(self) -> str:
        if not self.ready:
            return "draining"
        return "banned" if self._egress.banned else "ok"

    async def _trading(self) -> tuple[int, bytes, bytes]:
        return 200, _JSON, _json({"mode": self._egress.trading.mode.value})

    async def _switch(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        """Set the trade switch. Who may is who has the token: without one nobody is known to be allowed."""
        if self._token is None:
            remedy = "The trade switch needs a token: set admin.token, and send it as Authorization: Bearer ..."
            return errors.plain(403, "no-admin-token", remedy, request_id)
        try:
            mode = TradingMode(orjson.loads(await _short_body(request))["mode"])
        except (ValueError, KeyError, TypeError, TimeoutError):
            words = " or ".join(f'{{"mode": "{mode.value}"}}' for mode in TradingMode)
            return errors.plain(400, "bad-mode", f"Expected {words}.", request_id)
        # Whatever clock the last word was set by: this one is later.
        trading = Trading(mode, max(self._clock(), self._egress.trading.set_us + 1))
        self._egress.hear_trading(trading)
        await self._store.news.switch(trading)
        body = _json({"mode": self._egress.trading.mode.value})
        lines = [(b"Content-Type", _JSON), (b"X-Gateway", b"own-page"), (b"X-Request-Id", request_id)]
        return Whole(head(200, [*lines, (b"Content-Length", b"%d" % len(body))]), body)

    async def _drifting(self) -> tuple[int, bytes, bytes]:
        """What the rules say, what is published, and what the exchange really allows."""
        return 200, _JSON, _json(self._drift.report(await self._store.usage()))

    async def _limits(self) -> tuple[int, bytes, bytes]:
        """Every window in use. `capacity` is what fits at once, `room_in_ms` the wait of the next (null: a reply's)."""
        body = {"waiting": self._limiter.waiting, "limits": [self._row(usage) for usage in await self._store.usage()]}
        return 200, _JSON, _json(body)

    def _row(self, usage: Usage) -> dict[str, Any]:
        quota, key = usage.quota, usage.charge_key
        capacity = usage.capacity
        if quota.of_address:  # less of it may be used after a ban, and while the exchange protects itself
            capacity = max(1, capacity * self._egress.part() // WHOLE)
        percentage = round(100 * usage.used / max(1, capacity), 2)
        limit = quota.limit if usage.learned is None else usage.learned.limit
        row = {
            "rule": quota.name,
            "partition": dict(zip(quota.partition, key[1:], strict=True)),
            "counts": quota.counts,
            "window": quota.window,
            "limit": limit,
            "window_s": quota.window_us / 1_000_000,
            "capacity": capacity,
            "used": usage.used,
            "remaining": max(0, capacity - usage.used),
            "percentage": percentage,
            "percentage_used": percentage,
            "room_in_ms": None if usage.room_in_us < 0 else math.ceil(usage.room_in_us / 1000),
            "waiting": self._limiter.waiting_on(key),
            "enforced": not quota.shadow,
        }
        if usage.learned is not None:
            row["learned"] = {
                "told_by_exchange": usage.learned.told,
                "left_to_others": usage.learned.others,
                "blocked_ms": math.ceil(usage.learned.blocked_us / 1000),
            }
        return row

    async def _show_metrics(self) -> tuple[int, bytes, bytes]:
        if self.siblings is None:
            await self._readings.take()
            page = generate_latest(self._metrics.registry)
        else:
            page = combined.page((await self.siblings.gathered()).with_workers())
        return 200, CONTENT_TYPE_LATEST.encode(), page

    async def reading(self) -> combined.Reading:
        """The metrics of this process as they stand."""
        await self._readings.take()
        return combined.read(self._metrics.registry)


def reserved(raw_target: str) -> bool:
    """Whether a target is the gateway's own, when its pages are on the traffic port."""
    if not raw_target.startswith(_RESERVED):
        return False
    path = raw_target.partition("?")[0]
    return any(path == own or path.startswith(f"{own}/") for own in _RESERVED)


async def _short_body(request: web.BaseRequest) -> bytes:
    """Whole, however it was cut on its way; of one that is too long only so much that it cannot be understood."""
    body = b""
    async with asyncio.timeout(_PATIENCE_S):
        while len(body) <= _MOST_BYTES and (piece := await request.content.readany()):
            body += piece
    return body


def _json(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

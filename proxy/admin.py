"""The gateway's own pages: metrics, limits, and what other rooms show. Never limited, never forwarded, never dependent
on the exchange."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import math
import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web
from pydantic import SecretStr

from policies.admission import WHOLE
from policies.trading import TradingMode
from proxy import combined, errors
from proxy.clock import Clock
from proxy.drift import Drift
from proxy.egress import Egress, Trading
from proxy.exposition import form_for
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.readings import Readings
from proxy.siblings import Siblings
from proxy.store import Store, Usage
from proxy.wire import Whole, head

Page = Callable[[], Awaitable[tuple[int, bytes, bytes]]]
"""Status, content type, body."""
W = TypeVar("W", bound=str | bool)
Handler = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]
"""Of a request and the id that its answer shall name."""

_MOST_BYTES: Final = 4 << 10
_PATIENCE_S: Final = 5.0
_LONG_US: Final = 20_000
_RESTS: Final = 10
_JSON: Final = b"application/json; charset=utf-8"
_LIMITS: Final = "/gateway/limits"
_TRADING: Final = "/gateway/trading"
_METRICS: Final = ("/metrics", "/health/metrics", "/api/v1/health/metrics")
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
        egress: Egress,
        drift: Drift,
        clock: Clock,
        token: SecretStr | None = None,
    ) -> None:
        self._readings = readings
        self._metrics = metrics
        self._store = store
        self._limiter = limiter
        self._egress = egress
        self._drift = drift
        self.config_state: Callable[[], dict[str, object]] | None = None
        self.siblings: Siblings | None = None
        self._clock = clock
        self.adopt(token)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._ready = False
        self._free: set[str] = set()
        self._metrics_pages: dict[bytes, tuple[int, bytes]] = {}
        """What took long to write, and until when it is given to whoever asks: orders must not wait for scrapers. Not
        of several workers: another one has newer figures, and who then falls back to these takes it for a restart."""
        self.drains = False
        self.draining: list[Callable[[], None]] = []
        """Called when the drain begins."""
        self._pages: dict[str, Page] = {
            _LIMITS: self._limits,
            _TRADING: self._trading,
        }
        self._handlers: dict[str, Handler] = {_TRADING: self._switch, **dict.fromkeys(_METRICS, self._metrics_page)}

    def adopt(self, token: SecretStr | None) -> None:
        """Whoever asks for a page that tells of clients has to show it; None: nobody is asked."""
        self._token = None if token is None else token.get_secret_value().encode()

    def show(self, path: str, page: Page) -> None:
        """A further page that can be read."""
        self._pages[path] = page

    def serve(self, path: str, handler: Handler) -> None:
        """A further page whose handler answers itself, whatever the method."""
        self._handlers[path] = handler

    def free(self, path: str) -> None:
        """A page of which everybody may see everything, token or not."""
        self._free.add(path)

    @property
    def ready(self) -> bool:
        return self._ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self.drains = self._ready and not ready
        self._ready = ready
        if self.drains:
            for tell in self.draining:
                tell()

    def owns(self, raw_target: str) -> bool:
        """Whether a target is the gateway's own. Such targets are never forwarded, known or not."""
        return reserved(raw_target)

    async def elsewhere(self) -> web.StreamResponse:
        """The answer to who asks for a page on the port of the traffic, while the pages have one of their own."""
        return errors.plain(
            404, "not-found", "The gateway's own pages are on another port: admin.port.", self._new_id()
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = self._new_id()
        if not self._may_see(request):
            return errors.unauthorized_page(request_id)
        if self._token is None and _is_of_another_site(request):
            return errors.plain(403, "cross-site", "Pages of other sites may not ask for this one.", request_id)
        path, _, query = request.raw_path.partition("?")
        handler = self._handlers.get(path)
        if handler is not None and (path not in self._pages or request.method == "POST"):
            return await handler(request, request_id)
        page = self._drifting if path == _LIMITS and "drift=1" in query.split("&") else self._pages.get(path)
        if page is None:
            return errors.plain(404, "not-found", "The gateway has no such page.", request_id)
        return await self._shown(request, request_id, page)

    def _new_id(self) -> bytes:
        return f"{self._prefix}{next(self._numbers):08x}".encode()

    async def _shown(self, request: web.BaseRequest, request_id: bytes, page: Page) -> Whole:
        if request.method not in {"GET", "HEAD"}:
            return errors.plain(405, "method-not-allowed", "This page can only be read.", request_id)
        status, content_type, body = await page()
        lines = [
            (b"Content-Type", content_type),
            (b"Cache-Control", b"no-store"),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"X-Gateway", b"own-page"),
            (b"X-Request-Id", request_id),
            (b"Content-Length", b"%d" % len(body)),
        ]
        return Whole(head(status, lines), body)

    def _may_see(self, request: web.BaseRequest) -> bool:
        """Health and metrics are for probes and scrapers; what tells of clients needs the token, when there is one."""
        if self._token is None or not request.raw_path.startswith("/gateway"):
            return True
        if request.raw_path.partition("?")[0] in self._free:
            return True
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token
        )

    async def _trading(self) -> tuple[int, bytes, bytes]:
        return 200, _JSON, _json({"mode": self._egress.trading.mode.value})

    async def wanted(
        self, request: web.BaseRequest, request_id: bytes, subject: str, field: str, words: Collection[W]
    ) -> W | Whole:
        """What `field` of the body shall be set to, one of `words`; or the answer to who says something else, or may
        not. Who may is who has the token: without one nobody is known to be allowed."""
        if self._token is None:
            remedy = f"{subject} needs a token: set admin.token, and send it as Authorization: Bearer ..."
            return errors.plain(403, "no-admin-token", remedy, request_id)
        try:
            word = orjson.loads(await _short_body(request))[field]
        except (ValueError, KeyError, TypeError, TimeoutError):
            word = None
        for each in words:
            if type(each) is type(word) and each == word:
                return each
        expected = " or ".join(f'{{"{field}": {orjson.dumps(each).decode()}}}' for each in words)
        return errors.plain(400, f"bad-{field}", f"Expected {expected}.", request_id)

    async def _switch(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        """Set the trade switch."""
        word = await self.wanted(request, request_id, "The trade switch", "mode", [mode.value for mode in TradingMode])
        if isinstance(word, Whole):
            return word
        # Whatever clock the last word was set by: this one is later.
        trading = Trading(TradingMode(word), max(self._clock(), self._egress.trading.set_us + 1))
        self._egress.hear_trading(trading)
        await self._store.news.switch(trading)
        return is_now({"mode": self._egress.trading.mode.value}, request_id)

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

    async def _metrics_page(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        form = form_for(",".join(request.headers.getall("Accept", ())))

        async def page() -> tuple[int, bytes, bytes]:
            began_us = self._clock()
            until_us, kept = self._metrics_pages.get(form.content_type, (0, b""))
            if began_us < until_us:
                return 200, form.content_type, kept
            if self.siblings is None:
                await self._readings.take()
                registry = self._metrics.registry
            else:
                registry = combined.registry_of((await self.siblings.gathered()).with_workers())
            written, ended_us = form.write(registry), self._clock()
            if self.siblings is None and ended_us - began_us > _LONG_US:
                self._metrics_pages[form.content_type] = ended_us + _RESTS * (ended_us - began_us), written
            return 200, form.content_type, written

        return await self._shown(request, request_id, page)

    async def reading(self) -> combined.Reading:
        """The metrics of this process as they stand."""
        await self._readings.take()
        return combined.read(self._metrics.registry)


def is_now(state: dict[str, Any], request_id: bytes) -> Whole:
    """The answer to who has changed it."""
    body = _json(state)
    lines = [(b"Content-Type", _JSON), (b"X-Gateway", b"own-page"), (b"X-Request-Id", request_id)]
    return Whole(head(200, [*lines, (b"Content-Length", b"%d" % len(body))]), body)


def _is_of_another_site(request: web.BaseRequest) -> bool:
    """A browser asks for a page of the gateway because somebody else's page says so.

    Where a token is wanted it could not know it. https://www.w3.org/TR/fetch-metadata/
    """
    if not request.raw_path.startswith("/gateway"):
        return False
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.partition("://")[2] != request.headers.get("Host")
    return foreign or request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}


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

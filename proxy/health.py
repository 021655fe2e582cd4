"""The health pages: is the process alive, should requests be sent here, how does everything fare that it depends on?

Alive is whoever answers. Ready does not mean that all is well: without its Redis or its archive the gateway goes on.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from policies.health import Status, overall, unready
from policies.sharing import Mode
from proxy.admin import Admin
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.clock import Clock, shown
from proxy.egress import Egress
from proxy.exchange_health import ExchangeHealth
from proxy.limiter import Limiter
from proxy.metrics import Metrics
from proxy.pulse import Pulse
from proxy.store import Store

_JSON: Final = b"application/json; charset=utf-8"
_EXCHANGE: Final = "bybit"
_GRAVEST_FIRST: Final = (Status.DOWN, Status.UP, Status.UNKNOWN)

Shown = tuple[int, bytes, bytes]


class _State(NamedTuple):
    """Of one dependency."""

    serves: bool | None
    """None: nobody knows."""
    since_us: int
    latency_us: int | None
    reason: str

    def shown(self) -> dict[str, Any]:
        word = Status.UNKNOWN if self.serves is None else Status.UP if self.serves else Status.DOWN
        latency_ms = None if self.latency_us is None else self.latency_us / 1000
        told = {"status": word, "latency_ms": latency_ms, "since": shown(self.since_us)}
        return told if self.serves is not False else {**told, "reason": self.reason}


class Health:
    """Puts its pages among those of `admin`; show() is for the gauges."""

    def __init__(
        self,
        *,
        admin: Admin,
        exchange: ExchangeHealth,
        store: Store,
        limiter: Limiter,
        caches: Caches,
        egress: Egress,
        breaker: Breaker,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._admin = admin
        self._exchange = exchange
        self._store = store
        self._limiter = limiter
        self._caches = caches
        self._egress = egress
        self._breaker = breaker
        self._metrics = metrics
        self._clock = clock
        self._began_us = clock()
        pages = {
            "/health": self._health,
            "/health/live": self._live,
            "/health/liveness": self._live,
            "/health/ready": self._readiness,
            "/health/readiness": self._readiness,
            "/health/bybit": self._of_the_exchange,
        }
        for path, page in pages.items():
            admin.show(path, page)
            admin.show(f"/api/v1{path}", page)

    def lost(self) -> list[str]:
        """What the gateway can do without, and has to at present."""
        return [name for name, state in self._states().items() if name != _EXCHANGE and state.serves is False]

    def show(self) -> None:
        """The gauges. What nobody knows is left out."""
        metrics, way = self._metrics, self._store.way
        metrics.dependency_up.clear()
        metrics.dependency_latency.clear()
        for name, state in self._states().items():
            if state.serves is not None:
                metrics.dependency_up.labels(name).set(state.serves)
            if state.latency_us is not None:
                metrics.dependency_latency.labels(name).set(state.latency_us / 1e6)
        metrics.redis_queue.set((0 if way is None else way.waiting) + self._caches.calls_waiting)

    async def _live(self) -> Shown:
        """The process answers: that is all that liveness means."""
        return _page(200, {"status": "alive"})

    async def _readiness(self) -> Shown:
        reasons = self.reasons()
        if not reasons:
            lost = self.lost()
            return _page(200, {"status": "ready", **({"degraded": lost} if lost else {})})
        about = self._egress.status() if self._egress.banned else {}
        return _page(503, {**about, "status": "not ready", "reason": reasons[0], "reasons": reasons})

    async def _of_the_exchange(self) -> Shown:
        serves, report = await self._exchange.report()
        return _page(200 if serves else 503, report)

    async def _health(self) -> Shown:
        admin = self._admin
        body = {
            "status": overall(self.reasons(), self.lost()),
            "uptime_s": (self._clock() - self._began_us) // 1_000_000,
            "waiting": self._limiter.waiting,
            "dependencies": {name: state.shown() for name, state in self._states().items()},
            "store": self._store.status(),
            "egress": self._egress.status(),
            "breaker": self._breaker.state.name.lower(),
            **self._caches.status(),
            "config": None if admin.config_state is None else admin.config_state(),
        }
        if admin.siblings is not None:
            gathered = await admin.siblings.gathered()
            body["workers"] = {"expected": gathered.expected, "up": gathered.up}
        return _page(200, body)

    def reasons(self) -> list[str]:
        """Why it is not ready."""
        return unready(
            ready=self._admin.ready,
            draining=self._admin.drains,
            banned=self._egress.banned,
            closed=self._store.status().get("mode") is Mode.CLOSED,
        )

    def _states(self) -> dict[str, _State]:
        fare = self._exchange.fare()
        serves = None if fare.status is Status.UNKNOWN else fare.status.serves
        states = {_EXCHANGE: _State(serves, fare.since_us, self._exchange.latency_us, fare.reason)}
        if self._store.way is not None:
            states["redis"] = _state([self._store.way.pulse])
        return states | {name: _state(pulses) for name, pulses in self._caches.pulses().items()}


def _state(pulses: list[Pulse]) -> _State:
    """Of connections that make up one dependency: where one of them is down, that is what is told."""
    pulse = min(pulses, key=lambda each: _GRAVEST_FIRST.index(each.status))
    vitals = pulse.vitals
    serves = None if pulse.status is Status.UNKNOWN else pulse.status.serves
    return _State(serves, vitals.since_us, vitals.latency_us, vitals.reason)


def _page(status: int, body: dict[str, Any]) -> Shown:
    return status, _JSON, orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

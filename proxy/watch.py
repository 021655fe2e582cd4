"""Builds the rooms that watch the gateway, and gives their pages to admin. None of them stands in a request's way."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from policies.pressure import Level, Rules
from proxy.admin import Admin
from proxy.attempts import Attempts
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.clock import Clock, Sleep, system_clock
from proxy.config import Config
from proxy.drift import Drift
from proxy.egress import Egress
from proxy.exchange_health import ExchangeHealth
from proxy.health import Health
from proxy.lately import STEP_S, Lately
from proxy.limiter import Limiter
from proxy.log import Sink
from proxy.log_page import LogPage
from proxy.memory import Memory
from proxy.memory_page import MemoryPage
from proxy.metrics import Metrics
from proxy.pressure import Pressure
from proxy.readings import Readings
from proxy.status_page import StatusPage
from proxy.store import Store
from proxy.tasks import TaskOwner
from proxy.telemetry import Telemetry
from proxy.usage import Usage
from proxy.usage_page import UsagePage
from proxy.vitals import Vitals

if TYPE_CHECKING:
    from proxy.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Rooms:
    """What there is to be watched."""

    metrics: Metrics
    telemetry: Telemetry
    readings: Readings
    admin: Admin
    store: Store
    limiter: Limiter
    door: Limiter
    attempts: Attempts
    caches: Caches
    egress: Egress
    breaker: Breaker
    drift: Drift
    tasks: TaskOwner
    loops: TaskOwner
    clock: Clock
    sleep: Sleep
    sink: Sink | None


class Watch:
    def __init__(self, config: Config, rooms: Rooms) -> None:
        self._config = config
        self._rooms = rooms
        self._response = Lately(rooms.metrics.response, rooms.clock)
        rooms.telemetry.requests.adopt(config.log.sample_hits, config.log.slow)
        LogPage(rooms.admin, rooms.telemetry.requests, rooms.sink)
        # They look at this process: whatever clock the windows run on, their time is real.
        real = system_clock()
        self.pressure = Pressure(_rules(config), rooms.metrics, real)
        rooms.attempts.sheds = self.pressure.sheds
        if rooms.caches.archive is not None:
            rooms.caches.archive.yields = lambda: self.pressure.level is not Level.NORMAL
        self.vitals = self._vitals(real)
        self._memory = Memory(
            metrics=rooms.metrics,
            kept=self.vitals.kept,
            kept_bytes=self.vitals.kept_bytes,
            clock=real,
            sleep=rooms.sleep,
        )
        MemoryPage(rooms.admin, self._memory, real)
        rooms.readings.more += (self.vitals.show, self._memory.show)
        rooms.metrics.build.labels(_version()).set(1)
        rooms.metrics.started.set(rooms.clock() / 1e6)
        self.exchange = ExchangeHealth(
            attempts=rooms.attempts,
            inner=rooms.caches.inner,
            egress=rooms.egress,
            breaker=rooms.breaker,
            tasks=rooms.tasks,
            clock=rooms.clock,
            may_ask=lambda: rooms.admin.ready,
        )
        self.health = self._health()
        self.page = self._status_page()
        rooms.readings.more.append(self.health.show)
        rooms.readings.more.append(self._show_response_times)
        self.usage = Usage.of(config, rooms.metrics, rooms.clock, rooms.sleep)
        UsagePage(rooms.admin, self.usage, rooms.clock)
        if self.usage is not None:
            rooms.telemetry.listeners.append(self.usage.note)
            rooms.readings.more.append(self.usage.show)
        self._tracing: Tracing | None = None

    def start(self) -> None:
        """Once there is an event loop."""
        self._rooms.loops.spawn(self._note(), "watch")
        if self._config.tracing.enabled:
            from proxy.tracing import Tracing  # noqa: PLC0415  # an extra, and of some size: who makes no traces is spared

            self._tracing = Tracing(self._config, _version(), self._rooms.telemetry, self._rooms.clock)
        self._rooms.loops.spawn(self.vitals.run(), "vitals")
        self._rooms.loops.spawn(self._memory.run(), "memory")
        self.page.start(self._rooms.loops)
        if self.usage is not None:
            self.usage.start(self._rooms.loops, self._rooms.sleep)

    async def close(self) -> None:
        """When the last request has been told of."""
        if self.usage is not None:
            await self.usage.close()
        if self._tracing is not None:
            await self._tracing.close()

    def adopt(self, config: Config) -> None:
        """After a reload."""
        self._config = config
        if self._tracing is not None:
            self._tracing.sample = config.tracing.sample
        self.pressure.adopt(_rules(config))
        self.vitals.max_waiting = config.queue.max_waiting
        self.page.adopt(config)
        if self.usage is not None:
            self.usage.adopt(config)
        self._rooms.telemetry.requests.adopt(config.log.sample_hits, config.log.slow)

    def _health(self) -> Health:
        rooms = self._rooms
        return Health(
            admin=rooms.admin,
            exchange=self.exchange,
            store=rooms.store,
            limiter=rooms.limiter,
            caches=rooms.caches,
            egress=rooms.egress,
            breaker=rooms.breaker,
            metrics=rooms.metrics,
            clock=rooms.clock,
        )

    def _vitals(self, real: Clock) -> Vitals:
        rooms = self._rooms
        return Vitals(
            pressure=self.pressure,
            limiter=rooms.limiter,
            door=rooms.door,
            store=rooms.store,
            caches=rooms.caches,
            tasks=rooms.tasks,
            loops=rooms.loops,
            metrics=rooms.metrics,
            max_waiting=self._config.queue.max_waiting,
            clock=real,
            sleep=rooms.sleep,
        )

    def _status_page(self) -> StatusPage:
        rooms = self._rooms
        return StatusPage(
            self._config,
            admin=rooms.admin,
            telemetry=rooms.telemetry,
            store=rooms.store,
            limiter=rooms.limiter,
            door=rooms.door,
            caches=rooms.caches,
            egress=rooms.egress,
            breaker=rooms.breaker,
            unready=self.health.reasons,
            lost=self.health.lost,
            response=self._response,
            version=_version(),
            clock=rooms.clock,
            sleep=rooms.sleep,
        )

    async def _note(self) -> None:
        while True:
            self._response.note()
            self.exchange.look()
            await self._rooms.sleep(STEP_S)

    def _show_response_times(self) -> None:
        gauge = self._rooms.metrics.response_p95
        gauge.clear()
        for labels, value_us in self._response.quantiles_us(95).items():
            gauge.labels(*labels).set(value_us / 1e6)


def _rules(config: Config) -> Rules | None:
    return config.backpressure.compiled() if config.backpressure.enabled else None


def _version() -> str:
    try:
        return version("bybit-gateway")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"

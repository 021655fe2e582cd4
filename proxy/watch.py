"""Builds the rooms that watch the gateway, and gives their pages to admin. None of them stands in a request's way."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from proxy.admin import Admin
from proxy.attempts import Attempts
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.clock import Clock, Sleep
from proxy.config import Config
from proxy.drift import Drift
from proxy.egress import Egress
from proxy.lately import STEP_S, Lately
from proxy.limiter import Limiter
from proxy.log import Sink
from proxy.metrics import Metrics
from proxy.readings import Readings
from proxy.store import Store
from proxy.tasks import TaskOwner
from proxy.telemetry import Telemetry


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
        rooms.metrics.build.labels(_version()).set(1)
        rooms.readings.more.append(self._show_response_times)

    def start(self) -> None:
        """Once there is an event loop."""
        self._rooms.loops.spawn(self._note(), "watch")

    async def close(self) -> None:
        """When the last request has been told of."""

    def adopt(self, config: Config) -> None:
        """After a reload."""
        self._config = config

    async def _note(self) -> None:
        while True:
            self._response.note()
            await self._rooms.sleep(STEP_S)

    def _show_response_times(self) -> None:
        gauge = self._rooms.metrics.response_p95
        gauge.clear()
        for labels, value_us in self._response.quantiles_us(95).items():
            gauge.labels(*labels).set(value_us / 1e6)


def _version() -> str:
    try:
        return version("bybit-gateway")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"

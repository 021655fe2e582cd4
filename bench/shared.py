"""What a common store costs: processor time of Redis and of the gateway for one request, and how long it waits."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import uvloop

from bench.report import Report, Row
from policies.admission import Admitted, Charge, Counts, Quota, WindowKind
from proxy.app import App
from proxy.config import load, load_routes
from proxy.store import Reservation
from proxy.store.shared import SharedStore

_AT_ONCE: Final = (1, 20)
_WINDOW_US: Final = 100_000
"""At the rates of this measurement about as many are in it as in the exchange's window of 600."""
_KINDS: Final = (("ip", WindowKind.HELD), ("endpoint", WindowKind.SENT), ("account", WindowKind.HELD))


def missing() -> str | None:
    """Why these rows cannot be measured here."""
    return None if shutil.which("redis-server") else "redis-server is not installed"


def measure(report: Report, rounds: int, seconds: float, redis_cpu: int | None) -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with redis(redis_cpu) as url:
        uvloop.run(_measure(report, url, rounds, seconds))


async def _measure(report: Report, url: str, rounds: int, seconds: float) -> None:
    app = App(load(None, {"GATEWAY__STORE__URL": url}, load_routes()), load_routes())
    store = app.store
    assert isinstance(store, SharedStore)
    await store.start()
    quotas = [Quota(name, 10**6, _WINDOW_US, ("egress",), counts=Counts.UPSTREAM, window=kind) for name, kind in _KINDS]
    store.adopt(quotas)
    load_ = _Load(store, tuple(Charge(quota, (quota.name, "default"), 1) for quota in quotas))
    while not isinstance(await store.reserve(Reservation("first", load_.charges)), Admitted):
        await asyncio.sleep(0.05)  # a new store grants nothing for one window
    for at_once in _AT_ONCE:
        figures = [await load_.run(at_once, seconds) for _ in range(rounds + 1)][1:]  # the first round warms up
        told = f"reserve + complete, 3 rules, {at_once} at once"
        scripts_us, redis_us, own_us, wait_us = (tuple(values) for values in zip(*figures, strict=True))
        report.rows.append(Row("store", f"{told}: the scripts, as Redis counts (bar: 40)", "us", scripts_us))
        report.rows.append(Row("store", f"{told}: Redis' process, sockets included", "us", redis_us))
        report.rows.append(Row("store", f"{told}: processor time of the gateway (bar: 150)", "us", own_us))
        if at_once == 1:  # many at once wait for each other
            report.rows.append(Row("store", f"{told}: a request waits, median (bar: 400)", "us", wait_us))
    await store.stop()


class _Load:
    def __init__(self, store: SharedStore, charges: tuple[Charge, ...]) -> None:
        self.charges = charges
        self._store = store
        self._numbers = itertools.count()

    async def run(self, at_once: int, seconds: float) -> tuple[float, float, float, float]:
        """Microseconds for each request: in scripts, of Redis, of this process, and waited."""
        took: list[int] = []
        until = time.perf_counter() + seconds
        (scripts_us, redis_us), own_s = await self._spent_us(), time.process_time()

        async def client() -> None:
            while time.perf_counter() < until:
                await self._one(took)

        await asyncio.gather(*(client() for _ in range(at_once)))
        own_s, (scripts, redis) = time.process_time() - own_s, await self._spent_us()
        took.sort()
        count = len(took)
        waited_us = took[count // 2] / 1000
        return (scripts - scripts_us) / count, (redis - redis_us) / count, own_s / count * 1e6, waited_us

    async def _one(self, took: list[int]) -> None:
        reservation = Reservation(str(next(self._numbers)), self.charges)
        began_ns = time.perf_counter_ns()
        if not isinstance(await self._store.reserve(reservation), Admitted):
            raise RuntimeError("the store refused what is far below its limit")  # noqa: TRY004  # no matter of types
        took.append(time.perf_counter_ns() - began_ns)
        await self._store.complete(reservation)

    async def _spent_us(self) -> tuple[float, float]:
        """What Redis has spent so far: in scripts, and altogether."""
        client: Any = self._store._remote.link.client  # noqa: SLF001  # the server that is measured
        cpu, commands = await client.info("cpu"), await client.info("commandstats")
        altogether_s = float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
        return float(commands["cmdstat_evalsha"]["usec"]), altogether_s * 1e6


@contextmanager
def redis(cpu: int | None) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            if cpu is not None:
                os.sched_setaffinity(server.pid, {cpu})
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("redis-server does not answer")

"""The container: how long until it serves, what it takes when nobody asks for anything, and how large it is."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from bench import contenders
from bench.contenders import ContenderFailed
from bench.report import Report, Row
from tests.image.engine import Container, Engine, NoEngine, NoImage

_START_S: Final = 30.0
_START_BAR_MS: Final = 1500
_SETTLE_S: Final = 3.0
_CHECKS_A_SECOND: Final = 1
_HARDENED: Final = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=256m")
_PROCESSORS: Final = (("all processors", ()), ("half a processor", ("--cpus=0.5",)))


def missing() -> str | None:
    """Why there is nothing to measure, if so."""
    try:
        Engine().image()
    except (NoEngine, NoImage) as reason:
        return str(reason)
    return None


def measure(report: Report, rounds: int, seconds: int) -> None:
    engine = Engine()
    for label, processors in _PROCESSORS:
        starts = tuple(_start_ms(engine, processors) for _ in range(rounds + 1))[1:]  # the first one warms up
        what = f"docker run to the first 200 of /health/live, {label}"
        report.rows.append(Row("image", f"{what} (bar: {_START_BAR_MS})", "ms", starts))
    idle, memory = _idle(engine, max(rounds, 3), seconds, ("--no-healthcheck",))
    checked, _ = _idle(engine, max(rounds, 3), seconds, (f"--health-interval={1 / _CHECKS_A_SECOND:g}s",))
    report.rows.append(Row("image", "memory when idle, as its limit counts it", "MB", memory))
    report.rows.append(Row("image", "processor when idle, without health checks", "%", idle))
    per_check = tuple(
        (with_them - without) * 10 / _CHECKS_A_SECOND for with_them, without in zip(checked, idle, strict=True)
    )
    report.rows.append(Row("image", "a health check, starting it included: processor time", "ms", per_check))
    size = int(json.loads(engine.docker("image", "inspect", engine.image()).stdout)[0]["Size"])
    report.rows.append(Row("image", "size, its base included", "MB", (size / 1e6,)))


def _start_ms(engine: Engine, processors: Sequence[str]) -> float:
    port = _free_port()
    began = time.perf_counter()
    with engine.running(options=_options(port, processors)):
        _wait(port)
        return 1000 * (time.perf_counter() - began)


def _idle(
    engine: Engine, rounds: int, seconds: int, options: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Percent of a processor, and megabytes, round by round."""
    port, used, kept = _free_port(), [], []
    with engine.running(options=_options(port, options)) as container:
        _wait(port)
        time.sleep(_SETTLE_S)
        for _ in range(rounds):
            before, began = _stats(container), time.perf_counter()
            time.sleep(seconds)
            after = _stats(container)
            spent_ns = after["cpu_stats"]["cpu_usage"]["total_usage"] - before["cpu_stats"]["cpu_usage"]["total_usage"]
            used.append(100 * spent_ns / 1e9 / (time.perf_counter() - began))
            memory = after["memory_stats"]
            kept.append((memory["usage"] - memory["stats"].get("inactive_file", 0)) / 1e6)
    return tuple(used), tuple(kept)


def _options(port: int, more: Sequence[str]) -> tuple[str, ...]:
    return (*_HARDENED, *more, "--network=host", f"--env=GATEWAY__LISTEN__PORT={port}")


def _wait(port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError):
            if contenders.fetch(port, "/health/live")[0] == 200:
                return
        time.sleep(0.01)
    raise ContenderFailed(f"the container did not answer within {_START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _EngineConnection(http.client.HTTPConnection):
    """`docker stats` shows rounded shares; the engine itself tells nanoseconds."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))


def _stats(container: Container) -> dict[str, Any]:
    connection = _EngineConnection("docker")
    try:
        connection.request("GET", f"/containers/{container.id}/stats?stream=false&one-shot=true")
        found = json.load(connection.getresponse())
        assert isinstance(found, dict)
        return found
    finally:
        connection.close()

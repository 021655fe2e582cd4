"""The servers that are measured, as processes with a beginning and an end.

Each is a context manager: entered, it has answered once; left, its process has gone, whatever happened in between.
Servers run on one processor, load and upstream on another, so that a round measures the server.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from bench import nginx

ROOT: Final = Path(__file__).resolve().parent.parent
_READY_S: Final = 20.0
_STOP_S: Final = 10.0
_UNBOUND: Final = "100000000/5s"
"""A quota that is counted like any other and never binds."""
_SETTINGS: Final = ("REDIS_URL", "LOG_LEVEL", "WORKERS", "CACHE_TTL")


class ContenderFailed(Exception):
    """A server did not start, died, or answered wrongly."""


class Contender(NamedTuple):
    name: str
    port: int
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raises ContenderFailed if it no longer runs."""
        if self.process.poll() is not None:
            raise ContenderFailed(f"{self.name} ended with {self.process.returncode}")

    def cpu_us(self) -> float | None:
        """Processor time of all its threads and children so far; None where the system does not tell."""
        own = Path("/proc") / str(self.process.pid)
        try:
            children = (own / "task" / own.name / "children").read_text(encoding="ascii").split()
            threads = [task for pid in (own.name, *children) for task in Path("/proc", pid, "task").iterdir()]
            return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in threads) / 1000
        except OSError:
            return None


@dataclass(frozen=True)
class Lab:
    """Where the servers run: a directory for their files and the processors they may use."""

    directory: Path
    nginx: str
    server_cpu: int | None
    load_cpu: int | None
    upstream_port: int = 0


def find_nginx() -> str | None:
    """Debian keeps it where only root looks."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def two_cpus() -> tuple[int, int] | tuple[None, None]:
    """One processor for the server, one for the load; none where there is no choice."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) >= 2 else (None, None)


def plain_environment() -> dict[str, str]:
    """Ours, without settings of the gateway."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY__") and k not in _SETTINGS}


@contextmanager
def on_cpu(number: int | None) -> Iterator[None]:
    """This process, and what it starts meanwhile, on one processor."""
    if number is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def exchange(lab: Lab) -> Iterator[Contender]:
    directory, port = _place(lab, "exchange")
    config = nginx.write_exchange(directory, port)
    with _running("exchange", _nginx(lab, directory, config), port, directory, lab.load_cpu) as started:
        yield started


@contextmanager
def slow_exchange(lab: Lab, away_ms: int) -> Iterator[Contender]:
    """One that is far away, and has candles of any symbol."""
    directory, port = _place(lab, "slow-exchange")
    command = [sys.executable, "-m", "bench.slow_exchange", str(port), str(away_ms)]
    with _running("slow exchange", command, port, directory, lab.load_cpu) as started:
        yield started


@contextmanager
def nginx_cache(lab: Lab) -> Iterator[Contender]:
    with _nginx_proxy(lab, "nginx proxy_cache", cache=True) as started:
        yield started


@contextmanager
def nginx_cache_kept_open(lab: Lab) -> Iterator[Contender]:
    with _nginx_proxy(lab, "nginx proxy_cache, open_file_cache", cache=True, kept_open=True) as started:
        yield started


@contextmanager
def nginx_pass(lab: Lab) -> Iterator[Contender]:
    with _nginx_proxy(lab, "nginx proxy_pass") as started:
        yield started


@contextmanager
def gateway(lab: Lab) -> Iterator[Contender]:
    """The product as it is shipped: every rule of config.yaml, metrics, a JSON line for every request, into a file."""
    directory, port = _place(lab, "gateway")
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = directory / "gateway.yaml"
    settings = {
        "listen": {"host": "127.0.0.1", "port": port},
        "upstream": {"url": f"http://127.0.0.1:{lab.upstream_port}"},
        "store": {"state_file": None},  # each run begins with nothing
        "limits": [{**rule, "quota": _UNBOUND} for rule in shipped["limits"]],
        "log": {"level": "info", "format": "json"},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "proxy", "run", "--config", str(config)]
    with _running("gateway", command, port, directory, lab.server_cpu) as started:
        yield started


@contextmanager
def fastapi_httpx(lab: Lab) -> Iterator[Contender]:
    """The proxy that one would write in an afternoon. Without an access log, which only helps it."""
    directory, port = _place(lab, "fastapi")
    command = [sys.executable, "-m", "uvicorn", "bench.fastapi_proxy:app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--no-access-log", "--log-level", "warning"]
    upstream = {"BENCH_UPSTREAM": f"http://127.0.0.1:{lab.upstream_port}"}
    with _running(fastapi_name(), command, port, directory, lab.server_cpu, upstream) as started:
        yield started


def fastapi_name() -> str:
    """Names what uvicorn will choose by itself: it makes a difference."""
    parser = "httptools" if find_spec("httptools") else "h11"
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    return f"FastAPI+httpx ({loop}, {parser})"


def missing_for_fastapi() -> list[str]:
    return [name for name in ("fastapi", "httpx", "uvicorn") if find_spec(name) is None]


def fetch(port: int, target: str) -> tuple[int, dict[str, str], bytes]:
    """One request, for checks: status, headers with lower-case names, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@contextmanager
def _nginx_proxy(lab: Lab, name: str, *, cache: bool = False, kept_open: bool = False) -> Iterator[Contender]:
    directory, port = _place(lab, name.replace(" ", "-").replace(",", ""))
    config = nginx.write_proxy(directory, port, lab.upstream_port, cache=cache, kept_open=kept_open)
    with _running(name, _nginx(lab, directory, config), port, directory, lab.server_cpu) as started:
        yield started


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    cpu: int | None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Contender]:
    """Start a process in a group of its own, wait until it listens, end the whole group in every case."""
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err, on_cpu(cpu):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**plain_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        _wait_until_listening(name, process, port, directory)
        yield Contender(name, port, process)
    finally:
        _end(process)


def _wait_until_listening(name: str, process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    said = (directory / "stderr").read_text(encoding="utf-8", errors="replace").strip()
    raise ContenderFailed(f"{name} does not listen on port {port}: {said[-800:] or 'it said nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then insist; its children go with it."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _nginx(lab: Lab, directory: Path, config: Path) -> list[str]:
    return [lab.nginx, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(config)]


def _place(lab: Lab, name: str) -> tuple[Path, int]:
    """A directory, and a port that was free a moment ago."""
    directory = lab.directory / name
    directory.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return directory, int(probe.getsockname()[1])

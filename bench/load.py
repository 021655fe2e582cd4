"""The two kinds of load: as many requests as a server can take, and few at a steady pace."""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import subprocess
import time
from typing import Final, NamedTuple

from bench.contenders import Contender, ContenderFailed, on_cpu

CONNECTIONS: Final = 32
PACED_PER_S: Final = 200

_RATE: Final = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_COUNT: Final = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_STATUS: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


class Delays(NamedTuple):
    """What a client waited for its answers, in microseconds."""

    p50_us: float
    p99_us: float


class Throughput(NamedTuple):
    """What a contender reached in one round, and what of a processor each request took."""

    per_s: float
    cpu_us: float | None


def find_wrk() -> str | None:
    return shutil.which("wrk")


def saturate(contender: Contender, target: str, seconds: int, cpu: int | None) -> Throughput:
    """As many requests as the contender answers to 32 connections that never pause."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{contender.port}{target}"]
    before_us = contender.cpu_us()
    with on_cpu(cpu):
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    after_us = contender.cpu_us()
    contender.check()
    rate, count = told_by_wrk(ran, contender.name)
    if before_us is None or after_us is None:
        return Throughput(rate, None)
    return Throughput(rate, (after_us - before_us) / count)


def told_by_wrk(ran: subprocess.CompletedProcess[str], name: str) -> tuple[float, int]:
    """Requests a second, and requests. Anything but good answers on whole connections is a failure."""
    rate, count = _RATE.search(ran.stdout), _COUNT.search(ran.stdout)
    if ran.returncode != 0 or rate is None or count is None or count[1] == "0":
        raise ContenderFailed(f"wrk against {name}: {(ran.stderr or ran.stdout).strip()}")
    if wrong := _STATUS.search(ran.stdout):
        raise ContenderFailed(f"{name} gave {wrong[1]} answers other than 2xx")
    errors = _ERRORS.search(ran.stdout)
    if errors and any(int(number) for number in errors.groups()[:3]):
        raise ContenderFailed(f"{name}: {errors[0]}")
    return float(rate[1]), int(count[1])


def paced(contender: Contender, target: str, seconds: int, cpu: int | None) -> Delays:
    """One connection, 200 requests per second, each timed from its first byte sent to its last byte read."""
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{contender.port}\r\nAccept: */*\r\n\r\n".encode()
    took_ns: list[int] = []
    with on_cpu(cpu), socket.create_connection(("127.0.0.1", contender.port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number in range(seconds * PACED_PER_S):
            time.sleep(max(0.0, began + number / PACED_PER_S - time.perf_counter()))
            sent_ns = time.perf_counter_ns()
            connection.sendall(request)
            _read_answer(connection, contender.name)
            took_ns.append(time.perf_counter_ns() - sent_ns)
    contender.check()
    cuts = statistics.quantiles(took_ns, n=100, method="inclusive")
    return Delays(cuts[49] / 1000, cuts[98] / 1000)


def _read_answer(connection: socket.socket, name: str) -> None:
    received = b""
    needed = -1
    while needed < 0 or len(received) < needed:
        piece = connection.recv(65536)
        if not piece:
            raise ContenderFailed(f"{name} closed the connection in the middle of an answer")
        received += piece
        if needed < 0 and (end := received.find(b"\r\n\r\n")) >= 0:
            head = received[: end + 2]
            length = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                raise ContenderFailed(f"{name} answered {head.splitlines()[0]!r}")
            needed = end + 4 + int(length[1])

"""`make demo` as a process: it takes nobody's port, ends with what it started, and takes that along."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.test_process import ROOT, free_port, wait_until_ready

BANNER = "Still running."


def two_in_a_row() -> int:
    """A port of which the next one is free as well."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port + 1)):
                return port


@contextmanager
def demo(port: int, exchange_port: int) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", "bench.demo"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY__LISTEN__PORT": str(port), "DEMO_EXCHANGE_PORT": str(exchange_port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
        started.communicate(timeout=20)


def child(parent: int, module: str) -> int:
    """The process that runs this module."""
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            its_parent = int((each / "stat").read_text().rpartition(") ")[2].split()[1])
            if its_parent == parent and f"\0-m\0{module}\0" in (each / "cmdline").read_text():
                return int(each.name)
    raise AssertionError(f"{parent} has not started {module}")


def nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_named_before_anything_is_started() -> None:
    port, exchange_port = free_port(), two_in_a_row()
    with socket.create_server(("127.0.0.1", exchange_port + 1)), demo(port, exchange_port) as started:
        out, err = started.communicate(timeout=30)
    assert started.returncode == 1
    assert out == ""
    assert f"port {exchange_port + 1} of 127.0.0.1 is taken" in err
    assert "DEMO_EXCHANGE_PORT=" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupt_ends_it_well_and_takes_its_processes_along(number: signal.Signals) -> None:
    port, exchange_port = free_port(), two_in_a_row()
    with demo(port, exchange_port) as started:
        wait_until_ready(port, started)
        started.send_signal(number)  # while it shows
        _, err = started.communicate(timeout=30)
    assert started.returncode == 0, err
    assert "Traceback" not in err
    assert nobody_listens(port)
    assert nobody_listens(exchange_port)


def test_it_ends_when_its_gateway_does() -> None:
    port, exchange_port = free_port(), two_in_a_row()
    with demo(port, exchange_port) as started:
        wait_until_ready(port, started)
        os.kill(child(started.pid, "proxy"), signal.SIGKILL)
        _, err = started.communicate(timeout=30)
    assert started.returncode == 1
    assert "make demo:" in err
    assert "Traceback" not in err
    assert nobody_listens(exchange_port)


def test_what_it_shows_is_seen_at_once_where_it_is_no_terminal() -> None:
    port, exchange_port = free_port(), two_in_a_row()
    with demo(port, exchange_port) as started:
        assert started.stdout is not None
        shown = next((line for line in started.stdout if BANNER in line), "")
    assert BANNER in shown

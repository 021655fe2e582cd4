"""The gateway as a process: it starts from a file, says what it enforces, drains, and explains itself."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fake_bybit import FakeBybit
from tests.recorder import OK, Seen, recorder
from tests.redis_servers.ports import reserve_port

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """For a process that binds it later, and again after a restart: nobody else is given it while these tests run."""
    reserved = reserve_port()
    atexit.register(reserved.release)
    return reserved.number


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Each as if none had run before it, unless it is given an XDG_STATE_HOME."""
    with tempfile.TemporaryDirectory() as nowhere:
        started = subprocess.Popen(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": nowhere, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()
            started.communicate()


def wait_until_ready(port: int, started: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends and started.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)  # noqa: TID251  # bounded polling of another process
    raise AssertionError(f"not ready: {started.stderr.read() if started.poll() is not None and started.stderr else ''}")


def ask(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.read()


async def test_it_runs_says_what_it_enforces_and_stops_on_sigterm() -> None:
    port = free_port()
    async with FakeBybit() as exchange:
        with process(
            "run",
            "--config",
            "config.yaml",
            GATEWAY__UPSTREAM__URL=exchange.url,
            GATEWAY__LISTEN__PORT=str(port),
            GATEWAY__UPSTREAM__PREWARM="2",
        ) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            status, body = await asyncio.to_thread(ask, f"http://127.0.0.1:{port}/v5/market/time")
            started.send_signal(signal.SIGTERM)
            output, errors = await asyncio.to_thread(started.communicate, timeout=20)

    assert (status, json.loads(body)["retCode"]) == (200, 0)
    assert started.returncode == 0
    assert "bybit-ip: 600 in 5s per egress, counts upstream, held, waits" in errors
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == ["started", "request", "draining", "stopped"]
    assert "Traceback" not in errors


async def test_a_request_in_flight_is_finished_before_the_process_ends() -> None:
    port, asked, release = free_port(), asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    async with recorder(later) as upstream:
        with process(
            "run", GATEWAY__UPSTREAM__URL=upstream.url, GATEWAY__LISTEN__PORT=str(port), LOG_LEVEL="error"
        ) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            pending = asyncio.gather(asyncio.to_thread(ask, f"http://127.0.0.1:{port}/v5/account/info"))
            await asyncio.wait_for(asked.wait(), 10)
            started.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)  # nothing to wait for: that it has not ended is the point
            assert started.poll() is None
            release.set()
            ((status, body),) = await pending
            await asyncio.to_thread(started.wait, 20)

    assert (status, body) == (200, b"{}")
    assert started.returncode == 0


async def test_the_fate_of_a_write_whose_client_has_gone_is_logged_even_at_the_end() -> None:
    port, asked, release = free_port(), asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"retCode":0}')

    async with recorder(later) as upstream:
        with process("run", GATEWAY__UPSTREAM__URL=upstream.url, GATEWAY__LISTEN__PORT=str(port)) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            _, client = await asyncio.open_connection("127.0.0.1", port)
            client.write(b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n{}")
            await asyncio.wait_for(asked.wait(), 10)
            client.close()
            await asyncio.sleep(0.3)  # another process notices the hang-up; from outside nothing tells when
            started.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)  # and begins to drain
            release.set()
            output, _ = await asyncio.to_thread(started.communicate, timeout=20)

    events = [json.loads(line) for line in output.splitlines()]
    orphaned = next(event for event in events if event["event"] == "orphaned_write")
    assert (orphaned["status"], orphaned["ret_code"]) == (200, 0)


async def test_a_person_in_a_hurry_ends_what_is_under_way() -> None:
    """The first SIGINT drains, and so does SIGTERM however often it is sent; SIGINT after that waits for nothing."""
    port, asked = free_port(), asyncio.Event()

    async def never(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with recorder(never) as upstream:
        with process("run", GATEWAY__UPSTREAM__URL=upstream.url, GATEWAY__LISTEN__PORT=str(port)) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            reader, client = await asyncio.open_connection("127.0.0.1", port)
            client.write(b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n{}")
            await asyncio.wait_for(asked.wait(), 10)
            for number in (signal.SIGTERM, signal.SIGTERM):
                started.send_signal(number)
                await asyncio.sleep(0.3)  # nothing to wait for: that it has not ended is the point
            assert started.poll() is None
            started.send_signal(signal.SIGINT)
            output, errors = await asyncio.to_thread(started.communicate, timeout=20)
            assert await reader.read() == b""
            client.close()

    assert started.returncode == 0
    assert "Traceback" not in errors
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events][-2:] == ["requests_cut_off", "stopped"]
    assert events[-2]["count"] == 1


async def test_sighup_while_it_starts_does_not_end_it() -> None:
    """The exchange takes its time to greet the connections that are made before the first request."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        with process(
            "run",
            GATEWAY__UPSTREAM__URL=f"https://127.0.0.1:{silent.getsockname()[1]}",
            GATEWAY__UPSTREAM__PREWARM="1",
            GATEWAY__UPSTREAM__TIMEOUTS__CONNECT="10m",
            GATEWAY__LISTEN__PORT=str(port),
        ) as started:
            greeted, _ = await asyncio.to_thread(silent.accept)
            started.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.3)  # nothing to wait for: that it has not ended is the point
            greeted.close()
            await asyncio.to_thread(wait_until_ready, port, started)
            started.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(started.communicate, timeout=20)

    assert started.returncode == 0
    assert "config_unchanged" in output


async def test_a_name_that_nobody_answers_for_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A thread that asks for it cannot be told to stop."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\n"
        "real = socket.getaddrinfo\n"
        "def getaddrinfo(host, *rest, **named):\n"
        "    return time.sleep(600) if host == 'gone.invalid' else real(host, *rest, **named)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    port = free_port()
    with process(
        "run",
        PYTHONPATH=str(tmp_path),
        GATEWAY__UPSTREAM__URL="http://gone.invalid",
        GATEWAY__UPSTREAM__TIMEOUTS__CONNECT="100ms",
        GATEWAY__LISTEN__PORT=str(port),
    ) as started:
        await asyncio.to_thread(wait_until_ready, port, started)
        with pytest.raises(urllib.error.HTTPError, match="502"):
            await asyncio.to_thread(ask, f"http://127.0.0.1:{port}/v5/market/time")
        started.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(started.communicate, timeout=60)

    assert started.returncode == 0
    assert json.loads(output.splitlines()[-1])["event"] == "stopped"


@pytest.mark.parametrize("command", [["run"], ["check"]])
def test_a_wrong_file_starts_nothing_and_says_everything(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("listen: {port: http}\nlimits: [{name: a, quota: 5}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *command, "--config", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert f"{path}:1: listen.port: expected a whole number, got 'http'" in done.stderr
    assert f"{path}:2: limits[0].quota" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_explained() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "proxy"],
            cwd=ROOT,
            env={**os.environ, "GATEWAY__LISTEN__PORT": str(port), "GATEWAY__LISTEN__HOST": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_good_enough_to_use_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )

    assert "run" in done.stdout
    assert "check" in done.stdout
    assert (
        "--config"
        in done.stdout
        + subprocess.run(
            [sys.executable, "-m", "proxy", "run", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    )

"""Reload as an operator meets it: a real process, a file, SIGHUP, and a log that tells what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_process import ROOT, free_port, process, wait_until_ready
from tests.recorder import recorder


def configured(path: Path, quota: str, **sections: object) -> None:
    rule = {"name": "mine", "quota": quota, "partition": ["ip"], "counts": "requests"}
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"limits": [rule], **sections}))
    new.replace(path)


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v5/market/time", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def config_state(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        return json.load(answer)["config"]


async def until(port: int, wanted: str) -> Any:
    async with asyncio.timeout(20):
        while (state := await asyncio.to_thread(config_state, port))["status"] != wanted:
            await asyncio.sleep(0.05)  # bounded polling of another process
    return state


async def events_of(started: subprocess.Popen[str]) -> list[dict[str, Any]]:
    started.send_signal(signal.SIGTERM)
    output, errors = await asyncio.to_thread(started.communicate, timeout=20)
    assert "Traceback" not in errors
    assert started.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


async def test_sighup_loads_the_file_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "config.yaml"
    async with recorder() as upstream:
        sections = {
            "listen": {"host": "127.0.0.1", "port": port},
            "upstream": {"url": upstream.url},
            "log": {"level": "warning"},
        }
        configured(path, "2/60s", **sections)
        with process("run", "--config", str(path)) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            assert [await asyncio.to_thread(status, port) for _ in range(3)] == [200, 200, 429]

            path.write_text("limits: [{name: mine}]\n")
            started.send_signal(signal.SIGHUP)
            assert (await until(port, "refused"))["error_count"] == 1
            assert await asyncio.to_thread(status, port) == 429

            configured(path, "3/60s", **{**sections, "log": {"level": "info"}, "egress": {"id": "b"}})
            started.send_signal(signal.SIGHUP)
            await until(port, "needs-restart")
            assert [await asyncio.to_thread(status, port) for _ in range(2)] == [200, 429]
            events = await events_of(started)

    told = [event["event"] for event in events]
    refused, restart = told.index("config_refused"), told.index("config_needs_restart")
    assert events[refused]["problems"] == [f"{path}:1: limits[0].quota: expected a value, it is missing"]
    assert events[restart]["fields"] == ["egress.id"]
    # The level of the log has changed with the rest: requests are told from then on, and were not before.
    assert "request" not in told[:restart]
    assert told[restart:].count("request") == 2


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_changed_file_is_noticed_by_itself(tmp_path: Path, form: str) -> None:
    port, path = free_port(), tmp_path / "config.yaml"
    async with recorder() as upstream:
        sections = {"listen": {"host": "127.0.0.1", "port": port}, "upstream": {"url": upstream.url}}
        configured(path, "1/60s", **sections)
        with process("run", "--config", str(path)) as started:
            await asyncio.to_thread(wait_until_ready, port, started)
            loaded_at = (await asyncio.to_thread(config_state, port))["loaded_at"]
            await asyncio.sleep(1.1)  # `loaded_at` is told to the second
            configured(path, "2/60s", **sections, log={"format": form})
            async with asyncio.timeout(20):
                while (await asyncio.to_thread(config_state, port))["loaded_at"] == loaded_at:
                    await asyncio.sleep(0.05)
            assert [await asyncio.to_thread(status, port) for _ in range(3)] == [200, 200, 429]
            started.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(started.communicate, timeout=20)

    last = output.splitlines()[-1]
    assert "stopped" in last
    assert last.startswith("{") is (form == "json")


def unchanged(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return b'gateway_config_reloads_total{result="unchanged"} 1.0' in answer.read()


async def test_sighup_without_a_file_is_no_end(tmp_path: Path) -> None:
    """Elsewhere SIGHUP kills: a gateway that lives by its environment alone has nothing to load, and lives on."""
    port = free_port()
    async with recorder() as upstream:
        environment = {"GATEWAY__UPSTREAM__URL": upstream.url, "GATEWAY__LISTEN__PORT": str(port)}
        started = subprocess.Popen(
            [sys.executable, "-m", "proxy"],
            cwd=tmp_path,  # where there is no config.yaml
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            await asyncio.to_thread(wait_until_ready, port, started)
            started.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while not await asyncio.to_thread(unchanged, port):
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(status, port) == 200
            await events_of(started)
        finally:
            if started.poll() is None:
                started.kill()
            started.communicate()

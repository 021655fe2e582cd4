"""Several processes behind one port are one gateway: to its clients, its operator and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_process import ask, free_port, process, wait_until_ready
from tests.integration.test_reload_process import configured, status
from tests.recorder import OK, Recorder, Seen, recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class Gateway:
    """A parent with two workers."""

    port: int
    parent: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    errors: str = ""

    async def ask(self, target: str) -> bytes:
        """Over a connection of its own, so that the kernel chooses a worker."""
        return (await asyncio.to_thread(ask, f"http://127.0.0.1:{self.port}{target}"))[1]

    async def workers(self) -> list[int]:
        """The processes that serve, by the parent's word that all of them do."""
        await self.until_health({"expected": 2, "up": 2})
        return children_of(self.parent.pid)

    async def until_health(self, wanted: dict[str, int]) -> None:
        async def seen() -> bool:
            with contextlib.suppress(OSError):  # a worker that is killed takes its connections along
                return bool(json.loads(await self.ask("/health"))["workers"] == wanted)
            return False

        async with asyncio.timeout(30):
            while not await seen():
                await asyncio.sleep(0.05)  # bounded polling of other processes

    async def metric(self, name: str, labels: str = "") -> float:
        text = (await self.ask("/metrics")).decode()
        found = re.findall(rf"^{name}(?:\{{[^}}]*{labels}[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    async def finish(self) -> None:
        """SIGTERM, and what it had to say."""
        self.parent.send_signal(signal.SIGTERM)
        output, self.errors = await asyncio.to_thread(self.parent.communicate, timeout=30)
        self.events = [json.loads(line) for line in output.splitlines()]

    def told(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def two_workers(
    redis: RedisServer, upstream: Recorder, *arguments: str, **environment: str
) -> AsyncIterator[Gateway]:
    port = free_port()
    settings = {
        "WORKERS": "2",
        "GATEWAY__STORE__URL": redis.url,
        "GATEWAY__EGRESS__ID": f"port-{port}",
        "GATEWAY__UPSTREAM__URL": upstream.url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": str(port),
        "GATEWAY__LIMITS": "[]",
        **environment,
    }
    with process("run", *arguments, **settings) as parent:
        await asyncio.to_thread(wait_until_ready, port, parent)
        gateway = Gateway(port, parent)
        await gateway.until_health({"expected": 2, "up": 2})
        yield gateway


async def test_forty_requests_are_forty_on_the_page_whoever_answers_it(redis: RedisServer) -> None:
    """Both workers serve, each page tells of both, and the log is one stream of whole lines."""
    async with recorder() as upstream, two_workers(redis, upstream) as gateway:
        await asyncio.gather(*(gateway.ask("/v5/market/time") for _ in range(40)))
        pages = [await gateway.metric("bybit_api_requests_total", 'endpoint="server-time"') for _ in range(8)]
        durations = await gateway.metric("bybit_api_duration_seconds_count", 'endpoint="server-time"')
        states = [await gateway.metric("gateway_workers", f'state="{state}"') for state in ("up", "expected")]
        await gateway.finish()

    assert pages == [40] * 8
    assert durations == 40
    assert states == [2, 2]
    assert gateway.parent.returncode == 0
    served = Counter(event["worker"] for event in gateway.told("request"))
    assert set(served) == {0, 1}
    assert served.total() == 40
    assert sorted(event["worker"] for event in gateway.told("started")) == [0, 1]
    assert sorted(event["worker"] for event in gateway.told("stopped")) == [0, 1]
    assert gateway.errors.count("bybit-gateway on http://127.0.0.1") == 1


async def test_a_killed_worker_comes_back_and_nothing_is_forgotten(redis: RedisServer) -> None:
    async with recorder() as upstream, two_workers(redis, upstream) as gateway:
        before = await gateway.workers()
        for _ in range(20):
            await gateway.ask("/v5/market/time")
        assert await gateway.metric("bybit_api_requests_total", 'endpoint="server-time"') == 20
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: before[0] not in children_of(gateway.parent.pid))
        # The other goes on at once. What is told of both does not fall while one of them is away.
        assert await gateway.ask("/v5/market/time") == b"{}"
        assert await gateway.metric("bybit_api_requests_total", 'endpoint="server-time"') == 21
        after = await gateway.workers()
        assert await gateway.metric("bybit_api_requests_total", 'endpoint="server-time"') == 21
        await gateway.finish()

    assert set(after) & set(before) == {before[1]}
    assert gateway.parent.returncode == 0
    (ended,) = gateway.told("worker_ended")
    assert ended["code"] == -signal.SIGKILL
    assert len(gateway.told("started")) == 3


async def test_a_request_in_flight_is_finished_before_the_gateway_ends(redis: RedisServer) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    async with recorder(later) as upstream, two_workers(redis, upstream) as gateway:
        workers = await gateway.workers()
        async with asyncio.TaskGroup() as group:
            pending = group.create_task(gateway.ask("/v5/account/info"))
            await asyncio.wait_for(asked.wait(), 10)
            gateway.parent.send_signal(signal.SIGTERM)
            await until(lambda: sum(map(runs, workers)) == 1)  # who has nothing to do ends at once
            assert gateway.parent.poll() is None
            release.set()
        await gateway.finish()

    assert pending.result() == b"{}"
    assert gateway.parent.returncode == 0
    assert len(gateway.told("stopped")) == 2


async def test_workers_do_not_outlive_their_parent(redis: RedisServer) -> None:
    """They finish what they have begun, and leave nothing behind."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    async with recorder(later) as upstream, two_workers(redis, upstream) as gateway:
        workers = await gateway.workers()
        environment = Path(f"/proc/{workers[0]}/environ").read_text().split("\0")
        (told,) = [line for line in environment if line.startswith("GATEWAY_WORKER=")]
        directory = Path(json.loads(told.removeprefix("GATEWAY_WORKER="))["directory"])
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        async with asyncio.TaskGroup() as group:
            pending = group.create_task(gateway.ask("/v5/account/info"))
            await asyncio.wait_for(asked.wait(), 10)
            gateway.parent.kill()
            await until(lambda: sum(map(runs, workers)) == 1)
            release.set()
        await until(lambda: not any(map(runs, workers)))
        assert not directory.exists()

    assert pending.result() == b"{}"


async def test_sighup_reaches_every_worker(redis: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    configured(path, "1/60s")
    async with (
        recorder() as upstream,
        two_workers(redis, upstream, "--config", str(path), GATEWAY__LIMITS="[]", CACHE_TTL="1") as gateway,
    ):
        await gateway.workers()
        gateway.parent.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while await gateway.metric("gateway_config_reloads_total", 'result="unchanged"') != 2:
                await asyncio.sleep(0.05)  # bounded polling of other processes
        path.write_text("log: {level: none}\n")
        gateway.parent.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while await gateway.metric("gateway_config_reloads_total", 'result="refused"') != 2:
                await asyncio.sleep(0.05)  # bounded polling of other processes
        assert await gateway.metric("gateway_config_last_reload_successful") == 0
        await gateway.finish()

    assert {event["worker"] for event in gateway.told("config_refused")} == {0, 1}
    assert gateway.parent.returncode == 0


async def test_a_second_gateway_on_the_port_is_refused(redis: RedisServer) -> None:
    """It would otherwise take half of the connections without a word, with one worker or with several."""
    async with recorder() as upstream, two_workers(redis, upstream) as gateway:
        for workers in ("1", "2"):
            settings = {"WORKERS": workers, "GATEWAY__STORE__URL": redis.url}
            port = {"GATEWAY__LISTEN__HOST": "127.0.0.1", "GATEWAY__LISTEN__PORT": str(gateway.port)}
            with process("run", **settings, **port) as second:
                _, errors = await asyncio.to_thread(second.communicate, timeout=30)
            assert second.returncode == 1
            assert errors.startswith(f"cannot listen on 127.0.0.1:{gateway.port}: ")
            assert len(errors.splitlines()) == 1


async def test_any_free_port_is_one_for_all_and_the_pages_have_their_own(redis: RedisServer) -> None:
    async with recorder() as upstream:
        settings = {"GATEWAY__UPSTREAM__URL": upstream.url, "GATEWAY__STORE__URL": redis.url, "WORKERS": "2"}
        ports = {"GATEWAY__LISTEN__PORT": "0", "GATEWAY__ADMIN__PORT": "0", "GATEWAY__LISTEN__HOST": "127.0.0.1"}
        with process("run", **settings, **ports) as parent:
            assert parent.stderr is not None
            greeting = await asyncio.wait_for(asyncio.to_thread(parent.stderr.readline), 30)
            (port,) = re.findall(r"on http://127\.0\.0\.1:(\d+)", greeting)
            assert [await asyncio.to_thread(status, int(port)) for _ in range(4)] == [200] * 4
            parent.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(parent.communicate, timeout=30)

    started = [event for event in map(json.loads, output.splitlines()) if event["event"] == "started"]
    assert [event["port"] for event in started] == [int(port)] * 2
    assert parent.returncode == 0


async def test_the_workers_share_one_limit(redis: RedisServer) -> None:
    """Five requests a minute are five a minute, whichever worker is asked."""
    rule = {"name": "few", "quota": "5/60s", "partition": ["ip"], "counts": "requests", "when_full": "refuse"}
    async with (
        recorder() as upstream,
        two_workers(redis, upstream, GATEWAY__LIMITS=json.dumps([rule]), GATEWAY__STORE__TIMEOUT="1s") as gateway,
    ):
        answers = Counter([await asyncio.to_thread(status, gateway.port) for _ in range(20)])
        await gateway.finish()

    assert answers == {200: 5, 429: 15}

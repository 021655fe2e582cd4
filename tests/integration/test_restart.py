"""A gateway that stands alone is restarted, gracefully or not, and the exchange never sees a breach."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fake_bybit import FakeBybit, Settings
from tests.integration.test_process import free_port, process, wait_until_ready

API_KEY = "PlantedApiKey0001"
CLIENTS = 32
LIMIT, WINDOW_S = 200, 3


class Place:
    """Where gateways run one after the other: the same port, state and rules."""

    def __init__(self, state: Path, exchange: FakeBybit, *rules: dict[str, object]) -> None:
        self.state, self.port = state, free_port()
        self.environment = {
            "XDG_STATE_HOME": str(state),
            "GATEWAY__UPSTREAM__URL": exchange.url,
            "GATEWAY__LISTEN__HOST": "127.0.0.1",
            "GATEWAY__LISTEN__PORT": str(self.port),
            "GATEWAY__LIMITS": json.dumps(rules),
            "GATEWAY__QUEUE__MAX_WAIT": "20s",
            "GATEWAY__IDENTITY__HASH_KEY": "the same in both",
        }

    def gateway(self, **more: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return process("run", **{**self.environment, **more})

    async def ready(self, started: subprocess.Popen[str]) -> None:
        await asyncio.to_thread(wait_until_ready, self.port, started)

    async def ask(self, wait: str = "15s") -> int:
        """The status of one answer: 200, or what says that the wait would be longer."""

        def work() -> int:
            headers = {"X-Gateway-Max-Wait": wait, "X-BAPI-API-KEY": API_KEY}
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v5/market/time", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return 0 if "X-Gateway" in answer.headers else int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        return await asyncio.to_thread(work)

    async def store(self) -> Any:
        def work() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10) as answer:
                return json.load(answer)["store"]

        return await asyncio.to_thread(work)

    def file(self) -> Path:
        (path,) = (self.state / "bybit-gateway").glob("*.json")
        return path


async def ended(started: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """SIGTERM; what it had to say about itself."""
    started.send_signal(signal.SIGTERM)
    output, errors = await asyncio.to_thread(started.communicate, timeout=60)
    assert started.returncode == 0
    assert "Traceback" not in errors
    return [event for event in map(json.loads, output.splitlines()) if event["event"] != "request"]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@asynccontextmanager
async def saturated(place: Place) -> AsyncIterator[None]:
    """Clients that never stop asking, whatever becomes of the gateway."""
    url = f"http://127.0.0.1:{place.port}/v5/market/time"

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.get(url) as answer:
                    await answer.read()
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)  # it is away for a moment

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        clients = [group.create_task(client(session)) for _ in range(CLIENTS)]
        yield
        for each in clients:
            each.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)  # bounded polling: another process moves the books


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_restart_under_saturation_is_a_breach(tmp_path: Path, number: signal.Signals) -> None:
    """Its window is full when it ends, and it is there again at once. An exchange that would ban for it counts."""
    rule = {"name": "bybit-ip", "quota": f"{LIMIT}/{WINDOW_S}s", "window": "held"}
    settings = Settings(record_size=1, ip_limit=LIMIT, ip_window_us=WINDOW_S * 1_000_000)
    async with FakeBybit(settings=settings) as exchange:
        place = Place(tmp_path, exchange, rule)
        with place.gateway() as first:
            await place.ready(first)
            async with saturated(place):
                await until(lambda: exchange.stats.requests >= 2 * LIMIT)
                first.send_signal(number)
                await asyncio.to_thread(first.wait, 60)
                before = exchange.stats.requests
                with place.gateway() as second:
                    await place.ready(second)
                    await until(lambda: exchange.stats.requests >= before + 2 * LIMIT)
                    events = await ended(second)

        print(f"{before} before and {exchange.stats.requests} in all, {exchange.books.ip.max_in_window()} in a window")
        assert exchange.books.ip.breaches == 0
        expected = "cold_start" if number == signal.SIGKILL else "state_restored"
        assert names(events) == [expected, "started", "draining", "stopped"]


LONG: dict[str, object] = {"name": "mine", "quota": "20/1h", "window": "held", "when_full": "wait"}
KEYED: dict[str, object] = {"name": "account", "quota": "20/1h", "window": "held", "partition": ["api_key"]}


async def test_after_a_graceful_stop_what_is_left_is_there_at_once_and_no_more(tmp_path: Path) -> None:
    async with FakeBybit() as exchange:
        place = Place(tmp_path, exchange, LONG, KEYED)
        with place.gateway() as first:
            await place.ready(first)
            assert [await place.ask() for _ in range(12)] == [200] * 12
            events = await ended(first)
        assert names(events) == ["started", "draining", "stopped"]  # the first start ever holds nothing
        assert place.file().stat().st_mode & 0o777 == 0o600
        assert API_KEY not in place.file().read_text()

        with place.gateway() as second:
            await place.ready(second)
            assert [await place.ask("5s") for _ in range(9)] == [200] * 8 + [429]
            events = await ended(second)
        assert exchange.stats.requests == 20
        assert names(events) == ["state_restored", "started", "draining", "stopped"]
        assert events[0]["windows"] == 2


async def test_after_a_crash_nothing_is_sent_beyond_the_emergency_share(tmp_path: Path) -> None:
    """Two in a hundred at once; health says why the others wait."""
    rule = {**LONG, "quota": "100/1h"}
    async with FakeBybit() as exchange:
        place = Place(tmp_path, exchange, rule)
        with place.gateway() as first:
            await place.ready(first)
            assert (await place.store())["status"] == "ok"
            assert await place.ask() == 200
            first.kill()
            await asyncio.to_thread(first.wait, 20)
        with place.gateway() as second:
            await place.ready(second)
            assert (await place.store())["status"] == "cold"
            answers = [await place.ask("5s") for _ in range(3)]
            events = await ended(second)

    assert answers[:2] == [200, 200]
    assert answers[2] != 200
    assert exchange.stats.requests == 3
    assert {**events[0], "timestamp": None} == {**events[0], "event": "cold_start", "timestamp": None}
    assert (events[0]["hold_s"], events[0]["reason"]) == (3600.0, "crashed")


async def test_a_corrupt_file_is_told_and_held(tmp_path: Path) -> None:
    async with FakeBybit() as exchange:
        place = Place(tmp_path, exchange, LONG)
        with place.gateway() as first:
            await place.ready(first)
            await ended(first)
        place.file().write_bytes(place.file().read_bytes()[:-9])
        with place.gateway() as second:
            await place.ready(second)
            assert await place.ask("5s") != 200
            events = await ended(second)

    assert names(events)[:2] == ["state_file_unreadable", "cold_start"]
    assert events[0]["level"] == "warning"
    assert exchange.stats.requests == 0


async def test_two_gateways_with_one_egress_are_told_so(tmp_path: Path) -> None:
    """The second holds: the first may be using the whole budget."""
    async with FakeBybit() as exchange:
        place, other = Place(tmp_path, exchange, LONG), Place(tmp_path, exchange, LONG)
        with place.gateway() as first, other.gateway() as second:
            await place.ready(first)
            await other.ready(second)
            said = [await ended(first), await ended(second)]

    late = next(events for events in said if "state_file_in_use" in names(events))
    assert names(late)[:2] == ["state_file_in_use", "cold_start"]
    assert "egress.id" in late[0]["remedy"]
    assert sum("state_file_in_use" in names(events) for events in said) == 1


async def test_without_a_state_file_nothing_is_written_and_nothing_held(tmp_path: Path) -> None:
    """`state_file: null` is the operator's word; a port of the system's choice is a trial."""
    async with FakeBybit() as exchange:
        place = Place(tmp_path, exchange, LONG)
        for _ in range(2):
            with place.gateway(GATEWAY__STORE__STATE_FILE="null") as started:
                await place.ready(started)
                assert await place.ask() == 200
                started.kill()
                await asyncio.to_thread(started.wait, 20)

    assert list(tmp_path.iterdir()) == []


async def test_a_path_of_ones_own_serves_as_well(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    async with FakeBybit() as exchange:
        place = Place(tmp_path, exchange, LONG)
        events = []
        for _ in range(2):
            with place.gateway(GATEWAY__STORE__STATE_FILE=str(path)) as started:
                await place.ready(started)
                assert await place.ask() == 200
                events = await ended(started)

    assert names(events)[0] == "state_restored"
    assert sorted(tmp_path.iterdir()) == [path, path.with_suffix(".usage")]

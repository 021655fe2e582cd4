"""The level of the log while several workers run: a reload sets all of them, the page the one that answers."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_workers import Gateway, two_workers
from tests.recorder import recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def log_page(gateway: Gateway, level: str | None = None) -> dict[str, Any]:
    """Of whichever worker the kernel chooses."""
    data = None if level is None else json.dumps({"level": level}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/gateway/log", data=data)
    asked.add_header("Authorization", f"Bearer {TOKEN}")

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            state: dict[str, Any] = json.load(answer)
            return state

    return await asyncio.to_thread(ask)


async def until_levels(gateway: Gateway, true: Callable[[dict[int, str]], bool]) -> None:
    """Both workers have been asked, and it is as it should be."""
    levels: dict[int, str] = {}
    async with asyncio.timeout(30):
        while not (len(levels) == 2 and true(levels)):
            state = await log_page(gateway)
            assert state["workers"] == 2
            levels[state["worker"]] = state["level"]
            await asyncio.sleep(0.01)  # bounded polling of other processes


async def test_a_reload_sets_the_level_of_every_worker_and_the_page_that_of_one(
    redis: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("log: {level: info}\n")
    async with (
        recorder() as upstream,
        two_workers(redis, upstream, "--config", str(path), GATEWAY__ADMIN__TOKEN=TOKEN) as gateway,
    ):
        await gateway.ask("/v5/market/time")
        state = await log_page(gateway, "debug")
        one = state["worker"]
        assert (state["level"], state["workers"]) == ("debug", 2)
        await until_levels(gateway, lambda levels: levels == {one: "debug", 1 - one: "info"})

        gateway.parent.send_signal(signal.SIGHUP)  # the file says what it said
        await until_levels(gateway, lambda levels: set(levels.values()) == {"info"})

        path.write_text("log: {level: warning, slow: null}\n")
        gateway.parent.send_signal(signal.SIGHUP)
        await until_levels(gateway, lambda levels: set(levels.values()) == {"warning"})
        for _ in range(10):
            await gateway.ask("/v5/market/time")
        await gateway.finish()

    assert len(gateway.told("request")) == 1
    (told,) = gateway.told("log_level_set")
    assert (told["wanted"], told["worker"]) == ("debug", one)

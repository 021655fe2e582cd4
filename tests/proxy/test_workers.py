"""The parent of the workers: who is started again, who is not, and what ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import ports
from proxy.config import load, load_routes
from proxy.reload import Source
from proxy.workers import Workers, objection_of

ROUTES = load_routes()

HEAD = """
import json, os, signal, sys
from pathlib import Path
worker = json.loads(os.environ["GATEWAY_WORKER"])
place = Path(worker["directory"], str(worker["index"]))
starts = len(place.read_text()) if place.exists() else 0
place.write_text("x" * (starts + 1))
def serve():
    os.write(worker["lifeline"], b"+")
def rest():
    signal.pause()
"""


class Parent:
    """Workers that run a few lines instead of a gateway."""

    def __init__(
        self, directory: Path, script: str, count: int = 2, objection: str | None = None, drain_s: int = 1
    ) -> None:
        self.directory = directory
        self.served = 0
        self.objection = objection
        self.asked = 0
        self.workers = Workers(
            [sys.executable, "-I", "-S", "-c", HEAD + script],
            {},
            count,
            str(directory),
            drain_s=drain_s,
            objection=self._objection,
            all_serve=self._serve,
        )

    def starts(self, index: int) -> int:
        path = self.directory / str(index)
        return len(path.read_text()) if path.exists() else 0

    async def until(self, true: Callable[[], bool]) -> int:
        """Run until that is so; the exit code."""
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            running = group.create_task(self.workers.run())
            while not true():
                await asyncio.sleep(0.01)
            self.workers.stop()
        return running.result()

    def _objection(self) -> str | None:
        self.asked += 1
        return self.objection

    def _serve(self) -> None:
        self.served += 1


async def test_all_are_started_and_all_are_ended(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "serve(); rest()", count=3)

    assert await parent.until(lambda: parent.served == 1) == 0
    assert [parent.starts(index) for index in range(3)] == [1, 1, 1]


async def test_a_worker_that_ends_is_started_again_and_again(tmp_path: Path) -> None:
    """What it ended with does not matter, and the greeting is not said twice."""
    parent = Parent(tmp_path, "serve(); sys.exit(starts) if worker['index'] == 1 and starts < 3 else rest()")

    assert await parent.until(lambda: parent.starts(1) == 4) == 0
    assert parent.starts(0) == 1
    assert parent.served <= 1


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(2)", 2), ("sys.exit(1)", 1), ("os.kill(os.getpid(), 9)", 1)])
async def test_workers_that_never_serve_end_the_parent_with_their_code(tmp_path: Path, ending: str, code: int) -> None:
    async with asyncio.timeout(30):
        assert await Parent(tmp_path, ending).workers.run() == code


class Always:
    """A worker that serves from the beginning, so that it does not matter which of the others is faster."""

    serves = True

    def signal(self, number: int) -> None:
        pass


async def test_one_that_cannot_start_does_not_end_those_that_serve(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "sys.exit(2)", count=1)
    parent.workers._children[9] = Always()

    assert await parent.until(lambda: parent.starts(0) == 3) == 0


async def test_while_there_is_an_objection_a_worker_is_not_started_again(tmp_path: Path) -> None:
    """A changed file must not give one worker another store than its siblings have."""
    parent = Parent(tmp_path, "serve(); sys.exit(1) if worker['index'] == 1 else rest()", objection="changed")

    assert await parent.until(lambda: parent.asked == 2) == 0
    assert parent.starts(1) == 1


async def test_an_objection_to_the_last_worker_ends_the_parent(tmp_path: Path) -> None:
    """Whatever starts it again then starts it with what the file says by now."""
    parent = Parent(tmp_path, "serve(); sys.exit(0)", count=1, objection="changed")

    async with asyncio.timeout(30):
        assert await parent.workers.run() == 2


async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "signal.signal(15, signal.SIG_IGN); serve(); rest(); rest()")

    assert await parent.until(lambda: parent.served == 1) == 0


async def test_a_person_in_a_hurry_kills_those_that_drain(tmp_path: Path) -> None:
    """SIGTERM again does not: whoever sends that cannot know what is under way."""
    parent = Parent(tmp_path, "signal.signal(15, signal.SIG_IGN); serve(); rest(); rest()", drain_s=3600)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(parent.workers.run())
        while not parent.served:
            await asyncio.sleep(0.01)  # other processes
        for _ in range(2):
            parent.workers.stop()
            await asyncio.sleep(0.1)  # nothing to wait for: that it has not ended is the point
        assert not running.done()
        parent.workers.stop(signal.SIGINT)
    assert running.result() == 0


async def test_a_program_that_cannot_be_started_is_no_endless_loop(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "")
    parent.workers._command = [str(tmp_path / "nothing")]

    async with asyncio.timeout(30):
        assert await parent.workers.run() == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("workers: 2\nstore: {url: redis://a}\nlog: {level: error}\n", None),
        ("workers: 2\nstore: {url: redis://b}\n", "changed since the start, and needs a restart: store.url"),
        ("workers: 2\nstore: {url: redis:}\n", "the configuration has mistakes, 1 of them"),
    ],
)
def test_a_worker_may_start_again_where_its_siblings_could(tmp_path: Path, text: str, reason: str | None) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("workers: 2\nstore: {url: redis://a}\n")
    config = load(path, {}, ROUTES)
    path.write_text(text)

    assert objection_of(config, Source(path, {}, ROUTES)) == reason


def test_the_port_is_held_against_another_gateway_but_not_against_workers() -> None:
    """Also before any worker listens, and after all of them have gone."""
    config = load(None, {"GATEWAY__LISTEN__HOST": "127.0.0.1", "GATEWAY__LISTEN__PORT": "0"}, ROUTES)
    with ports.held(config) as (port, chosen):
        assert chosen == {"GATEWAY__LISTEN__PORT": str(port)}
        again = load(None, {"GATEWAY__LISTEN__HOST": "127.0.0.1", **chosen}, ROUTES)
        for _ in range(2):
            with pytest.raises(OSError, match="in use"), ports.held(again):
                pass
            with socket.create_server(("127.0.0.1", port), reuse_port=True):
                pass
    with ports.held(again) as (number, none):
        assert (number, none) == (port, {})


def test_the_pages_port_is_held_as_well() -> None:
    environment = {"GATEWAY__LISTEN__HOST": "::1", "GATEWAY__LISTEN__PORT": "0", "GATEWAY__ADMIN__PORT": "0"}
    with ports.held(load(None, environment, ROUTES)) as (_, chosen):
        assert set(chosen) == {"GATEWAY__LISTEN__PORT", "GATEWAY__ADMIN__PORT"}
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", int(chosen["GATEWAY__ADMIN__PORT"])))

"""Several processes on one port: this is the parent, which serves nobody and keeps the others alive.

Each worker is a fresh process, started as the parent itself was. They bind the port together (SO_REUSEPORT) and the
kernel spreads connections over them; the limits that they share are in the store. A socket pair ties each of them to
the parent: through it a worker says that it serves, and learns that the parent was killed, for then it drains and ends.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from proxy.config import Config
from proxy.config_problems import ConfigError
from proxy.listener import LINGER_S
from proxy.reload import Source, adopted
from proxy.siblings import Worker
from proxy.tasks import within

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""A worker that has lived so long did not die of how it was started."""
_DRAIN_MARGIN_S: Final = 10
_FAILED: Final = 1
_BAD_CONFIG: Final = 2


class Life(NamedTuple):
    """What became of one process in a worker's place."""

    code: int
    served: bool


class Child:
    """One process in a worker's place."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.serves = False

    async def end(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


class Workers:
    """`run()` keeps `count` processes of `command` alive until it is told to stop.

    `objection` says why a worker that ended cannot be started again as things stand, if so; `all_serve` is called once.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        count: int,
        directory: str,
        *,
        drain_s: int,
        objection: Callable[[], str | None],
        all_serve: Callable[[], None],
    ) -> None:
        self._command = command
        self._environment = environment
        self._count = count
        self._directory = directory
        self._drain_s = drain_s
        self._objection = objection
        self._all_serve: Callable[[], None] | None = all_serve
        self._children: dict[int, Child] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._told = signal.SIGTERM
        self._code = 0
        self._log: Any = structlog.get_logger()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, or until nobody serves and a worker cannot be started; returns the exit code."""
        with self._signals():
            async with asyncio.TaskGroup() as group:
                places = [group.create_task(self._keep(index)) for index in range(self._count)]
                await self._stop.wait()
                await self._end(places)
        return self._code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Let all drain and end. SIGINT while they do: end them."""
        if not self._stop.is_set():
            self._told = number
            self._stop.set()
        elif number == signal.SIGINT:
            self._hurry.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: partial(self.stop, signal.SIGINT),
            signal.SIGHUP: self._reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        yield
        for number in handlers:
            loop.remove_signal_handler(number)

    def _reload(self) -> None:
        """Told to those that serve: one that is just starting reads the file anyway, and would die of the signal."""
        for child in self._children.values():
            if child.serves:
                child.signal(signal.SIGHUP)

    async def _end(self, places: Sequence[asyncio.Task[None]]) -> None:
        for child in self._children.values():
            child.signal(self._told)
        await within(self._drain_s, self._hurry, asyncio.wait(places))
        if late := [place for place in places if not place.done()]:
            self._log.error("workers_killed", count=len(late))
            for child in self._children.values():
                child.signal(signal.SIGKILL)

    async def _keep(self, index: int) -> None:
        """Fill this place again whenever its process ends; ever more slowly where none lives long."""
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        began, life = loop.time(), await self._live(index)
        while not self._stop.is_set():
            if not life.served and not any(child.serves for child in self._children.values()):
                self._code = life.code if life.code > 0 else _FAILED
                self._stop.set()
                return
            if loop.time() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            if await self._stopped_within(pause_s):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            began, life = loop.time(), await self._live_again(index)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()

    async def _live_again(self, index: int) -> Life:
        reason = await asyncio.to_thread(self._objection)
        if reason is None:
            return await self._live(index)
        self._log.error("worker_not_started", worker=index, reason=reason)
        return Life(_BAD_CONFIG, served=False)

    async def _live(self, index: int) -> Life:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        with ours:
            with theirs:
                worker = Worker(index, self._count, self._directory, theirs.fileno(), self._drain_s)
                try:
                    process = await asyncio.create_subprocess_exec(
                        *self._command,
                        env={**self._environment, **worker.environment()},
                        pass_fds=[worker.lifeline],
                    )
                except OSError as error:
                    self._log.error("worker_not_started", worker=index, reason=error.strerror)
                    return Life(_FAILED, served=False)
            child = self._children[index] = Child(process)
            if self._stop.is_set():
                child.signal(self._told)
            served = bool(await asyncio.get_running_loop().sock_recv(ours, 1))
            child.serves = served
            self._announce()
            code = await child.end()
        del self._children[index]
        if not self._stop.is_set():
            self._log.error("worker_ended", worker=index, pid=process.pid, code=code, served=served)
        return Life(code, served)

    def _announce(self) -> None:
        if self._all_serve is not None and sum(child.serves for child in self._children.values()) == self._count:
            announce, self._all_serve = self._all_serve, None
            announce()


def drain_seconds(config: Config) -> int:
    """More than a worker needs for requests that wait, requests that were sent, and writes whose clients have gone."""
    waits_us = config.listen.drain_delay + 2 * config.upstream.timeouts.total + config.queue.max_wait
    return waits_us // 1_000_000 + int(LINGER_S) + _DRAIN_MARGIN_S


def objection_of(config: Config, source: Source) -> str | None:
    """A worker must not live by another store or upstream than its siblings, however the file has changed."""
    try:
        left = adopted(config, source.load()).left
    except ConfigError as error:
        return f"the configuration has mistakes, {len(error.problems)} of them"
    except Exception as error:  # noqa: BLE001  # whatever a file makes go wrong must not end those that serve
        return f"the configuration cannot be used: {type(error).__name__}"
    return f"changed since the start, and needs a restart: {', '.join(left)}" if left else None

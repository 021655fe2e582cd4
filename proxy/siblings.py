"""One of several workers: what it was told at its birth, and how it and the others read each other's metrics.

Each worker answers on a socket in a directory that only this gateway can enter, with its metrics as they stand. The
same reading stays behind as a file: it speaks for a worker that does not answer, and the next worker in its place goes
on from there, so that sums never fall.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import orjson

from proxy.combined import Family, Key, Reading, combined, decoded, encoded, lasting

_VARIABLE: Final = "GATEWAY_WORKER"
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Worker:
    """What the parent process tells a worker, through the environment."""

    index: int
    count: int
    directory: str
    lifeline: int
    """A descriptor shared with the parent: a byte from the worker says that it serves, its end that the parent died."""
    drain_s: int
    """How long it may take to end."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Worker | None:
        """None: this process is nobody's worker."""
        text = environment.get(_VARIABLE)
        return None if text is None else cls(**orjson.loads(text))

    def environment(self) -> dict[str, str]:
        return {_VARIABLE: orjson.dumps(self).decode()}

    def socket_of(self, index: int) -> Path:
        return Path(self.directory, f"{index}.sock")

    def reading_of(self, index: int) -> Path:
        return Path(self.directory, f"{index}.json")


class Lifeline:
    """The worker's end of what ties it to its parent."""

    def __init__(self, worker: Worker, orphaned: Callable[[], None]) -> None:
        """`orphaned` is called once, when the parent has ended without a word."""
        self._socket = socket.socket(fileno=worker.lifeline)
        self._socket.settimeout(0)
        self._worker = worker
        self._orphaned = orphaned
        self._alone = False
        asyncio.get_running_loop().add_reader(self._socket, self._ended)

    def serving(self) -> None:
        with suppress(OSError):  # a parent that has just died is noticed elsewhere
            self._socket.send(b"+")

    def close(self) -> None:
        """The last of the orphans takes the directory along, as the parent would have."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        directory = Path(self._worker.directory)
        if self._alone and not any(directory.glob("*.sock")):
            shutil.rmtree(directory, ignore_errors=True)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        signal.alarm(self._worker.drain_s)  # nobody else is left to end a worker that does not
        self._alone = True
        self._orphaned()


class Gathered(NamedTuple):
    """The metrics of all workers, and how many of them answered."""

    reading: Reading
    up: int
    expected: int

    def with_workers(self) -> Reading:
        states = {"up": self.up, "expected": self.expected}
        samples: dict[Key, float] = {("gateway_workers", (("state", name),)): count for name, count in states.items()}
        return [*self.reading, Family("gateway_workers", "gauge", "Processes of this gateway.", samples)]


class Siblings:
    """`async with Siblings(worker, read)`: `read` gives the metrics of this process as they stand."""

    def __init__(self, worker: Worker, read: Callable[[], Awaitable[Reading]]) -> None:
        self.place = (worker.index, worker.count)
        """Which of how many this process is."""
        self._worker = worker
        self._read = read
        self._before = lasting(self._left_by(worker.index))
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            path = self._worker.socket_of(self._worker.index)
            path.unlink(missing_ok=True)  # of a worker that was killed
            stack.callback(path.unlink, missing_ok=True)
            server = await asyncio.start_unix_server(self._answer, str(path))
            stack.callback(server.close)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def gathered(self) -> Gathered:
        """Ask everybody at the same time. Who does not answer is represented by what was last known."""
        me, count = self._worker.index, self._worker.count
        others = [index for index in range(count) if index != me]
        own, answers = await asyncio.gather(self._own(), asyncio.gather(*(self._ask(index) for index in others)))
        known = [
            lasting(self._left_by(index)) if answer is None else answer
            for index, answer in zip(others, answers, strict=True)
        ]
        return Gathered(combined([own, *known]), 1 + len(answers) - answers.count(None), count)

    async def _own(self) -> Reading:
        reading = combined([self._before, await self._read()])
        self._leave_behind(encoded(reading))
        return reading

    def _leave_behind(self, data: bytes) -> None:
        path = self._worker.reading_of(self._worker.index)
        new = path.with_suffix(".new")
        with suppress(OSError):  # a full disk must not take the metrics away
            new.write_bytes(data)
            new.replace(path)

    def _left_by(self, index: int) -> Reading:
        try:
            return decoded(self._worker.reading_of(index).read_bytes())
        except (OSError, ValueError):
            return []

    async def _ask(self, index: int) -> Reading | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(str(self._worker.socket_of(index)))
                try:
                    return decoded(await reader.read())
                finally:
                    writer.close()
        except (OSError, ValueError):
            return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(encoded(await self._own()))
            await writer.drain()
        except OSError:
            pass  # who asked has lost patience
        finally:
            writer.close()

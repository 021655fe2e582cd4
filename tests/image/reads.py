"""Many clients that read at a steady pace, each over a connection of its own, and look at every answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.raw_http import RawAnswer, read_answer

Judge = Callable[[str, RawAnswer], str]
"""Of a target and the answer to it: what is wrong with it, or nothing."""
_PATIENCE_S: Final = 30.0


@dataclass
class Reads:
    """What came of it. `again`: reads that were sent a second time, because their connection had been ended."""

    answers: int = 0
    again: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    """How often each fault was found."""
    took_us: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds

    def within_us(self, part: float) -> int:
        """So many microseconds were enough for this part of the answers."""
        return sorted(self.took_us)[min(len(self.took_us) - 1, int(part * len(self.took_us)))]


async def read_together(
    port: int, targets: list[str], judge: Judge, *, clients: int, every_s: float, rounds: int
) -> Reads:
    """Each client asks for one target after the other, `rounds` in all, one in `every_s`, over which they are spread.

    A client whose answer takes longer asks for the next at once.
    """
    reads = Reads()
    began = time.monotonic()

    async def client(number: int) -> None:
        line = _Line(port)
        try:
            for turn in range(rounds):
                due = began + every_s * (turn + number / clients)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                target = targets[(number + turn) % len(targets)]
                asked = time.perf_counter_ns()
                answer = await line.ask(target)
                reads.took_us.append((time.perf_counter_ns() - asked) // 1000)
                reads.answers += 1
                if fault := judge(target, answer):
                    reads.wrong[fault] += 1
        finally:
            reads.again += line.again
            line.close()

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    reads.seconds = time.monotonic() - began
    return reads


class _Line:
    """A kept connection. A read may be sent a second time, over a new one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.again = 0

    async def ask(self, target: str) -> RawAnswer:
        async with asyncio.timeout(_PATIENCE_S):
            try:
                return await self._ask(target)
            except (OSError, asyncio.IncompleteReadError):
                self.again += 1
                self.close()
                return await self._ask(target)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None

    async def _ask(self, target: str) -> RawAnswer:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        answer = await read_answer(reader)
        if (answer.get("Connection") or "").lower() == "close":
            self.close()
        return answer

"""An upstream that keeps the bytes of every request and answers with the bytes it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Seen:
    """A request as it stood on the wire."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines if line)]

    def names(self) -> set[bytes]:
        return {name.lower() for name, _ in self.headers}


Answer = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(request: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(OK.removesuffix(b"{}") if request.line.startswith(b"HEAD ") else OK)


def answering(data: bytes, *, close: bool = False) -> Answer:
    """Always these bytes."""

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return answer


@dataclass
class Recorder:
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    answer: Answer = answer_ok
    connections: int = 0
    serving: set[asyncio.Task[None] | None] = field(default_factory=set)
    """The tasks of connections: the server itself does not keep one that waits from being collected."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        self.serving.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Seen(head[:-2], b"")
                length = next((int(v) for n, v in request.headers if n.lower() == b"content-length"), 0)
                request.body = await reader.readexactly(length)
                self.seen.append(request)
                await self.answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            self.serving.discard(task)
            writer.close()


@asynccontextmanager
async def recorder(answer: Answer = answer_ok) -> AsyncIterator[Recorder]:
    upstream = Recorder(answer=answer)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**22)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        serving = [task for task in upstream.serving if task is not None]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)  # so that each has closed its connection

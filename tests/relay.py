"""One way to a server, which can be cut, frozen and slowed while others reach the server as before.

It passes bytes, so TLS goes through it. What a server announces about itself (a cluster's nodes, the primary that a
sentinel names) goes round it. A client of a dead server gets a connection here, and then its end.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from proxy.tasks import TaskOwner
from tests.redis_servers.ports import reserve_port

_Stamped = tuple[float, bytes]  # when it is due, and what; nothing is the end

KEPT_CHUNKS = 1024  # in each direction of a connection; beyond, the sender's own buffers fill up


class Relay:
    """`async with Relay(server.port) as relay:` and clients go to `relay.port`.

    `delay_s` is added in each direction, to bytes that come in from now on.
    """

    def __init__(self, target_port: int, *, delay_s: float = 0.0) -> None:
        self.target_port = target_port
        self.delay_s = delay_s
        self._reserved = reserve_port()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections = TaskOwner()

    @property
    def port(self) -> int:
        return self._reserved.number

    async def __aenter__(self) -> Self:
        await self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()
        self._reserved.release()

    async def cut(self) -> None:
        """Every connection ends, new ones are refused."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            await self._connections.close()
            await server.wait_closed()

    async def freeze(self) -> None:
        """No byte passes and nothing ends: silence. New connections are accepted. Bytes are kept for `heal`."""
        self._flowing.clear()
        await self._listen()

    async def heal(self) -> None:
        """Bytes pass, the ones that were kept first; a relay that was cut listens on its port again."""
        self._flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # accepted just before the cut
            writer.transport.abort()
        else:
            self._connections.spawn(self._connect(reader, writer), "relay")

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._flowing.wait()
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                await self._exchange(reader, writer, target_reader, target_writer)
            finally:
                target_writer.transport.abort()
        except* (OSError, EOFError):
            pass  # either side may hang up, or not be there
        finally:
            writer.transport.abort()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target_reader: asyncio.StreamReader,
        target_writer: asyncio.StreamWriter,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for source, sink in ((reader, target_writer), (target_reader, writer)):
                on_the_way: asyncio.Queue[_Stamped] = asyncio.Queue(KEPT_CHUNKS)
                group.create_task(self._take(source, on_the_way))
                group.create_task(self._give(on_the_way, sink))

    async def _take(self, source: asyncio.StreamReader, on_the_way: asyncio.Queue[_Stamped]) -> None:
        now = asyncio.get_running_loop().time
        data = b"more"
        while data:
            data = await source.read(65_536)
            await on_the_way.put((now() + self.delay_s, data))

    async def _give(self, on_the_way: asyncio.Queue[_Stamped], sink: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - now())
            await self._flowing.wait()
            if not data:
                sink.close()
                await sink.wait_closed()
                raise EOFError  # one side has hung up: the TaskGroup ends the other direction too
            sink.write(data)
            await sink.drain()

"""A port of the gateway: opened, and closed without losing a request.

A client, or a load balancer, that sends on a kept connection in the very instant in which we close it gets no answer,
and cannot know whether an order was taken. So nothing is closed under anybody's feet: first no new connections, then
each kept one ends with its next answer, which says so (`Connection: close`), and only one that has not been used for
LINGER_S is closed. Whoever drops idle connections earlier than that never meets the end of one.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from proxy.server import TrafficServer
from proxy.tasks import within

LINGER_S: Final = 5.0
"""How long a kept connection is waited for, at the end, to be used once more."""
_CUT_S: Final = 0.2
_BACKLOG: Final = 1024
_TICKS: Final = 5
"""Of the event loop, until a connection that it has accepted is known to the server."""
_HALF_MADE_S: Final = 0.005
"""How long a connection whose first packet has come may take to be made: a few round trips in a data centre."""
_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = (  # of classic BPF, which a socket takes from anybody: linux/filter.h
    (0x30, 0, 0, 13),  # the flags of a TCP header
    (0x54, 0, 0, 0x12),  # SYN and ACK of them
    (0x15, 0, 1, 0x02),  # SYN alone:
    (0x06, 0, 0, 0),  # dropped,
    (0x06, 0, 0, 0xFFFFFFFF),  # all else is let in
)


class Listener:
    """`shared`: other processes listen on the same port. `drain_s` bounds what is under way at the end, unless somebody
    is in a `hurry` before that."""

    def __init__(
        self, server: TrafficServer, host: str, port: int, *, drain_s: float, hurry: asyncio.Event, shared: bool
    ) -> None:
        self._server = server
        self._host = host
        self._port = port
        self._drain_s = drain_s
        self._shared = shared
        self._site: web.TCPSite | None = None
        self._hurry = hurry

    async def open(self) -> int:
        """The port that was bound. OSError: it was not."""
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=_CUT_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG, reuse_port=self._shared)
        await site.start()
        self._site = site
        bound: int = self._runner.addresses[0][1]
        return bound

    async def retire(self, seconds: float) -> None:
        """Go on for so long, but let each connection end with its next answer."""
        if seconds:
            self._server.retire()
            await within(seconds, self._hurry, asyncio.sleep(seconds))

    async def close(self, linger_s: float = 0.0) -> None:
        """Returns when the last connection has ended, or has taken too long and was cut."""
        site, self._site = self._site, None
        if site is None:
            return
        self._server.retire()
        await self._stop_listening(site, gently=linger_s > 0)
        await within(linger_s, self._hurry, self._server.left())
        self._server.end_idle()
        await within(self._drain_s, self._hurry, self._server.left())
        await self._runner.cleanup()

    async def _stop_listening(self, site: web.TCPSite, *, gently: bool) -> None:
        """Connections that the kernel has made already, and may have heard a request on, are not thrown away."""
        loop = asyncio.get_running_loop()
        doors = [socket.socket(fileno=socket.dup(each.fileno())) for each in _sockets(site)]
        if gently and _begin_no_more(doors):
            await within(_HALF_MADE_S, self._hurry, asyncio.sleep(_HALF_MADE_S))
        await site.stop()
        waiting: list[socket.socket] = []
        for door in doors:
            with door:
                door.setblocking(False)  # noqa: FBT003  # its only way
                with suppress(OSError):  # BlockingIOError: there is none left
                    while True:
                        waiting.append(door.accept()[0])
        for connection in waiting:
            connection.setblocking(False)  # noqa: FBT003
            with suppress(OSError):
                await loop.connect_accepted_socket(self._server, connection)
        for _ in range(_TICKS):
            await asyncio.sleep(0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _begin_no_more(doors: Iterable[socket.socket]) -> bool:
    """Have the kernel answer nobody who asks for a connection: he asks again a second later, and is refused then. False
    where it cannot: a connection that is made in the very instant of the end is lost, with what was asked on it."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_SYN))
    program = bytes(_Program(len(_NO_SYN), ctypes.addressof(code)))
    try:
        for door in doors:
            door.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def _sockets(site: web.TCPSite) -> list[Any]:
    server: Any = site._server  # noqa: SLF001  # the library shows addresses only
    return [] if server is None else list(server.sockets)

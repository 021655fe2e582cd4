"""Look-ups of the exchange's name, in threads that nobody else uses.

The event loop has two threads for all of them (libuv's for what is slow). A name for which no name server answers, such
as that of a Redis which is gone, takes seconds and is asked for several times a second: what stands behind it in the
queue would never be looked up, and no new connection to the exchange would come to stand.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="names")
"""They are started by the first look-up."""


class OwnThreads(AbstractResolver):
    """Has nothing to be closed."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        asked = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(_THREADS, asked)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        pass

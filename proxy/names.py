"""Look-ups of names, in threads of our own: one pair for the exchange's name, one for Redis'.

The event loop has two threads for all of them (libuv's for what is slow), which it also needs to connect to an address
that is known already. A name for which no name server answers, such as that of a Redis which is gone, takes seconds and
is asked for several times a second: behind it no new connection to the exchange would come to stand.
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
_THREADS_OF_REDIS: Final = ThreadPoolExecutor(2, thread_name_prefix="redis-names")
_KEPT_S: Final = 5.0


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


class Addresses:
    """The addresses behind names, each looked up once at a time, however many ask and however soon they give up: what
    one has begun the next one finds. They are kept for some seconds, unless no connection came of them."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def of(self, host: str, port: int) -> list[str]:
        """At least one, in the order in which they should be tried. OSError: there is none."""
        key = (host, port)
        found, loop = self._found.get(key), asyncio.get_running_loop()
        if found is None or found.get_loop() is not loop:
            found = self._found[key] = loop.run_in_executor(_THREADS_OF_REDIS, _addresses, host, port)
            found.add_done_callback(partial(self._keep, key))
        return await asyncio.shield(found)

    def forget(self, host: str, port: int) -> None:
        """They were of no use."""
        found = self._found.get((host, port))
        if found is not None and found.done():
            del self._found[host, port]

    def _keep(self, key: tuple[str, int], found: asyncio.Future[list[str]]) -> None:
        if found.cancelled() or found.exception() is not None:
            self._drop(key, found)
        else:
            found.get_loop().call_later(_KEPT_S, self._drop, key, found)

    def _drop(self, key: tuple[str, int], found: asyncio.Future[list[str]]) -> None:
        if self._found.get(key) is found:
            del self._found[key]


OF_REDIS: Final = Addresses()


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))

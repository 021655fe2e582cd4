"""Is a gateway whose sign of life is missing dead, or only cut off from the store?

The difference is its share of the budget: of one that is cut off it must be left alone, of one that is dead it can be
used again at once. The store cannot tell. So each gateway listens on a port of its own, where it says its name to
whoever connects and nothing else. One that has been reached there before, or is on this machine, and now refuses the
connection or answers by another name, is dead. One that cannot be reached at all may be anything.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Final, cast

from proxy import names

_PATIENCE_S: Final = 0.5
_LONGEST_NAME: Final = 64
_NOBODY_LISTENS: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})


class Verdict(Enum):
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class _Answer(asyncio.Protocol):
    """Says the name and hangs up, whoever asks and whatever he says."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's are none by class
        stream.write(self._name)
        stream.close()


class Doorbell:
    """Where the others can ask whether we live."""

    def __init__(self, name: str) -> None:
        self._name = name.encode() + b"\n"
        self._server: asyncio.Server | None = None
        self.address = ""
        """host:port, empty while nobody listens."""

    async def open(self, towards: tuple[str, int]) -> None:
        """Listen where the store is reached from: whoever shares it can most likely reach us there."""
        if self._server is not None:
            return
        host = await _own_address(towards)
        self._server = await asyncio.get_running_loop().create_server(lambda: _Answer(self._name), host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server, self.address = None, ""


async def ring(address: str, name: str) -> Verdict:
    """Who answers there? DEAD means: not this gateway, for certain, if it ever was there."""
    host, _, port = address.rpartition(":")
    writer = None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            answer = await reader.read(_LONGEST_NAME + 1)
    except (TimeoutError, ValueError):
        return Verdict.UNKNOWN
    except OSError as error:
        return Verdict.DEAD if error.errno in _NOBODY_LISTENS else Verdict.UNKNOWN
    finally:
        if writer is not None:
            writer.close()
    if not answer.endswith(b"\n"):
        return Verdict.UNKNOWN
    return Verdict.ALIVE if answer.strip() == name.encode() else Verdict.DEAD


def this_machine() -> str:
    """The same in every process that reaches the same ports at the same addresses, until the machine is started anew.

    So not in two containers on one machine, unless they share a network as those of a pod do.
    """
    try:
        network = Path("/proc/self/ns/net").stat()
        where = Path("/proc/sys/kernel/random/boot_id").read_bytes() + b"%d %d" % (network.st_dev, network.st_ino)
    except OSError:
        where = secrets.token_bytes(16)
    return blake2b(where, digest_size=8, person=b"machine").hexdigest()


async def _own_address(towards: tuple[str, int]) -> str:
    """Our address on the way there; nothing is sent to find it out."""
    async with asyncio.timeout(_PATIENCE_S):
        address, *_ = await names.OF_REDIS.of(*towards)
    ((family, kind, protocol, _, target), *_) = socket.getaddrinfo(
        address, towards[1], type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])

"""Loopback ports that stay ours while nobody listens on them.

A server that is killed and comes back on its port must find it free. Below 32768 the kernel hands out no port of its
own accord; against other test processes the number is held by an abstract Unix socket of that name, which lives in the
same network namespace as the port and vanishes with its holder.
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

BUS = 10_000  # a cluster node also listens on port + 10000
_PORTS = range(12_000, 22_000)


@dataclass(frozen=True, slots=True)
class ReservedPort:
    number: int
    _holder: socket.socket

    def release(self) -> None:
        self._holder.close()


def reserve_port() -> ReservedPort:
    """A port that is free, and whose bus port is free, until it is released."""
    for number in random.sample(_PORTS, len(_PORTS)):
        port = _reserved(number)
        if port is not None:
            return port
    raise AssertionError(f"no free port in {_PORTS}")


def two_neighbours() -> tuple[ReservedPort, ReservedPort]:
    """Two of them, the second one next to the first."""
    for number in random.sample(_PORTS, len(_PORTS)):
        first = _reserved(number)
        if first is None:
            continue
        second = _reserved(number + 1)
        if second is not None:
            return first, second
        first.release()
    raise AssertionError(f"no free neighbours in {_PORTS}")


def _reserved(number: int) -> ReservedPort | None:
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0tests.redis_servers:{number}")
    except OSError:
        holder.close()
        return None
    if _is_free(number) and _is_free(number + BUS):
        return ReservedPort(number, holder)
    holder.close()
    return None


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
        return True

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
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0tests.redis_servers:{number}")
        except OSError:
            holder.close()
            continue
        if _is_free(number) and _is_free(number + BUS):
            return ReservedPort(number, holder)
        holder.close()
    raise AssertionError(f"no free port in {_PORTS}")


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
        return True

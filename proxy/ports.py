"""The ports of a gateway with several workers: checked to be free, numbered, and held while workers come and go."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from proxy.config import Config


@contextmanager
def held(config: Config) -> Iterator[tuple[int, dict[str, str]]]:
    """The traffic port's number, and what tells workers which ports the kernel chose. OSError: somebody has one."""
    with ExitStack() as stack:
        listen, admin = config.listen, config.admin
        chosen: dict[str, str] = {}
        port = _hold(stack, listen.host, listen.port)
        if listen.port == 0:
            chosen["GATEWAY__LISTEN__PORT"] = str(port)
        if admin.port is not None:
            pages = _hold(stack, admin.host, admin.port)
            if admin.port == 0:
                chosen["GATEWAY__ADMIN__PORT"] = str(pages)
        yield port, chosen


def _hold(stack: ExitStack, host: str, port: int) -> int:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in found:
        try:
            # First alone: whoever shares the port already, a second gateway would join without a word.
            with _bound(family, (*address[:1], port, *address[2:])) as alone:
                port = alone.getsockname()[1]
            stack.enter_context(_bound(family, (*address[:1], port, *address[2:]), shared=True))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            # An address that this machine does not have: the workers judge that as a single process does.
    return port


def _bound(family: int, address: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    """A socket that never listens, so that the kernel sends it no connections."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the gateway before may linger
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
        if shared:
            # Or another gateway could bind beside it: that, too, is a reuse of an address where nobody listens.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        bound.close()
        raise
    return bound

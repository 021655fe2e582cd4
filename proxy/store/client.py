"""redis-py as we need it: no hidden retries, short timeouts, one client per process, one name for all that goes wrong.

Its defaults let one call to a hung server last for a minute, and send a command twice whose answer was lost. RESP2,
because with RESP3 a connection that the server has closed is only noticed by the next command on it.
"""

from __future__ import annotations

import builtins
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  # the library's own, which is not the built-in one
)

from policies.store_url import StoreKind
from proxy import names
from proxy.awake import Within
from proxy.config_store import StoreSection

Client = Redis | RedisCluster

FAILURES: Final = (RedisError, RedisClusterException, OSError, EOFError)
"""All that a call can end with besides its answer."""

CONNECTIONS: Final = 8
_HANDSHAKE_S: Final = 0.25

OF_ITS_OWN: Final = "error-answer"
"""The reason of a call that was refused for what stands under its keys."""
_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (AuthenticationError, "authentication"),
    (AuthorizationError, "authentication"),
    (NoPermissionError, "permission"),
    (BusyLoadingError, "loading"),
    (MaxConnectionsError, "pool"),
    (MasterNotFoundError, "no-primary"),
    (ReadOnlyError, "read-only"),
    (OutOfMemoryError, "out-of-memory"),
    (ClusterDownError, "cluster-down"),
    (RedisClusterException, "cluster-down"),
    (NoScriptError, "no-script"),
    (ResponseError, OF_ITS_OWN),
    (TimeoutError, "timeout"),
    (builtins.TimeoutError, "timeout"),
)


class _Found(Connection):
    """Its name is looked up by us (proxy/names.py)."""

    _address = ""

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = {**super()._connection_arguments(), "host": self._address}
        return arguments | ({"server_hostname": self.host} if "ssl" in arguments else {})

    async def _connect(self) -> None:
        async with Within(self.socket_connect_timeout or _HANDSHAKE_S):
            *others, last = await names.OF_REDIS.of(self.host, self.port)
            for address in others:
                self._address = address
                with suppress(OSError):
                    return await super()._connect()  # type: ignore[no-untyped-call, no-any-return]
            self._address = last
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
            except OSError:
                names.OF_REDIS.forget(self.host, self.port)
                raise


class _FoundSecure(_Found, SSLConnection):
    """The same under TLS, where the certificate is for the name."""


class StoreLost(Exception):
    """The store did not do what it was asked, or nobody knows whether it did. `reason` is one word for metrics.

    `definite`: it answered with an error, so nothing was done.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.definite = False

    @property
    def of_its_own(self) -> bool:
        """The call was refused for what stands under its keys; others may go on."""
        return self.definite and self.reason == OF_ITS_OWN


def renamed(error: BaseException) -> StoreLost:
    """What the library raised, in a word of ours: its texts can hold addresses and commands."""
    if str(error).startswith(("NOAUTH", "Authentication required")):
        return StoreLost("authentication")
    return StoreLost(next((reason for kind, reason in _REASONS if isinstance(error, kind)), "unreachable"))


def connected(store: StoreSection) -> Client:
    """A client for the store; nothing is connected before the first call.

    Except in a cluster, nothing but connecting has a time limit: the link has one for a whole exchange. The library's
    own costs a task for each command.
    """
    address = store.address
    match address.kind:
        case StoreKind.SENTINEL:
            options = _options(store)
            sentinel_options = {name: options[name] for name in _OF_SENTINELS if name in options}
            options["socket_timeout"] = None
            sentinel = Sentinel(address.hosts, sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
            primary: Redis = sentinel.master_for(address.service, max_connections=CONNECTIONS, db=address.db)
            return primary
        case StoreKind.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(
                startup_nodes=nodes, max_connections=CONNECTIONS, require_full_coverage=False, **_options(store)
            )
        case _:
            ((host, port),) = address.hosts
            options = {**_options(store), "socket_timeout": None}
            kind = _FoundSecure if options.pop("ssl", False) else _Found
            pool = ConnectionPool(
                connection_class=kind, max_connections=CONNECTIONS, host=host, port=port, db=address.db, **options
            )
            return Redis.from_pool(pool)


def connect_s(store: StoreSection) -> float:
    """How long connecting may take, with what is said before the first command."""
    plain = store.address.kind is StoreKind.REDIS and not store.address.tls
    return store.timeout / 1e6 if plain else max(store.timeout / 1e6, _HANDSHAKE_S)


async def closed(client: Client) -> None:
    """Close it, and the connections to the sentinels that it found its primary by."""
    await client.aclose()
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()


_OF_SENTINELS: Final = (
    "socket_timeout",
    "socket_connect_timeout",
    "retry",
    "protocol",
    "ssl",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)


def _options(store: StoreSection) -> dict[str, Any]:
    address, timeout_s = store.address, store.timeout / 1e6
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_s(store),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,  # what it would say of itself costs a round trip for each connection
    }
    if address.tls:
        options["ssl"] = True
        files = {"ssl_ca_certs": store.ca_file, "ssl_certfile": store.cert_file, "ssl_keyfile": store.key_file}
        options |= {name: path for name, path in files.items() if path is not None}
    return options

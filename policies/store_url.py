"""Where the windows are kept, as an operator writes it in `store.url`.

    memory://                               this process
    redis://[user:password@]host[:6379][/db]
    rediss://...                            the same over TLS
    redis+sentinel://h1[:26379],h2,h3/name[/db]
    redis+cluster://h1[:6379],h2            any nodes of the cluster

`rediss+sentinel` and `rediss+cluster` speak TLS. No message repeats what stands before an `@`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import unquote

_EXPECTED: Final = (
    "expected memory://, redis://HOST, rediss://HOST, redis+sentinel://H1,H2,H3/NAME or redis+cluster://H1,H2"
)
_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

_SOMEWHERE: Final = r"([^@/?#]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_MORE: Final = r"(,(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?)*"
PATTERN: Final = (
    rf"^(memory://|rediss?://{_SOMEWHERE}(/[0-9]*)?|rediss?\+sentinel://{_SOMEWHERE}{_MORE}/[^/?#]+(/[0-9]*)?"
    rf"|rediss?\+cluster://{_SOMEWHERE}{_MORE}/?)$"
)
"""About what parse() takes, for editors."""


class StoreKind(StrEnum):
    MEMORY = "memory"
    REDIS = "redis"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final = {
    "memory": (StoreKind.MEMORY, False),
    "redis": (StoreKind.REDIS, False),
    "rediss": (StoreKind.REDIS, True),
    "redis+sentinel": (StoreKind.SENTINEL, False),
    "rediss+sentinel": (StoreKind.SENTINEL, True),
    "redis+cluster": (StoreKind.CLUSTER, False),
    "rediss+cluster": (StoreKind.CLUSTER, True),
}


@dataclass(frozen=True, slots=True)
class StoreAddress:
    kind: StoreKind
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    """What the sentinels call the primary."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """For people: without user and password."""
        if self.kind is StoreKind.MEMORY:
            return "memory://"
        scheme = "rediss" if self.tls else "redis"
        if self.kind is not StoreKind.REDIS:
            scheme += f"+{self.kind}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}" + "".join(f"/{part}" for part in (self.service, self.db) if part)


def parse(text: str) -> StoreAddress:
    """Raises ValueError with what was expected."""
    scheme, found, rest = text.partition("://")
    if not found:
        raise ValueError(f"{_EXPECTED}, got something without a scheme")
    if scheme not in _SCHEMES:
        raise ValueError(f"{_EXPECTED}, got the scheme {scheme!r}")
    kind, tls = _SCHEMES[scheme]
    if kind is StoreKind.MEMORY:
        if rest:
            raise ValueError("expected nothing behind memory://")
        return StoreAddress(kind)
    if "?" in rest or "#" in rest:
        raise ValueError("expected no ? or # in the URL: options of the store have fields of their own")
    user, at, place = rest.rpartition("@")
    username, password = _credentials(user) if at else (None, None)
    hosts, _, path = place.partition("/")
    service, db = _path(kind, path)
    return StoreAddress(kind, tls, _hosts(kind, hosts), service, db, username, password)


def _credentials(text: str) -> tuple[str | None, str | None]:
    username, _, password = text.partition(":")
    return unquote(username) or None, unquote(password) or None


def _hosts(kind: StoreKind, text: str) -> tuple[tuple[str, int], ...]:
    names = text.split(",")
    if kind is StoreKind.REDIS and len(names) > 1:
        raise ValueError("expected one host: several are redis+sentinel://H1,H2/NAME or redis+cluster://H1,H2")
    default = _SENTINEL_PORT if kind is StoreKind.SENTINEL else _PORT
    return tuple(_host(name, default) for name in names)


def _host(text: str, default: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    port = default if match is None or match["port"] is None else int(match["port"])
    if match is None or not 0 < port < 65536:
        # What stands there may be a password that lacks its @: it is not repeated.
        raise ValueError("expected host or host:port behind the scheme" if text else "expected a host, got none")
    return match["six"] or match["name"], port


def _path(kind: StoreKind, path: str) -> tuple[str, int]:
    parts = [part for part in path.split("/") if part]
    service = ""
    if kind is StoreKind.SENTINEL:
        if not parts:
            raise ValueError("expected the name that the sentinels give the primary: redis+sentinel://H1,H2,H3/NAME")
        service = parts.pop(0)
    if not parts:
        return service, 0
    if len(parts) > 1 or not parts[0].isascii() or not parts[0].isdigit():
        raise ValueError("expected the number of a database at the end of the URL, such as redis://HOST/0")
    db = int(parts[0])
    if kind is StoreKind.CLUSTER and db:
        raise ValueError("expected no database: a cluster has only 0")
    return service, db

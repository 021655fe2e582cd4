"""Who is asking: the address behind trusted proxies, and the API key as a hash that means nothing elsewhere."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

from policies import bybit

_NOBODY: Final = "unknown"
_MAX_HOPS: Final = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Identity(NamedTuple):
    ip: str
    api_key: str | None
    signed: bool
    """The request speaks for an account."""
    behind_proxy: bool
    """The connection comes from one of our own proxies."""


class Identifier:
    """Holds what is configured about clients, and the secret that keys the hashes."""

    def __init__(self, trusted_proxies: tuple[str, ...]) -> None:
        self._trusted: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in trusted_proxies)
        self._pepper = secrets.token_bytes(32)

    def who(self, peer: str | None, headers: Mapping[str, str]) -> Identity:
        """`peer` is the address of the connection; headers must compare names without regard to case."""
        key = headers.get(bybit.API_KEY)
        hashed = None if key is None else self._hash(key)
        signed = key is not None or bybit.SIGN in headers
        if not self._trusted or peer is None or not self._is_trusted(peer):
            return Identity(peer or _NOBODY, hashed, signed, behind_proxy=False)
        return Identity(self._forwarded_for(peer, headers), hashed, signed, behind_proxy=True)

    def _hash(self, key: str) -> str:
        return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._pepper).hexdigest()

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _forwarded_for(self, peer: str, headers: Mapping[str, str]) -> str:
        """Walk X-Forwarded-For from the right to the first address that is not ours; left of it is hearsay."""
        lines = headers.getall("X-Forwarded-For", []) if hasattr(headers, "getall") else []
        hops = [hop.strip() for line in lines for hop in line.split(",")][-_MAX_HOPS:]
        for hop in reversed(hops):
            try:
                address = str(ipaddress.ip_address(hop))
            except ValueError:
                return peer
            if not self._is_trusted(address):
                return address
        return peer

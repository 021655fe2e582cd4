"""Who is asking: the address behind trusted proxies, the account, and what a token proves; and the tier that follows.

An API key is known by a keyed hash that means nothing elsewhere. A gateway token (X-Gateway-Token) and, where they are
configured, JSON Web Tokens (Authorization: Bearer) prove who a client is; they end here and are never forwarded.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b, sha256
from ipaddress import IPv4Address, IPv6Network
from typing import TYPE_CHECKING, Final, NamedTuple

from multidict import MultiMapping, istr

from policies import bybit, forwarded
from policies.identity_schema import IdentitySection, JwtSection, TokenSection
from policies.tiers import Address, address_of, network_of
from proxy.clock import Clock
from proxy.config import ListenSection
from proxy.config_store import StoreSection

if TYPE_CHECKING:
    from proxy.tokens import JwtVerifier, Verified

TOKEN: Final = istr("X-Gateway-Token")
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer "

_REALM: Final = 'realm="bybit-gateway"'
_NOT_KNOWN: Final = "Not authorized: no known token, account or address"

_NOBODY: Final = "unknown"
_MEMORABLE_LINE: Final = 256
_MEMORY: Final = 8192
_PROCESS_PEPPER: Final = secrets.token_bytes(32)
"""Hashes of API keys mean nothing outside this process; a reload of the configuration keeps them."""


class Identity(NamedTuple):
    """Small and hashable: requests are remembered by it."""

    ip: str
    """An address, or the /64 of one: one customer has at least that much of IPv6."""
    api_key: str | None
    """A hash of the API key, or of the account it belongs to."""
    client: str
    """`token:NAME`, `jwt:NAME`, or else the hash of the API key, or else the ip."""
    tier: str | None
    signed: bool
    """The request speaks for an account at the exchange."""
    behind_proxy: bool
    """The connection comes from one of our own proxies."""
    bearer: bool
    """Its Authorization header spoke to us."""


class Rejected(NamedTuple):
    """Who asks has not proved what he must, or something else than he says. 401, nothing forwarded."""

    ip: str
    detail: str
    """For the client, in our own words: nothing of a token is repeated."""
    challenge: str
    """The value of WWW-Authenticate."""


class _Badge(NamedTuple):
    """What tokens have proved."""

    token: str | None = None
    client: str | None = None
    tier: str | None = None


_NO_BADGE: Final = _Badge()


class Identifier:
    """Holds what is configured about clients, and the secret that keys the hashes."""

    def __init__(
        self, listen: ListenSection, identity: IdentitySection, clock: Clock, pepper: bytes = _PROCESS_PEPPER
    ) -> None:
        self._trusted = tuple(network_of(text) for text in listen.trusted_proxies)
        self._header = istr(listen.trusted_header)
        self._clock = clock
        self._pepper = _key_of_hashes(identity, pepper)
        self._accounts = {
            self._hash(key.get_secret_value()): name for name, keys in identity.accounts.items() for key in keys
        }
        self._tokens = {token.digest(): token for token in identity.tokens}
        self._jwt = _verifier(identity.jwt)
        self._tiers = identity.tiers
        self._assignments = tuple(rule.compiled(self._hash) for rule in identity.assign)
        self._default_tier = identity.default_tier
        self._required = identity.required
        self._remembered = lru_cache(maxsize=_MEMORY)(self._known)
        self._is_proxy = lru_cache(maxsize=_MEMORY)(self._is_trusted)
        self._walked = lru_cache(maxsize=_MEMORY)(self._walk)

    def who(self, peer: str | None, headers: MultiMapping[str]) -> Identity | Rejected:
        """`peer` is the address of the connection; headers must compare names without regard to case."""
        key = headers.get(bybit.API_KEY)
        hashed = None if key is None else self._hash(key)
        signed = key is not None or bybit.SIGN in headers
        source, behind_proxy = peer or _NOBODY, False
        if self._trusted and self._is_proxy(source):
            source, behind_proxy = self._source(source, headers), True
        if TOKEN not in headers and (self._jwt is None or _AUTHORIZATION not in headers):
            return self._remembered(source, hashed, _NO_BADGE, signed, behind_proxy, False)  # noqa: FBT003  # a key
        return self._with_tokens(source, headers, hashed, signed=signed, behind_proxy=behind_proxy)

    def _with_tokens(
        self, source: str, headers: MultiMapping[str], hashed: str | None, *, signed: bool, behind_proxy: bool
    ) -> Identity | Rejected:
        badge, bearer = _NO_BADGE, False
        if TOKEN in headers:
            token = self._token(headers.getall(TOKEN))
            if isinstance(token, str):
                return self._rejected(source, token, "X-Gateway-Token")
            badge = _Badge(token.name, None, token.tier)
        lines = headers.getall(_AUTHORIZATION, []) if self._jwt is not None else []
        if any(line[: len(_BEARER)].lower() == _BEARER for line in lines):
            verified = self._verified(lines)
            if isinstance(verified, str):
                return self._rejected(source, verified, "Bearer")
            badge, bearer = badge._replace(client=verified.client, tier=verified.tier or badge.tier), True
        return self._remembered(source, hashed, badge, signed, behind_proxy, bearer)

    def _token(self, lines: list[str]) -> TokenSection | str:
        """Compared by hash, so that no time tells how much of a guess was right."""
        if len(lines) > 1:
            return "more than one gateway token"
        digest = sha256(lines[0].encode("utf-8", "surrogateescape")).digest()
        token = self._tokens.get(digest)
        known = token is not None and hmac.compare_digest(token.digest(), digest)
        return token if token is not None and known else "the gateway token is not known"

    def _verified(self, lines: list[str]) -> Verified | str:
        assert self._jwt is not None  # noqa: S101  # asked only then
        if len(lines) > 1:
            return "more than one Authorization header"
        verified = self._jwt.verify(lines[0][len(_BEARER) :].strip(), self._clock())
        if not isinstance(verified, str) and verified.tier is not None and verified.tier not in self._tiers:
            return "the token's tier is not known here"
        return verified

    def _known(
        self,
        source: str,
        hashed: str | None,
        badge: _Badge,
        signed: bool,  # noqa: FBT001  # positional like the others: this is a key
        behind_proxy: bool,  # noqa: FBT001
        bearer: bool,  # noqa: FBT001
    ) -> Identity | Rejected:
        address = address_of(source)
        ip = source if address is None else _grouped(address)
        account = None if hashed is None else self._accounts.get(hashed)
        rule = next(
            (rule for rule in self._assignments if rule.accepts(address, hashed, account, badge.token, badge.client)),
            None,
        )
        if self._required and badge == _NO_BADGE and account is None and rule is None:
            return self._rejected(source, "", "X-Gateway-Token" if self._jwt is None else "Bearer")
        api_key = hashed if account is None else self._hash(account, b"account")
        tier = badge.tier or (self._default_tier if rule is None else rule.tier)
        if badge.client is not None:
            client = f"jwt:{badge.client}"
        elif badge.token is not None:
            client = f"token:{badge.token}"
        else:
            client = api_key or ip
        return Identity(ip, api_key, client, tier, signed, behind_proxy, bearer)

    @staticmethod
    def _rejected(source: str, why: str, scheme: str) -> Rejected:
        address = address_of(source)
        ip = source if address is None else _grouped(address)
        if not why:
            return Rejected(ip, _NOT_KNOWN, f"{scheme} {_REALM}")
        told = f'{scheme} {_REALM}, error="invalid_token", error_description="{why}"'
        return Rejected(ip, f"Not authorized: {why}", told)

    def _hash(self, text: str, kind: bytes = b"") -> str:
        raw = text.encode("utf-8", "surrogateescape")
        return blake2b(raw, digest_size=8, key=self._pepper, person=kind).hexdigest()

    def _is_trusted(self, text: str) -> bool:
        address = address_of(text)
        return address is not None and self._is_ours(address)

    def _is_ours(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _source(self, peer: str, headers: MultiMapping[str]) -> str:
        """Whom our proxies vouch for; the proxy itself where they vouch for nobody."""
        line = ",".join(headers.getall(self._header, []))
        return self._walked(peer, line) if len(line) <= _MEMORABLE_LINE else self._walk(peer, line)

    def _walk(self, peer: str, line: str) -> str:
        """From the right to the first address that is not ours; left of it is hearsay."""
        for address in forwarded.hops(self._header, line):
            if address is None:
                return peer
            if not self._is_ours(address):
                return str(address)
        return peer


def pepper_of(store: StoreSection, egress: str) -> bytes:
    """What keys the hashes where nobody says: a secret of this process, or what all know who share a store."""
    if not store.shared:
        return _PROCESS_PEPPER
    return sha256(f"{egress}|{store.address.password or ''}".encode()).digest()


def hashed_as(identity: IdentitySection, pepper: bytes = _PROCESS_PEPPER) -> str:
    """The same in another process where it gives an API key the same hash."""
    return blake2b(digest_size=8, key=_key_of_hashes(identity, pepper), person=b"key").hexdigest()


def user_hasher(identity: IdentitySection, pepper: bytes = _PROCESS_PEPPER) -> Callable[[str], str]:
    """Hashes of the exchange's own names of accounts, made as those of API keys are."""
    key = _key_of_hashes(identity, pepper)
    return lambda user: blake2b(user.encode(), digest_size=8, key=key, person=b"user").hexdigest()


def account_names(identity: IdentitySection, pepper: bytes = _PROCESS_PEPPER) -> dict[str, str]:
    """The names of accounts by the hashes that stand for them."""
    key = _key_of_hashes(identity, pepper)
    return {
        blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key, person=b"account").hexdigest(): name
        for name in identity.accounts
    }


def _key_of_hashes(identity: IdentitySection, pepper: bytes) -> bytes:
    shared = identity.hash_key
    return pepper if shared is None else sha256(shared.get_secret_value().encode()).digest()


def _verifier(settings: JwtSection | None) -> JwtVerifier | None:
    if settings is None:
        return None
    from proxy.tokens import JwtVerifier  # noqa: PLC0415  # cryptography costs 20 MB: only those who use it pay

    return JwtVerifier(settings)


def _grouped(address: Address) -> str:
    """The /64 of a public IPv6 address; link-local and loopback ones share theirs with everybody."""
    if isinstance(address, IPv4Address) or address.is_link_local or address.is_loopback:
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))

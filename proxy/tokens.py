"""JSON Web Tokens: is this one good, and whose is it?

The algorithm is settled by the configuration, never by the token: a key is only ever used with the algorithm it was
read for, so `none` and a public key in the place of a shared secret come to nothing (RFC 8725, 3.1). Times are judged
by the caller's clock. What a refusal says is in our own words; nothing of a token is repeated.

Importing this room costs 20 MB (cryptography), so only those do who have tokens to verify.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from policies.identity_schema import JwtSection
from policies.secret_text import LEAST_JWT_SECRET

_LONGEST: Final = 8192
_REMEMBERED: Final = 4096
_LONGEST_NAME: Final = 128
_LEAST_RSA_BITS: Final = 2048
_DER, _SPKI = Encoding.DER, PublicFormat.SubjectPublicKeyInfo

_WRONG: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.InvalidSignatureError, "the token's signature does not fit"),
    (jwt.InvalidAudienceError, "the token is meant for another audience"),
    (jwt.InvalidIssuerError, "the token comes from another issuer"),
    (jwt.MissingRequiredClaimError, "the token lacks a required claim"),
    (jwt.InvalidAlgorithmError, "the token's algorithm is not accepted here"),
)


class Verified(NamedTuple):
    """A token that holds: who it speaks for, and the tier it names, if it names one."""

    client: str
    tier: str | None


class _Key(NamedTuple):
    algorithm: str
    kid: str | None
    key: Any


class JwtVerifier:
    """Remembers good tokens by their hash until they expire; bad ones are judged anew each time."""

    def __init__(self, settings: JwtSection) -> None:
        self._settings = settings
        self._keys = _keys(settings)
        self._leeway_us = settings.leeway
        self._good: dict[bytes, tuple[Verified, int]] = {}

    def verify(self, token: str, now_us: int) -> Verified | str:
        """Who the token speaks for, or why it is refused, in words for the client."""
        if len(token) > _LONGEST:
            return "the token is too long"
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._good.get(digest)
        if known is not None and now_us < known[1]:
            return known[0]
        claims = self._claims(token)
        if isinstance(claims, str):
            return claims
        until_us = self._until_us(claims, now_us)
        if isinstance(until_us, str):
            return until_us
        verified = self._verified(claims)
        if isinstance(verified, Verified):
            self._good.pop(digest, None)
            while len(self._good) >= _REMEMBERED:
                del self._good[next(iter(self._good))]
            self._good[digest] = (verified, until_us)
        return verified

    def _claims(self, token: str) -> dict[str, Any] | str:
        settings = self._settings
        try:
            key = self._key_for(jwt.get_unverified_header(token))
            if isinstance(key, str):
                return key
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=settings.issuer,
                audience=settings.audience,
                options={
                    "require": ["exp", settings.claims.client],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except Exception as error:  # noqa: BLE001  # whatever foreign bytes make a library raise, the token is not good
            return next((words for kind, words in _WRONG if isinstance(error, kind)), "the token cannot be read")

    def _key_for(self, header: dict[str, Any]) -> _Key | str:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            return "the token's algorithm is not accepted here"
        fitting = [key for key in self._keys if key.algorithm == algorithm]
        if self._settings.jwks_file is not None and kid is not None:
            fitting = [key for key in fitting if key.kid == kid]
        if len(fitting) != 1:
            return "the token's key is not known here"
        return fitting[0]

    def _until_us(self, claims: dict[str, Any], now_us: int) -> int | str:
        """When the token expires, leeway included."""
        expires_us, begins_us = _instant_us(claims["exp"]), _instant_us(claims.get("nbf", 0))
        if expires_us is None or begins_us is None:
            return "a time in the token is no number"
        if now_us >= expires_us + self._leeway_us:
            return "the token has expired"
        if now_us < begins_us - self._leeway_us:
            return "the token is not valid yet"
        return expires_us + self._leeway_us

    def _verified(self, claims: dict[str, Any]) -> Verified | str:
        names = self._settings.claims
        client, tier = claims[names.client], claims.get(names.tier)
        if not isinstance(client, str) or not 0 < len(client) <= _LONGEST_NAME or not client.isprintable():
            return "the token's claim for the client is no name"
        if tier is not None and not isinstance(tier, str):
            return "the token's claim for the tier is no name"
        return Verified(client, tier)


def _instant_us(seconds: object) -> int | None:
    """RFC 7519 counts in seconds, fractions allowed."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    return int(seconds * 1_000_000)


def read_keys(source: str, path: str, algorithms: Sequence[str]) -> list[_Key]:
    """The keys of a file: `source` is the setting that named it. Raises ValueError with words for the operator."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        shown = repr(path) if "/" in path else "this one"  # it may be the secret itself, in the wrong field
        raise ValueError(f"expected a file that can be read, {shown} cannot: {error.strerror}") from None
    match source:
        case "secret_file":
            return [_shared(raw.strip())]
        case "public_key_file":
            return [_public(raw, algorithms)]
        case _:
            return _set(raw, algorithms)


def fingerprint(source: str, path: str, algorithms: Sequence[str]) -> str:
    """Another one for other keys. Raises as read_keys does."""
    keys = read_keys(source, path, algorithms)
    described = [
        (key.algorithm, key.kid, key.key if isinstance(key.key, bytes) else key.key.public_bytes(_DER, _SPKI))
        for key in keys
    ]
    return sha256(repr(described).encode()).hexdigest()


def _keys(settings: JwtSection) -> list[_Key]:
    if settings.secret is not None:
        return [_shared(settings.secret.get_secret_value().encode())]
    for source in ("secret_file", "public_key_file", "jwks_file"):
        path: str | None = getattr(settings, source)
        if path is not None:
            return read_keys(source, path, settings.algorithms)
    return []


def _shared(secret: bytes) -> _Key:
    if len(secret) < LEAST_JWT_SECRET:
        raise ValueError(f"expected a secret of at least {LEAST_JWT_SECRET} bytes")
    return _Key("HS256", None, secret)


def _public(raw: bytes, algorithms: Sequence[str]) -> _Key:
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("expected a public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    fitting = _algorithm_of(key)
    if set(algorithms) != {fitting}:
        raise ValueError(f"expected a key for {' and '.join(algorithms)}, got one for {fitting or 'neither'}")
    return _Key(fitting, None, key)


def _algorithm_of(key: object) -> str:
    if isinstance(key, RSAPublicKey):
        if key.key_size < _LEAST_RSA_BITS:
            raise ValueError(f"expected an RSA key of at least {_LEAST_RSA_BITS} bits, got {key.key_size}")
        return "RS256"
    return "ES256" if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else ""


def _set(raw: bytes, algorithms: Sequence[str]) -> list[_Key]:
    """A JWK Set (RFC 7517): its public signing keys for the algorithms; others may stand beside them."""
    try:
        entries = orjson.loads(raw)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        raise ValueError('expected a JSON Web Key Set: {"keys": [...]}') from None
    found: list[_Key] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC"} or entry.get("use", "sig") != "sig":
            continue
        if "d" in entry:
            raise ValueError(f"expected public keys only, keys[{number}] is private: it has no business here")
        try:
            key = jwt.PyJWK(entry).key
        except (jwt.PyJWTError, ValueError, TypeError):
            raise ValueError(f"expected keys that can be read, keys[{number}] cannot") from None
        algorithm = _algorithm_of(key)
        if algorithm not in algorithms or entry.get("alg", algorithm) != algorithm:
            continue
        kid = entry.get("kid")
        if any(other.kid == kid and other.algorithm == algorithm for other in found):
            raise ValueError(f"expected a kid of its own for each key, keys[{number}] has that of another")
        found.append(_Key(algorithm, kid, key))
    missing = sorted(set(algorithms) - {key.algorithm for key in found})
    if missing:
        raise ValueError(f"expected a public key for {' and '.join(missing)} in the set")
    return found

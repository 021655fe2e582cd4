"""The `identity` section: who clients are, by what they prove it, and which tier that gives them.

Much of it is secret: messages about this section never repeat what was given where a secret may stand
(`holds_secrets`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from policies import target
from policies.admission import Quota
from policies.schema import (
    DurationUs,
    LimitSection,
    Name,
    RateText,
    Section,
    Words,
    _one_or_many,
    nearest,
    one_or_many,
)
from policies.secret_text import ApiKey, Digest, HashKey, JwtSecret, TokenText
from policies.tiers import PRESETS, Assignment, Tier, network_of, unreachable

Algorithm = Literal["HS256", "RS256", "ES256"]
Hash = Callable[[str], str]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRETIVE: Final = frozenset({"hash_key", "accounts", "tokens", "jwt", "assign"})
_SECRETS: Final = frozenset(
    {("admin",), ("admin", "token"), ("admin", "port"), ("store",), ("store", "url"), ("store", "password")}
    | {("cache", "l2"), ("cache", "l2", "url"), ("cache", "l2", "secret")}
    | {("archive",), ("archive", "url"), ("archive", "password")}
)
_KEY_SOURCES: Final = ("secret", "secret_file", "public_key_file", "jwks_file")


class Mistakes(ValueError):
    """Several mistakes of one section, each with its place below that section."""

    def __init__(self, found: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = tuple(found)


def holds_secrets(place: Sequence[str | int]) -> bool:
    """Whether what was written at a place of the configuration may be a secret, or what should have been one."""
    if tuple(place) in _SECRETS:
        return True
    return tuple(place[:1]) == ("identity",) and (len(place) == 1 or place[1] in _SECRETIVE)


def nameable(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """As much of a place as may be shown: an account and its keys are easily written the wrong way round."""
    return place[:2] if place[:2] == ("identity", "accounts") else place


ApiKeys = Annotated[
    tuple[ApiKey, ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1, strict=False),
    one_or_many(format="password"),
]
Requests = Annotated[int, Field(ge=1, le=1_000_000_000)]


class TokenSection(Section):
    """One gateway token, as itself or as its SHA-256, and whose it is."""

    name: Name = Field(description="What the client is called.")
    token: TokenText | None = Field(default=None, description="The token itself, or")
    token_sha256: Digest | None = Field(default=None, description="its SHA-256 in hexadecimal digits.")
    tier: Name | None = Field(default=None, description="The tier of whoever shows it.")

    @model_validator(mode="after")
    def _one_secret(self) -> TokenSection:
        if (self.token is None) == (self.token_sha256 is None):
            raise ValueError("expected either token or token_sha256")
        return self

    def digest(self) -> bytes:
        if self.token is not None:
            return sha256(self.token.get_secret_value().encode()).digest()
        assert self.token_sha256 is not None  # noqa: S101  # one of the two is given
        return bytes.fromhex(self.token_sha256.get_secret_value())


class ClaimsSection(Section):
    client: str = Field(default="sub", min_length=1, description="The claim that names the client; required.")
    tier: str = Field(default="tier", min_length=1, description="The claim that names a tier; may be absent.")


class JwtSection(Section):
    """How JSON Web Tokens are verified. One source of keys, which settles the family of algorithms."""

    algorithms: Annotated[
        tuple[Algorithm, ...],
        BeforeValidator(_one_or_many),
        Field(min_length=1, strict=False, description="What tokens may be signed with."),
        one_or_many(enum=list(get_args(Algorithm))),
    ]
    secret: JwtSecret | None = Field(default=None, description="Of HS256.")
    secret_file: str | None = Field(default=None, description="A file that holds it.")
    public_key_file: str | None = Field(default=None, description="PEM, of RS256 or ES256.")
    jwks_file: str | None = Field(default=None, description="A JSON Web Key Set of public keys.")
    issuer: Words | None = Field(default=None, description="The `iss` that is accepted.")
    audience: Words | None = Field(default=None, description="The `aud` that is accepted; null: none at all.")
    leeway: DurationUs = Field(default=0, description="How far clocks may differ.")
    claims: ClaimsSection = Field(default=ClaimsSection(), description="What they say of the client.")
    _fingerprint: str = PrivateAttr(default="")
    """Of the file of keys: when it changes, this is another configuration, which a reload puts into force."""

    @model_validator(mode="after")
    def _keys_fit_the_algorithms(self, info: ValidationInfo) -> JwtSection:
        given = [name for name in _KEY_SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(_KEY_SOURCES)}, got {' and '.join(given) or 'none'}")
        shared = given[0] in {"secret", "secret_file"}
        for number, name in enumerate(self.algorithms):
            if (name == "HS256") != shared:
                fitting = "HS256" if shared else "RS256 or ES256"
                raise Mistakes([(("algorithms", number), f"expected {fitting} beside {given[0]}, got {name!r}")])
        self._read(given[0], (info.context or {}).get("key_file"))
        return self

    def _read(self, source: str, read: Callable[[str, str, Sequence[str]], str] | None) -> None:
        """Files are read by whoever validates: `context["key_file"]` raises ValueError for one that is of no use."""
        if source != "secret" and read is not None:
            try:
                self._fingerprint = read(source, getattr(self, source), self.algorithms)
            except ValueError as error:
                raise Mistakes([((source,), str(error))]) from None


class TierSection(Section):
    second: Requests | None = Field(default=None, description="Requests a second.")
    minute: Requests | None = Field(default=None, description="Requests in any minute.")
    hour: Requests | None = Field(default=None, description="Requests in any hour.")
    burst: Requests | None = Field(default=None, description="How many may go at once at the rate of `second`.")

    @model_validator(mode="after")
    def _numbers_agree(self) -> TierSection:
        found = [((field,) if field else (), message) for field, message in self.named("").contradictions()]
        if found:
            raise Mistakes(found)
        return self

    def named(self, name: str) -> Tier:
        return Tier(name, self.second, self.minute, self.hour, self.burst)


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    texts = []
    for text in value:
        try:
            texts.append(str(network_of(text)))
        except ValueError:
            raise ValueError(f"expected addresses or networks such as 10.0.0.0/8, got {text!r}") from None
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"expected each network once, {text} stands twice")
    return tuple(texts)


class AssignMatch(Section):
    """Whom a tier is given to. A value or a list of values each; all that is given must hold."""

    ip: Annotated[Words, AfterValidator(_networks)] | None = Field(default=None, description="Addresses or networks.")
    api_key: ApiKeys | None = Field(default=None, description="API keys.")
    account: Words | None = Field(default=None, description="Names of identity.accounts.")
    token: Words | None = Field(default=None, description="Names of identity.tokens.")
    client: Words | None = Field(default=None, description="Clients that a verified JWT names.")

    @model_validator(mode="after")
    def _somebody(self) -> AssignMatch:
        if (self.ip, self.api_key, self.account, self.token, self.client) == (None,) * 5:
            raise ValueError("expected at least one of ip, api_key, account, token and client")
        return self


class AssignSection(Section):
    match: AssignMatch = Field(description="Whom it is given to.")
    tier: Name = Field(description="A name of identity.tiers.")

    def compiled(self, hashed: Hash) -> Assignment:
        """`hashed` makes of an API key what it is known by."""

        def many(words: tuple[str, ...] | None) -> frozenset[str] | None:
            return None if words is None else frozenset(words)

        match = self.match
        keys = None if match.api_key is None else frozenset(hashed(key.get_secret_value()) for key in match.api_key)
        networks = None if match.ip is None else tuple(network_of(text) for text in match.ip)
        return Assignment(self.tier, networks, keys, many(match.account), many(match.token), many(match.client))


class HeavySection(Section):
    """A stricter quota of a tier on some endpoints."""

    endpoints: Words = Field(description="Names of endpoints.")
    tier: Words = Field(description="Names of identity.tiers.")
    quota: RateText = Field(description="Such as 10/1m, for each client and endpoint.")

    @field_validator("endpoints")
    @classmethod
    def _endpoints_exist(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known: frozenset[str] = (info.context or {}).get("endpoints", frozenset())
        for name in value:
            if known and name not in known:
                raise ValueError(f"expected the name of an endpoint, got {name!r}{nearest(name, known)}")
        return value


class IdentitySection(Section):
    required: bool = Field(default=False, description="Whoever is not known gets 401.")
    hash_key: HashKey | None = Field(
        default=None, description="Keys the hashes of API keys; give several processes the same. Otherwise random."
    )
    accounts: dict[str, ApiKeys] = Field(default={}, description="The API keys of one account, by a name for it.")
    tokens: tuple[TokenSection, ...] = Field(
        default=(), strict=False, description="Who may show which X-Gateway-Token."
    )
    jwt: JwtSection | None = Field(
        default=None, description="How Authorization: Bearer is verified. Without it that header is the exchange's."
    )
    tiers: dict[str, TierSection] = Field(
        default={name: TierSection(**numbers) for name, numbers in PRESETS.items()},
        description="What a client may ask for. They replace the default ones.",
    )
    default_tier: Name | None = Field(default=None, description="Of everybody else; null: no quota of a tier.")
    assign: tuple[AssignSection, ...] = Field(
        default=(), strict=False, description="Who is given which tier; the first match wins."
    )
    heavy: tuple[HeavySection, ...] = Field(
        default=(), strict=False, description="Stricter quotas of a tier on some endpoints."
    )
    excluded_paths: tuple[str, ...] = Field(
        default=(), strict=False, description="Forwarded without spending a client's own quotas."
    )

    @field_validator("accounts", "tiers")
    @classmethod
    def _keys_are_names(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in value:
            if not _NAME.fullmatch(name):
                got = f", got {name!r}" if info.field_name == "tiers" else ""
                raise ValueError(f"expected names of letters, digits, '.', '_' or '-', at most 64{got}")
        return value

    @field_validator("excluded_paths")
    @classmethod
    def _paths_are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if "?" in path or target.refusal("GET", path) is not None or target.split(path)[0] != path:
                raise ValueError(f"expected a path such as /v5/market/time, without a query, got {path!r}")
        return value

    @model_validator(mode="after")
    def _all_is_of_a_piece(self) -> IdentitySection:
        found = [*self._tiers_exist(), *self._names_are_distinct(), *self._assignments_work()]
        nobody = not (self.tokens or self.accounts or self.assign or self.jwt)
        if self.required and nobody:
            found.append((("required",), "expected tokens, jwt, accounts or assign beside it: nobody could be known"))
        if found:
            raise Mistakes(found)
        return self

    def unknown_tier(self, name: str) -> str | None:
        """Why a tier of this name cannot be meant; None when it exists."""
        known = ", ".join(self.tiers) or "none"
        return None if name in self.tiers else f"expected the name of a tier ({known}), got {name!r}"

    def judge(self, limits: Sequence[LimitSection]) -> None:
        """Whether rules and tiers get on with each other. Raises Mistakes."""
        own = {quota.name for quota in self.quotas()}
        found: list[tuple[tuple[str | int, ...], str]] = []
        for number, rule in enumerate(limits):
            if rule.name in own:
                found.append(((number, "name"), f"expected another name, {rule.name!r} is a quota of a tier"))
            unknown = [self.unknown_tier(tier) for tier in rule.match.tier or ()]
            found += [((number, "match", "tier"), message) for message in unknown if message is not None]
        if found:
            raise Mistakes(found)

    def quotas(self) -> tuple[Quota, ...]:
        """The quotas of every tier that somebody can have."""
        given = {self.default_tier, *(rule.tier for rule in self.assign), *(token.tier for token in self.tokens)}
        tiers = [section.named(name) for name, section in self.tiers.items() if self.jwt is not None or name in given]
        heavy = [
            tier.heavy(rule.endpoints, rule.quota) for rule in self.heavy for tier in tiers if tier.name in rule.tier
        ]
        return (*(quota for tier in tiers for quota in tier.quotas()), *heavy)

    def _tiers_exist(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        named: list[tuple[tuple[str | int, ...], str | None]] = [(("default_tier",), self.default_tier)]
        named += [(("tokens", number, "tier"), token.tier) for number, token in enumerate(self.tokens)]
        named += [(("assign", number, "tier"), rule.tier) for number, rule in enumerate(self.assign)]
        named += [(("heavy", number, "tier"), tier) for number, rule in enumerate(self.heavy) for tier in rule.tier]
        for place, name in named:
            if name is not None and (message := self.unknown_tier(name)) is not None:
                yield place, message

    def _names_are_distinct(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        seen: dict[str, str] = {}
        for name in self.tiers:
            if (other := seen.setdefault(name.lower(), name)) != name:
                yield ("tiers", name), f"expected names that differ by more than capitals, there is {other!r} already"
        owners: dict[str, str] = {}
        for account, keys in self.accounts.items():
            for number, key in enumerate(keys):
                if owners.setdefault(key.get_secret_value(), account) != account:
                    yield ("accounts", account, number), "expected each API key in one account, this one is in two"
        names: dict[str, int] = {}
        digests: dict[bytes, int] = {}
        for number, token in enumerate(self.tokens):
            if (first := names.setdefault(token.name, number)) != number:
                yield ("tokens", number, "name"), f"expected a name of its own, tokens[{first}] has the same"
            if (first := digests.setdefault(token.digest(), number)) != number:
                yield ("tokens", number), f"expected a token of its own, tokens[{first}] has the same"
        met: set[tuple[str, str]] = set()
        for number, rule in enumerate(self.heavy):
            pairs = {(tier, endpoint) for tier in rule.tier for endpoint in rule.endpoints}
            for tier, endpoint in sorted(pairs & met):
                yield ("heavy", number), f"expected each endpoint once for a tier, {endpoint} of {tier} has a quota"
            met |= pairs

    def _assignments_work(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        known = {"token": {token.name for token in self.tokens}, "account": set(self.accounts)}
        for number, rule in enumerate(self.assign):
            for condition, names in known.items():
                for name in getattr(rule.match, condition) or ():
                    if name not in names:
                        listed = ", ".join(sorted(names)) or "none"
                        message = f"expected a name of identity.{condition}s ({listed})"  # and never what it might be
                        yield ("assign", number, "match", condition), message
            if rule.match.client is not None and self.jwt is None:
                message = "expected identity.jwt beside it: only a verified token names a client"
                yield ("assign", number, "match", "client"), message
        rules = [rule.compiled(lambda key: key) for rule in self.assign]
        for later, earlier, condition, value, around in unreachable(rules):
            tier = rules[earlier].tier
            if condition != "ip":
                why = f"assign[{earlier}] gives {tier} to the same {condition}"
            elif value == around:
                why = f"assign[{earlier}] gives {tier} to {value} already"
            else:
                why = f"{value} lies inside {around}, to which assign[{earlier}] gives {tier}"
            yield ("assign", later, "match", condition), f"can never be reached: {why}, and the first match wins"

"""JSON Web Tokens: which hold, which do not and why, and that nothing of one is ever told."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from policies.identity_schema import IdentitySection, JwtSection
from proxy import tokens
from proxy.config import Config, ConfigError, ListenSection, load, load_routes
from proxy.identity import Identifier, Identity, Rejected
from proxy.tokens import JwtVerifier, Verified
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes
from tests.recorder import recorder

NOW_S = 1_800_000_000
NOW_US = NOW_S * 1_000_000
SECRET = "a-shared-secret-of-32-bytes-long"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW_S + 60}


def pem(key: Any) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))


def private_pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def jwk(key: Any, **more: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), **more}


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


def raw(header: object, claims: object, signature: bytes = b"") -> str:
    def part(value: object) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{part(signature)}"


def shared(**settings: Any) -> JwtVerifier:
    return JwtVerifier(JwtSection.model_validate({"algorithms": ["HS256"], "secret": SECRET, **settings}))


@pytest.fixture
def rs(tmp_path: Path) -> JwtVerifier:
    path = tmp_path / "rsa.pem"
    path.write_bytes(pem(RSA_KEY))
    return JwtVerifier(JwtSection(algorithms=("RS256",), public_key_file=str(path)))


@pytest.fixture
def jwks(tmp_path: Path) -> JwtVerifier:
    path = tmp_path / "jwks.json"
    keys = [
        jwk(RSA_KEY, kid="r1", use="sig", alg="RS256"),
        jwk(OTHER_RSA, kid="r2"),
        jwk(EC_KEY, kid="e1"),
        jwk(RSA_KEY, kid="for-encryption", use="enc"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode(), "kid": "o1"},
    ]
    path.write_text(json.dumps({"keys": keys}))
    return JwtVerifier(JwtSection(algorithms=("RS256", "ES256"), jwks_file=str(path)))


def test_a_good_token_names_its_client_and_tier() -> None:
    assert shared().verify(sign(CLAIMS), NOW_US) == Verified("alice", None)
    assert shared().verify(sign(CLAIMS | {"tier": "FREE"}), NOW_US) == Verified("alice", "FREE")
    custom = shared(claims={"client": "azp", "tier": "plan"})
    assert custom.verify(sign({"azp": "app", "plan": "GOLD", "exp": NOW_S + 1}), NOW_US) == Verified("app", "GOLD")


def test_public_keys_verify_what_their_owner_signed(rs: JwtVerifier, jwks: JwtVerifier, tmp_path: Path) -> None:
    path = tmp_path / "ec.pem"
    path.write_bytes(pem(EC_KEY))
    es = JwtVerifier(JwtSection(algorithms=("ES256",), public_key_file=str(path)))
    alice = Verified("alice", None)

    assert rs.verify(sign(CLAIMS, RSA_KEY, "RS256"), NOW_US) == alice
    assert rs.verify(sign(CLAIMS, RSA_KEY, "RS256", kid="whatever"), NOW_US) == alice
    assert es.verify(sign(CLAIMS, EC_KEY, "ES256"), NOW_US) == alice
    assert jwks.verify(sign(CLAIMS, RSA_KEY, "RS256", kid="r1"), NOW_US) == alice
    assert jwks.verify(sign(CLAIMS, OTHER_RSA, "RS256", kid="r2"), NOW_US) == alice
    assert jwks.verify(sign(CLAIMS, EC_KEY, "ES256", kid="e1"), NOW_US) == alice
    assert jwks.verify(sign(CLAIMS, EC_KEY, "ES256"), NOW_US) == alice  # the only key of its kind


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (sign(CLAIMS, "another-secret-of-32-bytes-length"), "the token's signature does not fit"),
        (sign(CLAIMS)[:-2], "the token cannot be read"),
        (sign(CLAIMS) + "A", "the token's signature does not fit"),
        (sign(CLAIMS | {"exp": NOW_S}), "the token has expired"),
        (sign(CLAIMS | {"exp": NOW_S - 1}), "the token has expired"),
        (sign(CLAIMS | {"nbf": NOW_S + 1}), "the token is not valid yet"),
        (sign({"sub": "alice"}), "the token lacks a required claim"),
        (sign({"exp": NOW_S + 60}), "the token lacks a required claim"),
        (sign(CLAIMS | {"aud": "somebody"}), "the token is meant for another audience"),
        (sign(CLAIMS | {"sub": ""}), "the token's claim for the client is no name"),
        (sign(CLAIMS | {"sub": "a\nb"}), "the token's claim for the client is no name"),
        (sign(CLAIMS | {"sub": "a" * 129}), "the token's claim for the client is no name"),
        (sign(CLAIMS | {"tier": ["FREE"]}), "the token's claim for the tier is no name"),
        (sign(CLAIMS, SECRET * 2, "HS512"), "the token's algorithm is not accepted here"),
        (raw({"alg": "none"}, CLAIMS), "the token's algorithm is not accepted here"),
        (raw({"alg": "NONE", "typ": "JWT"}, CLAIMS), "the token's algorithm is not accepted here"),
        (raw({"alg": ""}, CLAIMS), "the token's algorithm is not accepted here"),
        (raw({"alg": ["HS256"]}, CLAIMS), "the token's algorithm is not accepted here"),
        (raw({}, CLAIMS), "the token's algorithm is not accepted here"),
        (raw({"alg": "HS256"}, CLAIMS), "the token's signature does not fit"),
        (raw({"alg": "HS256", "crit": ["x"]}, CLAIMS), "the token cannot be read"),
        (raw({"alg": "HS256", "b64": False}, b""), "the token cannot be read"),
        (raw([], CLAIMS), "the token cannot be read"),
        (raw(b"[" * 5000, CLAIMS), "the token cannot be read"),
        ("", "the token cannot be read"),
        ("..", "the token cannot be read"),
        ("a.b.c.d", "the token cannot be read"),
        ("\udcff\udcfe", "the token cannot be read"),
        ("x" * 8193, "the token is too long"),
    ],
)
def test_what_does_not_hold_is_refused_with_a_reason(token: str, why: str) -> None:
    assert shared().verify(token, NOW_US) == why


@pytest.mark.parametrize("exp", ["1900000000", None, True, float("nan"), float("inf"), [], {}])
def test_a_time_must_be_a_number(exp: object) -> None:
    answer = shared().verify(sign_anything(CLAIMS | {"exp": exp}), NOW_US)

    assert answer in {"a time in the token is no number", "the token lacks a required claim"}


def sign_anything(claims: object) -> str:
    """As sign(), for claims that a decent library would not sign."""
    begin = raw({"alg": "HS256"}, claims).rpartition(".")[0]
    signature = hmac.digest(SECRET.encode(), begin.encode(), "sha256")
    return f"{begin}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("claims", [[], "text", 5, None, b"[" * 3000, b"\xff"])
def test_signed_nonsense_is_nonsense(claims: object) -> None:
    assert shared().verify(sign_anything(claims), NOW_US) == "the token cannot be read"


def test_audience_and_issuer_must_be_the_ones_expected() -> None:
    one = shared(audience=["gateway", "other"], issuer="https://id.example")
    good = CLAIMS | {"aud": "gateway", "iss": "https://id.example"}

    def says(claims: dict[str, Any]) -> Verified | str:
        return one.verify(sign(claims), NOW_US)

    assert says(good) == says(good | {"aud": ["x", "other"]}) == Verified("alice", None)
    assert says(good | {"aud": "x"}) == "the token is meant for another audience"
    assert says(good | {"iss": "https://id.example.org"}) == "the token comes from another issuer"
    assert says({name: good[name] for name in ("sub", "exp", "iss")}) == "the token lacks a required claim"
    assert says({name: good[name] for name in ("sub", "exp", "aud")}) == "the token lacks a required claim"


def test_leeway_covers_clocks_that_differ() -> None:
    one = shared(leeway="10s")
    late, early = sign(CLAIMS | {"exp": NOW_S}), sign(CLAIMS | {"nbf": NOW_S})

    assert isinstance(one.verify(late, NOW_US + 9_999_999), Verified)
    assert one.verify(late, NOW_US + 10_000_000) == "the token has expired"
    assert one.verify(early, NOW_US - 10_000_001) == "the token is not valid yet"
    assert isinstance(one.verify(early, NOW_US - 10_000_000), Verified)


def test_a_public_key_is_no_shared_secret(rs: JwtVerifier, jwks: JwtVerifier) -> None:
    """The classic confusion: HMAC over the public key, which everybody has."""
    begin = raw({"alg": "HS256", "kid": "r1"}, CLAIMS).rpartition(".")[0]
    for known in (pem(RSA_KEY), pem(RSA_KEY).strip()):
        forged = base64.urlsafe_b64encode(hmac.digest(known, begin.encode(), "sha256")).rstrip(b"=").decode()
        assert rs.verify(f"{begin}.{forged}", NOW_US) == "the token's algorithm is not accepted here"
        assert jwks.verify(f"{begin}.{forged}", NOW_US) == "the token's algorithm is not accepted here"


@pytest.mark.parametrize(
    ("key", "algorithm", "header", "why"),
    [
        (OTHER_RSA, "RS256", {"kid": "r1"}, "the token's signature does not fit"),
        (RSA_KEY, "RS256", {"kid": "r3"}, "the token's key is not known here"),
        (RSA_KEY, "RS256", {"kid": "for-encryption"}, "the token's key is not known here"),
        (RSA_KEY, "RS256", {}, "the token's key is not known here"),  # two could be meant
        (RSA_KEY, "RS256", {"kid": "e1"}, "the token's key is not known here"),
        (EC_KEY, "ES256", {"kid": "r1"}, "the token's key is not known here"),
        (SECRET, "HS256", {"kid": "o1"}, "the token's algorithm is not accepted here"),
        (RSA_KEY, "PS256", {"kid": "r1"}, "the token's algorithm is not accepted here"),
        # A token that brings its own key, or says where to find it, is asked neither.
        (OTHER_RSA, "RS256", {"kid": "r1", "jwk": jwk(OTHER_RSA)}, "the token's signature does not fit"),
        (OTHER_RSA, "RS256", {"kid": "r1", "jku": "https://evil.example"}, "the token's signature does not fit"),
    ],
)
def test_the_set_of_keys_decides_and_not_the_token(
    jwks: JwtVerifier, key: Any, algorithm: str, header: dict[str, Any], why: str
) -> None:
    assert jwks.verify(sign(CLAIMS, key, algorithm, **header), NOW_US) == why


def test_what_was_verified_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    one, token = shared(), sign(CLAIMS)
    assert isinstance(one.verify(token, NOW_US), Verified)
    counted = []
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: counted.append(1) or {"sub": "mallory", "exp": 0})

    assert one.verify(token, NOW_US + 59_999_999) == Verified("alice", None)
    assert not counted
    assert one.verify(token, NOW_US + 60_000_000) == "the token has expired"
    assert token.encode() not in repr(one._good).encode()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_REMEMBERED", 10)
    one = shared()
    for number in range(30):
        one.verify(sign(CLAIMS | {"sub": f"c{number}"}), NOW_US)
    one.verify(raw({"alg": "none"}, CLAIMS), NOW_US)

    assert len(one._good) == 10


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: raw({"alg": "HS256"}, b)))
def test_no_text_is_a_token(text: str) -> None:
    assert isinstance(shared().verify(text, NOW_US), str)


@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_no_changed_token_is_good(place: int, character: str) -> None:
    """But for bits that base64 does not use."""
    token = sign(CLAIMS)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    last = place == len(token) - 1

    assert last or changed == token or isinstance(shared().verify(changed, NOW_US), str)


@pytest.mark.parametrize(
    ("source", "content", "algorithms", "why"),
    [
        ("secret_file", b"short", ["HS256"], "expected a secret of at least 32 bytes"),
        ("public_key_file", b"nonsense", ["RS256"], "expected a public key in PEM (-----BEGIN PUBLIC KEY-----)"),
        ("public_key_file", private_pem(RSA_KEY), ["RS256"], "expected a public key in PEM"),
        ("public_key_file", pem(RSA_KEY), ["ES256"], "expected a key for ES256, got one for RS256"),
        ("public_key_file", pem(EC_KEY), ["RS256", "ES256"], "expected a key for RS256 and ES256, got one for ES256"),
        (
            "public_key_file",
            pem(ec.generate_private_key(ec.SECP384R1())),
            ["ES256"],
            "expected a key for ES256, got one for neither",
        ),
        (
            "public_key_file",
            pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505
            ["RS256"],
            "expected an RSA key of at least 2048 bits, got 1024",
        ),
        ("jwks_file", b"[]", ["RS256"], 'expected a JSON Web Key Set: {"keys": [...]}'),
        ("jwks_file", b'{"keys": 5}', ["RS256"], "expected a public key for RS256 in the set"),
        ("jwks_file", b'{"keys": [{"kty": "RSA", "n": "!"}]}', ["RS256"], "keys[0] cannot"),
        (
            "jwks_file",
            json.dumps({"keys": [jwk(RSA_KEY, d="AQAB")]}).encode(),
            ["RS256"],
            "expected public keys only, keys[0] is private: it has no business here",
        ),
        (
            "jwks_file",
            json.dumps({"keys": [jwk(RSA_KEY, kid="a"), jwk(OTHER_RSA, kid="a")]}).encode(),
            ["RS256"],
            "expected a kid of its own for each key, keys[1] has that of another",
        ),
        ("jwks_file", json.dumps({"keys": [jwk(RSA_KEY)]}).encode(), ["ES256"], "a public key for ES256 in the set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",  # keys differ from process to process
)
def test_keys_that_are_of_no_use_are_found_when_the_configuration_is_checked(
    tmp_path: Path, source: str, content: bytes, algorithms: list[str], why: str
) -> None:
    path, config = tmp_path / "keys", tmp_path / "c.yaml"
    path.write_bytes(content)
    config.write_text(f"identity:\n  jwt:\n    algorithms: {algorithms}\n    {source}: {path}\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {}, load_routes())

    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{config}:4: identity.jwt.{source}: ")
    assert why in problem.message
    assert "nonsense" not in str(problem)


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    one = JwtVerifier(JwtSection(algorithms=("HS256",), secret_file=str(path)))

    assert isinstance(one.verify(sign(CLAIMS), NOW_US), Verified)


def test_another_key_in_the_file_is_another_configuration(tmp_path: Path) -> None:
    """So that a reload puts it into force."""
    path, config = tmp_path / "key.pem", tmp_path / "c.yaml"
    config.write_text(f"identity: {{jwt: {{algorithms: RS256, public_key_file: {path}}}}}\n")
    path.write_bytes(pem(RSA_KEY))
    first = load(config, {}, load_routes())
    again = load(config, {}, load_routes())
    path.write_bytes(pem(OTHER_RSA))

    assert first == again
    assert load(config, {}, load_routes()) != first


def identify(headers: dict[str, str], **identity: Any) -> Identity | Rejected:
    settings = {"jwt": {"algorithms": ["HS256"], "secret": SECRET}, **identity}
    one = Identifier(ListenSection(), IdentitySection.model_validate(settings), lambda: NOW_US)
    return one.who("192.0.2.1", CIMultiDict(headers))


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(CLAIMS | claims)}"}


@pytest.mark.parametrize(
    ("headers", "client", "tier"),
    [
        (bearer(), "jwt:alice", "PREMIUM"),  # by the rule that names the client
        (bearer(tier="FREE"), "jwt:alice", "FREE"),  # the claim goes before
        (bearer(sub="bob"), "jwt:bob", "INTERNAL"),
        (bearer() | {"X-Gateway-Token": "token-of-bot-a"}, "jwt:alice", "ENTERPRISE"),  # the token's before the rule
        (bearer(tier="FREE") | {"X-Gateway-Token": "token-of-bot-a"}, "jwt:alice", "FREE"),
        ({"Authorization": f"bEaReR   {sign(CLAIMS)}"}, "jwt:alice", "PREMIUM"),
        ({"Authorization": "Basic YTpi"}, "192.0.2.1", "INTERNAL"),  # not our business
        ({}, "192.0.2.1", "INTERNAL"),
    ],
)
def test_a_verified_token_says_who_asks(headers: dict[str, str], client: str, tier: str) -> None:
    who = identify(
        headers,
        tokens=[{"name": "bot-a", "token": "token-of-bot-a", "tier": "ENTERPRISE"}],
        assign=[{"match": {"client": "alice"}, "tier": "PREMIUM"}, {"match": {"ip": "192.0.2.1"}, "tier": "INTERNAL"}],
    )

    assert isinstance(who, Identity)
    assert (who.client, who.tier, who.bearer) == (client, tier, client.startswith("jwt:"))


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (bearer(tier="GOLD"), "the token's tier is not known here"),
        (bearer(exp=1), "the token has expired"),
        ({"Authorization": "Bearer "}, "the token cannot be read"),
        ({"Authorization": "Bearer x"}, "the token cannot be read"),
        (bearer() | {"X-Gateway-Token": "of-nobody"}, "the gateway token is not known"),
    ],
)
def test_a_token_that_does_not_hold_is_worse_than_none(headers: dict[str, str], why: str) -> None:
    who = identify(headers)

    assert isinstance(who, Rejected)
    assert who.detail == f"Not authorized: {why}"
    assert f'error="invalid_token", error_description="{why}"' in who.challenge


def test_two_authorizations_are_one_too_many() -> None:
    settings = IdentitySection.model_validate({"jwt": {"algorithms": ["HS256"], "secret": SECRET}})
    one = Identifier(ListenSection(), settings, lambda: NOW_US)
    headers = CIMultiDict([("Authorization", "Basic YTpi"), ("Authorization", bearer()["Authorization"])])

    assert isinstance(one.who("192.0.2.1", headers), Rejected)


JWT = {"algorithms": ["HS256"], "secret": SECRET}
LONG = {"sub": "alice", "exp": 4_000_000_000}
BOT_A = {"name": "bot-a", "token": "token-of-bot-a"}


def get(*lines: str, target: str = "/v5/market/time") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: me", *lines, "", ""]).encode()


async def test_what_spoke_to_us_ends_here() -> None:
    """A verified token is consumed; without identity.jwt the header is the exchange's business; ours never pass."""
    lines = [f"Authorization: Bearer {sign(LONG)}", "X-Gateway-Token: token-of-bot-a", "X-Mine: 1"]
    async with recorder() as exchange:
        async with gateway(exchange.url, identity__jwt=JWT, identity__tokens=[BOT_A]) as app:
            assert (await exchange_bytes(app.port, get(*lines))).status == 200
            assert (await exchange_bytes(app.port, get("Authorization: Basic YTpi"))).status == 200
        async with gateway(exchange.url, identity__tokens=[BOT_A]) as app:
            assert (await exchange_bytes(app.port, get(*lines))).status == 200

        ours = {b"authorization", b"x-gateway-token", b"x-mine"}
        assert [seen.names() & ours for seen in exchange.seen] == [
            {b"x-mine"},
            {b"authorization"},
            {b"authorization", b"x-mine"},
        ]


async def test_a_refused_token_is_told_in_words_that_clients_know(caplog: pytest.LogCaptureFixture) -> None:
    """401 with a challenge, in the exchange's envelope; the token nowhere in it, and nothing forwarded."""
    token = sign(LONG, "another-secret-of-32-bytes-length")
    async with recorder() as exchange, gateway(exchange.url, identity__jwt=JWT) as app:
        answer = await exchange_bytes(app.port, get(f"Authorization: Bearer {token}"))

        assert (answer.status, answer.get("X-Gateway")) == (401, "unauthorized")
        why = "the token's signature does not fit"
        assert answer.get("WWW-Authenticate") == (
            f'Bearer realm="bybit-gateway", error="invalid_token", error_description="{why}"'
        )
        body = json.loads(answer.body)
        assert (body["retCode"], body["retMsg"], body["result"], body["retExtInfo"], body["error"]) == (
            10007,
            f"Not authorized: {why}",
            {},
            {},
            "unauthorized",
        )
        assert answer.get("X-Request-Id")
        assert answer.get("Cache-Control") == "no-store"
        metrics = await exchange_bytes(app.port, get(target="/metrics"))
        for part in token.split("."):
            assert part.encode() not in answer.body + metrics.body
            assert part not in caplog.text
        assert not exchange.seen


async def test_where_identity_is_required_the_gateways_own_pages_stay_open() -> None:
    async with (
        recorder() as exchange,
        gateway(exchange.url, identity__tokens=[BOT_A], identity__required="true") as app,
    ):
        refused = await exchange_bytes(app.port, get())
        served = await exchange_bytes(app.port, get("X-Gateway-Token: token-of-bot-a"))

        assert (refused.status, refused.get("WWW-Authenticate")) == (401, 'X-Gateway-Token realm="bybit-gateway"')
        assert served.status == 200
        assert (await exchange_bytes(app.port, get(target="/health"))).status == 200
        assert len(exchange.seen) == 1


async def test_a_tier_is_refused_by_name_and_excluded_paths_are_not() -> None:
    """The burst at once, then 429 that names the quota; other clients and excluded paths go on."""
    settings = {"identity__default_tier": "FREE", "identity__excluded_paths": ["/v5/market/time"]}
    async with (
        recorder() as exchange,
        gateway(exchange.url, limits=[], identity__tokens=[BOT_A | {"tier": "PREMIUM"}], **settings) as app,
    ):
        kline = "/v5/market/instruments-info?category=linear"
        statuses = [(await exchange_bytes(app.port, get(target=kline))).status for _ in range(10)]
        refused = await exchange_bytes(app.port, get(target=kline))

        assert statuses == [200] * 10
        assert refused.status == 429
        assert refused.get("RateLimit-Policy") == '"tier-free-second";q=5;w=1'
        assert refused.get("Retry-After") == "1"
        assert (await exchange_bytes(app.port, get("X-Gateway-Token: token-of-bot-a", target=kline))).status == 200
        assert (await exchange_bytes(app.port, get())).status == 200


SECRETS = {
    "hash": "hash-key-planted-0001",
    "account": "api-key-planted-0002",
    "token": "token-planted-0003",
    "jwt": "jwt-secret-planted-0004-of-32-bytes",
    "assigned": "api-key-planted-0005",
}


def test_secrets_do_not_show_in_a_configuration() -> None:
    identity = {
        "hash_key": SECRETS["hash"],
        "accounts": {"main": [SECRETS["account"]]},
        "tokens": [{"name": "a", "token": SECRETS["token"]}],
        "jwt": {"algorithms": ["HS256"], "secret": SECRETS["jwt"]},
        "assign": [{"match": {"api_key": SECRETS["assigned"]}, "tier": "FREE"}],
    }
    config = Config.model_validate({"identity": identity})

    shown = repr(config) + str(config) + config.model_dump_json() + repr(config.model_dump())
    assert "planted" not in shown


@pytest.mark.parametrize(
    "identity",
    [
        "planted",
        {"hash_key": ["planted"]},
        {"hash_key": "planted"},
        {"hash_key": {"planted": "planted"}},
        {"accounts": "planted"},
        {"accounts": {"main": {"planted": 1}}},
        {"accounts": {"planted-1": "main", "planted-2": "main"}},  # the wrong way round
        {"accounts": {"planted": "a b"}},
        {"accounts": {"planted planted": "x"}},
        {"accounts": {"main": ["planted planted"]}},
        {"tokens": "planted"},
        {"tokens": ["planted"]},
        {"tokens": [{"name": "a", "token": "planted planted"}]},
        {"tokens": [{"name": "planted planted", "token": "planted-0"}]},
        {"tokens": [{"name": "a", "token": {"planted": 1}}]},
        {"tokens": [{"name": "a", "token": "planted"}]},
        {"tokens": [{"name": "a", "token_sha256": "planted"}]},
        {"tokens": [{"name": "a", "token": "planted-0", "token_sha256": "planted-1"}]},
        {"tokens": [{"name": "a", "token": "planted-0"}, {"name": "b", "token": "planted-0"}]},
        {"jwt": "planted"},
        {"jwt": {"algorithms": "planted", "secret": "planted"}},
        {"jwt": {"algorithms": "HS256", "secret": "planted"}},
        {"jwt": {"algorithms": "RS256", "secret": "planted" * 8}},
        {"assign": "planted"},
        {"assign": [{"match": "planted", "tier": "FREE"}]},
        {"assign": [{"match": {"token": "planted"}, "tier": "FREE"}]},
        {"assign": [{"match": {"account": "planted"}, "tier": "FREE"}]},
        {"assign": [{"match": {"api_key": "planted"}, "tier": "FREE"}] * 2},
        {"assign": [{"match": {"api_key": "planted planted"}, "tier": "FREE"}]},
    ],
)
def test_secrets_do_not_show_in_what_is_wrong_with_them(tmp_path: Path, identity: object) -> None:
    """From a file or from the environment, whatever the mistake."""
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"identity": identity}))
    variable = {"GATEWAY__IDENTITY": identity if isinstance(identity, str) else json.dumps(identity)}

    for source, environment in ((path, {}), (None, variable)):
        with pytest.raises(ConfigError) as caught:
            load(source, environment, load_routes())
        assert "planted" not in str(caught.value)
        assert "identity" in str(caught.value)

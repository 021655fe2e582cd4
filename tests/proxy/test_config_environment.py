"""The environment: every field can be set by it, or by a file that it names, and mistakes name the variable."""

from __future__ import annotations

import json
import os
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from proxy.__main__ import _without_files_of
from proxy.config import Config, load
from proxy.config_environment import FILE, PREFIX, SHORT_NAMES, _kinds, fields, overlay, variable
from proxy.config_problems import ConfigError
from proxy.yamlfile import Place
from tests.fake_bybit.tls import make_certificates
from tests.gateway_fixture import ROUTES
from tests.hidden import HIDDEN

SECRET = HIDDEN["a secret gone astray"]
LONG = "a-secret-of-more-than-thirty-two-characters"
TRIED = (
    *("7", "77", "60", "1", "100", "777777777", "true", "false", "7s", "2h", "200ms", "2s", "77d", "5MiB", "77MiB"),
    *("7/1s", "word", "http://127.0.0.1:7", "ws://127.0.0.1:7", "redis://127.0.0.1:7", "postgresql://h/d"),
    *("a-secret-of-more-than-thirty-two-characters", "[]", '["10.0.0.0/8"]', '["/elsewhere"]', "{}", "FREE", "RS256"),
    *("32KiB", "0.99", "99", "7777", "http://127.0.0.1:7/v1/traces", '{"main": ["a-key-of-an-account"]}'),
    *('[{"name": "bot", "token": "a-token-of-a-bot"}]', '[{"match": {"ip": "10.0.0.0/8"}, "tier": "FREE"}]'),
    *('[{"endpoints": "kline", "tier": "FREE", "quota": "7/1s"}]', '[{"endpoint": "order-create", "start": 7}]'),
    *("20000", "50000", "200000"),
)
"""Values of every kind that there is, beside the words that a type names. A field of a new kind needs one more."""


def problems(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, environment, ROUTES)
    return [str(problem) for problem in caught.value.problems]


def mistakes(environment: dict[str, str]) -> str:
    try:
        load(None, environment, ROUTES)
    except ConfigError as error:
        return str(error)
    return ""


def leaves() -> list[Place]:
    """Every field that holds no section, as the models have them."""
    return [place for place, kind in fields(Config) if not any(_is_section(each) for each in _kinds(kind))]


KINDS = dict(fields(Config))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def at(config: Config, place: Place) -> Any:
    return reduce(lambda value, part: None if value is None else getattr(value, str(part)), place, config)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("pem")
    make_certificates(directory, 1_800_000_000_000_000)
    return str(next(path for path in sorted(directory.iterdir()) if b"BEGIN CERTIFICATE" in path.read_bytes()))


def beside(place: Place, pem: str) -> dict[str, str]:
    """What a field cannot stand without."""
    tls = {"GATEWAY__STORE__URL": "rediss://h"}
    needs: dict[Place, dict[str, str]] = {
        ("workers",): {"GATEWAY__STORE__URL": "redis://h"},
        ("identity", "required"): {"GATEWAY__IDENTITY__ACCOUNTS": '{"main": ["a-key-of-an-account"]}'},
        ("store", "ca_file"): tls,
        ("store", "cert_file"): {**tls, "GATEWAY__STORE__KEY_FILE": pem},
        ("store", "key_file"): {**tls, "GATEWAY__STORE__CERT_FILE": pem},
        ("archive", "password"): {"GATEWAY__ARCHIVE__URL": "postgresql://user@h/d"},
        ("cache", "lock"): {"GATEWAY__STORE__URL": "redis://h"},
    }
    jwt = {"GATEWAY__IDENTITY__JWT__ALGORITHMS": '["HS256"]', "GATEWAY__IDENTITY__JWT__SECRET": LONG}
    keys = {
        ("identity", "jwt", "algorithms"): {"GATEWAY__IDENTITY__JWT__PUBLIC_KEY_FILE": pem},
        ("identity", "jwt", "secret"): {"GATEWAY__IDENTITY__JWT__ALGORITHMS": '["HS256"]'},
        ("identity", "jwt", "secret_file"): {"GATEWAY__IDENTITY__JWT__ALGORITHMS": '["HS256"]'},
        ("identity", "jwt", "public_key_file"): {"GATEWAY__IDENTITY__JWT__ALGORITHMS": '["RS256"]'},
        ("identity", "jwt", "jwks_file"): {"GATEWAY__IDENTITY__JWT__ALGORITHMS": '["RS256"]'},
    }
    if place[:2] == ("identity", "jwt"):
        return keys.get(place, jwt)
    return needs.get(place, {})


def loaded(environment: dict[str, str]) -> Config | None:
    try:
        return load(None, environment, ROUTES)
    except ConfigError:
        return None


@pytest.mark.parametrize("place", leaves(), ids=".".join)  # type: ignore[arg-type]
def test_every_field_can_be_set_by_a_variable_and_by_a_file(place: Place, pem: str, tmp_path: Path) -> None:
    """To something that is not its default, and which arrives."""
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [{"kty": "RSA", "kid": "a", "alg": "RS256", **_rsa()}]}))
    key = tmp_path / "key.pem"
    key.write_text(_public_key())
    words = tmp_path / "words"
    words.write_text(LONG)
    needed = {name: str(key) if name.endswith("PUBLIC_KEY_FILE") else text for name, text in beside(place, pem).items()}
    without = loaded(needed)
    before = at(without or Config(), place)
    name = variable(place)
    words_of = [str(word) for kind in _kinds(KINDS[place]) if get_origin(kind) is Literal for word in get_args(kind)]
    for text in (*words_of, *TRIED, pem, str(key), str(jwks), str(words)):
        config = loaded({**needed, name: text})
        if config is not None and at(config, place) not in (before, None):
            break
    else:
        pytest.fail(f"nothing that is tried here can be set by {name}")

    held = tmp_path / "held"
    held.write_text(f"{text}\n")
    if name + FILE not in {variable(other) for other in leaves()}:
        by_file = load(None, {**needed, name + FILE: str(held)}, ROUTES)
        assert at(by_file, place) == at(config, place)


def _rsa() -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwt.algorithms import RSAAlgorithm

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return {name: text for name, text in RSAAlgorithm.to_jwk(key, as_dict=True).items() if name in {"n", "e"}}


def _public_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def test_whole_sections_can_be_set_as_json(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text('\n[{"name": "bot", "token": "a-token-of-a-bot"}]\n')

    config = load(
        None,
        {
            "GATEWAY__IDENTITY__TOKENS_FILE": str(tokens),
            "GATEWAY__LISTEN": '{"port": 9000, "host": "127.0.0.1"}',
            "GATEWAY__LISTEN__PORT": "9001",
        },
        ROUTES,
    )

    assert [token.name for token in config.identity.tokens] == ["bot"]
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 9001), "a field wins over its section"


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_the_short_names_have_files_too(name: str, tmp_path: Path) -> None:
    texts = {"REDIS_URL": "redis://h/3", "LOG_LEVEL": "debug", "WORKERS": "1", "CACHE_TTL": "30"}
    held = tmp_path / "held"
    held.write_text(texts[name] + "\n")

    assert load(None, {name + FILE: str(held)}, ROUTES) == load(None, {name: texts[name]}, ROUTES)


FILES = [place for place in leaves() if str(place[-1]).endswith("_file")]


def test_there_are_fields_that_name_files_themselves() -> None:
    assert ("upstream", "ca_file") in FILES
    assert len(FILES) >= 7


@pytest.mark.parametrize("place", FILES, ids=".".join)  # type: ignore[arg-type]
def test_a_field_that_names_a_file_stays_that_field(place: Place, tmp_path: Path) -> None:
    """GATEWAY__UPSTREAM__CA_FILE is the path of a CA, not a file that holds the value of an upstream.ca."""
    held = tmp_path / "held"
    held.write_text("/somewhere/else\n")
    plain: dict[str, Any] = {}
    by_file: dict[str, Any] = {}
    assert overlay(plain, {variable(place): str(held)}, Config).problems == []
    assert overlay(by_file, {variable(place) + FILE: str(held)}, Config).problems == []

    def value(data: dict[str, Any]) -> Any:
        return reduce(lambda below, part: below[part], map(str, place), data)

    assert value(plain) == str(held)
    assert value(by_file) == "/somewhere/else"


@pytest.mark.parametrize(
    ("raw", "token"),
    [
        (b"a-token-of-an-admin", "a-token-of-an-admin"),
        (b"a-token-of-an-admin\n", "a-token-of-an-admin"),
        (b"a-token-of-an-admin\r\n", "a-token-of-an-admin"),
        (b"123456789\n", "123456789"),
        (b"0123456.9", "0123456.9"),
        (b"[1, 2, 3]", None),
        (b"{a-token}", "{a-token}"),
        (b"[a-token]", "[a-token]"),
    ],
)
def test_a_secret_may_look_like_anything(raw: bytes, token: str | None, tmp_path: Path) -> None:
    """Like a number, or a list; one newline at its end is the editor's. (Blanks a header cannot carry.)"""
    held = tmp_path / "token"
    held.write_bytes(raw)
    environment = {"GATEWAY__ADMIN__TOKEN_FILE": str(held)}
    if token is None:
        assert "expected printable ASCII" in problems(**environment)[0]
    else:
        given = load(None, environment, ROUTES).admin.token
        assert given is not None
        assert given.get_secret_value() == token


def test_only_one_newline_is_taken_off(tmp_path: Path) -> None:
    held = tmp_path / "password"
    held.write_text("pass \n\n")

    password = load(None, {"GATEWAY__STORE__PASSWORD_FILE": str(held)}, ROUTES).store.password

    assert password == SecretStr("pass \n")


def test_a_value_and_a_file_for_it_are_one_too_many(tmp_path: Path) -> None:
    held = tmp_path / "url"
    held.write_text("redis://h")

    assert problems(REDIS_URL="redis://a", REDIS_URL_FILE=str(held)) == [
        "environment REDIS_URL_FILE: store.url: expected either REDIS_URL or REDIS_URL_FILE, got both"
    ]
    both = "expected either GATEWAY__ADMIN__TOKEN or GATEWAY__ADMIN__TOKEN_FILE, got both"
    assert problems(GATEWAY__ADMIN__TOKEN="", GATEWAY__ADMIN__TOKEN_FILE=str(held)) == [
        f"environment GATEWAY__ADMIN__TOKEN_FILE: admin.token: {both}"
    ]


def test_the_long_name_wins_over_the_short_one_however_each_is_given(tmp_path: Path) -> None:
    held = tmp_path / "url"
    held.write_text("redis://by-file")

    assert load(None, {"REDIS_URL": "redis://a", "GATEWAY__STORE__URL_FILE": str(held)}, ROUTES).store.url == (
        "redis://by-file"
    )
    assert (
        load(None, {"REDIS_URL_FILE": str(held), "GATEWAY__STORE__URL": "redis://b"}, ROUTES).store.url == "redis://b"
    )


@pytest.mark.parametrize(
    "make", ["missing", "directory", "pipe", "long", "latin", "empty", "newline", "null", "forbidden"]
)
def test_a_file_that_cannot_be_used_is_named_and_not_repeated(make: str, tmp_path: Path) -> None:
    path = tmp_path / "held"
    match make:
        case "missing":
            expected = f"expected a file that can be read, '{path}' cannot: No such file or directory"
        case "directory":
            path.mkdir()
            expected = f"expected a file that can be read, '{path}' cannot: Is a directory"
        case "pipe":
            os.mkfifo(path)
            expected = f"expected a file, '{path}' is none"
        case "long":
            path.write_text(SECRET * 8192)
            expected = f"expected a file of at most 64 KiB, '{path}' is longer"
        case "latin":
            path.write_bytes(SECRET.encode() + b"\xe9")
            expected = f"expected text in UTF-8, '{path}' holds none at byte {len(SECRET)}"
        case "empty" | "newline":
            path.write_text("\n" if make == "newline" else "")
            expected = f"expected a value, '{path}' is empty"
        case "null":
            path.write_text("null\n")
            expected = f"expected a value, '{path}' says null"
        case _:
            path.write_text(SECRET)
            path.chmod(0)
            if os.access(path, os.R_OK):
                pytest.skip("root may read every file")
            expected = f"expected a file that can be read, '{path}' cannot: Permission denied"

    assert problems(GATEWAY__ADMIN__TOKEN_FILE=str(path)) == [
        f"environment GATEWAY__ADMIN__TOKEN_FILE: admin.token: {expected}"
    ]


@pytest.mark.parametrize("before", ["", "/", ".", "/half/"])
def test_a_secret_in_the_place_of_the_name_of_its_file_is_not_repeated(before: str) -> None:
    (problem,) = problems(GATEWAY__ADMIN__TOKEN_FILE=before + SECRET)

    assert "what it names cannot: No such file" in problem
    assert HIDDEN.found_in(problem.encode()) == []


@pytest.mark.parametrize("place", leaves(), ids=".".join)  # type: ignore[arg-type]
def test_what_a_file_holds_is_never_repeated_whatever_it_was_taken_for(place: Place, tmp_path: Path) -> None:
    """A path that is one line off puts the password where the port should be."""
    for text in (SECRET, f"[{SECRET}]", f'["{SECRET}"]', f'[{{"{SECRET}": 1}}]', f"redis://:{SECRET}@/@", "7000000007"):
        held = tmp_path / "held"
        held.write_text(text)
        told = mistakes({variable(place) + FILE: str(held)})
        assert HIDDEN.found_in(told.encode()) == []
        assert "7000000007" not in told


def test_a_mistake_in_a_file_names_the_variable_and_the_place(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_text("tiny")
    port = tmp_path / "port"
    port.write_text("700000")

    short = "expected at least 8 characters: a short secret can be guessed"
    assert problems(GATEWAY__ADMIN__TOKEN_FILE=str(held), GATEWAY__LISTEN__PORT_FILE=str(port)) == [
        "environment GATEWAY__LISTEN__PORT_FILE: listen.port: expected at most 65535",
        f"environment GATEWAY__ADMIN__TOKEN_FILE: admin.token: {short}",
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("LISTN__PORT", "listn.port: unknown key (did you mean GATEWAY__LISTEN__PORT?)"),
        ("LISTEN__PROT", "listen.prot: unknown key (did you mean GATEWAY__LISTEN__PORT?)"),
        ("ADMIN__TOKN_FILE", "admin.tokn_file: unknown key (did you mean GATEWAY__ADMIN__TOKEN?)"),
        ("ADMIN__X", "admin.x: unknown key; known here are host, token, port"),
        ("LISTEN__PORT__X", "listen.port.x: unknown key"),
        ("LIMITS__0__QUOTA", "limits.0.quota: unknown key"),
    ],
)
def test_an_unknown_variable_is_blamed_on_the_environment(name: str, told: str, tmp_path: Path) -> None:
    """Even beside a file that says something of the same section."""
    path = tmp_path / "c.yaml"
    path.write_text("listen: {port: 1}\nadmin: {port: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {f"{PREFIX}{name}": "1"}, ROUTES)

    (problem,) = map(str, caught.value.problems)
    assert problem.startswith(f"environment {PREFIX}{name}: {told}")


def test_nothing_known_is_like_it() -> None:
    assert problems(GATEWAY__FROBNICATE="1")[0].startswith(
        "environment GATEWAY__FROBNICATE: frobnicate: unknown key; known here are listen, admin, workers, "
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Of the file and of the environment, those that cannot even be read among them."""
    path = tmp_path / "c.yaml"
    path.write_text("log: {level: loud}\n")
    environment = {
        "GATEWAY__LIMITS": "[{",
        "GATEWAY__LISTN__PORT": "1",
        "GATEWAY__EGRESS__ID_FILE": str(tmp_path / "none"),
        "GATEWAY__QUEUE__MAX_WAITING": "many",
    }
    with pytest.raises(ConfigError) as caught:
        load(path, environment, ROUTES)
    told = "\n".join(map(str, caught.value.problems))

    for part in (f"{path}:1: log.level", "GATEWAY__LIMITS: ", "LISTN__PORT: ", "ID_FILE: ", "MAX_WAITING: "):
        assert part in told
    assert len(caught.value.problems) == 5

    path.write_text("log: {level: loud\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environment, ROUTES)
    assert len(caught.value.problems) == 4, "a file that cannot be read hides no mistake of a variable but of its value"


def test_what_kubernetes_says_of_a_service_named_gateway_is_none_of_ours() -> None:
    """It puts these into every pod of the namespace."""
    links = {
        "GATEWAY_PORT": "tcp://10.0.0.1:8080",
        "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GATEWAY_PORT_8080_TCP_PORT": "8080",
        "GATEWAY_PORT_8080_TCP_PROTO": "tcp",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "8080",
        "GATEWAY_SERVICE_PORT_HTTP": "8080",
        "REDIS_PORT": "tcp://10.0.0.2:6379",
        "REDIS_SERVICE_HOST": "10.0.0.2",
        "BYBIT_GATEWAY_PORT": "tcp://10.0.0.3:8080",
        "GATEWAY_CONFIG": "/etc/bybit-gateway/config.yaml",
    }

    assert load(None, links, ROUTES) == Config()


def test_ports_that_the_kernel_has_chosen_win_over_the_file_that_left_it_to_him(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What workers are told must not be one name too many."""
    monkeypatch.setenv("GATEWAY__LISTEN__PORT_FILE", "/run/secrets/port")
    monkeypatch.setenv("GATEWAY__ADMIN__TOKEN_FILE", "/run/secrets/token")

    left = _without_files_of({"GATEWAY__LISTEN__PORT": "12345"})

    assert "GATEWAY__LISTEN__PORT_FILE" not in left
    assert left["GATEWAY__ADMIN__TOKEN_FILE"] == "/run/secrets/token"

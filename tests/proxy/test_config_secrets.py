"""No message about a mistake in a configuration repeats a secret, wherever it stands instead of where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import load
from proxy.config_problems import ConfigError
from tests.gateway_fixture import ROUTES
from tests.hidden import HIDDEN

ASTRAY = HIDDEN["a secret gone astray"]
MISTAKES = [
    f"admin: {ASTRAY}",
    f"admin: {{token: [{ASTRAY}]}}",
    f"admin: {{token: {{a: {ASTRAY}}}}}",
    f"admin: {{token: *{ASTRAY}}}",
    f"admin: {{token: !{ASTRAY} x}}",
    f"admin: {{token: !!{ASTRAY} x}}",
    f"admin: {{token: '{ASTRAY}",
    f'admin: {{token: "{ASTRAY}\\q"}}',
    f"%{ASTRAY} x\n---\nadmin: 1",
    f"admin: {{token: `{ASTRAY}`}}",
    f"admin: {{token: @{ASTRAY}}}",
    f"admin: {{{ASTRAY}: token}}",
    f"admin: {{token {ASTRAY}}}",
    f"admin:\n  token {ASTRAY}\n  port: 1",
    f"admin:\n  token: {ASTRAY}\n  token: {ASTRAY}",
    f"admin: [{ASTRAY}]",
    f"admin: {{port: {ASTRAY}}}",
    f"admin: {{tokn: {ASTRAY}}}",
    f"admin: {{token: &{ASTRAY} *{ASTRAY}}}",
    f"admin: {{token: |{ASTRAY}\n x}}",
    f"admin:\n  token: |{ASTRAY}\n",
    f"admin:\n\ttoken: {ASTRAY}",
    f"admin: {{token: x}}\n--- {ASTRAY}\n",
    f"admin: {{token: {ASTRAY}é}}",
    f"store: {ASTRAY}",
    f"store: redis://:{ASTRAY}@h",
    f"store: [redis://:{ASTRAY}@h]",
    f"store: {{url: {ASTRAY}}}",
    f"store: {{url: 'redis://:{ASTRAY}@h:99999999'}}",
    f"store: {{url: 'redis://{ASTRAY}@/@/'}}",
    f"store: {{password: [{ASTRAY}]}}",
    f"store: {{url: 'redis://h', pasword: {ASTRAY}}}",
    f"store: {{url: ['redis://:{ASTRAY}@h']}}",
    f"store: {{url: 'redis://h/{ASTRAY}'}}",
    f"store: {{url: 'redis://h?password={ASTRAY}'}}",
    f"store: {{url: 'http://:{ASTRAY}@h'}}",
    f"store: {{url: 'redis:/{ASTRAY}@h'}}",
    f"store: {{url: 'redis://:{ASTRAY}'}}",
    f"cache: {ASTRAY}",
    f"cache: redis://:{ASTRAY}@h",
    f"cache: {{l2: {ASTRAY}}}",
    f"cache: {{l2: {{url: {ASTRAY}}}}}",
    f"cache: {{l2: {{url: 'redis://:{ASTRAY}@h:x'}}}}",
    f"cache: {{l2: {{secret: [{ASTRAY}]}}}}",
    f"cache: {{l2: {{url: 'redis://h', password: {ASTRAY}}}}}",
    f"cache: {{redis: 'redis://:{ASTRAY}@h'}}",
    f"archive: {ASTRAY}",
    f"archive: {{url: {ASTRAY}}}",
    f"archive: {{url: 'postgresql://a:{ASTRAY}@h'}}",
    f"archive: {{url: 'postgresql://a:{ASTRAY}@h:x/d'}}",
    f"archive: {{url: 'postgresql://h/d?password={ASTRAY}'}}",
    f"archive: {{url: 'postgresql://h/d?{ASTRAY}=1'}}",
    f"archive: {{url: 'postgresql://a:{ASTRAY}@h/d/e'}}",
    f"archive: {{url: ['x{ASTRAY}']}}",
    f"archive: {{password: {ASTRAY}}}",
    f"archive: {{url: 'postgresql://h/d?sslmode={ASTRAY}'}}",
    f"upstream: https://u:{ASTRAY}@h",
    f"upstream: {{url: 'https://u:{ASTRAY}@h'}}",
    f"upstream: {{stream_url: 'wss://u:{ASTRAY}@h'}}",
    f"upstream: {{url: ['https://u:{ASTRAY}@h']}}",
    f"upstream: {{url: 'https://u:{ASTRAY}'}}",
    f"upstream: {{url: 'https://h?api_key={ASTRAY}'}}",
    f"upstream: {{urls: 'https://u:{ASTRAY}@h'}}",
    f"upstream: {{pool: 'https://u:{ASTRAY}@h'}}",
    f"identity: {ASTRAY}",
    f"identity: {{hash_key: [{ASTRAY}]}}",
    f"identity: {{accounts: {ASTRAY}}}",
    f"identity: {{accounts: {{{ASTRAY}: main, {ASTRAY}: other}}}}",
    f"identity: {{accounts: {{main: {{{ASTRAY}: 1}}}}}}",
    f"identity: {{accounts: [{ASTRAY}]}}",
    f"identity: {{tokens: [{ASTRAY}]}}",
    f"identity: {{tokens: {{{ASTRAY}: x}}}}",
    f"identity: {{tokens: [{{name: a, token: {ASTRAY}}}, {{name: b, token: {ASTRAY}}}]}}",
    f"identity: {{tokens: [{{name: a, token: [{ASTRAY}]}}]}}",
    f"identity: {{tokens: [{{{ASTRAY}: a}}]}}",
    f"identity: {{tokens: [{{name: a, tokn: {ASTRAY}}}]}}",
    f"identity: {{jwt: {ASTRAY}}}",
    f"identity: {{jwt: {{algorithms: [HS256], secret: {ASTRAY[:20]}}}}}",
    f"identity: {{jwt: {{algorithms: [HS256], secret_file: {ASTRAY}}}}}",
    f"identity: {{jwt: {{algorithms: [{ASTRAY}], secret: x}}}}",
    f"identity: {{assign: [{{match: {{api_key: {ASTRAY}}}, tier: NOPE}}]}}",
    f"identity: {{assign: [{{match: {{api_keyy: {ASTRAY}}}, tier: FREE}}]}}",
    f"identity: {{assign: [{{match: {{api_key: {ASTRAY}}}}}, {{match: {{api_key: {ASTRAY}}}}}]}}",
    f"identity: {{assign: [{{match: {{token: {ASTRAY}}}, tier: FREE}}]}}",
    f"identity: {{assign: [{{match: {ASTRAY}, tier: FREE}}]}}",
    f"identity: {{hash_keys: {ASTRAY}}}",
    f"identity: {{accounts: {{main: [{ASTRAY}], other: [{ASTRAY}]}}}}",
    f"identity: {{assign: [{{match: {{account: {ASTRAY}}}, tier: FREE}}]}}",
    f"{ASTRAY}",
    f"{ASTRAY}: 1",
    f"[{ASTRAY}]",
    f"log: {ASTRAY}",
    f"limits: {ASTRAY}",
    f"token: {ASTRAY}",
]


@pytest.mark.parametrize("text", MISTAKES)
def test_no_mistake_in_a_file_makes_it_say_a_secret(tmp_path: Path, text: str) -> None:
    """Not where it stands in the wrong place, without its quotes, without its colon, or in place of a whole section."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, ROUTES)

    assert caught.value.problems
    assert HIDDEN.found_in(str(caught.value).encode()) == []


@pytest.mark.parametrize("name", ["ADMIN", "ADMIN__TOKEN", "STORE", "STORE__URL", "ARCHIVE__URL"])
@pytest.mark.parametrize("text", ["{}", "[{}", '{{"a": {}', "redis://:{}@", "https://u:{}@host"])
def test_nor_in_the_environment(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {f"GATEWAY__{name}": text.format(ASTRAY), "REDIS_URL": f"redis:{ASTRAY}"}, ROUTES)

    assert HIDDEN.found_in(str(caught.value).encode()) == []


def test_a_mistake_still_says_where_it_is_and_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"admin:\n  token {ASTRAY}:\nstore: redis://:{ASTRAY}@host\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, ROUTES)

    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "2: admin.?: unknown key; known here are host, token, port",
        "3: store: expected a mapping",
    ]

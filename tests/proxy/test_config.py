"""Configuration: a gallery of mistakes beside the exact message each earns, and what the environment may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from policies.admission import Counts, RefuseWith, WhenFull, WindowKind
from proxy import yamlfile
from proxy.__main__ import main
from proxy.advice import advice
from proxy.config import Config, load, load_routes
from proxy.config_problems import ConfigError
from proxy.config_schema import config_schema

ROUTES = load_routes()
ROOT = Path(__file__).parents[2]
GALLERY = sorted((ROOT / "tests" / "policies" / "bad").glob("*.yaml"))


def problems(path: Path | None, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environment, ROUTES)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_every_mistake_earns_its_message(path: Path) -> None:
    """File, line, place and what was expected; all mistakes of a file at once."""
    expected = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith(f"# {path.name}")]

    assert [problem.replace(f"{path.parent}/", "") for problem in problems(path)] == expected


def test_the_gallery_is_large() -> None:
    assert len(GALLERY) >= 60


def test_the_shipped_file_spells_out_the_defaults() -> None:
    """config.yaml documents what happens without it; neither may drift from the other."""
    assert load(ROOT / "config.yaml", {}, ROUTES) == load(None, {}, ROUTES) == Config()


def test_the_shipped_limits_are_the_promised_ones() -> None:
    config = load(ROOT / "config.yaml", {}, ROUTES)
    rules = {quota.name: quota for quota in (*config.quotas(Counts.UPSTREAM), *config.quotas(Counts.REQUESTS))}

    ip = rules["bybit-ip"]
    assert (ip.limit, ip.window_us, ip.partition) == (600, 5_000_000, ("egress",))
    assert (ip.window, ip.when_full, ip.refuse_with) == (WindowKind.HELD, WhenFull.WAIT, RefuseWith.BYBIT)
    assert {name: rules[name].limit for name in ("kline", "orderbook", "recent-trade", "tickers", "other-market")} == {
        "kline": 120,
        "orderbook": 50,
        "recent-trade": 60,
        "tickers": 60,
        "other-market": 100,
    }
    mine = rules["per-ip"]
    assert (mine.limit, mine.window_us, mine.when_full) == (300, 5_000_000, WhenFull.REFUSE)
    market = {route.endpoint for route in ROUTES.routes if route.path.startswith("/v5/market/")}
    limited = {name for rule in rules.values() if rule.match.endpoint for name in rule.match.endpoint}
    assert limited == market


def test_a_file_that_names_one_section_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("listen: {port: 9000}\n")

    config = load(path, {}, ROUTES)

    assert config.listen.port == 9000
    assert config.limits == Config().limits


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)

    assert load(path, {}, ROUTES) == Config()


def test_the_environment_overrides_any_field(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("listen: {port: 9000}\nupstream: {timeouts: {read: 7s}}\n")

    config = load(
        path,
        {
            "GATEWAY__LISTEN__PORT": "8081",
            "GATEWAY__UPSTREAM__URL": "http://127.0.0.1:9443",
            "GATEWAY__UPSTREAM__TIMEOUTS__CONNECT": "3s",
            "GATEWAY__LIMITS": '[{"name": "only", "quota": "5/1s", "match": {"endpoint": ["kline"]}}]',
            "GATEWAY__LISTEN__TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "GATEWAY__EGRESS__ID": "7",
            "GATEWAY__CACHE__ENABLED": "false",
            "GATEWAY__ADMIN__PORT": "null",
        },
        ROUTES,
    )

    assert config.listen.port == 8081
    assert config.upstream.url == "http://127.0.0.1:9443"
    assert (config.upstream.timeouts.connect, config.upstream.timeouts.read) == (3_000_000, 7_000_000)
    assert [rule.name for rule in config.limits] == ["only"]
    assert config.listen.trusted_proxies == ("10.0.0.0/8",)
    assert config.egress.id == "7"
    assert not config.cache.enabled
    assert config.admin.port is None


def test_the_short_names_work_and_the_long_ones_win() -> None:
    config = load(None, {"LOG_LEVEL": "debug", "CACHE_TTL": "30s", "WORKERS": "1", "REDIS_URL": "memory://"}, ROUTES)
    assert (config.log.level, config.cache.open_ttl) == ("debug", 30_000_000)

    config = load(None, {"LOG_LEVEL": "debug", "GATEWAY__LOG__LEVEL": "error", "CACHE_TTL": "30"}, ROUTES)
    assert (config.log.level, config.cache.open_ttl) == ("error", 30_000_000)


@pytest.mark.parametrize("text", ["&sup3rS3cret", "&sup3rS3cret # mine", "!!str &sup3rS3cret"])
def test_a_secret_that_yaml_takes_for_a_name_is_no_secret_that_is_missing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"log: {{level: info}}\nadmin:\n  token: {text}\n")
    assert problems(path) == [
        f"{path}:3: admin.token: expected a value, got a name for one: text that begins with & needs quotes"
    ]
    path.write_text("admin: {token: '&sup3rS3cret-and-more'}\n")
    assert load(path, {}, ROUTES).admin.token is not None


def test_mistakes_of_the_environment_name_the_variable() -> None:
    assert problems(None, GATEWAY__LISTEN__PORT="http") == [
        "environment GATEWAY__LISTEN__PORT: listen.port: expected a whole number, got 'http'"
    ]
    assert problems(None, GATEWAY__LISTEN__PROT="1")[0].startswith(
        "environment GATEWAY__LISTEN__PROT: listen.prot: unknown key"
    )
    assert problems(None, GATEWAY__LIMITS='[{"name": "a"}]') == [
        "environment GATEWAY__LIMITS: limits[0].quota: expected a value, it is missing"
    ]
    assert problems(None, GATEWAY__LIMITS="[{")[0].startswith("environment GATEWAY__LIMITS: limits: not readable")
    assert problems(None, WORKERS="2")[0].startswith("environment WORKERS: workers: expected 1")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]
    (tmp_path / "latin.yaml").write_bytes(b"log: {level: caf\xe9}")
    assert problems(tmp_path / "latin.yaml") == [f"{tmp_path}/latin.yaml: not UTF-8 at byte 16"]


def test_a_bomb_of_aliases_is_refused() -> None:
    """A few lines must not mean millions of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    document = yamlfile.parse("\n".join(lines), "bomb.yaml")

    assert [problem.message for problem in document.problems] == ["too large or too deep for a configuration"]


@pytest.mark.parametrize(
    ("url", "risky"),
    [
        ("https://api.bybit.com", False),
        ("http://127.0.0.1:9443", False),
        ("http://[::1]:9443", False),
        ("http://localhost:9443", False),
        ("http://10.0.0.5:9443", True),
        ("http://egress.internal", True),
    ],
)
def test_plain_http_beyond_this_machine_is_noticed(url: str, *, risky: bool) -> None:
    assert load(None, {"GATEWAY__UPSTREAM__URL": url}, ROUTES).upstream.plain_and_remote is risky


def test_check_reports_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("listen: {port: http}\nlog: {level: loud}\n")

    assert main(["check", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"{path}:1: listen.port" in error
    assert f"{path}:2: log.level" in error
    assert "2 problems; nothing was started." in error


def test_check_says_what_would_be_enforced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(ROOT / "config.yaml"), "check"]) == 0
    output = capsys.readouterr().out
    assert "bybit-ip: 600 in 5s per egress, counts upstream, held, waits" in output
    assert "The configuration is good." in output


def test_check_says_what_is_on_beside_the_limits_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--config", str(ROOT / "config.yaml"), "check"]) == 0
    output = capsys.readouterr().out
    for line in ("streams: to wss://stream.bybit.com, 400 new in 5m", "archive: off", "backpressure: turns away"):
        assert f"  {line}" in output
    for line in ("usage: counted, kept for 90d", "tracing: off", "pages: on the traffic port, without admin.token"):
        assert f"  {line}" in output

    monkeypatch.setenv("GATEWAY__ADMIN__TOKEN", "a-token-of-an-admin")
    monkeypatch.setenv("GATEWAY__ADMIN__PORT", "8081")
    for section in ("STREAMS", "BACKPRESSURE", "USAGE", "CACHE"):
        monkeypatch.setenv(f"GATEWAY__{section}__ENABLED", "false")
    assert main(["--config", str(ROOT / "config.yaml"), "check"]) == 0
    output = capsys.readouterr().out
    assert "  pages: on 127.0.0.1:8081, admin.token is set" in output
    for word in ("streams", "backpressure", "usage", "cache"):
        assert f"  {word}: off" in output
    assert "a-token-of" not in output


def warnings(**environment: str) -> list[str]:
    return list(advice(load(None, {f"GATEWAY__{name}": value for name, value in environment.items()}, ROUTES)))


def test_check_warns_of_what_is_allowed_and_looks_like_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("limits: []\nupstream: {url: http://egress.internal}\n")

    assert main(["check", "--config", str(path)]) == 0
    output = capsys.readouterr().out
    assert "warning: upstream.url: http://egress.internal is plain http beyond this machine" in output
    assert "warning: limits: no rule counts all that is sent" in output
    assert "The configuration is good." in output


@pytest.mark.parametrize(
    ("host", "url", "itself"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080", True),
        ("127.0.0.1", "http://localhost:8080", True),
        ("::", "http://[::1]:8080", True),
        ("localhost", "http://0.0.0.0:8080", True),
        ("10.1.2.3", "http://10.1.2.3:8080", True),
        ("10.1.2.3", "http://127.0.0.1:8080", False),
        ("0.0.0.0", "http://127.0.0.1:8081", False),
        ("0.0.0.0", "http://10.1.2.4:8080", False),
        ("0.0.0.0", "https://127.0.0.1", False),
        ("0.0.0.0", "https://api.bybit.com", False),
    ],
)
def test_a_gateway_before_itself_is_warned_of(host: str, url: str, itself: bool) -> None:
    told = warnings(UPSTREAM__URL=url, LISTEN__HOST=host, LISTEN__PORT="8080")
    assert any("upstream.url" in line and "this gateway itself" in line for line in told) is itself


def test_the_shipped_file_earns_no_warning() -> None:
    assert warnings() == []


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({}, False),
        ({"partition": []}, False),
        ({"shadow": True}, True),
        ({"counts": "requests"}, True),
        ({"partition": ["egress", "endpoint"]}, True),
        ({"match": {"endpoint": "kline"}}, True),
    ],
)
def test_an_address_that_nothing_protects_is_warned_of(fields: dict[str, object], *, warned: bool) -> None:
    limits = json.dumps([{"name": "a", "quota": "600/5s", **fields}])
    assert any("nothing keeps this address from a ban" in text for text in warnings(LIMITS=limits)) is warned


@pytest.mark.parametrize(
    ("quota", "warned"), [("600/5s", False), ("121/1s", True), ("1000/10s", False), ("7000/1m", False)]
)
def test_one_client_that_may_ask_for_more_than_there_is_is_warned_of(quota: str, *, warned: bool) -> None:
    rules = [
        {"name": "ip", "quota": "600/5s"},
        {"name": "mine", "quota": quota, "partition": ["ip"], "counts": "requests"},
    ]
    expected = "limits: mine lets one address ask for 121 in 1s, more than ip has for everybody (600 in 5s)"
    assert warnings(LIMITS=json.dumps(rules)) == ([expected] if warned else [])


@pytest.mark.parametrize(
    ("url", "stream_url", "warned"),
    [
        ("https://api.bybit.com", "wss://stream.bybit.com", False),
        ("https://api.bytick.com", "wss://stream.bybit.com", False),
        ("https://api-testnet.bybit.com", "wss://stream-testnet.bybit.com", False),
        ("https://api-testnet.bybit.com", "wss://stream.bybit.com", True),
        ("http://127.0.0.1:9443", "wss://stream.bybit.com", True),
    ],
)
def test_streams_of_another_exchange_are_warned_of(url: str, stream_url: str, *, warned: bool) -> None:
    places = {"UPSTREAM__URL": url, "UPSTREAM__STREAM_URL": stream_url}
    assert any("of another exchange" in text for text in warnings(**places, CANDLES__STREAM="true")) is warned
    assert warnings(**places) == []


def test_one_fetch_for_all_needs_a_redis() -> None:
    assert any("cache.lock: always, without a Redis" in text for text in warnings(CACHE__LOCK="always"))
    assert warnings(CACHE__LOCK="always", CACHE__L2__URL="redis://:secret@127.0.0.1") == []


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"CACHE__L2__URL": "redis://127.0.0.1"}, "cache.l2.secret"),
        ({"CACHE__ENABLED": "false", "CANDLES__STREAM": "true"}, "candles.stream: of no effect"),
        ({"CACHE__ENABLED": "false", "ARCHIVE__URL": "postgresql://u@db/x"}, "archive.url: of no effect"),
        ({"CACHE__OPEN_TTL": "5m"}, "cache.open_ttl: 5m"),
    ],
)
def test_what_the_cache_is_told_and_looks_like_a_mistake(environment: dict[str, str], place: str) -> None:
    assert [text for text in warnings(**environment) if text.startswith(place)]
    assert warnings(CACHE__L2__URL="redis://127.0.0.1", CACHE__L2__SECRET="a-secret-of-16-characters") == []


@pytest.mark.parametrize(
    "match",
    [
        {"endpoint": "kline", "path": "/v5/market/kline", "method": ["GET", "HEAD"], "signed": False},
        {"endpoint": ["kline", "order-create"], "method": "POST", "signed": True},
        {"endpoint": ["kline", "order-create"], "signed": False},
        {"endpoint": "unknown", "path": "/v9/new", "method": "DELETE"},
        {"endpoint": ["unknown", "kline"], "path": "/v9/new"},
        {"path": "/v5/market/kline", "method": "POST"},
        {"method": ["CONNECT", "GET"]},
    ],
)
def test_a_match_that_something_can_meet_is_good(match: dict[str, object]) -> None:
    limits = json.dumps([{"name": "a", "quota": "1/s", "match": match}])
    assert load(None, {"GATEWAY__LIMITS": limits}, ROUTES).limits[0].match.everything is False


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ({"method": "CONNECT"}, "CONNECT is refused before any rule is asked"),
        ({"path": ["/a#b", "/ü"]}, "/a#b or /ü is no path that a forwarded request can have"),
        (
            {"endpoint": ["kline", "order-create"], "path": "/v5/market/kline", "method": "POST"},
            "kline or order-create is asked with GET or HEAD, not POST",
        ),
    ],
)
def test_a_match_that_nothing_can_meet_says_why(match: dict[str, object], why: str) -> None:
    limits = json.dumps([{"name": "a", "quota": "1/s", "match": match}])
    assert problems(None, GATEWAY__LIMITS=limits) == [
        f"environment GATEWAY__LIMITS: limits[0].match: can never match: {why}"
    ]


SCHEMA = json.loads(config_schema(ROUTES))

GOOD = [
    "archive: {url: 'postgresql://user:p%40ss@db:5433/candles?sslmode=verify-full', retention: 3650d, serve: false}",
    "archive: {url: 'postgres:///candles?host=/run/postgresql', password: a-password}",
    "listen: {port: 9000, trusted_proxies: [10.0.0.0/8, '::1']}",
    "egress: {id: 7}",
    "admin: {port: 9090}\nupstream: {ca_file: null, prewarm: 3, timeouts: {read: 250ms}}",
    "limits: [{name: 1, quota: 10/s, partition: ip, match: {endpoint: kline, method: [GET, HEAD]}}]",
    "limits: [{name: a, quota: 3000000/1h, burst: 5, counts: requests, partition: [], shadow: true}]",
    "limits: [{name: a, quota: 5/1s, window: held, when_full: refuse, refuse_with: bybit, match: {signed: true}}]",
    "cache: {enabled: false, open_ttl: 0s, l1: {max_bytes: 10MB}}\nlog: {level: debug, format: console}",
    "cache: {rules: [{endpoint: tickers, ttl: 500ms, stale: 0s}, {endpoint: [open-interest], ttl: 1h, boundary: 1h}]}",
    "cache: {rules: [], lock: always, l2: {url: 'rediss://:pw@a:7000/1', secret: 0123456789abcdef}}",
    "candles: {shadow: 5, stream: true, boundary: {enabled: false}}\nupstream: {stream_url: 'ws://127.0.0.1:9443/'}",
    "identity: {default_tier: FREE, assign: [{match: {ip: 10.0.0.0/8}, tier: INTERNAL}]}",
    "identity: {tiers: {S: {second: 1}}, heavy: [{endpoints: kline, tier: S, quota: 1/1m}], default_tier: S}",
    "identity: {accounts: {main: one-key}, tokens: [{name: bot, token: 0123456789abcdef0123456789abcdef, tier: FREE}]}",
    "identity: {jwt: {algorithms: HS256, secret: 0123456789abcdef0123456789abcdefg}}",
]
"""What editors must not call wrong."""

BEYOND_A_SCHEMA = {
    "archive_flush_of_an_hour",
    "archive_option_unknown",
    "archive_password_without_url",
    "archive_queue_below_batch",
    "archive_retention_for_ever",
    "archive_retention_of_hours",
    "archive_socket_and_host",
    "archive_timeout_of_a_minute",
    "archive_tls_word",
    "backpressure_calm_of_an_hour",
    "backpressure_critical_below_high",
    "breaker_exempts_everything",
    "breaker_exempts_own_page",
    "breaker_exempts_what_nobody_asks",
    "bucket_without_burst",
    "burst_above_quota",
    "burst_without_bucket",
    "ca_file_missing",
    "cache_l2_of_large_values",
    "cache_l2_secret_too_short",
    "cache_l2_slow",
    "cache_rule_boundary_of_seven_minutes",
    "cache_rule_for_a_week",
    "cache_rule_live_for_a_minute",
    "cache_rule_twice",
    "cache_stale_for_long",
    "candles_stream_of_an_hour",
    "header_of_nothing",
    "held_for_requests",
    "lifetime_too_long",
    "limit_upstream_of_own_page",
    "match_endpoint_and_other_path",
    "match_method_never_used",
    "match_path_with_two_slashes",
    "match_unsigned_on_private",
    "match_unsigned_per_key",
    "name_of_our_own",
    "one_port_for_both",
    "pacing_category_of_none",
    "pacing_endpoint_public",
    "pacing_endpoint_unlisted",
    "pacing_floor_above_ceiling",
    "pacing_of_own_page",
    "pacing_start_above_ceiling",
    "partition_doubled",
    "proxies_no_network",
    "quota_window_too_short",
    "rules_of_one_name",
    "store_ca_without_tls",
    "store_key_without_certificate",
    "store_no_such_ca",
    "store_open_without_word",
    "store_slow",
    "store_state_file_nowhere",
    "upstream_host_with_two_dots",
    "usage_flush_of_an_hour",
    "usage_retention_of_hours",
    "workers_without_store",
}
"""What takes more than the shape of a value to see: `check` finds it."""


def as_editors_read(text: str) -> Any:
    """YAML 1.2 as yaml-language-server reads it: `on` and `yes` are words."""
    return yamlfile.parse(text, "a file").data


def test_the_schema_in_the_repository_is_the_one_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert (ROOT / "config.schema.json").read_bytes() == config_schema(ROUTES)
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.encode() == config_schema(ROUTES)


def test_a_schema_that_is_out_of_date_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["schema", "--check"]) == 1
    assert "python -m proxy schema > config.schema.json" in capsys.readouterr().err
    (tmp_path / "config.schema.json").write_bytes(config_schema(ROUTES))
    assert main(["schema", "--check"]) == 0


def test_the_schema_is_one_and_describes_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    sections = [SCHEMA, *(model for model in SCHEMA["$defs"].values() if model["type"] == "object")]
    for section in sections:
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field.get("description"), f"{name} says nothing"


@pytest.mark.parametrize("text", [(ROOT / "config.yaml").read_text(), *GOOD])
def test_the_schema_takes_what_the_gateway_takes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    load(path, {}, ROUTES)

    jsonschema.validate(as_editors_read(text), SCHEMA, jsonschema.Draft202012Validator)
    jsonschema.validate(yaml.safe_load(text), SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_the_schema_sees_most_mistakes(path: Path) -> None:
    document = yamlfile.parse(path.read_text(), path.name)
    if document.problems or path.stem in BEYOND_A_SCHEMA or "identity" in path.stem:
        return
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document.data, SCHEMA, jsonschema.Draft202012Validator)


def test_the_defaults_in_the_schema_are_written_as_an_operator_writes_them() -> None:
    cache, pool = SCHEMA["$defs"]["CacheSection"]["properties"], SCHEMA["$defs"]["PoolSection"]["properties"]
    assert cache["closed_ttl"]["default"] == "7d"
    assert pool["keepalive"]["default"] == "1m"
    assert SCHEMA["$defs"]["L1Section"]["properties"]["max_bytes"]["default"] == "64MiB"
    assert "default" not in SCHEMA["properties"]["limits"]

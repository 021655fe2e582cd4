"""Configuration: a gallery of mistakes beside the exact message each earns, and what the environment may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.admission import Counts, RefuseWith, WhenFull, WindowKind
from proxy import yamlfile
from proxy.__main__ import main
from proxy.config import Config, ConfigError, load, load_routes

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
    assert len(GALLERY) >= 40


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
    assert problems(None, GATEWAY__LIMITS="[{")[0].startswith("environment GATEWAY__LIMITS: not readable as JSON")
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

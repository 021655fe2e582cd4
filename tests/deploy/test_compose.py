"""What the compose files promise, read from the files: hardening, bounds, ports, passwords. No engine is needed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as NotThere
from redis.retry import Retry

from proxy.config import load, load_routes
from proxy.workers import drain_seconds
from tests.deploy.stacks import COMPOSE, ROOT, STACKS, Service, document, every_service, filled_in, services, variables
from tests.redis_servers import needs_redis, wait_until
from tests.redis_servers.ports import reserve_port

EVERY = [pytest.param(stack, name, service, id=f"{stack}:{name}") for stack, name, service in every_service()]
PROMETHEUS = ROOT / "deploy" / "prometheus"


@pytest.mark.parametrize(("stack", "name", "service"), EVERY)
def test_every_service_is_hardened(stack: str, name: str, service: Service) -> None:
    """No capability, no way to one, nothing to write but what it needs, no root: each exception stands here with its
    reason."""
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    writable = {("compose.dev.yaml", "gateway")}  # watch copies changed files in
    assert service["read_only"] is ((stack, name) not in writable)
    user = service["user"].partition(":")[0]
    assert (user in {"0", "root"}) == (name == "cadvisor" or (stack, name) in writable), "cgroups are root's"
    assert not {"privileged", "pid", "network_mode", "ipc", "devices"} & service.keys()
    assert not any("docker.sock" in str(volume) or "/run:" in str(volume) for volume in service.get("volumes", ()))


@pytest.mark.parametrize(("stack", "name", "service"), EVERY)
def test_every_service_has_bounds_a_probe_and_an_end_to_its_log(stack: str, name: str, service: Service) -> None:
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"].keys() >= {"test", "interval", "timeout", "retries", "start_period"}
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "20m", "max-file": "5"}}


@pytest.mark.parametrize(("stack", "name", "service"), EVERY)
def test_every_image_is_pinned_and_can_be_pinned_further(stack: str, name: str, service: Service) -> None:
    """To a full version, and by a variable, so that a digest can be put behind it."""
    assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[^:}]+:v?\d+\.\d+(\.\d+)?\}", service["image"]), service["image"]


@pytest.mark.parametrize(("stack", "name", "service"), EVERY)
def test_nothing_is_published_beyond_this_machine_unless_somebody_says_so(
    stack: str, name: str, service: Service
) -> None:
    published = [filled_in(port) for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published), published
    movable = [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")]
    traffic = "nginx" if stack == "compose.scale.yaml" else "gateway"
    assert (len(movable) == 1) == (name == traffic), "the clients' port, and no other"
    assert all(port.endswith(":8080") for port in movable)


@pytest.mark.parametrize(("stack", "name", "service"), EVERY)
def test_secrets_are_files_and_nowhere_else(stack: str, name: str, service: Service) -> None:
    """Not in the environment nor among arguments, which others can read; and every file that is named is mounted."""
    environment: dict[str, str] = service.get("environment", {})
    assert not [
        key for key in environment if re.search("PASSWORD|TOKEN|SECRET|REDIS_URL|L2__URL", key) and "_FILE" not in key
    ]
    mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
    spoken = " ".join(map(str, [*environment.values(), service.get("entrypoint"), service.get("command")]))
    assert set(re.findall(r"/run/secrets/[\w-]+", spoken)) == mounted
    assert "://:" not in spoken
    for secret in service.get("secrets", ()):
        assert document(stack)["secrets"][secret] == {"file": f"secrets/{secret}"}


def test_it_starts_in_the_order_of_health() -> None:
    """Whoever is needed is healthy first."""
    scale = services("compose.scale.yaml")
    needed = {name: set(service.get("depends_on", {})) for name, service in scale.items()}
    assert needed["nginx"] == {"gateway"}
    assert needed["gateway"] == {"redis", "redis-cache", "postgres"}
    for _, _, service in every_service():
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}


def test_what_is_stopped_has_the_time_to_drain() -> None:
    """A gateway as long as it takes at the very most, and nginx as long as the gateways behind it."""
    seconds = drain_seconds(load(COMPOSE / "config" / "config.yaml", {}, load_routes()))
    for stack in STACKS:
        for name, service in services(stack).items():
            if name in {"gateway", "nginx"}:
                assert int(service["stop_grace_period"].removesuffix("s")) > seconds


def test_the_replicas_share_one_budget() -> None:
    """One store, as many shares as there can be gateways, and only nginx is believed about clients' addresses."""
    gateway = services("compose.scale.yaml")["gateway"]
    environment = {name: filled_in(value) for name, value in gateway["environment"].items()}
    ranges = document("compose.scale.yaml")["networks"]["inside"]["ipam"]["config"]
    assert environment["REDIS_URL_FILE"] == "/run/secrets/redis-url"
    assert int(environment["GATEWAY__STORE__REPLICAS"]) >= int(filled_in(gateway["deploy"]["replicas"]))
    assert environment["GATEWAY__LISTEN__TRUSTED_PROXIES"] == f'["{filled_in(ranges[0]["subnet"])}"]'
    assert "ports" not in gateway
    assert document("compose.scale.yaml")["networks"]["data"] == {"internal": True}


@pytest.mark.parametrize("stack", ["compose.redis.yaml", "compose.scale.yaml"])
def test_the_configuration_of_a_stack_is_one_that_the_gateway_takes(stack: str, tmp_path: Path) -> None:
    """The mounted file with the service's environment, its secrets in place."""
    subprocess.run([COMPOSE / "make-secrets", tmp_path], check=True, timeout=30)
    environment = {
        name: filled_in(value).replace("/run/secrets", str(tmp_path))
        for name, value in services(stack)["gateway"]["environment"].items()
        if name != "GATEWAY_CONFIG"
    }
    config = load(COMPOSE / "config" / "config.yaml", environment, load_routes())

    assert (config.store.address.kind.name, config.store.address.password) == (
        "REDIS",
        (tmp_path / "redis-password").read_text().strip(),
    )
    assert config.egress.id == "default"


def test_the_example_names_every_variable_with_its_default_and_no_other() -> None:
    lines = (COMPOSE / ".env.example").read_text(encoding="utf-8").splitlines()
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert named == variables()


def test_passwords_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    """The directory is closed to others; files can be read where they are mounted. What is there is kept, what is
    derived is made again."""
    directory = tmp_path / "secrets"

    def made() -> dict[str, str]:
        subprocess.run([COMPOSE / "make-secrets", directory], check=True, timeout=30)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
        return {path.name: path.read_text().strip() for path in directory.iterdir()}

    first = made()
    (directory / "redis-password").unlink()
    second = made()

    used = {secret for stack in STACKS for secret in document(stack).get("secrets", {})}
    assert first.keys() == used
    assert all(re.fullmatch("[0-9a-f]{48}", value) for name, value in first.items() if not name.endswith("-url"))
    assert len(set(first.values())) == len(first)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"redis-password", "redis-url", "redis-cache-url"}
    assert second["redis-url"] == f"redis://:{second['redis-password']}@redis:6379/0"
    assert second["redis-cache-url"] == f"redis://:{second['redis-password']}@redis-cache:6379/0"


def test_git_never_sees_a_password() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    ignored = ["deploy/compose/secrets/redis-password", "deploy/compose/.env"]
    done = subprocess.run(
        ["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.split() == ignored


@needs_redis
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("redis.conf", {"maxmemory-policy": "noeviction", "appendonly": "yes", "maxmemory": str(256 << 20)}),
        ("redis-cache.conf", {"maxmemory-policy": "allkeys-lru", "appendonly": "no", "maxmemory": str(512 << 20)}),
    ],
)
def test_a_real_redis_takes_its_configuration(name: str, kept: dict[str, str], tmp_path: Path) -> None:
    """With the password by stdin, as the service does it. Windows are never thrown away; nobody gets in without it."""
    reserved = reserve_port()
    words = [
        "redis-server",
        COMPOSE / name,
        "--port",
        str(reserved.number),
        "--bind",
        "127.0.0.1",
        "--dir",
        tmp_path,
        "-",
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert server.stdin is not None
        server.stdin.write(b"requirepass planted-secret\n")
        server.stdin.close()
        never_again = Retry(NoBackoff(), 0)  # or a client waits for seconds before it asks once more
        with Redis(port=reserved.number, password="planted-secret", decode_responses=True, retry=never_again) as redis:
            wait_until(lambda: bool(redis.ping()), f"redis-server with {name} answers")
            found: Any = redis.config_get(*kept)
            assert found == kept
        with Redis(port=reserved.number, retry=never_again) as stranger, pytest.raises((AuthenticationError, NotThere)):
            stranger.ping()
    finally:
        server.kill()
        server.wait(10)
        reserved.release()


@pytest.mark.parametrize(("name", "service"), [("redis", "redis.conf"), ("redis-cache", "redis-cache.conf")])
def test_a_redis_is_full_before_its_container_is(name: str, service: str) -> None:
    """Then it refuses or throws away; a container beyond its memory is killed. The rest is for buffers and copies."""
    found = re.search(r"(?m)^maxmemory (\d+)mb$", (COMPOSE / service).read_text())
    assert found is not None
    memory = services("compose.scale.yaml")[name]["deploy"]["resources"]["limits"]["memory"]
    assert int(found[1]) + 128 <= int(memory.removesuffix("M"))


def test_prometheus_goes_by_the_same_rules_as_without_compose() -> None:
    """Only where the targets are differs, and the two exporters."""
    ours, theirs = (yaml.safe_load((place / "prometheus.yml").read_text()) for place in (COMPOSE, PROMETHEUS))
    jobs = {job["job_name"]: job for job in ours.pop("scrape_configs")}
    (job,) = theirs.pop("scrape_configs")
    assert jobs.keys() == {"bybit-gateway", "node", "cadvisor"}
    assert _without_targets(jobs["bybit-gateway"]) == _without_targets(job)
    for config in (ours, theirs):
        (alertmanager,) = config["alerting"]["alertmanagers"]
        assert _without_targets(alertmanager) == {}
        del config["alerting"]
    assert ours == theirs
    command = services("compose.scale.yaml")["prometheus"]["command"]
    flags = re.search(r"(?m)^#   prometheus (.+)$", (PROMETHEUS / "prometheus.yml").read_text())
    assert flags is not None
    assert {flag for flag in flags[1].split() if flag.startswith("--enable")} <= set(command)


def test_prometheus_finds_what_the_services_are_called() -> None:
    """Names and ports of the targets are those of services; what Grafana asks is one of them."""
    scale = services("compose.scale.yaml")
    jobs = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        (found,) = job["dns_sd_configs"]
        assert set(found["names"]) <= scale.keys()
        shared = set(scale["prometheus"]["networks"]) & set(scale[found["names"][0]]["networks"])
        assert shared, "they have a network in common"
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def approved(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for file in (COMPOSE / "prometheus.yml", PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml"):
        shutil.copy(file, tmp_path)
    approved("promtool", "check", "config", tmp_path / "prometheus.yml")


def test_the_files_are_what_the_compose_specification_says() -> None:
    tool = ROOT / ".venv" / "deploy" / "bin" / "check-jsonschema"
    if not tool.exists():
        pytest.skip("check-jsonschema is not installed: make .venv/.deploy")
    files = [COMPOSE / stack for stack in STACKS]
    approved(tool, "--builtin-schema", "vendor.compose-spec", *files)


def test_make_secrets_is_a_shell_script_without_mistakes() -> None:
    tool = ROOT / ".venv" / "deploy" / "bin" / "shellcheck"
    if not tool.exists():
        pytest.skip("shellcheck is not installed: make .venv/.deploy")
    scripts = [path for path in COMPOSE.iterdir() if path.is_file() and path.stat().st_mode & stat.S_IXUSR]
    approved(tool, *scripts)


@pytest.mark.parametrize("stack", STACKS)
def test_compose_itself_takes_the_files(stack: str, tmp_path: Path) -> None:
    """Without an engine and without a .env; what it makes of `extends` is what the tests above have read."""
    config = ["docker", "compose", "-f", COMPOSE / stack, "--env-file", os.devnull, "--profile", "*", "config"]
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    done = subprocess.run([*config, "--format", "json"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["services"]
    assert told.keys() == services(stack).keys()
    for name, service in services(stack).items():
        for plain in ("cap_drop", "security_opt", "user", "restart"):
            assert told[name][plain] == service[plain]
        assert told[name].get("read_only", False) is service["read_only"]
        assert told[name]["image"] == filled_in(service["image"])
        assert set(told[name].get("environment", {})) == set(service.get("environment", {}))
        assert {secret["source"] for secret in told[name].get("secrets", ())} == set(service.get("secrets", ()))
        assert len(told[name].get("ports", ())) == len(service.get("ports", ()))


def _without_targets(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in {"static_configs", "dns_sd_configs"}}

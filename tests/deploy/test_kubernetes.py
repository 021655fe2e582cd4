"""The overlays of deploy/kubernetes: what each is for, and a real gateway started from what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load, load_routes
from tests.deploy.mounted import TOKEN, Started, started
from tests.deploy.rendered import (
    KUBERNETES,
    Object,
    Rendered,
    config_text,
    containers,
    environment_of,
    gateway_of,
    overlay,
    pod,
    rendered,
    run,
)
from tests.docs.blocks import named
from tests.observability.programs import needs_prometheus
from tests.recorder import recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server
from tools import rules

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def redis_as_deployed(**options: str) -> dict[str, str]:
    """The directives that the Redis of the overlay is started with, but for its directory."""
    (container,) = containers(overlay("shared").one("Deployment", "bybit-gateway-redis"))
    words = container["args"]
    given = {
        name.removeprefix("--").replace("-", "_"): value or '""'
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    assert given.pop("dir") == "/data"
    return given | options


def names_of_ports(gateway: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in gateway["ports"]}


async def until(told: Started, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            state: dict[str, Any] = json.loads(await asyncio.to_thread(told.read, "/health", 9090))["config"]
            if state["status"] == wanted:
                return state
            await asyncio.sleep(0.05)  # bounded polling of another process


@needs_redis
@pytest.mark.parametrize(
    "which", [("kustomize", "shared"), ("kustomize", "node-egress"), ("helm", "autoscaled")], ids="-".join
)
async def test_a_shared_gateway_starts_from_its_manifest_and_answers_its_probes(
    which: tuple[str, str], tmp_path: Path
) -> None:
    """With the Redis of the overlay, its password from a file, under the name of its address."""
    found = rendered(which)
    gateway = gateway_of(found.gateway())
    names = names_of_ports(gateway)
    with redis_server(**redis_as_deployed(requirepass="planted-password")) as redis:
        async with recorder() as upstream:
            with started(found, tmp_path, upstream.url, redis.url) as told:
                await asyncio.to_thread(told.wait_for, gateway["startupProbe"], names)
                await asyncio.to_thread(told.wait_for, gateway["readinessProbe"], names)
                answers = [await asyncio.to_thread(told.probe, gateway[probe], names) for probe in PROBES]
                health = json.loads(await asyncio.to_thread(told.read, "/health", 9090))
                asked = [await asyncio.to_thread(told.status, "/gateway/limits", 9090, t) for t in (None, TOKEN)]
                proxied = await asyncio.to_thread(told.status, "/v5/market/time")
                keys = await asyncio.to_thread(keys_in, redis)

    assert answers == [200, 200, 200]
    assert health["store"]["mode"] in {"shared", "holding"}  # this Redis has never seen a gateway before
    assert asked == [401, 200]
    assert proxied == 200
    egress = environment_of(gateway).get("GATEWAY__EGRESS__ID", "nat-1")
    assert egress == {"shared": "nat-1", "node-egress": "node-1", "autoscaled": "default"}[which[1]]
    assert any(f"{{{egress}}}" in key for key in keys)


def test_the_redis_of_the_overlays_forgets_nothing_before_it_is_full_and_that_fits() -> None:
    """Windows that are thrown away let more be sent than the exchange allows."""
    given = redis_as_deployed()
    (container,) = containers(overlay("shared").one("Deployment", "bybit-gateway-redis"))
    limit = container["resources"]["limits"]["memory"]

    assert given["maxmemory_policy"] == "noeviction"
    assert int(given["maxmemory"].removesuffix("mb")) < int(limit.removesuffix("Mi"))
    assert (given["save"], given["appendonly"]) == ('""', "no")  # an old memory would be worse than none


def keys_in(redis: RedisServer) -> list[str]:
    with redis.client() as client:
        found: list[str] = list(client.scan_iter("bg:*"))
        return found


@pytest.mark.parametrize("name", ["single", "sidecar"])
async def test_a_gateway_alone_starts_from_its_manifest_and_keeps_its_windows(name: str, tmp_path: Path) -> None:
    found = overlay(name)
    gateway = gateway_of(found.gateway())
    names = names_of_ports(gateway)
    async with recorder() as upstream:
        with started(found, tmp_path, upstream.url) as told:
            await asyncio.to_thread(told.wait_for, gateway["startupProbe"], names)
            await asyncio.to_thread(told.wait_for, gateway["readinessProbe"], names)
            answers = [await asyncio.to_thread(told.probe, gateway[probe], names) for probe in PROBES]
            asked = [await asyncio.to_thread(told.status, "/gateway/limits", 9090, t) for t in (None, TOKEN)]
            metrics = await asyncio.to_thread(told.status, "/metrics", 9090)
            proxied = await asyncio.to_thread(told.status, "/v5/market/time")
            told.process.send_signal(signal.SIGTERM)
            output, errors = await asyncio.to_thread(told.process.communicate, timeout=60)

    assert (answers, asked, metrics, proxied) == ([200, 200, 200], [401, 200], 200, 200)
    assert told.process.returncode == 0, errors
    assert "state" not in errors  # neither a warning about its file nor about its place
    (kept,) = (tmp_path / "state" / "bybit-gateway").glob("*.json")
    assert b'"stopped"' in kept.read_bytes()
    assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "stopped"


async def test_a_configmap_that_changes_is_loaded_where_it_is_and_one_with_a_mistake_is_not(tmp_path: Path) -> None:
    """Swapped as the kubelet does it, under a gateway that runs."""
    found = overlay("single")
    gateway = gateway_of(found.gateway())
    names = names_of_ports(gateway)
    text = config_text(found)
    async with recorder() as upstream:
        with started(found, tmp_path, upstream.url) as told:
            await asyncio.to_thread(told.wait_for, gateway["readinessProbe"], names)
            await until(told, "ok")
            told.config.publish({"config.yaml": f"{text}\nlimits: [{{name: mine}}]\n"})
            refused = await until(told, "refused")
            still = await asyncio.to_thread(told.status, "/v5/market/time")
            rule = "{name: mine, quota: 1/1h, partition: [ip], counts: requests, window: sent}"
            told.config.publish({"config.yaml": f"{text}\nlimits: [{rule}]\n"})
            await until(told, "ok")
            then = [await asyncio.to_thread(told.status, "/v5/market/time") for _ in range(2)]

    assert refused["error_count"] == 1
    assert still == 200
    assert then == [200, 429]


def test_a_changed_configuration_changes_the_configmap_and_no_pod(tmp_path: Path) -> None:
    """Its name stays, so that nothing is rolled out."""
    (tmp_path / "config.yaml").write_text("egress: {id: other}\n")
    changed = of_ones_own(
        tmp_path,
        overlay="shared",
        configMapGenerator=[{"name": "bybit-gateway", "behavior": "replace", "files": ["config.yaml"]}],
        generatorOptions={"disableNameSuffixHash": True},
    )

    assert changed.gateway() == overlay("shared").gateway()
    assert config_text(changed) == "egress: {id: other}\n"


def test_a_kustomization_of_ones_own_is_what_the_page_says(tmp_path: Path) -> None:
    text = named("docs/kubernetes.md", "own").text
    base = os.path.relpath(KUBERNETES / "base", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(text.replace("../deploy/kubernetes/base", base))
    (tmp_path / "config.yaml").write_text("egress: {id: other}\n")
    own = Rendered("own", run("kubectl", "kustomize", tmp_path))

    assert base in (tmp_path / "kustomization.yaml").read_text()
    assert gateway_of(own.gateway())["image"] == "registry.example.com/bybit-gateway:0.1.0"
    assert config_text(own) == "egress: {id: other}\n"
    assert {each["metadata"]["namespace"] for each in own.objects if each["kind"] != "Namespace"} == {"trading"}
    assert own.of("ServiceMonitor", "PrometheusRule") == []


def test_a_pod_can_stay_in_its_service_during_a_ban(tmp_path: Path) -> None:
    for name in ("shared", "node-egress", "single"):
        directory = tmp_path / name
        directory.mkdir()
        component = os.path.relpath(KUBERNETES / "components" / "answer-while-banned", directory)
        changed = gateway_of(of_ones_own(directory, overlay=name, components=[component]).gateway())
        plain = gateway_of(overlay(name).gateway())

        assert changed["readinessProbe"].pop("httpGet")["path"] == "/health/live"
        assert plain["readinessProbe"].pop("httpGet")["path"] == "/health/ready"
        assert changed == plain


def of_ones_own(directory: Path, *, overlay: str, **fields: Any) -> Rendered:
    """A kustomization somewhere else that takes one of ours and changes it."""
    base = os.path.relpath(KUBERNETES / "overlays" / overlay, directory)
    (directory / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], **fields}))
    return Rendered(f"own-{overlay}", run("kubectl", "kustomize", directory))


def test_replicas_of_one_address_replace_each_other_without_a_gap() -> None:
    found = overlay("shared")

    assert found.gateway()["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert found.one("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert len(pod(found.gateway())["topologySpreadConstraints"]) == 2
    (metric,) = found.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "AverageValue", "averageValue": "600m"}


def test_bots_of_a_node_reach_the_gateway_of_that_node() -> None:
    found = overlay("node-egress")

    assert found.one("Service", "bybit-gateway")["spec"]["internalTrafficPolicy"] == "Local"
    assert found.of("HorizontalPodAutoscaler", "PodDisruptionBudget") == []
    assert environment_of(gateway_of(found.gateway()), node="n-7")["GATEWAY__EGRESS__ID"] == "n-7"


def test_a_gateway_alone_is_never_two_and_takes_its_volume_along() -> None:
    found = overlay("single")
    (claim,) = found.gateway()["spec"]["volumeClaimTemplates"]

    assert found.gateway()["kind"] == "StatefulSet"
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert found.of("HorizontalPodAutoscaler", "PodDisruptionBudget") == []
    assert "redis-url" not in found.text


def test_a_sidecar_is_there_before_the_bot_and_after_it_and_for_it_alone(tmp_path: Path) -> None:
    found = overlay("sidecar")
    (sidecar,) = pod(found.gateway())["initContainers"]
    (bot,) = pod(found.gateway())["containers"]
    (tmp_path / "config.yaml").write_text(config_text(found))
    config = load(tmp_path / "config.yaml", {}, load_routes())

    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/health/live"
    assert "exec" not in sidecar["startupProbe"]
    assert config.listen.host == "127.0.0.1"
    assert environment_of(bot)["BYBIT_URL"] == f"http://127.0.0.1:{config.listen.port}"
    # The kubelet asks at the address of the pod.
    assert (config.admin.host, config.admin.port) == ("0.0.0.0", names_of_ports(sidecar)["gateway-pages"])
    assert found.gateway()["spec"]["strategy"] == {"type": "Recreate"}


async def test_the_sample_bot_asks_through_its_gateway_and_once_more_when_it_is_told_to_stop(tmp_path: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text(overlay("sidecar").one("ConfigMap", "sample-bot")["data"]["bot.py"])
    pulse = tmp_path / "pulse"
    async with recorder() as upstream:
        bot = subprocess.Popen(
            [sys.executable, str(script)],
            env={"BYBIT_URL": upstream.url, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            async with asyncio.timeout(60):
                while not pulse.exists():
                    await asyncio.sleep(0.05)
            before = len(upstream.seen)
            bot.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(bot.communicate, timeout=60)
        finally:
            if bot.poll() is None:
                bot.kill()
            bot.communicate()
    alive = [
        subprocess.run(
            [sys.executable, str(script), "--alive"],
            env={"BYBIT_URL": "", "TMPDIR": str(directory)},
            timeout=60,
            check=False,
            capture_output=True,
        ).returncode
        for directory in (tmp_path, tmp_path / "nowhere")
    ]

    assert bot.returncode == 0
    assert len(upstream.seen) > before
    assert json.loads(output.splitlines()[-1])["bot"] == "last"
    assert alive == [0, 1]


def test_the_rules_of_prometheus_are_the_same_everywhere() -> None:
    """As `python -m tools.rules` has put them there."""
    for path, text in rules.files().items():
        assert path.read_text() == text, f"{path}: out of date, python -m tools.rules"
    for name, source in rules.SOURCES.items():
        written = yaml.safe_load(source.read_text())
        assert yaml.safe_load((rules.CHART / f"{name}.yaml").read_text()) == written
        assert rendered(("helm", "autoscaled")).one("PrometheusRule", f"gw-bybit-gateway-{name}")["spec"] == written
        # kustomize adds an empty line to folded texts with an indented line in them, which means nothing in PromQL.
        made = overlay("shared").one("PrometheusRule", f"bybit-gateway-{name}")["spec"]
        assert squeezed(made) == squeezed(written)


def squeezed(value: Any) -> Any:
    """With all white space as one blank."""
    match value:
        case dict():
            return {key: squeezed(inner) for key, inner in value.items()}
        case list():
            return [squeezed(inner) for inner in value]
        case str():
            return " ".join(value.split())
        case _:
            return value


@needs_prometheus
@pytest.mark.parametrize("which", [("kustomize", "shared"), ("helm", "autoscaled")], ids="-".join)
def test_prometheus_accepts_the_rules_that_the_operator_would_load(which: tuple[str, str], tmp_path: Path) -> None:
    objects = rendered(which).of("PrometheusRule")
    for each in objects:
        file = tmp_path / f"{each['metadata']['name']}.yml"
        file.write_text(yaml.safe_dump(each["spec"]))
        done = subprocess.run(
            ["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert len(objects) == 2

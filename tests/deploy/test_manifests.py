"""What every overlay of kustomize and every kind of the chart has in common, and what judges of the trade say to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.workers import drain_seconds
from tests.deploy.rendered import (
    ROOT,
    WORKLOADS,
    Object,
    config_text,
    configured,
    containers,
    each_rendered,
    environment_of,
    everything,
    gateway_of,
    pod,
    rendered,
    run,
    strings,
    volume_behind,
)

VERSIONS: Final = tuple(f"1.{minor}" for minor in range(29, 37))
CUSTOM: Final = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that the Prometheus operator brings: no schema of Kubernetes knows them."""
ACCEPTED: Final = ROOT / "deploy" / "accepted-findings.yaml"
_MiB: Final = 1 << 20
_BARE_MIB: Final = 96
"""What a gateway holds beside its caches and the bodies of requests, with room: it is measured at about 70."""


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_them(version: str, tmp_path: Path) -> None:
    files, count = [], 0
    for each in everything():
        known = [found for found in each.objects if found["kind"] not in CUSTOM]
        files.append(tmp_path / f"{each.name}.yaml")
        files[-1].write_text(yaml.safe_dump_all(known))
        count += len(known)

    said = run("kubernetes-validate", "-k", version, "--strict", *files)

    assert "WARN" not in said, said
    assert said.count(" passed for resource ") == count


def test_a_field_that_kubernetes_does_not_know_is_found(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    workload = everything()[0].gateway()
    pod(workload)["containers"][0]["readynessProbe"] = {}
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(workload))

    assert "readynessProbe" in run("kubernetes-validate", "-k", VERSIONS[-1], "--strict", file, check=False)


def test_checkov_finds_what_is_accepted_and_nothing_else(tmp_path: Path) -> None:
    """In all that is rendered, and in the Dockerfile."""
    for each in everything():
        (tmp_path / f"{each.name}.yaml").write_text(each.text)
    shutil.copyfile(ROOT / "Dockerfile", tmp_path / "Dockerfile")
    told = run(
        "checkov",
        *("--directory", tmp_path, "--framework", "kubernetes", "--framework", "dockerfile", "--output", "json"),
        *("--skip-download", "--compact", "--quiet", "--soft-fail"),
    )
    results = {result["check_type"]: result for result in json.loads(told)}
    findings = {
        (found["check_id"], f"{framework} {found['resource']}")
        for framework, result in results.items()
        for found in result["results"]["failed_checks"]
    }
    accepted = {(entry["check"], entry["found"]): entry["reason"] for entry in yaml.safe_load(ACCEPTED.read_text())}
    explained = {(finding, entry) for finding in findings for entry in accepted if covers(entry, finding)}

    assert findings - {finding for finding, _ in explained} == set()
    assert accepted.keys() - {entry for _, entry in explained} == set()
    assert all(reason.strip() for reason in accepted.values())
    assert {name: result["summary"]["parsing_errors"] for name, result in results.items()} == {
        "kubernetes": 0,
        "dockerfile": 0,
    }
    assert results["kubernetes"]["summary"]["passed"] > 100


def covers(entry: tuple[str, str], finding: tuple[str, str]) -> bool:
    return entry[0] == finding[0] and fnmatch(finding[1], entry[1])


@each_rendered
def test_pods_meet_the_restricted_profile(which: tuple[str, str]) -> None:
    """Every container, and all that a cluster which enforces it would refuse or warn of."""
    for workload in rendered(which).of(*WORKLOADS):
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10_000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() <= {"name", "configMap", "secret", "emptyDir"} for volume in spec["volumes"])
        for container in containers(workload):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", ()))
            assert container["resources"].keys() == {"requests", "limits"}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


@each_rendered
def test_a_pod_is_given_the_time_that_its_gateway_may_take_to_end(which: tuple[str, str], tmp_path: Path) -> None:
    found = rendered(which)

    assert pod(found.gateway())["terminationGracePeriodSeconds"] >= drain_seconds(configured(found, tmp_path))


@each_rendered
def test_the_gateway_accepts_its_configuration(which: tuple[str, str], tmp_path: Path) -> None:
    """`check`, with the environment and the Secret that its container has."""
    found = rendered(which)
    gateway = gateway_of(found.gateway())
    (tmp_path / "config.yaml").write_text(config_text(found))
    secrets = {"REDIS_URL_FILE": "redis://:planted@127.0.0.1:6379/0", "GATEWAY__ADMIN__TOKEN_FILE": "t" * 32}
    given = environment_of(gateway) | {"GATEWAY_CONFIG": str(tmp_path / "config.yaml")}
    for name in [name for name in given if name.endswith("_FILE")]:
        (tmp_path / name).write_text(f"{secrets[name]}\n")
        given[name] = str(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check"],
        cwd=ROOT,
        env={"PATH": "", **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    assert "planted" not in done.stdout


@each_rendered
def test_what_refers_to_something_finds_it(which: tuple[str, str]) -> None:
    """Selectors their pods, mounts their volumes, volumes their ConfigMaps, probes and Services their ports."""
    found = rendered(which)
    pods = [workload["spec"]["template"] for workload in found.of(*WORKLOADS)]
    for workload in found.of(*WORKLOADS):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert [chosen(template, selector) for template in pods].count(True) == 1
        assert chosen(workload["spec"]["template"], selector)
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        mounted = set()
        for container in containers(workload):
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in [container[key] for key in container if key.endswith("Probe")]:
                assert "exec" in probe or (probe.get("httpGet") or probe["tcpSocket"])["port"] in ports
            for mount in container["volumeMounts"]:
                assert "subPath" not in mount  # never changed by the kubelet
                mounted.add(mount["name"])
        assert mounted == volumes.keys() | claims
        for volume in volumes.values():
            if "configMap" in volume:
                assert found.one("ConfigMap", volume["configMap"]["name"])
        account = pod(workload)["serviceAccountName"]
        assert account == "default" or found.one("ServiceAccount", account)
        for spread in pod(workload).get("topologySpreadConstraints", ()):
            assert spread["labelSelector"] == {"matchLabels": selector}
    for service in found.of("Service"):
        (template,) = [each for each in pods if chosen(each, service["spec"]["selector"])]
        names = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for policy in found.of("NetworkPolicy"):
        assert [chosen(each, policy["spec"]["podSelector"]["matchLabels"]) for each in pods].count(True) == 1
    for budget in found.of("PodDisruptionBudget"):
        assert budget["spec"]["selector"] == found.gateway()["spec"]["selector"]
    for scaler in found.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert found.one(target["kind"], target["name"])
    for monitor in found.of("ServiceMonitor"):
        services = [each for each in found.of("Service") if chosen(each, monitor["spec"]["selector"]["matchLabels"])]
        (service,) = services
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "bybit-gateway"  # alerts go by it


def chosen(template: Object, labels: dict[str, str]) -> bool:
    return bool(labels) and labels.items() <= template["metadata"]["labels"].items()


@each_rendered
def test_secrets_stand_in_secrets_only_and_reach_a_pod_as_files(which: tuple[str, str], tmp_path: Path) -> None:
    found = rendered(which)

    assert found.of("Secret") == []  # they are the operator's to make
    for workload in found.of(*WORKLOADS):
        for container in containers(workload):
            assert "envFrom" not in container
            assert "secretKeyRef" not in set(strings(container.get("env", [])))
    assert secrets_in(configured(found, tmp_path).model_dump()) == []
    gateway = gateway_of(found.gateway())
    named = {name: path for name, path in environment_of(gateway).items() if name.endswith("_FILE")}
    assert named
    volume = volume_behind(found.gateway(), gateway, "/run/secrets/bybit-gateway")["secret"]
    assert volume["defaultMode"] == 0o440  # of the gateway's group, by fsGroup
    assert sorted(named.values()) == sorted(f"/run/secrets/bybit-gateway/{item['path']}" for item in volume["items"])


def secrets_in(value: Any, place: str = "") -> list[str]:
    """Where a secret is set."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in secrets_in(inner, f"{place}.{key}")]
    if isinstance(value, list | tuple):
        return [found for inner in value for found in secrets_in(inner, place)]
    return [place] if hasattr(value, "get_secret_value") else []


@each_rendered
def test_caches_and_bodies_fit_into_the_memory(which: tuple[str, str], tmp_path: Path) -> None:
    found = rendered(which)
    config = configured(found, tmp_path)
    needed = config.cache.l1.max_bytes + config.candles.max_bytes + config.listen.max_bodies + _BARE_MIB * _MiB
    limit = gateway_of(found.gateway())["resources"]["limits"]["memory"]

    assert limit.endswith("Mi")
    assert needed <= int(limit.removesuffix("Mi")) * _MiB


@each_rendered
def test_a_gateway_that_lost_redis_has_a_share_that_there_are_enough_of(which: tuple[str, str], tmp_path: Path) -> None:
    """`store.replicas` is the most that there can be: of an autoscaler its maxReplicas, of a node the two that are
    there while one replaces the other."""
    found = rendered(which)
    replicas = configured(found, tmp_path).store.replicas
    workload = found.gateway()
    match workload["kind"]:
        case "DaemonSet":
            assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
            assert replicas == 2
        case "Deployment" if found.of("HorizontalPodAutoscaler"):
            bounds = found.one("HorizontalPodAutoscaler")["spec"]
            assert "replicas" not in workload["spec"]  # each would undo the other
            assert 2 <= bounds["minReplicas"] <= bounds["maxReplicas"] == replicas
        case _:
            assert workload["spec"]["replicas"] == replicas


@each_rendered
def test_only_one_gateway_has_its_windows_to_itself(which: tuple[str, str]) -> None:
    """Two at a time have a Redis; where there is none the old one ends before the new one begins."""
    workload = rendered(which).gateway()
    if "REDIS_URL_FILE" in environment_of(gateway_of(workload)):
        return

    assert workload["spec"]["replicas"] == 1
    assert workload["kind"] == "StatefulSet" or workload["spec"]["strategy"]["type"] == "Recreate"


@each_rendered
def test_the_state_is_in_a_directory_of_the_gateways_own(which: tuple[str, str]) -> None:
    """The root of a volume belongs to root and is open to all; the gateway would pass it over."""
    workload = rendered(which).gateway()
    gateway = gateway_of(workload)
    home = environment_of(gateway)["XDG_STATE_HOME"]

    assert home in {mount["mountPath"] for mount in gateway["volumeMounts"] if not mount.get("readOnly")}


@each_rendered
def test_images_are_pinned_to_versions(which: tuple[str, str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    compose = (ROOT / "deploy" / "compose" / "compose.redis.yaml").read_text()
    for workload in rendered(which).of(*WORKLOADS):
        for container in containers(workload):
            name, _, tag = container["image"].rpartition(":")
            assert name in {"bybit-gateway", "redis"}
            assert tag == version if name == "bybit-gateway" else container["image"] in compose

"""The chart: values that are wrong are refused in words, every value has an effect, and what comes out is what
kustomize makes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.config import load, load_routes
from proxy.workers import drain_seconds
from tests.deploy.rendered import (
    CHART,
    CHARTED,
    ROOT,
    Object,
    Rendered,
    chart,
    charted,
    config_text,
    configured,
    environment_of,
    gateway_of,
    overlay,
    pod,
    run,
)
from tests.docs.blocks import named

BAD: Final = {
    "replicas=two": "replicas: Invalid type. Expected: integer, given: string",
    "replica=3": "Additional property replica is not allowed",
    "sharing=pod": 'sharing must be one of the following: "deployment", "daemonset", "statefulset", "none"',
    "egress.id=a/b": "egress.id: Does not match pattern",
    "image.digest=sha256:12": "image.digest: Does not match pattern",
    "resources.limits.memory=lots": "resources.limits.memory: Does not match pattern",
    "service.type=ExternalName": "service.type must be one of the following",
    "probes.readinessPath=/": "probes.readinessPath must be one of the following",
    "secret.redisUrl=redis://planted@h": "Additional property redisUrl is not allowed",
    "networkPolicy.clientLabels.bybit-gateway-client=null": "Must have at least 1 properties",
    "secret.keys.redisUrl=": "sharing: deployment needs Redis",
    "secret.existingSecret=": "without one take sharing: statefulset",
    "sharing=statefulset,autoscaling.enabled=true": "autoscaling is for sharing: deployment",
    "autoscaling.enabled=true,autoscaling.maxReplicas=1": "minReplicas is more than maxReplicas",
    "egress.fromNode=true": "egress.fromNode is for sharing: daemonset",
    "config.egress.id=a": "config.egress.id is the chart's to set; instead of it: egress.id",
    "config.listen.port=9000": "config.listen.port is the chart's to set; instead of it: service.port",
    "config.store.replicas=3": "config.store.replicas is the chart's to set",
    "config.admin.port=9090": "config.admin.port is the chart's to set",
    "config.admin.token=planted": "config.admin.token is the chart's to set; instead of it: secret.keys.adminToken",
    "config.archive.url=postgresql://planted@h/d": "instead of it: secret.keys.archiveUrl",
    "config.queue.max_wait=8": 'config: expected a duration such as 250ms, 30s or 10m, got "8"',
    "terminationGracePeriodSeconds=30": "with this config requests may need 88 s to end",
    "config.upstream.timeouts.total=2m,terminationGracePeriodSeconds=90": "may need 268 s to end",
}
"""What is set, and a part of what is said to it."""

SHOWN: Final = {
    "sharing": "sharing=statefulset",
    "replicas": "replicas=3",
    "egress.id": "egress.id=frankfurt-1",
    "egress.fromNode": "sharing=daemonset,egress.fromNode=true",
    "config.listen.max_bodies": "config.listen.max_bodies=1MiB",
    "config.listen.drain_delay": "config.listen.drain_delay=9s",
    "secret.existingSecret": "secret.existingSecret=other",
    "secret.keys.redisUrl": "secret.keys.redisUrl=url",
    "secret.keys.adminToken": "secret.keys.adminToken=",
    "secret.keys.hashKey": "secret.keys.hashKey=hash-key",
    "secret.keys.archiveUrl": "secret.keys.archiveUrl=archive-url",
    "extraEnv": "extraEnv[0].name=LOG_LEVEL,extraEnv[0].value=debug",
    "image.repository": "image.repository=registry.example/gateway",
    "image.tag": "image.tag=0.2.0",
    "image.digest": f"image.digest=sha256:{'0' * 64}",
    "image.pullPolicy": "image.pullPolicy=Always",
    "image.pullSecrets": "image.pullSecrets={mine}",
    "fullnameOverride": "fullnameOverride=other",
    "podLabels": "podLabels.team=quant",
    "podAnnotations": "podAnnotations.note=yes",
    "nodeSelector": "nodeSelector.zone=a",
    "tolerations": "tolerations[0].operator=Exists",
    "affinity": "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
    "priorityClassName": "priorityClassName=high",
    "serviceAccount.create": "serviceAccount.create=false",
    "serviceAccount.name": "serviceAccount.name=other",
    "service.type": "service.type=NodePort",
    "service.port": "service.port=80",
    "service.annotations": "service.annotations.note=yes",
    "probes.readinessPath": "probes.readinessPath=/health/live",
    "terminationGracePeriodSeconds": "terminationGracePeriodSeconds=100",
    "resources.requests.cpu": "resources.requests.cpu=1",
    "resources.requests.memory": "resources.requests.memory=1Gi",
    "resources.requests.ephemeral-storage": "resources.requests.ephemeral-storage=1Gi",
    "resources.limits.cpu": "resources.limits.cpu=1",
    "resources.limits.memory": "resources.limits.memory=1Gi",
    "resources.limits.ephemeral-storage": "resources.limits.ephemeral-storage=1Gi",
    "autoscaling.enabled": "autoscaling.enabled=true",
    "autoscaling.minReplicas": "autoscaling.enabled=true,autoscaling.minReplicas=3",
    "autoscaling.maxReplicas": "autoscaling.enabled=true,autoscaling.maxReplicas=9",
    "autoscaling.cpu": "autoscaling.enabled=true,autoscaling.cpu=500m",
    "podDisruptionBudget.enabled": "podDisruptionBudget.enabled=false",
    "podDisruptionBudget.maxUnavailable": "podDisruptionBudget.maxUnavailable=2",
    "persistence.size": "sharing=statefulset,persistence.size=1Gi",
    "persistence.storageClassName": "sharing=statefulset,persistence.storageClassName=fast",
    "networkPolicy.enabled": "networkPolicy.enabled=false",
    "networkPolicy.clientLabels.bybit-gateway-client": "networkPolicy.clientLabels.bybit-gateway-client=yes",
    "networkPolicy.monitoringNamespace": "networkPolicy.monitoringNamespace=",
    "networkPolicy.redis.podLabels.app.kubernetes.io/name": r"networkPolicy.redis.podLabels.app\.kubernetes\.io/name=r",
    "networkPolicy.redis.port": "networkPolicy.redis.port=6380",
    "networkPolicy.extraIngress": "networkPolicy.extraIngress[0].ports[0].port=1",
    "networkPolicy.extraEgress": "networkPolicy.extraEgress[0].ports[0].port=1",
    "serviceMonitor.enabled": "serviceMonitor.enabled=true",
    "serviceMonitor.interval": "serviceMonitor.enabled=true,serviceMonitor.interval=30s",
    "serviceMonitor.labels": "serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus",
    "prometheusRule.enabled": "prometheusRule.enabled=true",
    "prometheusRule.labels": "prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
}
"""For each value settings that show it; those of the sidecar are shown by the chart of a bot."""


@pytest.mark.parametrize("name", CHARTED)
def test_helm_has_nothing_to_say_against_it(name: str) -> None:
    flags = [word for setting in CHARTED[name] for word in ("--set", setting)]

    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART, *flags)


@pytest.mark.parametrize(("setting", "said"), BAD.items(), ids=list(BAD))
def test_values_that_are_wrong_are_refused_in_words(setting: str, said: str) -> None:
    told = run("helm", "template", "gw", CHART, "--set", setting, check=False)

    assert said in told
    assert "planted" not in told


def leaves(values: Any, place: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{place}{name}.")
        else:
            yield f"{place}{name}"


def test_every_value_is_known_to_the_schema_and_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: Any, known: Any, place: str) -> None:
        if "properties" not in known:
            return
        assert known["additionalProperties"] is False, place
        assert set(value) == set(known["properties"]) - {"global"}, place
        for name in value:
            compare(value[name], known["properties"][name], f"{place}.{name}")

    compare(values, schema, "")


@pytest.mark.parametrize("value", SHOWN)
def test_a_value_has_an_effect(value: str) -> None:
    """Beside what shows it at all."""
    *needed, setting = re.split(r"(?<!\\),(?=[a-zA-Z.]+[=\[])", SHOWN[value])
    if value == "extraEnv":
        needed, setting = [], SHOWN[value]

    assert chart(*needed, setting).text != chart(*needed).text


def test_every_value_is_shown_to_have_an_effect() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert {leaf for leaf in leaves(values) if not leaf.startswith("sidecar.")} == set(SHOWN)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("config.upstream.timeouts.total=45s",),
        ("config.queue.max_wait=1500ms", "config.listen.drain_delay=2s"),
        ("config.upstream.timeouts.total=1m", "config.queue.max_wait=999ms"),
        ("config=null",),
    ],
    ids=" ".join,
)
def test_the_time_to_end_is_counted_as_the_gateway_counts_it(settings: tuple[str, ...], tmp_path: Path) -> None:
    found = chart(*settings)
    file = tmp_path / "config.yaml"
    file.write_text(config_text(found))
    config = load(file, {}, load_routes())

    assert pod(found.gateway())["terminationGracePeriodSeconds"] == drain_seconds(config)


def test_a_configuration_arrives_as_it_was_written(tmp_path: Path) -> None:
    """All of the product's own file, and numbers that a program might write with an exponent."""
    written = yaml.safe_load((ROOT / "config.yaml").read_text())
    written["identity"]["tiers"]["INTERNAL"]["hour"] = 5_000_000
    written["limits"].append({"name": "big", "partition": ["tier"], "quota": "3000000/1h", "counts": "requests"})
    for section, name in (
        ("egress", "id"),
        ("store", "replicas"),
        ("listen", "host"),
        ("listen", "port"),
        ("admin", "host"),
        ("admin", "port"),
    ):
        del written[section][name]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"config": written}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    made = Rendered("helm", run("helm", "template", "gw", CHART, "--values", tmp_path / "values.yaml"))
    (tmp_path / "made.yaml").write_text(config_text(made))

    assert load(tmp_path / "made.yaml", {}, load_routes()) == load(tmp_path / "config.yaml", {}, load_routes())


def essentials(found: Rendered) -> Object:
    """All that does not follow from names, and from where the two keep what."""
    workload = found.gateway()
    spec, gateway = pod(workload), gateway_of(workload)
    policy = found.one("NetworkPolicy", found.gateway()["metadata"]["name"])["spec"]
    policy = json.loads(json.dumps(policy).replace('"app.kubernetes.io/instance": "gw", ', ""))
    policy = json.loads(json.dumps(policy).replace(', "app.kubernetes.io/instance": "gw"', ""))
    return {
        "kind": workload["kind"],
        "update": workload["spec"].get("strategy") or workload["spec"].get("updateStrategy"),
        "deadline": workload["spec"].get("progressDeadlineSeconds"),
        "claims": [claim["spec"] for claim in workload["spec"].get("volumeClaimTemplates", ())],
        "pod": {
            name: spec.get(name) for name in ("securityContext", "enableServiceLinks", "automountServiceAccountToken")
        },
        "spread": [spread["topologyKey"] for spread in spec.get("topologySpreadConstraints", ())],
        "container": {name: value for name, value in gateway.items() if name != "env"},
        "files": {name: value for name, value in environment_of(gateway).items() if name.endswith("_FILE")},
        "volumes": [
            volume if "emptyDir" in volume else volume.keys() | volume.get("secret", {}).keys()
            for volume in spec["volumes"]
        ],
        "service": [
            (port["port"], port["targetPort"]) for port in found.one("Service", serving(found))["spec"]["ports"]
        ],
        "local": found.one("Service", serving(found))["spec"].get("internalTrafficPolicy"),
        "scaling": [each["spec"] | {"scaleTargetRef": 0} for each in found.of("HorizontalPodAutoscaler")],
        "disruption": [each["spec"] | {"selector": 0} for each in found.of("PodDisruptionBudget")],
        "network": policy | {"podSelector": 0},
    }


def serving(found: Rendered) -> str:
    name = found.gateway()["metadata"]["name"]
    assert isinstance(name, str)
    return name


@pytest.mark.parametrize(
    ("of_kustomize", "of_helm"), [("shared", "autoscaled"), ("node-egress", "daemonset"), ("single", "statefulset")]
)
def test_helm_and_kustomize_make_the_same(of_kustomize: str, of_helm: str, tmp_path: Path) -> None:
    """Objects, and what the gateway in them is configured to do."""
    both = [charted(of_helm), overlay(of_kustomize)]
    first, second = (configured(found, tmp_path).model_dump(exclude={"egress"}) for found in both)

    assert essentials(both[0]) == essentials(both[1])
    assert first == second


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    """The chart of somebody's bot, as docs/kubernetes.md tells him to write it, with ours in it."""
    directory = tmp_path / "bot"
    (directory / "templates").mkdir(parents=True)
    shutil.copytree(CHART, directory / "charts" / "bybit-gateway")
    (directory / "templates" / "pod.yaml").write_text(named("docs/kubernetes.md", "bot").text)
    dependency = {"name": "bybit-gateway", "version": "0.1.0", "repository": ""}
    about = {"apiVersion": "v2", "name": "bot", "version": "1.0.0", "dependencies": [dependency]}
    (directory / "Chart.yaml").write_text(yaml.safe_dump(about))
    (directory / "values.yaml").write_text(yaml.safe_dump({"bybit-gateway": {"sharing": "none"}}))
    return directory


def test_a_chart_of_ones_own_takes_the_sidecar_from_it(bot: Path, tmp_path: Path) -> None:
    """The same as the overlay's, and nothing else of this chart."""
    found = chart(where=bot)
    made = found.one("Pod")["spec"]
    (sidecar,) = made["initContainers"]
    of_overlay = gateway_of(overlay("sidecar").gateway())
    names = {volume["name"] for volume in made["volumes"]}
    file = tmp_path / "config.yaml"
    file.write_text(found.one("ConfigMap")["data"]["config.yaml"])
    config = load(file, {k: v for k, v in environment_of(sidecar).items() if not k.endswith("_FILE")}, load_routes())

    assert sorted(each["kind"] for each in found.objects) == ["ConfigMap", "Pod"]
    for field in set(of_overlay) - {"env", "securityContext"}:
        assert sidecar[field] == of_overlay[field], field
    assert of_overlay["securityContext"].items() <= sidecar["securityContext"].items()
    assert sidecar["securityContext"]["runAsUser"] == 10001
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == names
    (mounted,) = [volume for volume in made["volumes"] if "configMap" in volume]
    assert mounted["configMap"]["name"] == found.one("ConfigMap")["metadata"]["name"]
    assert (config.listen.host, config.admin.host, config.admin.port) == ("127.0.0.1", "0.0.0.0", 9090)
    text = tmp_path / "bot.yaml"
    text.write_text(found.text)
    assert "WARN" not in run("kubernetes-validate", "-k", "1.29", "--strict", text)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sidecar.redis=true", "REDIS_URL_FILE"),
        ("sidecar.redis=true,sidecar.replicas=7", 'GATEWAY__STORE__REPLICAS, value: "7"'),
        ("sidecar.pagesPort=9191", "containerPort: 9191"),
        ("sidecar.config.log.level=debug", "level: debug"),
        ("sidecar.config.candles.max_bytes=1MiB", "max_bytes: 1MiB"),
        ("sidecar.config.listen.max_bodies=2MiB", "max_bodies: 2MiB"),
        ("sidecar.config.cache.l1.max_bytes=3MiB", "max_bytes: 3MiB"),
        ("sidecar.resources.limits.memory=1Gi", "memory: 1Gi"),
        ("egress.fromNode=true", "fieldPath: spec.nodeName"),
        ("egress.id=frankfurt-1", 'value: "frankfurt-1"'),
        ("secret.existingSecret=other", 'secretName: "other"'),
    ],
)
def test_values_of_the_sidecar_have_an_effect(bot: Path, setting: str, expected: str) -> None:
    changed = chart(*(f"bybit-gateway.{each}" for each in setting.split(",")), where=bot)

    assert expected in changed.text
    assert expected not in chart(where=bot).text

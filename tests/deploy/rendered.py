"""What kustomize and Helm make of the files in deploy/, and the programs that judge it; a plain word where they are
missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from proxy.config import Config, load, load_routes

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
CHART: Final = ROOT / "deploy" / "helm" / "bybit-gateway"
OVERLAYS: Final = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
CONFIG: Final = "config.yaml"

CHARTED: Final[Mapping[str, tuple[str, ...]]] = {
    "deployment": (),
    "autoscaled": ("autoscaling.enabled=true", "serviceMonitor.enabled=true", "prometheusRule.enabled=true"),
    "daemonset": ("sharing=daemonset", "egress.fromNode=true"),
    "statefulset": ("sharing=statefulset",),
    "bare": ("networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "serviceAccount.create=false"),
}
"""Values of the chart that are judged as the overlays are, by a name for each."""

WORKLOADS: Final = frozenset({"Deployment", "DaemonSet", "StatefulSet"})
_TOOLS: Final = ROOT / ".venv" / "deploy" / "bin"
_SECONDS: Final = 120
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]


class Rendered(NamedTuple):
    """Everything that is applied together."""

    name: str
    text: str

    @property
    def objects(self) -> list[Object]:
        return [each for each in yaml.load_all(self.text, _LOADER) if each]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str | None = None) -> Object:
        (found,) = [each for each in self.of(kind) if name in {None, each["metadata"]["name"]}]
        return found

    def gateway(self) -> Object:
        """The workload with the gateway in it."""
        (found,) = [each for each in self.of(*WORKLOADS) if any(c["name"] == "gateway" for c in containers(each))]
        return found


def tool(name: str) -> str:
    """A program of .venv/deploy, or the test is skipped."""
    path = _TOOLS / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: `make .venv/.deploy` and deploy/get-kubectl bring what is tested with")
    return str(path)


def run(name: str, *arguments: str | Path, check: bool = True, text: str | None = None) -> str:
    """What the program says, on both its streams when it fails; `check`: that it succeeds."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HELM_CACHE_HOME": "/nonexistent", "PYTHONWARNINGS": "ignore"},
        input=text,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{name}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout
    assert done.returncode != 0, f"{name} has no objection"
    return done.stdout + done.stderr


@cache
def overlay(name: str) -> Rendered:
    return Rendered(f"kustomize-{name}", run("kubectl", "kustomize", KUBERNETES / "overlays" / name))


def chart(*settings: str, release: str = "gw", where: Path = CHART) -> Rendered:
    flags = [word for setting in settings for word in ("--set", setting)]
    return Rendered("helm", run("helm", "template", release, where, "--namespace", "bots", *flags))


@cache
def charted(name: str) -> Rendered:
    return Rendered(f"helm-{name}", chart(*CHARTED[name]).text)


def everything() -> list[Rendered]:
    return [*map(overlay, OVERLAYS), *map(charted, CHARTED)]


ALL: Final = tuple([("kustomize", name) for name in OVERLAYS] + [("helm", name) for name in CHARTED])
each_rendered = pytest.mark.parametrize("which", ALL, ids="-".join)


def rendered(which: tuple[str, str]) -> Rendered:
    by, name = which
    return overlay(name) if by == "kustomize" else charted(name)


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Object) -> list[Object]:
    """All of them, native sidecars first."""
    spec = pod(workload)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def gateway_of(workload: Object) -> Object:
    (found,) = [each for each in containers(workload) if each["name"] == "gateway"]
    return found


def volume_behind(workload: Object, container: Object, path: str) -> Object:
    """The volume that is mounted at this very path."""
    (name,) = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == path]
    (volume,) = [each for each in pod(workload)["volumes"] if each["name"] == name]
    return dict(volume)


def environment_of(container: Object, *, node: str = "node-1") -> dict[str, str]:
    """As the kubelet of that node would give it."""
    given = {}
    for each in container.get("env", ()):
        if "value" in each:
            given[each["name"]] = each["value"]
        else:
            assert each["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
            given[each["name"]] = node
    return given


def config_text(of: Rendered) -> str:
    """What the gateway finds as its config.yaml."""
    workload = of.gateway()
    volume = volume_behind(workload, gateway_of(workload), "/etc/bybit-gateway")
    text = of.one("ConfigMap", volume["configMap"]["name"])["data"][CONFIG]
    assert isinstance(text, str)
    return text


def configured(of: Rendered, directory: Path) -> Config:
    """The configuration as the gateway in it would load it, but for what comes out of Secrets."""
    file = directory / "config.yaml"
    file.write_text(config_text(of))
    given = environment_of(gateway_of(of.gateway()))
    plain = {name: value for name, value in given.items() if not name.endswith("_FILE")}
    return load(file, plain, load_routes())


def strings(value: Any) -> Iterator[str]:
    """Every text in it, names of fields too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    else:
        yield str(value)

"""Containers of a pod as its manifest says, on a plain engine: one network, the options that its securityContext
demands, its variables, mounts, limits and commands. What the kubelet would do with them is for the test to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.deploy.mounted import TOKEN
from tests.deploy.rendered import Object, Rendered, pod
from tests.image.engine import Container, Engine
from tests.kubelet import Volume

_ASK: Final = "import sys, urllib.request as u; sys.stdout.write(str(u.urlopen(sys.argv[1], timeout=5).status))"


class Pod:
    """`network`: the container whose network all of them share."""

    def __init__(self, engine: Engine, image: str, of: Rendered, directory: Path, network: Container) -> None:
        self._engine = engine
        self._image = image
        self._spec = pod(of.gateway())
        self._network = network
        self._volumes = {volume["name"]: self._made(volume, of, directory) for volume in self._spec["volumes"]}

    @contextmanager
    def running(self, name: str, environment: Mapping[str, str] | None = None) -> Iterator[Container]:
        """The container of this name, started anew; its volumes are the pod's and outlive it."""
        container = self.container(name)
        words = [*container.get("command", ()), *container.get("args", ())]
        entry = ("--entrypoint", words.pop(0)) if "command" in container else ()
        options = (*self._options(container), *entry)
        for key, value in (environment or {}).items():
            options = (*options, "--env", f"{key}={value}")
        with self._engine.running(*words, image=self._image, options=options) as started:
            yield started

    def container(self, name: str) -> Object:
        both = [*self._spec.get("initContainers", ()), *self._spec["containers"]]
        (found,) = [each for each in both if each["name"] == name]
        return dict(found)

    def passes(self, container: Mapping[str, Any], probe: str) -> bool:
        """Whether the probe, asked once from within the pod's network, is answered 200."""
        wanted = container[probe]["httpGet"]
        (port,) = [each["containerPort"] for each in container["ports"] if each["name"] == wanted["port"]]
        url = f"http://127.0.0.1:{port}{wanted['path']}"
        return self._network.execute("python", "-c", _ASK, url, check=False).stdout == "200"

    def _options(self, container: Mapping[str, Any]) -> tuple[str, ...]:
        whole, own = self._spec["securityContext"], container["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}  # the engine's own default
        limits = container["resources"]["limits"]
        cpu = limits["cpu"]
        options = [
            f"--network=container:{self._network.id}",
            f"--user={whole['runAsUser']}:{whole['runAsGroup']}",
            f"--group-add={whole['fsGroup']}",
            f"--memory={limits['memory'].removesuffix('i').lower()}",
            f"--cpus={int(cpu.removesuffix('m')) / 1000 if cpu.endswith('m') else cpu}",
            *(f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]),
        ]
        if own["readOnlyRootFilesystem"]:
            options.append("--read-only")
        if not own["allowPrivilegeEscalation"]:
            options.append("--security-opt=no-new-privileges")
        for each in container["env"]:
            options += ["--env", f"{each['name']}={each['value']}"]
        for mount in container["volumeMounts"]:
            only = ":ro" if mount.get("readOnly") else ""
            options += ["--volume", f"{self._volumes[mount['name']]}:{mount['mountPath']}{only}"]
        return tuple(options)

    def _made(self, volume: Mapping[str, Any], of: Rendered, directory: Path) -> Path:
        path = directory / volume["name"]
        if "emptyDir" in volume:
            path.mkdir()
            self._given_to_the_group(path)
            path.chmod(0o2777)
            return path
        kept = Volume(path)
        if "configMap" in volume:
            kept.publish(of.one("ConfigMap", volume["configMap"]["name"])["data"])
            mode = 0o644
        else:
            kept.publish({item["path"]: f"{TOKEN}\n" for item in volume["secret"]["items"]})
            mode = volume["secret"]["defaultMode"]
        path.chmod(0o755)
        for file in path.rglob("*"):
            if file.is_dir():
                file.chmod(0o755)
            elif not file.is_symlink():
                self._given_to_the_group(file)
                file.chmod(mode)
        return path

    def _given_to_the_group(self, path: Path) -> None:
        with suppress(PermissionError):  # who is not root cannot; then it is the engine's user who owns it
            os.chown(path, -1, self._spec["securityContext"]["fsGroup"])

"""A gateway started from its manifest: the environment of its container, its ConfigMap and Secret mounted as the
kubelet mounts them, an address and ports of this machine in place of the pod's."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deploy.rendered import CONFIG, Rendered, config_text, environment_of, gateway_of
from tests.integration.test_process import process
from tests.kubelet import Volume
from tests.redis_servers.ports import reserve_port

TOKEN: Final = "planted-token-of-a-test-000000000"
_SECONDS: Final = 30.0
_TRAFFIC: Final = 8080


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    ports: dict[int, int]
    """Of the container, and what stands for each here."""
    config: Volume

    def status(self, path: str, port: int = _TRAFFIC, token: str | None = None) -> int:
        """0: nobody answers."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}")
        if token is not None:
            asked.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def read(self, path: str, port: int = _TRAFFIC) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=10) as answer:
            body: bytes = answer.read()
            return body

    def probe(self, probe: Mapping[str, Any], names: Mapping[str, int]) -> int:
        """What the kubelet would be answered."""
        return self.status(probe["httpGet"]["path"], names[probe["httpGet"]["port"]])

    def wait_for(self, probe: Mapping[str, Any], names: Mapping[str, int]) -> None:
        ends = time.monotonic() + _SECONDS
        while self.probe(probe, names) != 200:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < ends, "it does not start"
            time.sleep(0.05)  # noqa: TID251  # another process sets no Event


@contextmanager
def started(of: Rendered, directory: Path, upstream: str, redis: str | None = None) -> Iterator[Started]:
    """Not yet ready: that is for its probes to say."""
    gateway = gateway_of(of.gateway())
    config, secrets = Volume(directory / "config"), Volume(directory / "secrets")
    config.publish({CONFIG: config_text(of)})
    secrets.publish({"redis-url": f"{redis}\n", "admin-token": f"{TOKEN}\n"})
    state = directory / "state"
    state.mkdir()
    state.chmod(0o777)  # as an emptyDir, so that a gateway which wants it to itself would pass it over
    mounts = {
        "/etc/bybit-gateway": directory / "config",
        "/run/secrets/bybit-gateway": directory / "secrets",
        "/var/lib/bybit-gateway": state,
    }
    given = {}
    for name, value in environment_of(gateway).items():
        found = [path for path in mounts if value == path or value.startswith(f"{path}/")]
        given[name] = os.fspath(mounts[found[0]]) + value.removeprefix(found[0]) if found else value
    with ExitStack() as stack:
        numbers = {_TRAFFIC} | {port["containerPort"] for port in gateway["ports"]}
        ports = {}
        for number in numbers:
            reserved = reserve_port()
            stack.callback(reserved.release)
            ports[number] = reserved.number
        given["GATEWAY__LISTEN__PORT"] = str(ports[_TRAFFIC])
        for number in numbers - {_TRAFFIC}:
            given["GATEWAY__ADMIN__PORT"] = str(ports[number])
        given["GATEWAY__UPSTREAM__URL"] = upstream
        given["GATEWAY__LISTEN__DRAIN_DELAY"] = "0s"  # there are no nodes that would have to hear of its end
        yield Started(stack.enter_context(process("run", **given)), ports, config)

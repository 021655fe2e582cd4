"""A real nginx with the configuration of the scaled stack, in front of gateways on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.deploy.stacks import COMPOSE
from tests.redis_servers.ports import reserve_port

CONFIGURATION: Final = COMPOSE / "nginx.conf"
_REPLICAS: Final = "server gateway:8080 resolve max_fails=0;"
_SECONDS: Final = 15.0

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None, reason="nginx is not installed (Debian: apt-get install nginx-light)"
)


@dataclass(frozen=True)
class Front:
    port: int
    """The clients'."""
    pages: int
    """The people's who run it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def written_for(gateways: Sequence[int], ports: dict[str, int], directory: Path) -> str:
    """nginx.conf with other addresses and nothing else, and without `resolve`, which came with nginx 1.27.3."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    replaced = {
        _REPLICAS: " ".join(_REPLICAS.replace("gateway:8080 resolve", f"127.0.0.1:{port}") for port in gateways),
        "listen 8080 reuseport;": f"listen 127.0.0.1:{ports['traffic']};",
        "listen 8081;": f"listen 127.0.0.1:{ports['pages']};",
        "listen 127.0.0.1:8082;": f"listen 127.0.0.1:{ports['own']};",
        "/tmp/": f"{directory}/",  # noqa: S108  # in the container
    }
    for old, new in replaced.items():
        assert old in text, f"nginx.conf has no {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def front(*gateways: int) -> Iterator[Front]:
    """nginx in front of the gateways on these ports. Blocks until it listens."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="front-")))
        ports = {}
        for name in ("traffic", "pages", "own"):
            reserved = reserve_port()
            stack.callback(reserved.release)
            ports[name] = reserved.number
        file = directory / "nginx.conf"
        file.write_text(written_for(gateways, ports, directory), encoding="utf-8")
        # A master that is root gives its workers to another user, who cannot enter the directory.
        further = "daemon off;" + (" user root root;" if os.geteuid() == 0 else "")
        words = ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(file), "-g", further]
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(ports["own"], process, directory / "log")
            yield Front(ports["traffic"], ports["pages"])
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # noqa: TID251  # another process sets no Event
        else:
            return
    raise AssertionError(f"nginx does not listen:\n{log.read_text(errors='replace')[-2000:]}")

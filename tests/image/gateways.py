"""Gateways in containers, with the host's network, as hardened as the product promises that they may be."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.redis_servers.ports import reserve_port

if TYPE_CHECKING:
    from tests.fake_bybit import FakeBybit
    from tests.image.engine import Container, Engine

HARDENED: Final = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=256m",
    "--cpus=0.5",
    "--pids-limit=100",
)
MOUNTED: Final = "/etc/bybit-gateway"
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Gateway:
    """One that was started: where clients reach it, and the container it runs in."""

    port: int
    container: Container

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, target: str) -> tuple[int, bytes]:
        """Status and body; status 0: it cannot be reached."""
        try:
            with _OPENER.open(f"{self.url}{target}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def wait_until_ready(self) -> None:
        self.container.wait_until(lambda: self.get("/health/ready")[0] == 200, "ready")


def configuration(directory: Path, exchange: FakeBybit | None = None, **sections: Any) -> tuple[str, ...]:
    """Write a file into `directory`, which anybody may read; the answer is options that mount it where a pod would."""
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)  # whatever the umask
    if exchange is not None:
        assert exchange.ca_path is not None
        shutil.copyfile(exchange.ca_path, directory / "ca.pem")
        sections["upstream"] = {"url": exchange.url, "ca_file": f"{MOUNTED}/ca.pem"}
    (directory / "config.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)
    return ("--volume", f"{directory}:{MOUNTED}:ro", "--env", f"GATEWAY_CONFIG={MOUNTED}/config.yaml")


@contextmanager
def served(
    engine: Engine,
    directory: Path,
    exchange: FakeBybit | None = None,
    *,
    image: str | None = None,
    options: Sequence[str] = HARDENED,
    **sections: Any,
) -> Iterator[Gateway]:
    """A gateway before `exchange`, on a port that stands in its file, once it is ready."""
    reserved = reserve_port()
    try:
        listen = {"host": "127.0.0.1", "port": reserved.number}
        mounted = configuration(directory, exchange, listen=listen, **sections)
        with engine.running(image=image, options=(*options, "--network=host", *mounted)) as container:
            gateway = Gateway(reserved.number, container)
            gateway.wait_until_ready()
            yield gateway
    finally:
        reserved.release()


def told(body: bytes) -> Any:
    return json.loads(body)

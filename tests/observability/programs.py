"""Prometheus and Alertmanager, each a real process on loopback that ends with the tests."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import yaml

from tests.redis_servers.ports import reserve_port

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOYED: Final = ROOT / "deploy"
PROMETHEUS: Final = DEPLOYED / "prometheus"
ALERTMANAGER: Final = DEPLOYED / "alertmanager" / "alertmanager.yml"
_NEEDED: Final = ("prometheus", "promtool", "prometheus-alertmanager", "amtool", "setpriv")
_SECONDS: Final = 30.0

_missing = [name for name in _NEEDED if shutil.which(name) is None]
WHY_NOT: Final = (
    f"not installed: {', '.join(_missing)} (Debian: apt-get install prometheus prometheus-alertmanager)"
    if _missing
    else None
)
needs_prometheus = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

# The kernel sends PDEATHSIG when the thread that started the process ends: this one ends with the interpreter.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="prometheus-starter")


@contextmanager
def prometheus(*targets: str, alertmanager: str | None = None) -> Iterator[str]:
    """Debian's Prometheus with the configuration of deploy/prometheus, looking every second; its URL.

    `targets`, `alertmanager`: HOST:PORT, in place of those that are written there. Blocks until it is ready.
    """
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    if alertmanager is None:
        del config["alerting"]
    else:
        config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager]}]
    with _directory("prometheus") as directory:
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        arguments = ["--storage.tsdb.path", str(directory / "data"), "--enable-feature=exemplar-storage"]
        with _started("prometheus", [f"--config.file={file}", *arguments], directory) as url:
            yield url


@contextmanager
def alertmanager(config: dict[str, Any]) -> Iterator[str]:
    """Debian's Alertmanager on its own, with this configuration; its URL. Blocks until it is ready."""
    with _directory("alertmanager") as directory:
        file = directory / "alertmanager.yml"
        file.write_text(yaml.safe_dump(config))
        arguments = ["--storage.path", str(directory / "data"), "--cluster.listen-address="]
        with _started("prometheus-alertmanager", [f"--config.file={file}", *arguments], directory) as url:
            yield url


@contextmanager
def _directory(name: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def _started(program: str, arguments: list[str], directory: Path) -> Iterator[str]:
    reserved = reserve_port()
    url = f"http://127.0.0.1:{reserved.number}"
    log = directory / "log"
    address = f"--web.listen-address=127.0.0.1:{reserved.number}"
    with log.open("ab") as output:
        process = _STARTER.submit(
            subprocess.Popen,
            ["setpriv", "--pdeathsig", "KILL", program, address, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ).result()
    try:
        _wait_until_ready(process, url, log)
        yield url
    finally:
        process.kill()
        process.wait(_SECONDS)
        reserved.release()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends = time.monotonic() + _SECONDS
    last = "nothing"
    while time.monotonic() < ends:
        assert process.poll() is None, f"it ended:\n{log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except (OSError, urllib.error.URLError) as error:
            last = str(error)
            time.sleep(0.05)  # noqa: TID251  # another process sets no Event
    raise AssertionError(f"not ready within {_SECONDS:g} s ({last}):\n{log.read_text()[-2000:]}")

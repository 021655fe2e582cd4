"""The stack for work on the gateway: what is changed in the source is in force a moment later."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.stacks import ROOT
from tests.docs.blocks import named
from tests.image.engine import Engine
from tests.image.stack import wait_until
from tests.redis_servers.ports import reserve_port

IMAGE = "bybit-gateway:test-dev"
BEFORE, AFTER = "The gateway has no such page.", "The gateway has been changed."
NEEDED = ("Dockerfile", ".dockerignore", "requirements-image.lock", "config.yaml", "LICENSE", "NOTICE")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the stack needs of this repository, to be changed."""
    for name in NEEDED:
        shutil.copy(ROOT / name, tmp_path / name)
    left_out = shutil.ignore_patterns("__pycache__", "secrets", ".env")
    for name in ("policies", "proxy", "deploy/compose", "tests/fake_bybit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=left_out)
    (tmp_path / "tests" / "__init__.py").touch()
    # As it was where it was made; and builds have the host's network, where an engine has no other.
    override = {"services": {"gateway": {"build": {"network": "host"}}}}
    (tmp_path / "override.yaml").write_text(yaml.safe_dump(override))
    return tmp_path


def typed(name: str) -> list[str]:
    """The commands of a block of the page; which files they are about, the environment says."""
    return [
        command.text.replace(" -f deploy/compose/compose.dev.yaml", "")
        for command in named("docs/compose.md", name).commands
    ]


@contextmanager
def watched(engine: Engine, tree: Path, port: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """As docs/compose.md has it, of a tree of our own; yields the file of its words, and the variables that name it."""
    files = [tree / "deploy" / "compose" / "compose.dev.yaml", tree / "override.yaml"]
    environment = {
        "COMPOSE_PROJECT_NAME": "bybit-gateway-test-dev",
        "COMPOSE_FILE": ":".join(map(str, files)),
        "GATEWAY_IMAGE": IMAGE,
        "GATEWAY_PORT": str(port),
    }
    away = ("compose", "down", "--volumes", "--remove-orphans", "--timeout", "0")
    engine.docker(*away, environment=environment, timeout=60)
    said = tree / "said"
    (command,) = typed("dev")
    with said.open("wb") as output:
        process = subprocess.Popen(
            shlex.split(command),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield said, environment
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            engine.docker(*away, environment=environment, timeout=60)
            engine.docker("image", "rm", "--force", IMAGE)


def told_by(command: str, environment: dict[str, str]) -> dict[str, Any]:
    """Typed at no terminal."""
    words = shlex.split(command.replace(" exec ", " exec -T "))
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def test_what_is_changed_is_in_force_a_moment_later(engine: Engine, image: str, tree: Path) -> None:
    """The source by a new start, which takes no new image; the configuration by itself. And the exchange obeys."""
    if engine.docker("compose", "up", "--help", check=False).stdout.find("--watch") < 0:
        pytest.skip("docker compose is older than `up --watch`")
    reserved = reserve_port()

    def page() -> str:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{reserved.number}/gateway/none", timeout=5)
        except urllib.error.HTTPError as answer:
            return answer.read().decode()
        except OSError:
            return ""
        raise AssertionError("there is no such page")

    with watched(engine, tree, reserved.number) as (said, environment):
        try:
            wait_until(lambda: BEFORE in page(), "it serves", 120)
            wait_until(lambda: "atch enabled" in said.read_text(), "it watches")
            source = tree / "proxy" / "admin.py"
            source.write_text(source.read_text().replace(BEFORE, AFTER))
            wait_until(lambda: AFTER in page(), "the source is in force")
            config = tree / "deploy" / "compose" / "config" / "config.yaml"
            config.write_text(config.read_text().replace("level: info", "level: debug"))
            wait_until(lambda: "config_applied" in said.read_text(), "the configuration is in force")
            told = [told_by(command, environment) for command in typed("control")]
            assert [told[0]["breaches"], told[1]["ip_limit"]] == [0, 60]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{said.read_text()[-4000:]}") from None
        finally:
            reserved.release()

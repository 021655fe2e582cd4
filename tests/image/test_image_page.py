"""docs/image.md says what works: its commands are run as they stand there, but for names, ports and networks."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import named
from tests.image.engine import IMAGE, ROOT, Container, Engine
from tests.redis_servers.ports import reserve_port
from tests.redis_servers.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)  # whoever comes first builds the image, which may mean downloads

PAGE: Final = "docs/image.md"
_BUILD_S: Final = 900
_RUN_S: Final = 60
_STOP_S: Final = 90


def typed(name: str) -> list[str]:
    """The commands of a block; they use the image of the tests."""
    return [command.text.replace("bybit-gateway:0.1.0", IMAGE) for command in named(PAGE, name).commands]


def test_the_image_is_built_as_the_page_says(engine: Engine, image: str) -> None:
    (command,) = typed("build")
    done = subprocess.run(
        ["sh", "-ec", f"{command} VERSION=test ARGS=--network=host"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert f"docker build --tag {IMAGE}" in done.stdout


def test_it_runs_as_the_page_says(engine: Engine, image: str) -> None:
    """On the port that is published, until it is told to stop; then it is gone."""
    (command,) = typed("run")
    port, name = reserve_port(), f"image-page-{uuid.uuid4().hex[:8]}"
    command = command.replace("127.0.0.1:8080:8080", f"127.0.0.1:{port.number}:8080")
    try:
        with engine.network() as network:
            command = command.replace("docker run", f"exec docker run --name={name} --network={network}")
            with started(command) as process:
                wait_until(lambda: process.poll() is not None or engine.exists(name), "a container", seconds=_RUN_S)
                Container(engine, name).wait_until(lambda: answers(port.number), "answering")
                engine.docker("stop", name, timeout=_STOP_S + _RUN_S)
                output, errors = process.communicate(timeout=_RUN_S)
    finally:
        engine.docker("rm", "--force", "--volumes", name, check=False)
        port.release()

    assert process.returncode == 0, errors
    assert '"event":"stopped"' in output.replace(" ", "")
    assert not engine.exists(name)


def test_it_is_configured_as_the_page_says(engine: Engine, image: str, tmp_path: Path) -> None:
    """What it then says is what the page shows."""
    shutil.copyfile(ROOT / "config.yaml", tmp_path / "config.yaml")
    for command, told in zip(typed("configured"), named(PAGE, "configured").commands, strict=True):
        done = subprocess.run(
            ["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, timeout=_RUN_S, check=False
        )
        assert done.returncode == 0, done.stderr
        for line in told.shown:
            assert line == "..." or line in done.stdout.splitlines()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def started(command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["sh", "-ec", command],
        cwd=ROOT,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()

"""A Docker engine for tests, where one answers: it builds the image once, runs containers, and takes them away again.

Tests ask for the fixtures `engine` and `image` (tests/image/conftest.py), which skip where no engine answers. PATH and
DOCKER_HOST say which engine it is, as they do for `docker` itself. It must be this machine's own: containers that are
tested use the host's network, to reach an exchange that the test plays, and mount files that the test has written.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
IMAGE: Final = "bybit-gateway:test"
STAND_IN: Final = "bybit-gateway.stand-in"
"""A label: this image was made here in place of one that could not be had."""

_OWNER: Final = "bybit-gateway.tests"
"""A label: host and process that have started the container."""
_LEFT_OVER: Final = (
    ("ID", ("ps", "--all"), ("rm", "--force", "--volumes")),
    ("Name", ("volume", "ls"), ("volume", "rm", "--force")),
    ("Name", ("network", "ls"), ("network", "rm")),
)
"""What may be left, in this order: how it is called, listed, removed."""
_KEPT: Final = ROOT / ".make"
_ANSWER_S: Final = 30.0
_BUILD_S: Final = 900.0
_PULL_S: Final = 120.0
_HEALTHY_S: Final = 90.0


class NoEngine(Exception):
    """No engine answers, or not one that these tests can use; says why."""


class NoImage(Exception):
    """An image that is needed is not here and cannot be had; says why."""


class Container:
    """One that was started, until it is taken away."""

    def __init__(self, engine: Engine, identifier: str) -> None:
        self.id = identifier
        self._engine = engine

    def inspect(self) -> dict[str, Any]:
        """All that the engine knows of it."""
        told = json.loads(self._engine.docker("container", "inspect", self.id).stdout)[0]
        assert isinstance(told, dict)
        return told

    @property
    def state(self) -> dict[str, Any]:
        """Status, ExitCode, Health and more, as `docker inspect` calls them."""
        state = self.inspect()["State"]
        assert isinstance(state, dict)
        return state

    def execute(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command inside it."""
        return self._engine.docker("exec", self.id, *command, check=check)

    def logs(self) -> tuple[str, str]:
        """What it has written to stdout and to stderr."""
        done = self._engine.docker("logs", self.id)
        return done.stdout, done.stderr

    def events(self) -> list[dict[str, Any]]:
        """The gateway's log so far."""
        return [json.loads(line) for line in self.logs()[0].splitlines() if line.startswith("{")]

    def start(self) -> None:
        """Again, after stop()."""
        self._engine.docker("start", self.id)

    def stop(self, seconds: int) -> int:
        """SIGTERM, and SIGKILL after so long; the answer is the exit code."""
        self._engine.docker("stop", "--time", str(seconds), self.id, timeout=seconds + _ANSWER_S)
        return int(self.state["ExitCode"])

    def wait_until_healthy(self, seconds: float = _HEALTHY_S) -> None:
        """Until the image's own HEALTHCHECK says so."""
        self.wait_until(lambda: self.state["Health"]["Status"] == "healthy", "healthy", seconds)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = _HEALTHY_S) -> None:
        """Ask until it holds; a container that has ended will not."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            ended = self.state["Status"] in {"exited", "dead"}
            if holds():
                return
            if ended:
                break
            time.sleep(0.1)  # noqa: TID251  # another process sets no Event
        output, errors = self.logs()
        shown = json.dumps(self.state, indent=1)
        raise AssertionError(f"not {what} within {seconds:g} s:\n{shown}\n{output[-3000:]}\n{errors[-3000:]}")


class Engine:
    """Raises NoEngine where there is none that can be used."""

    def __init__(self) -> None:
        if (reason := _why_not()) is not None:
            raise NoEngine(reason)
        self._image: str | None = None
        self._sweep()

    def docker(
        self,
        *arguments: str,
        timeout: float = _ANSWER_S,
        check: bool = True,
        text: str | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` to its end; `text` is its stdin. With `check` a failure is an AssertionError in its words."""
        done = subprocess.run(
            ["docker", *arguments],
            cwd=directory,
            env={**os.environ, **(environment or {})},
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            said = f"{done.stdout[-3000:]}{done.stderr[-6000:]}"
            assert done.returncode == 0, f"docker {' '.join(arguments)} ended with {done.returncode}:\n{said}"
        return done

    def image(self) -> str:
        """Build the image from the Dockerfile as it stands; its name. Raises NoImage where its base cannot be had."""
        if self._image is None:
            self.need(base_image())
            self._image = self.build(IMAGE)
        return self._image

    def build(self, name: str, *options: str, dockerfile: str | None = None) -> str:
        """Build `dockerfile`, or the repository's own; the answer is `name`."""
        source, text = (".", None) if dockerfile is None else ("-", dockerfile)
        with one_at_a_time("image"):  # the second who comes finds all the layers
            self.docker("build", "--network=host", *options, "--tag", name, source, text=text, timeout=_BUILD_S)
        return name

    def need(self, name: str, stand_in: str | None = None) -> None:
        """Have this image here: as it is, pulled, or built from the Dockerfile `stand_in` under the same name.

        A stand-in carries the label STAND_IN, is made of debian:bookworm-slim as a rule, and stays on the machine.
        """
        if self.has(name):
            return
        with one_at_a_time("images"):
            if self.has(name):
                return
            why = self._not_pulled(name)
            if why is None:
                return
            if stand_in is None:
                raise NoImage(f"the image {name} is not here and cannot be pulled: {why}")
            for base in set(re.findall(r"(?m)^FROM (\S+)", stand_in)) - {"scratch"}:
                if not self.has(base) and self._not_pulled(base) is not None:
                    raise NoImage(f"the image {name} cannot be pulled ({why}), nor {base} to make a stand-in of")
            self.build(name, "--label", f"{STAND_IN}=1", dockerfile=stand_in)

    def has(self, name: str) -> bool:
        return self.docker("image", "inspect", name, check=False).returncode == 0

    def exists(self, container: str) -> bool:
        return self.docker("container", "inspect", container, check=False).returncode == 0

    @contextmanager
    def running(
        self, *command: str, image: str | None = None, options: Sequence[str] = (), start: bool = True
    ) -> Iterator[Container]:
        """A container of `image` (the gateway's), `options` as of `docker run`; it and its volumes go at the end."""
        labels = ("--label", f"{_OWNER}={_me()}")
        made = self.docker("create", *labels, *options, image or self.image(), *command)
        container = Container(self, made.stdout.strip())
        try:
            if start:
                container.start()
            yield container
        finally:
            self.docker("rm", "--force", "--volumes", container.id, timeout=2 * _ANSWER_S)

    @contextmanager
    def volume(self) -> Iterator[str]:
        """The name of a new volume."""
        name = self.docker("volume", "create", "--label", f"{_OWNER}={_me()}").stdout.strip()
        try:
            yield name
        finally:
            self.docker("volume", "rm", "--force", name)

    @contextmanager
    def network(self) -> Iterator[str]:
        """The name of a new bridge: an engine may have been told to have none by default."""
        name = f"tests-{uuid.uuid4().hex[:12]}"
        self.docker("network", "create", "--label", f"{_OWNER}={_me()}", name)
        try:
            yield name
        finally:
            self.docker("network", "rm", name)

    def _not_pulled(self, name: str) -> str | None:
        """Pull it; the answer is why it could not be."""
        try:
            done = self.docker("pull", "--quiet", name, check=False, timeout=_PULL_S)
        except subprocess.TimeoutExpired:
            return f"no answer within {_PULL_S:g} s"
        return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it said nothing"])[-1]

    def _sweep(self) -> None:
        """Take away what runs of these tests have left that were killed."""
        for identifier, listed, remove in _LEFT_OVER:
            shown = f'{{{{.{identifier}}}}} {{{{.Label "{_OWNER}"}}}}'
            found = self.docker(*listed, "--filter", f"label={_OWNER}", "--format", shown)
            for line in found.stdout.splitlines():
                name, owner = line.split()
                host, _, process = owner.rpartition(":")
                if host == socket.gethostname() and not Path("/proc", process).exists():
                    self.docker(*remove, name, check=False)


def base_image() -> str:
    """What the Dockerfile builds on, unless it is told otherwise."""
    found = re.search(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def _why_not() -> str | None:
    if shutil.which("docker") is None:
        return "no Docker engine answers: there is no docker on PATH"
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{json .}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine answers: {error}"
    told = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if done.returncode != 0 or not told.get("ServerVersion"):
        said = (done.stderr.strip() or "\n".join(told.get("ServerErrors") or ["it said nothing"])).splitlines()
        return f"no Docker engine answers: {said[-1]}"
    rootless = any("rootless" in option for option in told.get("SecurityOptions") or ())
    elsewhere = not os.environ.get("DOCKER_HOST", "unix:").startswith("unix:")
    if sys.platform != "linux" or rootless or elsewhere or told.get("OperatingSystem") == "Docker Desktop":
        return "the Docker engine does not share this machine's network (rootless, remote, or Docker Desktop)"
    return None


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Test workers share the engine."""
    _KEPT.mkdir(exist_ok=True)
    with (_KEPT / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""A compose stack as it is shipped, started by the engine under a name of its own, with the exchange in a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.deploy.stacks import COMPOSE, ROOT, document, filled_in, services
from tests.image.engine import Engine, one_at_a_time

if TYPE_CHECKING:
    from tests.docs.blocks import Block  # what reads pages is not there where only figures are wanted

STANDINS: Final = Path(__file__).parent / "standins"
PORTS: Final = ("GATEWAY_PORT", "PAGES_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT")
_UP_S: Final = 240.0
_PASSING_S: Final = 60.0
_WINDOW_US: Final = 5_000_000
_ARRIVALS: Final = (
    "import json, urllib.request as u;"
    "told = json.load(u.urlopen('http://127.0.0.1:9444/record', timeout=30))['entries'];"
    "print(json.dumps([[e['time_us'], e['link_ids']] for e in told]))"
)


class CannotCrash(Exception):
    """Processes of containers cannot be killed from here; says why."""


class Stack:
    """`files` are compose files; ports are free ones, by the names of the variables that set them."""

    def __init__(
        self, engine: Engine, project: str, files: Sequence[Path], secrets: Path, environment: dict[str, str]
    ) -> None:
        self._engine = engine
        self.secrets = secrets
        self.environment = {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": ":".join(map(str, files)),
            "COMPOSE_DISABLE_ENV_FILE": "1",  # a developer's own .env says nothing here
            **environment,
        }
        self.port = {name: int(value) for name, value in environment.items() if name in PORTS}

    def compose(self, *words: str, check: bool = True, timeout: float = _UP_S) -> subprocess.CompletedProcess[str]:
        return self._engine.docker("compose", *words, check=check, timeout=timeout, environment=self.environment)

    def as_written(self, block: Block) -> None:
        """The commands of a page, with names, ports, secrets and images of our own."""
        for command in block.commands:
            text = command.text
            for written, ours in self._ours.items():
                text = text.replace(written, ours)
            done = subprocess.run(
                ["sh", "-ec", text],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=_UP_S,
            )
            assert done.returncode == 0, f"{command.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    @property
    def _ours(self) -> dict[str, str]:
        file = Path(self.environment["COMPOSE_FILE"].split(":")[0])
        return {
            f" -f {file.relative_to(ROOT)}": "",  # COMPOSE_FILE says the same, and what differs in a test
            "deploy/compose/make-secrets": f"deploy/compose/make-secrets {self.secrets}",
            "127.0.0.1:8080": f"127.0.0.1:{self.port['GATEWAY_PORT']}",
            "--profile monitoring": "--profile metrics",  # there is no stand-in of Grafana
        }

    def up(self, *words: str) -> None:
        """Until everything is healthy."""
        done = self.compose("up", "--detach", "--wait", *words, check=False)
        if done.returncode != 0:
            logs = self.compose("logs", "--tail", "20", check=False).stdout
            raise AssertionError(
                f"not up:\n{done.stderr[-3000:]}\n{self.compose('ps', '--all').stdout}\n{logs[-6000:]}"
            )

    def down(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "0", check=False)

    def states(self) -> dict[str, str]:
        """Of every container its health, or how it is where it has none."""
        lines = self.compose("ps", "--all", "--format", "json").stdout.splitlines()
        return {told["Name"]: told["Health"] or told["State"] for told in map(json.loads, lines)}

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def inspect(self, container: str) -> dict[str, Any]:
        told = json.loads(self._engine.docker("container", "inspect", container).stdout)[0]
        assert isinstance(told, dict)
        return told

    def crash(self, container: str) -> None:
        """SIGKILL from outside, as by the kernel: after `docker kill`, which is an order, no policy starts it again."""
        process = self.inspect(container)["State"]["Pid"]
        try:
            if container not in Path(f"/proc/{process}/mountinfo").read_text():
                raise CannotCrash("the engine's processes have other numbers here")
            os.kill(process, signal.SIGKILL)
        except OSError as error:
            raise CannotCrash(str(error)) from None

    def run_inside(self, service: str, *command: str, check: bool = True) -> str:
        return self.compose("exec", "-T", service, *command, check=check, timeout=_PASSING_S).stdout

    def arrivals(self) -> list[tuple[int, list[str]]]:
        """Everything that the exchange has seen: when, and the orders in it."""
        return [
            (time_us, links) for time_us, links in json.loads(self.run_inside("exchange", "python", "-c", _ARRIVALS))
        ]

    def page(self, container: str) -> dict[str, Any] | None:
        """What /health of a gateway says, not through nginx, which would ask any of them; None while it is away."""
        address = next(iter(self.inspect(container)["NetworkSettings"]["Networks"].values()))["IPAddress"]
        try:
            with urllib.request.urlopen(f"http://{address}:8080/health", timeout=10) as answer:
                told = json.load(answer)
        except (OSError, ValueError):
            return None
        assert isinstance(told, dict)
        return told

    def modes(self) -> list[str | None]:
        """How each gateway stands with Redis; None while it is away."""
        pages = [self.page(container) for container in self.containers("gateway")]
        return [None if page is None else page["store"]["mode"] for page in pages]

    def most_in_a_window(self) -> int:
        """Of all gateways together, whose addresses the exchange tells apart: counted here, in any five seconds."""
        times = sorted(time_us for time_us, _ in self.arrivals())
        most = first = 0
        for last, time_us in enumerate(times):
            while time_us - times[first] >= _WINDOW_US:
                first += 1
            most = max(most, last - first + 1)
        return most


def wait_until(holds: Callable[[], bool], what: str, seconds: float = _PASSING_S) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if holds():
            return
        time.sleep(0.2)  # noqa: TID251  # containers set no Event
    raise AssertionError(f"not within {seconds:g} s: {what}")


@contextmanager
def stack(engine: Engine, name: str, file: str, port: Callable[[], int], **environment: str) -> Iterator[Stack]:
    """Prepared and not yet started; everything of it is taken away at the end.

    Images are here, pulled, or stand-ins; secrets are new ones. The gateways' upstream is the exchange in a box.
    `port` has another free one whenever it is asked.
    """
    wanted = services(file)
    with ExitStack() as ending:
        # Its name and its network are the same in every run: another one's is not to be taken away while it is up.
        ending.enter_context(one_at_a_time(f"stack-{name}"))
        directory = Path(ending.enter_context(TemporaryDirectory(prefix="stack-")))
        secrets = directory / "secrets"
        subprocess.run([COMPOSE / "make-secrets", secrets], check=True, timeout=30)
        ports = {variable: str(port()) for variable in PORTS}
        override = _override(file, secrets)
        (directory / "override.yaml").write_text(override, encoding="utf-8")
        for service in wanted.values():
            _have(engine, filled_in(service["image"]))
        image = f"{engine.image()}-{name}"  # a stack may build it anew
        engine.docker("image", "tag", engine.image(), image)
        ending.callback(engine.docker, "image", "rm", "--force", image, check=False)
        variables = {"GATEWAY_IMAGE": image, **ports, **environment}
        made = Stack(
            engine, f"bybit-gateway-test-{name}", [COMPOSE / file, directory / "override.yaml"], secrets, variables
        )
        made.down()  # of a run that was killed
        ending.callback(made.down)
        yield made


def _have(engine: Engine, image: str) -> None:
    name = image.partition(":")[0].rpartition("/")[2]
    file = STANDINS / f"{name}.Dockerfile"
    if file.exists():
        engine.need(image, file.read_text(encoding="utf-8"))


def _override(file: str, secrets: Path) -> str:
    """What differs in a test: no registry, another upstream, no bound for the one address that all clients have."""
    shipped = services(file)
    told: dict[str, Any] = {"services": {name: {"pull_policy": "never"} for name in shipped}}
    told["secrets"] = {name: {"file": str(secrets / name)} for name in document(file).get("secrets", {})}
    networks = shipped["gateway"].get("networks", ["default"])
    box = services("compose.dev.yaml")["exchange"]
    told["services"]["exchange"] = {**box, "volumes": [f"{ROOT}/tests:/app/tests:ro"], "networks": [networks[0]]}
    told["services"]["gateway"] |= {
        "build": {"network": "host"},  # where an engine has no other
        "environment": {
            "GATEWAY__UPSTREAM__URL": "http://exchange:9443",
            "GATEWAY__UPSTREAM__STREAM_URL": "ws://exchange:9443",
            "GATEWAY__LIMITS": json.dumps(_limits()),
        },
    }
    return yaml.safe_dump(told)


def _limits() -> list[dict[str, Any]]:
    """Those of the exchange. One address may ask for more than its share, because here it is that of all clients."""
    rules = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["limits"]
    assert isinstance(rules, list)
    return [{**rule, "quota": "1000000/5s"} if rule["name"] == "per-ip" else rule for rule in rules]

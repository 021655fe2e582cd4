"""Where a block is executed: a copy of the checkout, a fake exchange, and a gateway as a process where it is spoken of.

Pages speak of ports 8080, 9443 and 9444, and of api.bybit.com. Here these are free ports and the fake exchange, so that
nothing meets what a user runs, and nothing leaves this machine: what asks for another host meets a closed door.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests import npm
from tests.clients.javascript import PROGRAMS
from tests.docs.blocks import ROOT
from tests.fake_bybit import FakeBybit
from tests.redis_servers.ports import ReservedPort, reserve_port, two_neighbours

TOKEN: Final = "a-token-of-the-tests-0123"
"""What $TOKEN is; where a block says it, the gateway has it as `admin.token`."""
GATEWAY, EXCHANGE, CONTROL = 8080, 9443, 9444
"""The ports that pages speak of."""
TOOLS: Final = Path(sys.prefix) / "deploy" / "bin"
"""Of `make .venv/.deploy`: looked into last, because there is a Python of its own as well."""
OFFICIAL: Final = "https://api.bybit.com"

_NOT_COPIED: Final = frozenset(
    {".git", ".venv", ".make", "__pycache__", "node_modules", "build", "dist", ".hypothesis"}
    | {f".{name}_cache" for name in ("mypy", "ruff", "pytest", "import_linter")}
)
_STARTS_GATEWAY: Final = re.compile(r"\bmake (?:run|demo)\b|-m proxy(?: run|$)|bybit-gateway run")
_STARTS_EXCHANGE: Final = re.compile(r"-m tests\.fake_bybit|\bmake demo\b")
_CLOSED: Final = "http://127.0.0.1:9"
_READY_S: Final = 30.0
_PROGRAM_S: Final = 60.0
_CURL: Final = """\
#!/bin/sh
# An answer of 400 or more is a failure, as a reader would take it.
exec {curl} --fail-with-body "$@"
"""


@dataclass(frozen=True)
class Surroundings:
    """Made for one block."""

    directory: Path
    exchange: FakeBybit
    ports: Mapping[int, int]
    environment: Mapping[str, str]
    gateway: asyncio.subprocess.Process | None = None
    log: Path = field(default_factory=Path)

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[GATEWAY]}"

    def here(self, text: str) -> str:
        """The text of a page with the ports and the exchange that are used here."""
        text = text.replace(OFFICIAL, self.exchange.url)
        return re.sub(r"(?<![\d.,])(8080|9443|9444)(?!\d)", lambda match: str(self.ports[int(match[1])]), text)

    def there(self, text: str) -> str:
        """What was said, in the words of the pages."""
        return text.replace("\r", "").replace(self.exchange.url, OFFICIAL)


def copy_of_the_checkout(to: Path) -> Path:
    """With the virtual environment beside it; times are kept, make goes by them."""

    def not_copied(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in _NOT_COPIED}

    shutil.copytree(ROOT, to, symlinks=True, ignore=not_copied)
    (to / ".venv").symlink_to(sys.prefix)
    return to


@asynccontextmanager
async def surroundings(
    checkout: Path, where: Path, text: str, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Surroundings]:
    """For a block of this text. `extra`: more of the environment of the gateway, and of nothing else."""
    own_gateway, own_exchange = _STARTS_GATEWAY.search(text), _STARTS_EXCHANGE.search(text)
    held = _ports()
    try:
        where.mkdir(exist_ok=True)
        directory = where / "checkout"
        shutil.copytree(checkout, directory, symlinks=True)
        (where / "home").mkdir()
        async with FakeBybit() as exchange:
            ports = {GATEWAY: held[0].number, EXCHANGE: exchange.port, CONTROL: exchange.control_port}
            if own_exchange:
                ports |= {EXCHANGE: held[1].number, CONTROL: held[2].number}
            environment = _environment(where, exchange, ports)
            made = Surroundings(directory, exchange, ports, environment, log=where / "log")
            wanted = not own_gateway and (extra is not None or str(GATEWAY) in text)
            if not wanted:
                yield made
                return
            asked = {"GATEWAY__ADMIN__TOKEN": TOKEN} if "$TOKEN" in text else {}
            async with _gateway(made, {**asked, **(extra or {})}) as process:
                yield Surroundings(directory, exchange, ports, environment, process, made.log)
    finally:
        for port in held:
            port.release()


def _ports() -> list[ReservedPort]:
    """One for a gateway and two neighbours for an exchange: its control port is the next one."""
    neighbours = two_neighbours()
    return [reserve_port(), *neighbours]


def _environment(where: Path, exchange: FakeBybit, ports: Mapping[int, int]) -> dict[str, str]:
    shims = where / "bin"
    shims.mkdir()
    curl = shutil.which("curl")
    if curl is not None:
        (shims / "curl").write_text(_CURL.format(curl=curl))
        (shims / "curl").chmod(0o755)
    (shims / "docker").write_text("#!/bin/sh\necho these tests start no containers >&2\nexit 125\n")
    (shims / "docker").chmod(0o755)
    kept = {name: os.environ[name] for name in ("TMPDIR", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join([str(shims), str(Path(sys.prefix) / "bin"), os.environ["PATH"], str(TOOLS)]),
        "HOME": str(where / "home"),
        "XDG_STATE_HOME": str(where / "home" / "state"),
        "LANG": "C.UTF-8",
        "TOKEN": TOKEN,
        "GATEWAY__UPSTREAM__URL": exchange.url,
        "GATEWAY__UPSTREAM__STREAM_URL": exchange.stream_url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__BACKPRESSURE__ENABLED": "false",  # a machine that is busy with other tests turns nobody away
        "GATEWAY__LISTEN__PORT": str(ports[GATEWAY]),
        "DEMO_EXCHANGE_PORT": str(ports[EXCHANGE]),
        **{
            name: _CLOSED
            for scheme in ("http", "https", "all")
            for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
        },
        "no_proxy": "127.0.0.1,localhost,::1",
        "NO_PROXY": "127.0.0.1,localhost,::1",
    }


@asynccontextmanager
async def _gateway(made: Surroundings, more: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    with made.log.open("wb") as log, made.log.with_name("errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "run", "--config", "config.yaml"),
            cwd=made.directory,
            env={**made.environment, **more},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=errors,
        )
    try:
        try:
            await until_it_answers(f"{made.gateway_url}/health/live", process)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.log.with_name('errors').read_text()}") from None
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_READY_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def until_it_answers(url: str, process: asyncio.subprocess.Process) -> None:
    """Bounded polling of another process."""
    try:
        async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as session:
            while process.returncode is None:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise AssertionError(f"{url} does not answer; exit code {process.returncode}")


async def said_by(at: Surroundings, *words: str) -> tuple[int, str]:
    """Exit code and words of a program."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=at.directory,
        env=dict(at.environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_PROGRAM_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode(errors="replace")


async def said_by_node(at: Surroundings, text: str) -> tuple[int, str]:
    """The same of a module for Node, beside the clients of the lock file; skips the test where there is no Node."""
    missing = npm.missing("JavaScript of the pages is")
    if missing is not None:
        pytest.skip(missing)
    library = await asyncio.to_thread(npm.installed, PROGRAMS, "js")
    with tempfile.TemporaryDirectory(dir=library, prefix="docs-") as name:  # imports are looked for above it
        program = Path(name) / "block.mjs"
        program.write_text(at.here(text))
        return await said_by(at, "node", str(program))

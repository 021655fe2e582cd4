"""Two fake exchanges of one seed, one reached directly, one through a gateway that runs as its users run it.

    client ------------------------------> exchange `direct`  (http)
    client -> `python -m proxy run` -----> exchange `behind`  (https, a CA of its own)

The exchanges live on a thread of their own, so that clients may block. Their common clock can be made to stand: then
two exchanges that were asked the same say the same, down to the last digit of a price and of a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from policies.schema import DEFAULT_LIMITS
from proxy.config_environment import PREFIX, SHORT_NAMES
from tests.fake_bybit import FakeBybit, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.fake_bybit import Entry

KEY: Final = "test-key"
SECRET: Final = "test-secret"
RECV_WINDOW_MS: Final = 60_000
"""What the compared clients sign with: long, because they sign in real time for a clock that stands."""

REPOSITORY: Final = Path(__file__).parents[2]

_AHEAD_US: Final = 50_000_000
"""How far in the future the clock is stopped: RECV_WINDOW_MS then covers about that much of real time."""
_FAR_US: Final = 100_000
_START_S: Final = 30.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.02
_UNLIMITED: Final = 1_000_000
_LIMITED: Final = (
    *(f"POST /v5/order/{name}" for name in ("create", "amend", "cancel", "cancel-all")),
    *(f"POST /v5/order/{name}-batch" for name in ("create", "amend", "cancel")),
    *(f"GET /v5/{name}" for name in ("order/realtime", "order/history", "execution/list", "position/list")),
)


class Clock:
    """Epoch microseconds. Goes with the machine's until it is told to stand."""

    def __init__(self) -> None:
        self._standing_us: int | None = None

    def __call__(self) -> int:
        return time.time_ns() // 1000 if self._standing_us is None else self._standing_us

    def stand(self) -> None:
        self._standing_us = time.time_ns() // 1000 + _AHEAD_US

    def go(self) -> None:
        self._standing_us = None


@dataclass(frozen=True)
class Chain:
    """Both exchanges, and the base URLs by which a client reaches them."""

    direct: FakeBybit
    behind: FakeBybit
    clock: Clock
    gateway_url: str

    @property
    def direct_url(self) -> str:
        return self.direct.url

    def mark(self) -> Mark:
        """From here on."""
        return Mark(self, self.direct.record.sequence, self.behind.record.sequence)


@dataclass(frozen=True)
class Mark:
    """A moment in the records of both exchanges."""

    chain: Chain
    direct_sequence: int
    behind_sequence: int

    def direct(self) -> list[Entry]:
        """What the client has sent to the exchange since."""
        return self.chain.direct.record.since(self.direct_sequence)

    def behind(self) -> list[Entry]:
        """What has come through the gateway since."""
        return self.chain.behind.record.since(self.behind_sequence)


@contextmanager
def running(directory: Path, **overrides: str) -> Iterator[Chain]:
    """Start everything on free ports; end exactly what was started. `overrides`: as gateway_fixture.gateway()."""
    clock = Clock()
    direct = FakeBybit(settings=_patient(), clock=clock)
    behind = FakeBybit(settings=_patient(), clock=clock, tls=True, tls_dir=directory)
    with served(direct, behind), _gateway(behind, directory, overrides) as gateway_url:
        yield Chain(direct, behind, clock, gateway_url)


def _patient() -> Settings:
    """An exchange without limits: on a standing clock every window would hold all there ever was. Its streams are as
    far away as the real ones: pybit notes whom to tell after it has asked, and never hears what comes before that."""
    return Settings(ip_limit=_UNLIMITED, account_limits=dict.fromkeys(_LIMITED, _UNLIMITED), stream_answer_us=_FAR_US)


@contextmanager
def served(*servers: AbstractAsyncContextManager[Any]) -> Iterator[list[Any]]:
    """Run servers on a loop and a thread of their own; what they are entered as comes in their order."""
    up: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, list[Any]]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            entered = [await stack.enter_async_context(server) for server in servers]
            up.set_result((asyncio.get_running_loop(), stop, entered))
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if up.done():
                raise
            up.set_exception(error)

    thread = threading.Thread(target=work, name="servers", daemon=True)
    thread.start()
    loop, stop, entered = up.result(_START_S)
    try:
        yield entered
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_STOP_S)
        assert not thread.is_alive(), "the servers did not stop"


@contextmanager
def _gateway(exchange: FakeBybit, directory: Path, overrides: Mapping[str, str]) -> Iterator[str]:
    log = directory / "gateway.log"
    errors = directory / "gateway.err"
    with log.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "run"],
            cwd=REPOSITORY,
            env=_environment(exchange) | {f"{PREFIX}{name.upper()}": text for name, text in overrides.items()},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        yield _ready(process, log, errors)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _environment(exchange: FakeBybit) -> dict[str, str]:
    """The shipped configuration, but for the addresses, for the client's own quota, which tests would meet, and for
    what is kept of earlier answers: here each request shall reach the exchange as it was sent."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in SHORT_NAMES and name.lower() not in {"http_proxy", "https_proxy"}
    }
    limits = [{**rule, "quota": "6000/5s"} if rule["name"] == "per-ip" else rule for rule in DEFAULT_LIMITS]
    return inherited | {
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": "0",
        "GATEWAY__UPSTREAM__URL": exchange.url,
        "GATEWAY__UPSTREAM__STREAM_URL": exchange.stream_url,
        "GATEWAY__UPSTREAM__CA_FILE": str(exchange.ca_path),
        "GATEWAY__LIMITS": json.dumps(limits),
        "GATEWAY__CACHE__RULES": "[]",
        "GATEWAY__CANDLES__ENABLED": "false",
    }


def _ready(process: subprocess.Popen[bytes], log: Path, errors: Path) -> str:
    """The gateway's base URL, once it says that it is ready. The port is the one it says that it took."""
    url: str | None = None
    for _ in _polls(process):
        url = url or _announced(log)
        if url is not None and is_ready(url):
            return url
    trouble = f"{log.read_text()}\n{errors.read_text()}"
    raise AssertionError(f"the gateway did not become ready (exit code {process.poll()}):\n{trouble}")


def _polls(process: subprocess.Popen[bytes]) -> Iterator[None]:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        yield
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
        return


def _announced(log: Path) -> str | None:
    for line in log.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and (event := _event(line)).get("event") == "started":
            return f"http://127.0.0.1:{event['port']}"
    return None


def _event(line: bytes) -> Mapping[str, object]:
    event = json.loads(line)
    assert isinstance(event, dict)
    return event


def is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False

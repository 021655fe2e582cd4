"""A fake of Bybit's v5 API: signs, limits, bans, fails, trades and streams like the real one, on this machine.

    async with FakeBybit(settings=Settings(ip_limit=50)) as exchange:
        ...  # exchange.url, exchange.books, exchange.record, exchange.faults

It shares no code with the gateway, so that neither can repeat the other's mistake. docs/fake-exchange.md tells
how to run it on its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.fake_bybit.books import Books, IpBook, Verdict
from tests.fake_bybit.control import Control
from tests.fake_bybit.faults import FaultError, Faults, Rule
from tests.fake_bybit.judge import Judge
from tests.fake_bybit.record import Entry, Record, Stats
from tests.fake_bybit.reply import Reply
from tests.fake_bybit.server import Exchange, low_level_server
from tests.fake_bybit.settings import SettingError, Settings
from tests.fake_bybit.streams import Streams
from tests.fake_bybit.tls import Certificates, make_certificates

if TYPE_CHECKING:
    from tests.fake_bybit.call import Clock
    from tests.fake_bybit.server import Sleep

__all__ = [
    "Books",
    "Entry",
    "FakeBybit",
    "FaultError",
    "Faults",
    "IpBook",
    "Record",
    "Reply",
    "Rule",
    "SettingError",
    "Settings",
    "Stats",
    "Streams",
    "Verdict",
]

_STOP_S = 1.0


def system_clock() -> int:
    """Epoch microseconds."""
    return time.time_ns() // 1000


class FakeBybit:
    """One exchange on the running loop, on free ports unless told otherwise."""

    def __init__(
        self,
        *,
        tls: bool = False,
        tls_dir: Path | None = None,
        seed: int = 1,
        settings: Settings | None = None,
        clock: Clock = system_clock,
        sleep: Sleep = asyncio.sleep,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int = 0,
    ) -> None:
        # Here rather than above: whoever only wants the books does not load the whole exchange.
        from tests.fake_bybit.market import Market
        from tests.fake_bybit.trading import Trading, batch_size

        self.settings = settings if settings is not None else Settings()
        self.market = Market(seed, self.settings)
        self.trading = Trading(seed, self.settings)
        judge = Judge(self.settings, self.market, self.trading, batch_size, clock)
        self.exchange = Exchange(self.settings, judge, seed=seed, clock=clock, sleep=sleep)
        self.host = host
        self.port = port
        self.control_port = control_port
        self.certificates: Certificates | None = None
        self._tls = tls
        self._tls_dir = tls_dir
        self._clock = clock
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """Base URL of the exchange, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{_in_url(self.host)}:{self.port}"

    @property
    def stream_url(self) -> str:
        """Base URL of the streams: the same port."""
        return "ws" + self.url.removeprefix("http")

    @property
    def control_url(self) -> str:
        """Base URL of the control port."""
        return f"http://127.0.0.1:{self.control_port}"

    @property
    def ca_path(self) -> Path | None:
        """What a client has to trust; None without TLS."""
        return self.certificates.ca_path if self.certificates else None

    @property
    def books(self) -> Books:
        """The three limiters."""
        return self.exchange.books

    @property
    def record(self) -> Record:
        """What arrived."""
        return self.exchange.record

    @property
    def stats(self) -> Stats:
        """Counts of what was answered."""
        return self.exchange.stats

    @property
    def streams(self) -> Streams:
        """Connections and counts of the WebSocket streams."""
        return self.exchange.streams

    @property
    def faults(self) -> Faults:
        """Trouble on demand."""
        return self.exchange.faults

    async def __aenter__(self) -> Self:
        """Listen."""
        async with AsyncExitStack() as stack:
            context = self._server_context(stack)
            # Hung requests are let go before their connections are waited for.
            runner = web.ServerRunner(low_level_server(self.exchange), shutdown_timeout=_STOP_S)
            self.port = await _listen(stack, runner, self.host, self.port, context)
            control = web.AppRunner(Control(self.exchange).application(), access_log=None, shutdown_timeout=_STOP_S)
            self.control_port = await _listen(stack, control, "127.0.0.1", self.control_port, None)
            stack.callback(self.exchange.stopping.set)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close ports and connections."""
        await self._stack.aclose()

    def _server_context(self, stack: AsyncExitStack) -> Any:
        if not self._tls:
            return None
        directory = self._tls_dir
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fake-bybit-")))
        self.certificates = make_certificates(directory, self._clock())
        return self.certificates.server_context()


async def _listen(stack: AsyncExitStack, runner: web.BaseRunner, host: str, port: int, ssl_context: Any) -> int:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, ssl_context=ssl_context)
    await site.start()
    return int(runner.addresses[0][1])


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # listening everywhere, reached here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host

"""The stream of the status page: made once for all, for nobody when nobody watches, and never in anybody's way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.app import App
from proxy.live import Live
from tests.conversation import Client, new_session
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes

_TURNS = 200
"""Of the event loop: enough for whatever has been woken to run until it waits again."""


class Viewer:
    """Reads a stream event by event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.head = b""

    async def greeting(self) -> bytes:
        self.head = await self._reader.readuntil(b"\r\n\r\n")
        return self.head

    async def block(self) -> list[str] | None:
        """The lines of the next event or comment; None at the end of the stream."""
        while b"\n\n" not in self._rest:
            size = int((await self._reader.readuntil(b"\r\n"))[:-2], 16)
            self._rest += (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                return None
        block, _, self._rest = self._rest.partition(b"\n\n")
        return block.decode().split("\n")

    async def snapshot(self) -> tuple[int, Any] | None:
        """Number and content of the next one."""
        while (block := await self.block()) is not None:
            if "event: snapshot" in block:
                number, data = (next(line for line in block if line.startswith(name)) for name in ("id: ", "data: "))
                return int(number[4:]), json.loads(data[6:])
        return None

    def leave(self) -> None:
        self._writer.close()


@asynccontextmanager
async def viewer(app: App, *, receives: int | None = None) -> AsyncIterator[Viewer]:
    """`receives`: bytes that its socket takes before it is read."""
    sock = socket.socket()
    if receives is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", app.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
    writer.write(b"GET /gateway/events HTTP/1.1\r\nHost: gateway\r\n\r\n")
    try:
        async with asyncio.timeout(100):  # a test ends before the whole run is stopped
            yield Viewer(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        yield app


def live_of(app: App) -> Live:
    return app.watch.page.live


async def turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Of what other tasks bring about: bounded by the test's own time."""
    while not holds():
        await asyncio.sleep(0.005)


async def test_events_are_framed_as_the_standard_says(app: App) -> None:
    async with viewer(app) as watching:
        head = (await watching.greeting()).lower()
        first = await watching.block()
        second = await watching.block()

    assert head.startswith(b"http/1.1 200 ")
    for line in (b"content-type: text/event-stream", b"cache-control: no-store", b"x-accel-buffering: no"):
        assert line in head
    assert first == ["retry: 2000"]
    assert second is not None
    assert [line.partition(": ")[0] for line in second] == ["id", "event", "data"]
    assert json.loads(second[2].removeprefix("data: "))["status"] == "ok"


async def test_snapshots_go_on_and_tell_what_has_happened_since(app: App) -> None:
    async with viewer(app) as watching, new_session() as session:
        await watching.greeting()
        assert await watching.snapshot() is not None
        await Client(session, app).get("/v5/market/time")
        numbers = []
        while (told := await watching.snapshot()) is not None:
            numbers.append(told[0])
            if told[1]["callers"]["rows"]:
                break

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert told is not None
    assert told[1]["callers"]["rows"][0] == {"name": "127.0.0.1", "requests": 1, "cached": 0, "refused": 0}
    assert told[1]["budget"]["rule"] == "bybit-ip"
    assert told[1]["exchange"]["asked"] == 1


class Counted:
    """Snapshots by hand: `sleep` ends when the test says so."""

    def __init__(self) -> None:
        self.taken = 0
        self.fails = False
        self.wake = asyncio.Semaphore(0)

    async def take(self) -> Mapping[str, Any]:
        self.taken += 1
        if self.fails:
            raise RuntimeError
        return {"taken": self.taken}

    async def sleep(self, _: float) -> None:
        await self.wake.acquire()


async def test_nothing_is_made_while_nobody_watches() -> None:
    """And one snapshot serves everybody who does."""
    counted = Counted()
    live = Live(counted.take, counted.sleep)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(live.run())
        counted.wake.release()
        await turns()
        assert counted.taken == 0

        live._enter()
        live._enter()
        one, other = live._pieces(), live._pieces()
        assert [await anext(one), await anext(one)] == [await anext(other), await anext(other)]
        await turns()
        taken = counted.taken

        live._leave()
        live._leave()
        for _ in range(5):
            counted.wake.release()
        await turns()
        assert counted.taken == taken
        running.cancel()


async def test_what_cannot_be_told_costs_one_snapshot() -> None:
    counted = Counted()
    live = Live(counted.take, counted.sleep)
    counted.fails = True
    await live._publish()
    counted.fails = False
    live._enter()
    await live._publish()
    pieces = live._pieces()

    assert await anext(pieces) == b"retry: 2000\n\n"
    assert await anext(pieces) == b'id: 1\nevent: snapshot\ndata: {"taken":2}\n\n'


async def test_a_silent_stream_says_that_it_lives() -> None:
    counted = Counted()
    live = Live(counted.take, counted.sleep, heartbeat_s=0.001)
    pieces = live._pieces()
    await anext(pieces)

    assert await anext(pieces) == b": nothing new\n\n"


async def test_a_slow_viewer_gets_the_latest_and_never_a_queue(app: App) -> None:
    """Forty megabytes are told while he reads nothing; he gets a few of them, and then how it stands."""
    live, size, times = live_of(app), 200_000, 200
    filler = "x" * size

    async def big() -> Mapping[str, Any]:
        return {"filler": filler}

    async with viewer(app, receives=4096) as slow:
        await slow.greeting()
        await until(lambda: live.viewers == 1)
        live._take = big
        for _ in range(times):
            await live._publish()
            await turns()
        last = live._number
        seen = []
        while not seen or seen[-1] < last:
            told = await slow.snapshot()
            assert told is not None
            seen.append(told[0])

    assert len(seen) < times // 2, "what waited for him was kept"


async def test_there_are_only_so_many_viewers(app: App) -> None:
    live_of(app)._most = 2
    asked = b"GET /gateway/events HTTP/1.1\r\nHost: gateway\r\n\r\n"
    async with viewer(app) as first, viewer(app) as second:
        for watching in (first, second):
            assert await watching.greeting()
        refused = await exchange_bytes(app.port, asked)
        second.leave()
        await until(lambda: live_of(app).viewers == 1)
        async with viewer(app) as third:
            assert (await third.greeting()).startswith(b"HTTP/1.1 200 ")

    assert (refused.status, refused.get("X-Gateway")) == (503, "too-many-viewers")
    await until(lambda: live_of(app).viewers == 0)


async def test_the_stream_can_only_be_read(app: App) -> None:
    answer = await exchange_bytes(app.port, b"POST /gateway/events HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n")

    assert answer.status == 405


async def test_the_drain_ends_every_stream() -> None:
    """Requests may take ten minutes to drain; who watches holds up nothing. The last snapshot says what goes on."""
    async with FakeBybit() as exchange:
        async with gateway(exchange.url, upstream__timeouts__total="10m") as app:
            stack = viewer(app)
            watching = await stack.__aenter__()
            await watching.greeting()
            await watching.snapshot()
        told, last = None, await watching.snapshot()
        while last is not None:
            told, last = last, await watching.snapshot()
        await stack.__aexit__(None, None, None)

    assert told is not None
    assert told[1]["status"] == "draining"
    assert told[1]["notices"][0]["id"] == "draining"
    assert live_of(app).viewers == 0


async def test_nobody_is_let_in_once_it_drains(app: App) -> None:
    await live_of(app).end()

    answer = await exchange_bytes(app.port, b"GET /gateway/events HTTP/1.1\r\nHost: gateway\r\n\r\n")

    assert (answer.status, answer.get("X-Gateway")) == (503, "draining")

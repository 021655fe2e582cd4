"""The end of a gateway, as clients on kept connections meet it: what has arrived is answered, or was not taken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from proxy.app import App
from proxy.listener import _begin_no_more
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.recorder import OK, Recorder, Seen, recorder

TIME = b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n"
ORDER = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Length: 10\r\n\r\n"


class Kept:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, bool]:
        """Status, and whether it says that it is the last."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await self.reader.readexactly(length)
        return int(head.split()[1]), b"\r\nconnection: close\r\n" in head

    async def ended(self) -> bool:
        """No byte more: it was closed, and not reset."""
        return await self.reader.read() == b""

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def kept(app: App) -> AsyncIterator[Kept]:
    connection = Kept(*await asyncio.open_connection("127.0.0.1", app.port))
    try:
        yield connection
    finally:
        connection.close()


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@asynccontextmanager
async def retiring(app: App) -> AsyncIterator[asyncio.Task[None]]:
    """From SIGTERM on. It is hurried in the end: no test waits for what it does not look at."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(app.retire())
        await asyncio.sleep(0)
        yield task
        app.hurry()


class Slow:
    """An exchange that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.release = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: Seen, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        await self.release.wait()
        writer.write(OK)


@pytest.fixture
async def upstream() -> AsyncIterator[Recorder]:
    async with recorder() as there:
        yield there


async def test_a_kept_connection_is_served_once_more_and_told_that_it_was_the_last_time(upstream: Recorder) -> None:
    """A load balancer sends on it in the very instant in which the gateway is told to end."""
    async with gateway(upstream.url) as app, kept(app) as client:
        client.send(TIME)
        assert await client.answer() == (200, False)
        async with retiring(app) as task:
            client.send(TIME)
            assert await client.answer() == (200, True)
            assert await client.ended()
            assert await refused(app.port)
            await task  # there is nobody left to wait for


async def test_a_connection_that_was_never_used_is_served_too(upstream: Recorder) -> None:
    async with gateway(upstream.url) as app, kept(app) as client:
        await until(lambda: len(_connections(app)) == 1)
        async with retiring(app):
            client.send(TIME)
            assert await client.answer() == (200, True)


def _connections(app: App) -> list[object]:
    return list(app._traffic_port._server._open)


async def test_an_answer_that_is_under_way_says_that_it_is_the_last() -> None:
    slow = Slow()
    async with recorder(slow) as there, gateway(there.url) as app, kept(app) as client:
        client.send(TIME)
        await slow.asked.wait()
        async with retiring(app) as task:
            slow.release.set()
            assert await client.answer() == (200, True)
            assert await client.ended()
            await task


async def test_a_body_that_is_still_coming_is_taken_whole(upstream: Recorder) -> None:
    """Half an order has been sent when the gateway is told to end."""
    async with gateway(upstream.url) as app, kept(app) as client:
        client.send(ORDER + b"01234")
        await until(lambda: bool(_connections(app)))
        await until(lambda: app.gateway._body_limits.held_bytes == 5)
        async with retiring(app) as task:
            await asyncio.sleep(0)
            client.send(b"56789")
            assert await client.answer() == (200, True)
            await task
    assert [seen.body for seen in upstream.seen] == [b"0123456789"]


async def test_a_connection_in_the_hands_of_the_kernel_is_not_thrown_away(upstream: Recorder) -> None:
    """It was made, and asked on, before anybody had accepted it."""
    async with gateway(upstream.url) as app:
        waiting = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(3)]
        for each in waiting:
            each.sendall(TIME)
        async with retiring(app) as task:
            for each in waiting:
                client = Kept(*await asyncio.open_connection(sock=each))
                assert await client.answer() == (200, True)
                client.close()
            await task
        assert await refused(app.port)


def test_while_it_stops_to_listen_no_connection_is_begun_and_those_that_were_made_stay() -> None:
    """One that is made between the last look and the end would be lost, with what was asked on it."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as made:
            if not _begin_no_more([door]):
                pytest.skip("sockets take no filters here")
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", port), timeout=0.2)
            made.sendall(TIME)
            accepted, _ = door.accept()
            with accepted:
                assert accepted.recv(len(TIME)) == TIME


async def test_who_waits_for_room_in_a_window_gets_his_turn() -> None:
    """As long as his request would have waited without the end."""
    clock = HandClock()
    rule = {"name": "few", "quota": "1/100ms", "when_full": "wait"}
    async with (
        recorder() as there,
        gateway(there.url, limits=[rule], clock=clock, sleep=clock.sleep) as app,
        kept(app) as one,
        kept(app) as other,
    ):
        one.send(TIME)
        assert await one.answer() == (200, False)
        one.send(TIME)
        other.send(TIME)
        await until(lambda: app.limiter.waiting == 2)
        async with retiring(app) as task:
            for waiting in (1, 0):
                await clock.leap(0.1)
                await until(lambda left=waiting: app.limiter.waiting == left)
            assert [await one.answer(), await other.answer()] == [(200, True)] * 2
            await task
    assert len(there.seen) == 3


async def test_it_is_not_ready_and_says_so_on_a_connection_that_it_has(upstream: Recorder) -> None:
    async with gateway(upstream.url) as app, kept(app) as probe:
        probe.send(b"GET /health/ready HTTP/1.1\r\nHost: me\r\n\r\n")
        assert await probe.answer() == (200, False)
        async with retiring(app):
            probe.send(b"GET /health/ready HTTP/1.1\r\nHost: me\r\n\r\n")
            assert await probe.answer() == (503, True)


async def test_with_a_delay_it_goes_on_for_so_long_while_it_is_not_ready(upstream: Recorder) -> None:
    """Until everybody has heard that there is another: new connections are taken, each for one request."""
    async with gateway(upstream.url, listen__drain_delay="1h") as app:
        async with retiring(app) as task:
            for _ in range(2):
                async with kept(app) as client:
                    client.send(TIME)
                    assert await client.answer() == (200, True)
            async with kept(app) as client:
                client.send(b"GET /health/ready HTTP/1.1\r\nHost: me\r\n\r\n")
                assert await client.answer() == (503, True)
            assert not task.done()
        assert await refused(app.port)


async def test_websockets_live_on_through_the_delay_and_are_told_of_the_end() -> None:
    """1001: a client connects again, and meets another gateway."""
    from tests.fake_bybit import FakeBybit

    async with FakeBybit() as exchange:
        stream = exchange.url.replace("http", "ws")
        async with (
            gateway(exchange.url, upstream__stream_url=stream, listen__drain_delay="1h") as app,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{app.port}/v5/public/linear") as client,
        ):
            async with retiring(app):
                await client.send_str('{"op": "ping"}')
                assert (await client.receive()).type is aiohttp.WSMsgType.TEXT
                app.hurry()
                assert (await client.receive()).type is aiohttp.WSMsgType.CLOSE
            assert client.close_code == 1001


async def test_without_warning_idle_connections_are_closed_at_once(upstream: Recorder) -> None:
    """Ctrl-C: a person waits."""
    async with AsyncExitStack() as stack:
        async with gateway(upstream.url) as app:
            client = await stack.enter_async_context(kept(app))
            client.send(TIME)
            assert await client.answer() == (200, False)
        assert await client.ended()


async def test_in_a_hurry_nobody_is_waited_for() -> None:
    slow = Slow()
    async with recorder(slow) as there:
        async with gateway(there.url) as app, kept(app) as client:
            client.send(ORDER + b"0123456789")
            await slow.asked.wait()
            async with retiring(app) as task:
                assert not task.done()
            assert task.done()
            assert await client.ended()
        slow.release.set()

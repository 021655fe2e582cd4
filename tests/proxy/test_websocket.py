"""WebSocket connections of clients pass through: what one side says the other hears, and both learn of the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from proxy.app import App
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url
from tests.redis_servers import needs_redis, redis_server

TRADE: Final = "/v5/trade"
LINEAR: Final = "/v5/public/linear"
_SECONDS: Final = 10.0
HANDSHAKE: Final = (
    b"GET /v5/trade HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@dataclass
class Exchange:
    """Streams that say back what they hear, but for words that begin with `do:`."""

    url: str = ""
    handshakes: list[tuple[str, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    closes: list[tuple[int | None, str]] = field(default_factory=list)
    standing: int = 0
    status: int = 101
    location: str = ""
    lines: dict[str, str] = field(default_factory=dict)
    flood: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.handshakes.append((request.raw_path, list(request.raw_headers)))
        if self.status != 101:
            return web.Response(status=self.status, headers={"Location": self.location} if self.location else {})
        socket = web.WebSocketResponse(protocols=("v2", "v1"), autoping=False, autoclose=False, max_msg_size=0)
        socket.headers.update(self.lines)
        await socket.prepare(request)
        self.standing += 1
        try:
            async with asyncio.TaskGroup() as group:
                flooding = group.create_task(self._flood(socket))
                await self._talk(request, socket)
                flooding.cancel()
        finally:
            self.standing -= 1
        return socket

    async def _flood(self, socket: web.WebSocketResponse) -> None:
        await self.flood.wait()
        with contextlib.suppress(ConnectionError):
            while True:
                await socket.send_bytes(b"x" * 100_000)

    async def _talk(self, request: web.BaseRequest, socket: web.WebSocketResponse) -> None:
        while True:
            message = await socket.receive()
            self.heard.append((message.type, message.data))
            match message.type:
                case WSMsgType.TEXT if message.data == "do:close":
                    await socket.close(code=4321, message=b"so long")
                    return
                case WSMsgType.TEXT if message.data == "do:lose":
                    assert request.transport is not None
                    request.transport.abort()
                    return
                case WSMsgType.TEXT if message.data == "do:ping":
                    await socket.ping(b"are you there")
                case WSMsgType.TEXT:
                    await socket.send_str(message.data)
                case WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
                case WSMsgType.PING:
                    await socket.pong(message.data)
                case WSMsgType.PONG:
                    pass
                case WSMsgType.CLOSE:
                    self.closes.append((message.data, message.extra))
                    await socket.close()
                    return
                case _:
                    self.closes.append((None, message.type.name))
                    return


@asynccontextmanager
async def streams() -> AsyncIterator[Exchange]:
    exchange = Exchange()
    runner = web.ServerRunner(web.Server(exchange.serve), shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    exchange.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield exchange
    finally:
        await runner.cleanup()


@dataclass
class World:
    exchange: Exchange
    app: App
    session: aiohttp.ClientSession

    async def connect(self, target: str = TRADE, **options: Any) -> aiohttp.ClientWebSocketResponse:
        where = URL(url(self.app, target).replace("http", "ws", 1), encoded=True)
        socket: aiohttp.ClientWebSocketResponse = await self.session.ws_connect(
            where, autoping=False, autoclose=False, max_msg_size=0, **options
        )
        return socket

    async def refused(self, target: str = TRADE, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers of a handshake that fails."""
        lines = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        lines |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers}
        async with self.session.get(URL(url(self.app, target), encoded=True), headers=lines) as answer:
            return answer.status, await answer.text(), dict(answer.headers)


@asynccontextmanager
async def world(**overrides: Any) -> AsyncIterator[World]:
    async with (
        streams() as exchange,
        gateway("http://127.0.0.1:9", upstream__stream_url=exchange.url, **overrides) as app,
        aiohttp.ClientSession(skip_auto_headers=("Accept", "Accept-Encoding")) as session,
    ):
        yield World(exchange, app, session)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Another connection notices in its own time."""
    ends = asyncio.get_running_loop().time() + _SECONDS
    while not holds():
        assert asyncio.get_running_loop().time() < ends, what
        await asyncio.sleep(0.01)  # bounded polling of another connection


async def test_messages_pass_whole_both_ways_in_their_order() -> None:
    said: list[str | bytes] = ["", "plain", "ünïcode 🎉", '{"op":"ping"}', b"", b"\x00\xff" * 1000, "x" * 1_000_000]
    async with world() as here:
        for compress in (0, 15):  # offered, and not agreed on
            socket = await here.connect(compress=compress)
            for each in said:
                await (socket.send_str(each) if isinstance(each, str) else socket.send_bytes(each))
            back = [await socket.receive(_SECONDS) for _ in said]
            await socket.close()

            assert [message.data for message in back] == said
            assert [message.type is WSMsgType.TEXT for message in back] == [isinstance(each, str) for each in said]


async def test_pings_go_to_the_other_side_and_their_pongs_come_back() -> None:
    async with world() as here:
        socket = await here.connect()
        await socket.ping(b"17")
        answered = await socket.receive(_SECONDS)
        await socket.send_str("do:ping")
        asked = await socket.receive(_SECONDS)
        await socket.pong(asked.data)
        await until(lambda: (WSMsgType.PONG, b"are you there") in here.exchange.heard, "the client's pong")
        await socket.close()

    assert (answered.type, bytes(answered.data)) == (WSMsgType.PONG, b"17")
    assert (asked.type, bytes(asked.data)) == (WSMsgType.PING, b"are you there")


async def test_the_handshake_arrives_as_it_was_sent() -> None:
    target = "/v5/private?max_active_time=30s&x=%2F%zz"
    async with world() as here:
        socket = await here.connect(
            target,
            headers={"User-Agent": "bot/1", "X-Referer": "me", "X-Gateway-Max-Wait": "1s", "Cookie": "a=b"},
            protocols=("v1", "v3"),
        )
        await socket.close()
    ((path, lines),) = here.exchange.handshakes
    told = {name.lower().decode(): value.decode() for name, value in lines}

    assert path == target
    assert told["host"] == here.exchange.url.removeprefix("ws://")
    assert (told["user-agent"], told["x-referer"], told["cookie"]) == ("bot/1", "me", "a=b")
    assert told["sec-websocket-protocol"].replace(" ", "") == "v1,v3"
    assert socket.protocol == "v1"
    assert not [name for name in told if name.startswith("x-gateway") or name in {"accept", "accept-encoding"}]
    assert socket._response.headers["X-Request-Id"]


@pytest.mark.parametrize(("code", "reason", "expected"), [(4001, b"bye", 4001), (1000, b"", 1000), (1001, b"x", 1001)])
async def test_the_exchange_is_told_how_a_client_has_closed(code: int, reason: bytes, expected: int) -> None:
    async with world() as here:
        socket = await here.connect()
        await socket.close(code=code, message=reason)
        await until(lambda: bool(here.exchange.closes), "the close")

    assert here.exchange.closes == [(expected, reason.decode())]


async def test_who_closes_without_a_code_has_closed_normally() -> None:
    """As close() of a browser does."""
    async with world() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.app.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x88\x80\x01\x02\x03\x04")  # a close frame with nothing in it
        answer = await reader.readexactly(4)
        await until(lambda: bool(here.exchange.closes), "the close")
        writer.close()

    assert here.exchange.closes == [(1000, "")]
    assert answer == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET ", b"POST "),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", "schlüssel".encode()),
        (b"Connection: Upgrade\r\n", b""),
    ],
)
async def test_what_only_looks_like_a_handshake_is_refused(old: bytes, new: bytes) -> None:
    async with world() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.app.port)
        writer.write(HANDSHAKE.replace(old, new))
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert b" 400 " in head.split(b"\r\n")[0], head
    assert here.exchange.handshakes == []


async def test_the_exchanges_own_lines_reach_the_client() -> None:
    async with world() as here:
        here.exchange.lines = {"Traceid": "abc", "Server": "Bybit"}
        socket = await here.connect()
        await socket.close()
        told = socket._response.headers

    assert (told["Traceid"], told.getall("Server")) == ("abc", ["Bybit"])


@pytest.mark.parametrize("says", [b"", b"half"])
async def test_a_client_that_reads_nothing_does_not_hold_up_the_end(says: bytes) -> None:
    """Nor does one that has closed its half and reads nothing."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(world())
        reader, writer = await asyncio.open_connection("127.0.0.1", here.app.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        (tunnel,) = here.app.websockets._tunnels
        here.exchange.flood.set()  # until nothing more goes
        await until(lambda: tunnel.client.blocked, "a client that takes nothing")
        if says:
            writer.write_eof()
        began = loop.time()
        await stack.aclose()
        took = loop.time() - began
        writer.transport.abort()

    assert took < 30, "the drain has waited for who does not read"


async def test_a_client_is_told_how_the_exchange_has_closed() -> None:
    async with world() as here:
        socket = await here.connect()
        await socket.send_str("do:close")
        message = await socket.receive(_SECONDS)

        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4321, "so long")
        await until(lambda: here.exchange.standing == 0, "the end")


async def test_a_stream_that_is_lost_ends_with_a_code_that_says_so() -> None:
    async with world() as here:
        socket = await here.connect()
        await socket.send_str("do:lose")
        message = await socket.receive(_SECONDS)

    assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)


async def test_the_exchange_is_left_when_a_client_goes_without_a_word() -> None:
    async with world() as here:
        socket = await here.connect()
        await socket.send_str("one")
        await socket.receive(_SECONDS)
        transport = socket._response.connection.transport
        transport.abort()
        await until(lambda: here.exchange.standing == 0, "the end at the exchange")

    assert here.exchange.closes[0][0] in {1001, None}


@pytest.mark.parametrize(
    ("target", "headers", "status", "word"),
    [
        ("/v5/trade", {"Sec-WebSocket-Version": "12"}, 400, "bad-websocket"),
        ("/v5/trade", {"Sec-WebSocket-Key": "short"}, 400, "bad-websocket"),
        ("/ws", {}, 404, "no-such-stream"),
        ("/v5/public/linear%0d%0aX", {}, 101, ""),
        ("//evil.example/v5/trade", {}, 400, "bad-target"),
    ],
)
async def test_what_is_no_handshake_for_a_stream_reaches_nobody(
    target: str, headers: dict[str, str], status: int, word: str
) -> None:
    async with world() as here:
        if status == 101:  # encoded bytes are part of a path: the exchange decides
            await (await here.connect(target)).close()
            assert here.exchange.handshakes[0][0] == target
            return
        got, _, told = await here.refused(target, **headers)

    assert (got, told["X-Gateway"]) == (status, word)
    assert here.exchange.handshakes == []


async def test_a_handshake_that_the_exchange_refuses_is_refused_with_its_status() -> None:
    async with world() as here:
        here.exchange.status = 403
        status, text, told = await here.refused()
        here.exchange.status, here.exchange.location = 302, "http://127.0.0.1:1/elsewhere"
        moved = await here.refused()

    assert (status, told["X-Gateway"]) == (403, "stream-refused")
    assert "HTTP 403" in text
    assert moved[0] == 502, "a redirect is not followed"


async def test_a_stream_host_that_is_not_there_is_said_to_be_not_there() -> None:
    async with (
        gateway("http://127.0.0.1:9", upstream__stream_url="ws://127.0.0.1:9") as app,
        aiohttp.ClientSession() as session,
    ):
        status, text, told = await World(Exchange(), app, session).refused()

    assert (status, told["X-Gateway"]) == (502, "stream-unreachable")
    assert "not sent" in text


async def test_it_can_be_switched_off() -> None:
    async with world(streams__enabled="false") as here:
        status, text, _ = await here.refused()

    assert status == 501
    assert "streams.enabled" in text


async def test_new_connections_are_bounded_and_the_refusal_says_when_to_come_back() -> None:
    async with world(streams__new="2/5m") as here:
        for _ in range(2):
            await (await here.connect()).close()
        status, text, told = await here.refused()

    assert (status, json.loads(text)["retCode"]) == (429, 10006)
    assert 0 < int(told["Retry-After"]) <= 300
    assert len(here.exchange.handshakes) == 2


async def test_connections_to_one_stream_at_one_time_are_bounded_and_a_place_comes_free() -> None:
    async with world(streams__concurrent="2") as here:
        first, second = await here.connect(), await here.connect()
        status, _, _ = await here.refused()
        other = await here.connect(LINEAR)
        await first.close()
        await until(lambda: here.exchange.standing == 2, "the free place")
        again = await here.connect()
        for socket in (second, other, again):
            await socket.close()

    assert status == 429


@needs_redis
async def test_gateways_of_one_address_share_the_new_connections() -> None:
    with redis_server() as redis:
        shared = {"store__url": redis.url, "streams__new": "3/5m", "limits": [], "store__replicas": "2"}
        async with world(**shared) as one, world(**shared) as two:
            got = []
            for here in (one, two) * 3:
                await until(lambda: here.app.store.status()["mode"] == "shared", "the store")  # noqa: B023  # at once
                try:
                    await (await here.connect()).close()
                    got.append(101)
                except aiohttp.WSServerHandshakeError as error:
                    got.append(error.status)

    assert got == [101, 101, 101, 429, 429, 429]


async def test_during_a_ban_nobody_connects() -> None:
    async with world() as here:
        here.app.egress.strike()
        status, text, _ = await here.refused()

    assert (status, text) == (403, "access too frequent")
    assert here.exchange.handshakes == []


async def test_a_gateway_that_ends_says_so_and_does_not_wait() -> None:
    async with world() as here:
        sockets = [await here.connect() for _ in range(5)]
        here.app.websockets.drain()
        told = [await socket.receive(_SECONDS) for socket in sockets]
        status, _, headers = await here.refused()
        await until(lambda: here.exchange.standing == 0, "the end at the exchange")

    assert {(message.type, message.data) for message in told} == {(WSMsgType.CLOSE, 1001)}
    assert (status, headers["X-Gateway"]) == (503, "draining")
    assert {close[0] for close in here.exchange.closes} == {1001}


async def test_a_message_that_is_too_long_ends_its_connection() -> None:
    async with world(streams__max_message="64KiB") as here:
        socket = await here.connect()
        await socket.send_str("x" * 65_536)
        assert (await socket.receive(_SECONDS)).data == "x" * 65_536, "as long as may be, both ways"
        await socket.send_str("x" * 65_537)
        message = await socket.receive(_SECONDS)
        await until(lambda: here.exchange.standing == 0, "the end at the exchange")

    assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
    assert [kind for kind, *_ in here.exchange.heard] == [WSMsgType.TEXT, WSMsgType.CLOSE]


async def test_metrics_and_log_tell_of_connections_by_stream() -> None:
    async with world() as here:
        socket = await here.connect("/v5/public/linear")
        await socket.send_str("hello")
        await socket.receive(_SECONDS)
        async with here.session.get(url(here.app, "/metrics")) as page:
            while_open = await page.text()
        await socket.close()
        lost = await here.connect("/v5/new-stream")
        await lost.send_str("do:lose")
        await lost.receive(_SECONDS)
        await lost.close()
        metrics = here.app.metrics
        await until(lambda: metrics.error_rate.value("stream-lost", "stream-other") == 1, "the end of the request")
        async with here.session.get(url(here.app, "/metrics")) as page:
            after = await page.text()

    assert 'websocket_connections_active{endpoint="stream-linear"} 1.0' in while_open
    assert 'websocket_connections_active{endpoint="stream-linear"} 0.0' in after
    assert 'gateway_websocket_connections_total{endpoint="stream-linear",result="opened"} 1.0' in after
    assert 'gateway_websocket_messages_total{direction="in",endpoint="stream-linear"} 1.0' in after
    assert 'gateway_websocket_ends_total{by="client",endpoint="stream-linear"} 1.0' in after
    assert 'gateway_websocket_ends_total{by="stream-lost",endpoint="stream-other"} 1.0' in after
    assert 'bybit_api_requests_total{endpoint="stream-linear",source="exchange",status="1xx"} 1.0' in after


async def test_a_client_that_does_not_read_stops_the_exchange_not_the_gateway() -> None:
    """What it has not read waits at the exchange, not in the gateway's memory."""
    async with world() as here:
        socket = await here.connect()
        sent = 0
        with contextlib.suppress(TimeoutError):  # it blocks for good, sooner or later
            while sent < 2_000:
                async with asyncio.timeout(2):
                    await socket.send_str("x" * 100_000)  # each of them comes back, and nobody reads it
                    sent += 1
        socket._response.connection.transport.abort()
        await until(lambda: here.exchange.standing == 0, "the end at the exchange")

    assert sent < 2_000, "what nobody reads goes on and on"


async def test_public_streams_of_the_exchange_speak_through_it() -> None:
    """Subscribed to, pushed, answered, against the fake exchange's own streams."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, upstream__stream_url=exchange.stream_url) as app,
        aiohttp.ClientSession() as session,
        session.ws_connect(url(app, LINEAR).replace("http", "ws", 1)) as socket,
    ):
        await socket.send_json({"req_id": "1", "op": "subscribe", "args": ["kline.1.BTCUSDT"]})
        told = [await socket.receive_json(timeout=_SECONDS) for _ in range(2)]
        await socket.send_json({"op": "ping"})
        while (await socket.receive_json(timeout=_SECONDS)).get("ret_msg") != "pong":
            pass

    assert told[0]["success"]
    assert told[1]["topic"] == "kline.1.BTCUSDT"

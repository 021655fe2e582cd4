"""What is answered as it is read: the same answer, told the same way, as after a task for it; and only where nothing
else is under way on the connection."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import pytest
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from proxy import server as listening
from proxy.app import App
from proxy.cache import L1
from proxy.gateway import Gateway
from proxy.request_event import event_of
from proxy.server import TrafficServer
from proxy.story import Story
from tests.cached import CLOSED, INFO, LATEST, ask, by_request, candles, envelope, get, raw, was_hit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.raw_http import RawAnswer, read_answer
from tests.recorder import Recorder, Seen, recorder

LARGE_BYTES: Final = 6_000_000
_SEED: Final = 20_261_120
_REQUESTS: Final = 600
_UNLIKE: Final = re.compile(rb"(?m)^(X-Request-Id|Date): .*\r\n")
_RULES: Final = [{"name": "asks", "quota": "40/60s", "partition": ["ip"], "counts": "requests", "when_full": "refuse"}]
_TARGETS: Final = (
    *[CLOSED, LATEST, INFO] * 5,
    CLOSED + "&limit=1",
    CLOSED + "&limit=0",
    "/v5/market/kline?symbol=BTCUSDT&interval=1&start=1770000000000&end=1770000600000&category=linear",
    "/v5/market/kline?category=linear",
    "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&odd=1",
    "/v5/market/tickers?category=linear&symbol=BTCUSDT",
    "//v5/market/kline?category=linear&symbol=BTCUSDT&interval=1",
    "/v5/market/kline",
    "/v5/account/info",
    "/health/live",
    "http://api.bybit.com" + CLOSED,
    CLOSED + "#x",
)
_LINES: Final = (
    *[()] * 12,
    ("Accept-Encoding: gzip, deflate, br, zstd",),
    ("Accept-Encoding: gzip;q=0, *",),
    ("Accept: application/json", "User-Agent: pybit"),
    ("Accept: text/html",),
    ("Cache-Control: no-cache",),
    ("Cache-Control: max-age=3",),
    ("Cache-Control: max-age=0, max-stale",),
    ("Cache-Control: only-if-cached",),
    ("Cache-Control: min-fresh=60",),
    ("If-None-Match: *",),
    ('If-None-Match: W/"theirs"',),
    ("Connection: close",),
    ("Connection: keep-alive",),
    ("Connection: Upgrade", "Upgrade: h2c"),
    ("Upgrade: websocket",),
    ("Content-Length: 0",),
    ("Expect: 100-continue",),
    ("Range: bytes=0-1",),
    ("Origin: https://example.org",),
    ("X-BAPI-API-KEY: somebodyskey",),
    ("X-BAPI-SIGN: abc",),
    ("Authorization: Bearer nonsense",),
    ("X-Gateway-Token: unknown",),
    ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
    ("X-Forwarded-For: 203.0.113.7",),
    ("X-Gateway-Max-Wait: 2s",),
    ("X-Gateway-Max-Wait: soon",),
)


def exchange() -> Any:
    """Answers by the target alone, all of them for ever the same."""

    def choose(request: Seen) -> bytes:
        if b"kline" in request.target:
            answer = raw(candles(count=1 if b"limit=1" in request.target else 11))
        else:
            answer = raw(envelope({"list": [{"symbol": "BTCUSDT", "asked": "x" * 2000}]}))
        return answer.partition(b"{")[0] if request.line.startswith(b"HEAD") else answer

    return by_request(choose)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that went the long way."""
    targets: list[str] = []
    long_way = Gateway.handle

    async def handle(self: Gateway, request: Any, own: Any = None) -> Any:
        targets.append(request.raw_path)
        return await long_way(self, request, own)

    monkeypatch.setattr(Gateway, "handle", handle)
    return targets


class Line:
    """A client's connection that is kept as long as it may be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def say(self, *pieces: bytes, has_body: bool = True, answers: int = 1) -> list[RawAnswer]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        reader, writer = self._streams
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            told = [await read_answer(reader, has_body=has_body) for _ in range(answers)]
        if told[-1].get("Connection") == "close" or pieces[0].partition(b"\r")[0].endswith(b"1.0"):
            await self.end()
        return told

    async def end(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        self._streams = None


@dataclass
class Account:
    """What became of a row of requests: for the clients, for the exchange, for who watches."""

    answers: list[tuple[bytes, bytes]] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)


@asynccontextmanager
async def kept(**overrides: Any) -> AsyncIterator[tuple[App, Recorder]]:
    """A gateway that has these candles already."""
    async with recorder(exchange()) as upstream, gateway(upstream.url, **overrides) as app:
        assert not was_hit(await ask(app, CLOSED))
        yield app, upstream


def a_request(dice: random.Random) -> bytes:
    method = dice.choice(["GET"] * 12 + ["HEAD", "POST"])
    target, lines = dice.choice(_TARGETS), dice.choice(_LINES)
    whole = get(target, *lines, *dice.choice([(), (), *((each,) for each in ("X: y", "Cookie: a=b"))]), method=method)
    return whole.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if dice.random() < 0.03 else whole


async def played() -> Account:
    """The same requests in the same order, by a clock that stands still but for the leaps."""
    dice, clock, account = random.Random(_SEED), HandClock(), Account()

    def note(story: Story) -> None:
        event = event_of(story)
        account.events.append({name: event[name] for name in event if name != "id"})

    async with (
        recorder(exchange()) as upstream,
        gateway(upstream.url, clock=clock, sleep=clock.sleep, limits=_RULES, retry__enabled="false") as app,
        Line(app.port) as line,
    ):
        app.gateway._telemetry.listeners.append(note)
        for _ in range(_REQUESTS):
            if dice.random() < 0.1:
                clock.now_us += dice.choice([900_000, 2_000_000, 61_000_000])
            if dice.random() < 0.2:
                await line.end()
            request = a_request(dice)
            told = (await line.say(request, has_body=not request.startswith(b"HEAD")))[0]
            account.answers.append((_UNLIKE.sub(b"", told.head), told.body))
        await line.end()
        account.asked = [each.line for each in upstream.seen]
        account.counts = counts_of(app)
    return account


def counts_of(app: App) -> dict[str, float]:
    """All that is counted of requests."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in app.metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("gateway_") and sample.name.endswith(("_total", "_count", "_bucket", "_sum"))
    }


async def test_a_row_of_any_requests_ends_as_if_each_had_gone_the_long_way(
    monkeypatch: pytest.MonkeyPatch, handled: list[str]
) -> None:
    mixed = await played()
    long_ways = len(handled)
    monkeypatch.setattr(Gateway, "at_once", lambda *_: None)
    long = await played()

    assert len(handled) > 2 * long_ways + _REQUESTS / 4, "hardly any went the short way: nothing is compared"
    for number, (one, other) in enumerate(zip(mixed.answers, long.answers, strict=True)):
        assert one == other, f"answer {number}"
    assert mixed.asked == long.asked
    assert mixed.events == long.events
    assert mixed.counts == long.counts


async def test_a_kept_answer_is_given_at_once(handled: list[str]) -> None:
    async with kept() as (app, upstream):
        handled.clear()
        async with Line(app.port) as line:
            told = [(await line.say(get(CLOSED)))[0] for _ in range(MAX_MSG_QUEUE_SIZE)]
            at_once = len(handled) == 0
            told += await line.say(get(CLOSED) * 2, answers=2)  # as many as ever may be sent without waiting

        assert at_once
        assert all(map(was_hit, told))
        assert {each.body for each in told} == {candles()}
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        get(CLOSED, "Connection: close"),
        get(CLOSED).replace(b"HTTP/1.1", b"HTTP/1.0"),
        get(CLOSED, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        get(CLOSED, "Upgrade: websocket"),
        get(CLOSED, "X-BAPI-API-KEY: k"),
        get(CLOSED, "Content-Length: 2") + b"{}",
        get(CLOSED, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        get(CLOSED, method="HEAD"),
        get(CLOSED, "Cache-Control: no-cache"),
        get(CLOSED, "X-Gateway-Max-Wait: soon"),
        get(CLOSED + "&odd=1"),
        get("/v5/market/tickers?category=linear"),
    ],
    ids=lambda each: each.partition(b"\r\nHost: me\r\n")[2].partition(b"\r")[0].decode() or None,
)
async def test_everything_out_of_the_ordinary_goes_the_long_way(request_bytes: bytes, handled: list[str]) -> None:
    async with kept() as (app, _):
        handled.clear()
        async with Line(app.port) as line:
            told = (await line.say(request_bytes, has_body=not request_bytes.startswith(b"HEAD")))[0]

        assert len(handled) == 1
        assert told.get("X-Request-Id")


async def test_what_is_traced_goes_the_long_way(handled: list[str]) -> None:
    async with kept() as (app, _):
        begun: list[Story] = []
        app.gateway._telemetry.begin = lambda story, _: begun.append(story)
        handled.clear()

        assert was_hit(await ask(app, CLOSED))
        assert (len(handled), len(begun)) == (1, 1)


async def test_requests_on_one_connection_are_answered_in_their_order(handled: list[str]) -> None:
    """Whole ones together, one and a half, a byte at a time."""
    other = "/v5/market/tickers?category=linear"
    hit, miss = get(CLOSED), get(other)
    async with kept() as (app, _), Line(app.port) as line:
        for pieces in (
            (hit + miss + hit,),
            (miss + hit,),
            (hit + miss[:20], miss[20:] + hit),
            (miss, hit, hit[:1], hit[1:]),
            (hit, miss, miss, hit),
            tuple(bytes([each]) for each in hit + hit),
        ):
            order = [
                CLOSED if each.startswith(CLOSED.encode()) else other for each in b"".join(pieces).split(b"GET ")[1:]
            ]
            told = await line.say(*pieces, answers=len(order))

            assert [CLOSED if was_hit(each) else other for each in told] == order
        assert handled.count(CLOSED) > 1


async def test_an_answer_waits_for_the_one_before_it(handled: list[str]) -> None:
    """What comes in two packets may be read in one go, before anybody has looked at the first."""
    other = "/v5/market/tickers?category=linear"
    async with kept() as (app, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        await until(lambda: len(server_of(app)._open) == 1 and next(iter(server_of(app)._open))._waiter)
        (connection,) = server_of(app)._open
        handled.clear()
        connection.data_received(get(other))
        connection.data_received(get(CLOSED))
        told = [await asyncio.wait_for(read_answer(reader), 10) for _ in range(2)]
        writer.close()
        await writer.wait_closed()

        assert [was_hit(each) for each in told] == [False, True]
        assert handled == [other, CLOSED]


async def test_a_client_without_room_is_refused_and_counted_once(handled: list[str]) -> None:
    rules = [_RULES[0] | {"quota": "3/60s"}]
    async with kept(limits=rules) as (app, _):
        told = [await ask(app, CLOSED) for _ in range(4)]

        assert [each.status for each in told] == [200, 200, 429, 429]
        assert handled == [CLOSED] * 3, "one miss, two refused"
        refused = app.metrics.registry.get_sample_value(
            "gateway_rule_decisions_total", {"rule": "asks", "result": "over"}
        )
        assert refused == 2


async def test_what_goes_wrong_is_answered_the_long_way(handled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret words")

    async with kept() as (app, _), Line(app.port) as line:
        handled.clear()
        with monkeypatch.context() as patched:
            patched.setattr(L1, "get", broken)
            told = (await line.say(get(CLOSED)))[0]
        assert told.status >= 500
        assert b"secret words" not in told.head + told.body
        assert handled == [CLOSED]

        assert was_hit((await line.say(get(CLOSED)))[0])


async def test_what_goes_wrong_behind_the_door_is_told_once(
    handled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret words")

    async with kept(limits=_RULES) as (app, _), Line(app.port) as line:
        handled.clear()
        before = counts_of(app)
        with monkeypatch.context() as patched:
            patched.setattr(L1, "variant", broken)
            told = (await line.say(get(CLOSED)))[0]
        after = counts_of(app)

        assert told.status == 500
        assert b"secret words" not in told.head + told.body
        assert handled == []
        decided = [
            after[name] - before.get(name, 0) for name in after if name.startswith("gateway_rule_decisions_total")
        ]
        assert sum(decided) == 1
        assert was_hit((await line.say(get(CLOSED)))[0])


async def test_at_the_end_even_a_kept_answer_says_that_it_is_the_last(handled: list[str]) -> None:
    async with kept() as (app, _), Line(app.port) as line, Line(app.port) as another:
        assert was_hit((await line.say(get(CLOSED)))[0])
        server_of(app).retire()
        handled.clear()
        told = (await line.say(get(CLOSED)))[0]
        new = (await another.say(get(CLOSED)))[0]

        assert (told.get("Connection"), new.get("Connection")) == ("close", "close")
        assert len(handled) == 2


async def test_a_connection_that_was_being_made_at_the_end_ends_too(handled: list[str]) -> None:
    async with kept() as (app, _):
        server = server_of(app)
        connection = server()
        with socket.create_server(("127.0.0.1", 0)) as door:
            theirs = socket.create_connection(door.getsockname())
            ours = door.accept()[0]
        ours.setblocking(False)
        theirs.setblocking(False)
        server.retire()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        handled.clear()
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(get(CLOSED))
        told = await asyncio.wait_for(read_answer(reader), 10)
        writer.close()
        await writer.wait_closed()

        assert (told.get("Connection"), handled) == ("close", [CLOSED])


async def test_who_asks_and_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch, handled: list[str]) -> None:
    monkeypatch.setattr(listening, "PATIENCE_S", 0.05)
    async with large() as app:
        handled.clear()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", app.port))
            client.sendall(get(INFO))
            await until(lambda: len(server_of(app)._open) == 1)
            await until(lambda: not server_of(app)._open)
        assert handled == []


async def test_who_reads_slowly_gets_it_all(handled: list[str]) -> None:
    async with large() as app:
        handled.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=4096)
        writer.write(get(INFO))
        await until(lambda: server_of(app)._open)
        (connection,) = server_of(app)._open
        await until(lambda: connection.writing_paused)
        assert connection._unread is not None
        idle_s = connection._next_keepalive_close_time - asyncio.get_running_loop().time()
        assert idle_s > connection.keepalive_timeout
        writer.write(get(INFO) * 2)  # it asks on before it has read anything
        connection._next_keepalive_close_time = 0.0
        for _ in range(20):
            await asyncio.sleep(0)
        assert handled == []
        told = [await asyncio.wait_for(read_large(reader), 20)]
        await until(lambda: connection._unread is None)
        assert connection._next_keepalive_close_time > asyncio.get_running_loop().time()
        told += [await asyncio.wait_for(read_large(reader), 20) for _ in range(2)]
        writer.close()

        assert all(len(each) > LARGE_BYTES for each in told)
        assert len(handled) == 2


async def test_a_connection_that_is_used_is_kept(handled: list[str]) -> None:
    """Each answer puts off the end of an idle connection."""
    async with kept() as (app, _), Line(app.port) as line:
        assert was_hit((await line.say(get(CLOSED)))[0])
        (connection,) = (each for each in server_of(app)._open if each.connected)
        connection._next_keepalive_close_time = 0.0
        handled.clear()
        assert was_hit((await line.say(get(CLOSED)))[0])

        assert handled == []
        assert connection._next_keepalive_close_time > asyncio.get_running_loop().time()
        assert connection._keepalive_handle is not None


@asynccontextmanager
async def large() -> AsyncIterator[App]:
    """It has an answer that no socket takes in one piece."""
    body = envelope({"list": ["x" * LARGE_BYTES]})
    async with recorder(by_request(lambda _: raw(body))) as upstream, gateway(upstream.url) as app:
        assert (await ask(app, INFO)).status == 200
        assert was_hit(await ask(app, INFO))
        await until(lambda: not server_of(app)._open)
        yield app


async def read_large(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    return await reader.readexactly(int(length[1]))


def server_of(app: App) -> TrafficServer:
    assert app._traffic_port is not None
    return app._traffic_port._server

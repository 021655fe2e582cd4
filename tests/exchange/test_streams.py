"""The public WebSocket streams, over sockets. bybit.md 4.2 to 4.6."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.exchange.help import START_US, Clock, ask
from tests.exchange.test_control import control
from tests.fake_bybit import FakeBybit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import ClientWebSocketResponse

MINUTE_US = 60_000_000
TOPIC = "kline.1.BTCUSDT"
LINEAR = "/v5/public/linear"


@asynccontextmanager
async def connected(exchange: FakeBybit, path: str = LINEAR, **how: Any) -> AsyncIterator[ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        session.ws_connect(exchange.stream_url + path, **how) as socket,
    ):
        yield socket


async def heard(socket: ClientWebSocketResponse) -> Any:
    return json.loads(await socket.receive_str(timeout=10))


async def said(socket: ClientWebSocketResponse, **request: Any) -> Any:
    await socket.send_str(json.dumps(request))
    return await heard(socket)


async def subscribed(socket: ClientWebSocketResponse, *topics: str) -> list[Any]:
    """Subscribe, and the first message of each topic."""
    assert (await said(socket, op="subscribe", args=list(topics)))["success"]
    return [await heard(socket) for _ in topics]


async def until(condition: Callable[[], Any]) -> None:
    """The other end of a socket acts in its own time: looked for, for ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- handshakes ---


@pytest.mark.parametrize("category", ["spot", "linear", "inverse", "option", "spread"])
async def test_every_category_shakes_hands(exchange: FakeBybit, category: str) -> None:
    async with connected(exchange, f"/v5/public/{category}"):
        assert [each.category for each in exchange.streams.connections] == [category]
        assert exchange.record.since()[-1].status == 101
    await until(lambda: not exchange.streams.connections)


async def test_streams_are_served_over_tls() -> None:
    async with FakeBybit(tls=True) as exchange:
        assert exchange.stream_url.startswith("wss://")
        context = ssl.create_default_context(cafile=str(exchange.ca_path))
        async with connected(exchange, ssl=context) as socket:
            assert (await said(socket, op="ping"))["ret_msg"] == "pong"


async def test_a_wrong_path_is_a_404(exchange: FakeBybit) -> None:
    """bybit.md 4.3."""
    for path in ("/v5/public/futures", "/v5/public/", "/v5/public/linear/"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with connected(exchange, path):
                pass
        assert refusal.value.status == 404


async def test_a_plain_request_is_no_handshake(exchange: FakeBybit) -> None:
    assert (await ask(exchange, "GET", LINEAR)).status == 400
    assert (await ask(exchange, "POST", LINEAR)).status == 400


async def test_streams_take_nothing_from_the_window_of_requests(exchange: FakeBybit) -> None:
    exchange.settings.ip_limit = 1
    async with connected(exchange), connected(exchange), connected(exchange, "/v5/public/spot"):
        assert (await ask(exchange, "GET", "/v5/market/time")).status == 200
    assert exchange.stats.requests == 1
    assert exchange.books.ip.breaches == 0


async def test_too_many_new_connections_are_refused_until_the_window_has_passed(
    exchange: FakeBybit, clock: Clock
) -> None:
    """bybit.md 4.3: 500 in 5 minutes, over all categories; a breach is a handshake 403."""
    exchange.settings.stream_connect_limit = 2
    async with connected(exchange), connected(exchange, "/v5/public/spot"):
        pass
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with connected(exchange):
            pass
    assert refusal.value.status == 403
    clock.now_us += 300_000_000
    async with connected(exchange):
        pass
    book = exchange.streams.book
    assert (book.of("linear").connections, book.of("spot").connections, book.of("linear").refused) == (2, 1, 1)
    assert book.max_in_window() == 2


async def test_too_many_connections_at_a_time_are_refused_by_category(exchange: FakeBybit) -> None:
    """bybit.md 4.3: 1000 per address, counted separately."""
    exchange.settings.stream_concurrent_limit = 1
    async with connected(exchange), connected(exchange, "/v5/public/spot"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with connected(exchange):
                pass
        assert refusal.value.status == 403
    await until(lambda: not exchange.streams.connections)
    async with connected(exchange):
        assert exchange.streams.book.of("linear").peak == 1


@pytest.mark.parametrize(
    ("rule", "status"), [({"kind": "status", "status": 502, "body": "html"}, 502), ({"kind": "geo_block"}, 403)]
)
async def test_fault_rules_meet_handshakes_too(exchange: FakeBybit, rule: dict[str, Any], status: int) -> None:
    exchange.faults.add({**rule, "match": {"path": "/v5/public"}})
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with connected(exchange):
            pass
    assert refusal.value.status == status
    assert not exchange.streams.book.of("linear").connections


# --- pongs and acknowledgements ---


@pytest.mark.parametrize(
    ("category", "pong"),
    [
        ("spot", {"success": True, "ret_msg": "pong", "conn_id": "ID", "op": "ping"}),
        ("linear", {"success": True, "ret_msg": "pong", "conn_id": "ID", "req_id": "", "op": "ping"}),
        ("inverse", {"success": True, "ret_msg": "pong", "conn_id": "ID", "req_id": "", "op": "ping"}),
        ("option", {"args": [str(START_US // 1000)], "op": "pong"}),
        ("spread", {"args": [str(START_US // 1000)], "op": "pong"}),
    ],
)
async def test_pongs(exchange: FakeBybit, category: str, pong: dict[str, Any]) -> None:
    """bybit.md 4.4."""
    async with connected(exchange, f"/v5/public/{category}") as socket:
        told = await said(socket, op="ping")
        assert _without_id(told) == pong
        assert list(told) == list(pong)
        assert (await said(socket, op="ping", req_id="7")).get("req_id") == (
            "7" if category in ("linear", "inverse") else None
        )
    assert exchange.streams.book.of(category).pings == 2


@pytest.mark.parametrize("op", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    ("category", "topic"), [("spot", TOPIC), ("linear", TOPIC), ("inverse", "kline.D.BTCUSD"), ("option", "tickers.X")]
)
async def test_acknowledgements(exchange: FakeBybit, category: str, topic: str, op: str) -> None:
    """bybit.md 4.5."""
    spot = {"success": True, "ret_msg": op, "conn_id": "ID", "req_id": "r1", "op": op}
    futures = {**spot, "ret_msg": ""}
    data = {"failTopics": [], "successTopics": [topic]}
    expected = {
        "spot": spot,
        "linear": futures,
        "inverse": futures,
        "option": {"success": True, "conn_id": "ID", "data": data, "type": "COMMAND_RESP"},
    }
    async with connected(exchange, f"/v5/public/{category}") as socket:
        told = await said(socket, op=op, args=[topic], req_id="r1")
        assert _without_id(told) == expected[category]
        assert list(told) == list(expected[category])


async def test_without_a_req_id_futures_say_an_empty_one_and_spot_none(exchange: FakeBybit) -> None:
    async with connected(exchange) as futures, connected(exchange, "/v5/public/spot") as spot:
        assert (await said(futures, op="subscribe", args=[TOPIC]))["req_id"] == ""
        assert "req_id" not in await said(spot, op="subscribe", args=[TOPIC])


@pytest.mark.parametrize(
    ("category", "topic", "why"),
    [
        ("linear", "kline.2.BTCUSDT", "error:handler not found,topic:kline.2.BTCUSDT"),
        ("linear", "kline.1.NOPEUSDT", "error:handler not found,topic:kline.1.NOPEUSDT"),
        ("inverse", "publicTrade.BTCUSD", "error:handler not found,topic:publicTrade.BTCUSD"),
        ("spot", "kline.1.NOPEUSDT", "Invalid symbol :[kline.1.NOPEUSDT]"),
    ],
)
async def test_a_bad_topic_is_named(exchange: FakeBybit, category: str, topic: str, why: str) -> None:
    async with connected(exchange, f"/v5/public/{category}") as socket:
        told = await said(socket, op="subscribe", args=[topic])
        assert (told["success"], told["ret_msg"], told["op"]) == (False, why, "subscribe")
    assert exchange.streams.book.of(category).refused_topics == {topic: 1}


@pytest.mark.parametrize("takes", ["all", "rest"])
async def test_what_a_bad_topic_takes_with_it_is_a_setting(exchange: FakeBybit, takes: Any) -> None:
    """Whether the good one stands is told by asking for it again."""
    exchange.settings.stream_bad_topic = takes
    async with connected(exchange) as socket:
        assert not (await said(socket, op="subscribe", args=[TOPIC, "kline.1.NOPEUSDT"]))["success"]
        told = await said(socket, op="subscribe", args=[TOPIC])
        while "op" not in told:  # its first push may be there before the answer
            told = await heard(socket)
        assert told["success"] is (takes == "all")


async def test_a_repeated_topic_is_refused_on_futures_and_accepted_on_spot(exchange: FakeBybit) -> None:
    async with connected(exchange) as futures, connected(exchange, "/v5/public/spot") as spot:
        for socket in (futures, spot):
            await subscribed(socket, TOPIC)
        again = await said(futures, op="subscribe", args=[TOPIC])
        assert (again["success"], again["ret_msg"]) == (False, f"error:already subscribed,topic:{TOPIC}")
        assert (await said(spot, op="subscribe", args=[TOPIC]))["success"]


@pytest.mark.parametrize("text", ["{", "[]", '{"op":"dance"}', '{"op":"subscribe"}', '{"op":"subscribe","args":[1]}'])
async def test_what_is_not_understood_is_refused(exchange: FakeBybit, text: str) -> None:
    async with connected(exchange) as socket:
        await socket.send_str(text)
        assert (await heard(socket))["success"] is False


# --- limits on topics ---


async def test_spot_takes_ten_topics_in_a_request(exchange: FakeBybit) -> None:
    """bybit.md 4.3. The next request may bring more."""
    topics = [f"kline.1.ALT{number:03d}USDT" for number in range(21)]
    async with connected(exchange, "/v5/public/spot") as socket:
        assert len(await subscribed(socket, *topics[:10])) == 10
        told = await said(socket, op="subscribe", args=topics[10:])
        assert (told["success"], told["ret_msg"]) == (False, "args size >10")
        assert len(await subscribed(socket, *topics[10:20])) == 10
    assert exchange.streams.book.of("spot").largest_request == 11


async def test_the_topics_of_a_connection_have_a_length_together(exchange: FakeBybit) -> None:
    """bybit.md 4.3: 21,000 characters, whatever the category."""
    topics = [f"kline.720.ALT{number:03d}USDT" for number in range(560)]
    exchange.settings.stream_args_chars = len(json.dumps(topics[:300], separators=(",", ":")))
    async with connected(exchange) as socket:
        await subscribed(socket, *topics[:200])
        told = await said(socket, op="subscribe", args=topics[200:301])
        assert not told["success"]
        assert len(await subscribed(socket, *topics[200:300])) == 100


async def test_option_takes_so_many_topics_on_a_connection(exchange: FakeBybit) -> None:
    exchange.settings.stream_option_args = 2
    async with connected(exchange, "/v5/public/option") as socket:
        assert (await said(socket, op="subscribe", args=["tickers.A", "tickers.B"]))["success"]
        assert not (await said(socket, op="subscribe", args=["tickers.C"]))["success"]


async def test_a_request_over_a_limit_may_end_the_connection_instead(exchange: FakeBybit) -> None:
    """bybit.md Unknown 10."""
    exchange.settings.stream_over_limit = "close"
    async with connected(exchange, "/v5/public/spot") as socket:
        await socket.send_str(json.dumps({"op": "subscribe", "args": [TOPIC] * 11}))
        assert (await socket.receive(timeout=10)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


# --- pushes ---


async def test_pushes_follow_the_clock_of_the_exchange(exchange: FakeBybit, clock: Clock) -> None:
    """Its strings are those of REST at the same instant; a clock set forward closes candles."""
    async with connected(exchange) as socket:
        (first,) = await subscribed(socket, TOPIC)
        row = (await ask(exchange, "GET", "/v5/market/kline?symbol=BTCUSDT&interval=1&limit=1")).json()["result"]
        assert _as_row(first) == row["list"][0]
        clock.now_us += MINUTE_US
        closed, opened = await heard(socket), await heard(socket)
        rows = (await ask(exchange, "GET", "/v5/market/kline?symbol=BTCUSDT&interval=1&limit=2")).json()["result"]
        assert [_as_row(opened), _as_row(closed)] == rows["list"]
        assert [each["data"][0]["confirm"] for each in (first, closed, opened)] == [False, True, False]
        clock_before = opened["ts"]
        exchange.settings.clock_offset_ms = 1_000
        assert (await heard(socket))["ts"] == clock_before + 1_000
    counts = exchange.streams.book.of("linear")
    assert (counts.subscribed, counts.pushes, counts.confirmed[TOPIC]) == ({TOPIC: 1}, 4, 1)


async def test_what_was_unsubscribed_is_pushed_no_more(exchange: FakeBybit, clock: Clock) -> None:
    other = "kline.5.ETHUSDT"
    async with connected(exchange) as socket:
        await subscribed(socket, TOPIC, other)
        assert (await said(socket, op="unsubscribe", args=[TOPIC]))["success"]
        for _ in range(3):
            clock.now_us += 1_000_000
            assert (await heard(socket))["topic"] == other
    assert exchange.streams.book.of("linear").unsubscribed == {TOPIC: 1}


async def test_a_connection_without_ping_and_data_is_cut(exchange: FakeBybit, clock: Clock) -> None:
    """bybit.md 4.4: after ten minutes. A ping keeps it, and so does data."""
    async with (
        connected(exchange) as quiet,
        connected(exchange) as pinging,
        connected(exchange, "/v5/public/spot") as fed,
    ):
        await subscribed(fed, TOPIC)
        clock.now_us += 599_000_000
        assert (await said(pinging, op="ping"))["success"]
        clock.now_us += 1_000_000
        assert (await quiet.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSED
        assert (await said(pinging, op="ping"))["success"]
        assert {each.category for each in exchange.streams.connections} == {"linear", "spot"}


# --- trouble on demand ---


async def test_a_silent_exchange_answers_and_pushes_nothing(exchange: FakeBybit, clock: Clock) -> None:
    async with connected(exchange) as socket:
        await subscribed(socket, TOPIC)
        exchange.settings.stream_silent = True
        clock.now_us += 5_000_000
        await socket.send_str('{"op":"ping","req_id":"lost"}')
        (connection,) = exchange.streams.connections
        await until(lambda: connection.alive_us == clock.now_us)  # it has been read
        exchange.settings.stream_silent = False
        assert (await heard(socket))["topic"] == TOPIC
        assert exchange.streams.book.of("linear").pings == 0


@pytest.mark.parametrize("action", ["drop", "close"])
async def test_connections_are_ended_by_remote_control(exchange: FakeBybit, action: str) -> None:
    async with connected(exchange) as futures, connected(exchange, "/v5/public/spot") as spot:
        assert await control(exchange, "POST", "/streams", {"action": action, "category": "linear"}) == (
            200,
            {"count": 1},
        )
        assert (await futures.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSED
        assert (await said(spot, op="ping"))["success"]


async def test_anything_can_be_said_to_the_clients(exchange: FakeBybit) -> None:
    async with connected(exchange) as socket:
        await control(exchange, "POST", "/streams", {"action": "say", "text": "{garbage"})
        assert await socket.receive_str(timeout=10) == "{garbage"


async def test_an_old_message_can_come_again(exchange: FakeBybit, clock: Clock) -> None:
    async with connected(exchange) as socket:
        (first,) = await subscribed(socket, TOPIC)
        clock.now_us += MINUTE_US
        await heard(socket)
        await heard(socket)
        assert await control(exchange, "POST", "/streams", {"action": "replay"}) == (200, {"count": 1})
        assert await heard(socket) == first


async def test_connections_and_counts_are_shown(exchange: FakeBybit) -> None:
    async with connected(exchange) as socket:
        await subscribed(socket, TOPIC)
        _, (shown,) = await control(exchange, "GET", "/streams")
        assert (shown["category"], shown["ip"], shown["topics"]) == ("linear", "127.0.0.1", [TOPIC])
        _, stats = await control(exchange, "GET", "/stats")
        assert stats["requests"] == 0
        assert (stats["streams"]["connections"], stats["streams"]["max_in_window"]) == (1, 1)
        assert stats["streams"]["categories"]["linear"]["subscribed"] == {TOPIC: 1}
        await control(exchange, "POST", "/reset", {})
        assert (await control(exchange, "GET", "/stats"))[1]["streams"]["connections"] == 0
        assert (await said(socket, op="ping"))["success"]


async def test_a_wrong_action_is_explained(exchange: FakeBybit) -> None:
    status, told = await control(exchange, "POST", "/streams", {"action": "dance"})
    assert status == 400
    assert told["error"] == "action: expected drop, close, say or replay, got 'dance'"


async def test_the_exchange_stops_although_clients_are_connected() -> None:
    async with FakeBybit() as exchange:
        session = aiohttp.ClientSession()
        socket = await session.ws_connect(exchange.stream_url + LINEAR)
        await subscribed(socket, TOPIC)
    assert not exchange.streams.connections
    await session.close()


def _without_id(told: dict[str, Any]) -> dict[str, Any]:
    if "conn_id" in told:
        assert len(told["conn_id"]) == 32
        return {**told, "conn_id": "ID"}
    return told


def _as_row(message: dict[str, Any]) -> list[str]:
    (data,) = message["data"]
    return [str(data["start"]), *(data[name] for name in ("open", "high", "low", "close", "volume", "turnover"))]

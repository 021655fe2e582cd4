"""What clients, clocks and networks can do against pacing, bans and retries; each was done once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from policies.trading import TradingMode
from proxy.egress import Trading
from tests.conversation import CREATE, INFO, TICKERS, Client, new, new_session, now_us, until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes
from tests.recorder import Seen, recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server
from tests.signing import signed

TOKEN = "correct-horse-battery-staple"
BATCH = "/v5/order/create-batch"
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@needs_redis
async def test_an_absurd_batch_costs_the_others_nothing(redis: RedisServer) -> None:
    """Five thousand orders in one request, of keys that nobody knows: the store goes on, and so do the others."""
    body = json.dumps({"category": "linear", "request": [{"symbol": "BTCUSDT"}] * 5_000}).encode()
    limits = [{"name": "bybit-ip", "quota": "600/5s", "window": "held"}]
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=limits, store__url=redis.url) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        await until(lambda: app.store.status()["mode"] == "shared", "the shared budget")
        for number in range(8):
            await client.send("POST", BATCH, headers=signed(body, key=f"made-up-{number}"), data=body)
        told = [await client.get(TICKERS) for _ in range(5)]

        assert [each.status for each in told] == [200] * 5
        assert app.store.status()["mode"] == "shared"
        assert len(app.attempts.gate) == 0


@pytest.mark.parametrize("pieces", [1, 2])
async def test_the_emergency_stop_works_whatever_the_clock_was_when_it_was_used_last(pieces: int) -> None:
    """The last word was set by a clock that was an hour ahead; the new one comes in one piece, or in two."""
    async with FakeBybit() as exchange, gateway(exchange.url, admin__token=TOKEN) as app, new_session() as session:
        app.egress.hear_trading(Trading(TradingMode.NORMAL, now_us() + HOUR_US))
        body = b'{"mode": "halt-new"}'
        head = b"POST /gateway/trading HTTP/1.1\r\nHost: me\r\nAuthorization: Bearer %b\r\n" % TOKEN.encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), len(body) // pieces):
            writer.write(body[at : at + len(body) // pieces])
            await writer.drain()
            await asyncio.sleep(0.05)  # so that the pieces come apart
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        told = await Client(session, app).create("one")

        assert answer.startswith(b"HTTP/1.1 200")
        assert told.gateway == "trading-halted"
        assert exchange.stats.requests == 0


async def test_one_request_that_hangs_does_not_hold_up_its_account_for_longer_than_others_are_yielded_to() -> None:
    """Another program has used everything; then one answer does not come. The rest go on without it."""
    hanging = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        if b"hang=1" in request.target:
            await hanging.wait()
        body = b'{"retCode":0,"retMsg":"OK","result":{},"retExtInfo":{},"time":%d}' % (now_us() // 1000)
        left = b"0" if b"first=1" in request.target else b"9"
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Bapi-Limit: 10\r\nX-Bapi-Limit-Status: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (left, len(body), body)
        )

    async with recorder(answer) as upstream, gateway(upstream.url, limits=[]) as app, new_session() as session:
        client = Client(session, app)
        await client.get_signed(f"{INFO}?first=1")
        async with asyncio.TaskGroup() as group:
            group.create_task(client.get_signed(f"{INFO}?hang=1"))
            await until(lambda: len(upstream.seen) == 2, "the one that hangs")
            window = next(kept.window for key, kept in app.store._windows.items() if key[0] == "@account-info")
            window._foreign[:] = [(until_us - 9_500_000, count) for until_us, count in window._foreign]
            began = time.monotonic()
            told = await client.get_signed(INFO)
            took_s = time.monotonic() - began
            hanging.set()

        assert told.status == 200
        assert took_s < 6


async def test_what_one_account_may_do_on_an_unlisted_path_is_not_what_all_may_do() -> None:
    body = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1700000000000}'
    refusing = True

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        text = body if refusing else body.replace(b"10006", b"0")
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Bapi-Limit: 1\r\nX-Bapi-Limit-Status: 0\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )

    async with (
        recorder(answer) as upstream,
        gateway(upstream.url, limits=[], retry__enabled="false") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        await client.get_signed("/v5/new/endpoint")
        refusing = False
        began = time.monotonic()
        told = [await client.get_signed("/v5/other/endpoint", key="other-key") for _ in range(20)]

        assert {each.code for each in told} == {0}
        assert time.monotonic() - began < 5  # at one a second it would take twenty


async def test_a_read_is_told_what_the_exchange_said_and_not_what_went_wrong_later() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        exchange.faults.add({"kind": "ret_code", "ret_code": 10000, "count": 1})
        exchange.faults.add({"kind": "reset_before"})
        told = await Client(session, app).get(TICKERS)

        assert (told.status, told.code, told.gateway) == (200, 10000, None)


async def test_connections_that_die_when_they_are_used_again_cost_one_more_sending_each() -> None:
    """A server that reads and then resets every connection that has been used before."""
    arrived = 0
    used: set[int] = set()

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if id(writer) in used:
            writer.transport.abort()
            return
        used.add(id(writer))
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with recorder(answer) as upstream, gateway(upstream.url, retry__budget="0") as app, new_session() as session:
        client = Client(session, app)
        await asyncio.gather(*(client.get(TICKERS) for _ in range(8)))  # eight connections lie idle now
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(8)))

        assert [each.status for each in told] == [200] * 8
        assert arrived == 8 + 8 + 8


@pytest.mark.parametrize(
    "path",
    ["/v5/./order/create", "/v5/%6frder/create", "/V5/order/create", "/v5/order/create;/cancel", "/v5//order/create"],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_no_other_spelling_passes_the_trade_switch(path: str, method: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        app.egress.hear_trading(Trading(TradingMode.HALT_NEW, now_us()))
        body = json.dumps({"category": "linear", **new("one")}).encode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
        request = f"{method} {path} HTTP/1.1\r\nHost: me\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
        answer = await exchange_bytes(app.port, request)

        assert answer.get("X-Gateway") == "trading-halted"
        assert exchange.stats.requests == 0
        assert session is not None


async def test_a_header_of_the_signature_that_stands_there_twice_is_refused() -> None:
    """Which of two keys counts is not for the gateway to guess: one would be charged for the other."""
    async with recorder() as upstream, gateway(upstream.url) as app:
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed("").items())
        request = f"GET {INFO} HTTP/1.1\r\nHost: me\r\n{lines}X-Bapi-Api-Key: another\r\n\r\n".encode()
        answer = await exchange_bytes(app.port, request)

        assert (answer.status, answer.get("X-Gateway")) == (400, "bad-header")
        assert upstream.seen == []


async def test_orders_and_their_price_do_not_depend_on_how_long_a_batch_claims_to_be() -> None:
    """More than the exchange takes by far: forwarded as it is, for the exchange to refuse."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        body = json.dumps({"category": "linear", "request": [new(f"o{at}") for at in range(150)]}).encode()
        await client.send("POST", BATCH, headers=signed(body), data=body)
        told = await client.post(CREATE, **new("one"))

        assert exchange.record.since(0)[0].body_length == len(body)
        assert told.code == 0

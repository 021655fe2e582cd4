"""Orders through the whole gateway: dependencies arrive in order, clocks are judged, deadlines are kept."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import aiohttp
import pytest

from policies.admission import Refused
from policies.orders import must_wait, operations
from proxy.app import App
from proxy.ask import Ask
from proxy.telemetry import Story
from proxy.upstream import Reply
from tests.cached import CLOSED, candles, raw
from tests.cached import ask as asked
from tests.conversation import new
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.hand_clock import until
from tests.raw_http import exchange_bytes
from tests.recorder import Seen, answering, recorder
from tests.signing import signed

OPEN = [{"name": "ip", "quota": "600/5s", "window": "held", "refuse_with": "bybit"}]


async def post(session: aiohttp.ClientSession, app: App, path: str, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"category": "linear", **fields})
    async with session.post(url(app, path), data=body, headers=signed(body)) as answer:
        reply: dict[str, Any] = await answer.json(content_type=None)
        return reply | {"gateway": answer.headers.get("X-Gateway")}


def noted_asks(app: App, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that the gateway is asked to send from here on, in the order in which it is asked."""
    asked: list[bytes] = []
    send = app.attempts.send

    async def noted(ask: Ask, story: Story) -> Reply | Refused:
        asked.append(ask.body)
        return await send(ask, story)

    monkeypatch.setattr(app.attempts, "send", noted)
    return asked


@pytest.mark.parametrize("seed", range(3))
async def test_a_cancel_never_arrives_before_its_create(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as soon as the gateway has heard of the one before, over a wire that delays at random: every cancel finds
    its order."""
    dice = random.Random(seed)
    async with FakeBybit() as exchange:
        exchange.faults.add({"kind": "jitter", "delay_us": 20_000, "leg": "both"})
        async with gateway(exchange.url, limits=OPEN) as app, aiohttp.ClientSession() as session:
            bodies = noted_asks(app, monkeypatch)
            pending = []
            for number in range(8):
                link, symbol = f"link-{seed}-{number}", dice.choice(["BTCUSDT", "ETHUSDT"])
                pending.append(post(session, app, "/v5/order/create", **new(link, symbol)))
                pending.append(post(session, app, "/v5/order/cancel", symbol=symbol, orderLinkId=link))
            tasks = []
            for each in pending:
                tasks.append(asyncio.ensure_future(each))  # noqa: TID251  # gathered below
                await until(lambda: len(bodies) == len(tasks))
            replies = await asyncio.gather(*tasks)

        place = {(a.op, a.link_id): a.sequence for a in exchange.trading.arrivals}
        for number in range(8):
            link = f"link-{seed}-{number}"
            assert place["create", link] < place["cancel", link]
        assert [reply["retCode"] for reply in replies] == [0] * 16


@pytest.mark.parametrize("seed", range(4))
async def test_random_streams_of_orders_never_break_a_dependency(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creates, amends, cancels, cancel-alls and batches of two symbols, fired without waiting, over a jittered wire:
    whatever must come after another arrives after it."""
    dice = random.Random(seed)
    stream: list[tuple[str, dict[str, Any]]] = []
    for number in range(40):
        symbol = dice.choice(["BTCUSDT", "ETHUSDT"])
        link = f"s{seed}-{dice.randrange(12)}"
        match dice.randrange(8):
            case 0 | 1 | 2:
                stream.append(("/v5/order/create", new(f"s{seed}-n{number}", symbol) | {"orderLinkId": link}))
            case 3:
                stream.append(("/v5/order/amend", {"symbol": symbol, "orderLinkId": link, "price": "1001"}))
            case 4 | 5:
                stream.append(("/v5/order/cancel", {"symbol": symbol, "orderLinkId": link}))
            case 6:
                items = [new(f"s{seed}-{dice.randrange(12)}", symbol) for _ in range(2)]
                stream.append(("/v5/order/create-batch", {"request": items}))
            case _:
                stream.append(("/v5/order/cancel-all", {"symbol": symbol}))

    arrived: list[int] = []

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(dice.random() * 0.02)  # on its way there
        arrived.append(json.loads(request.body)["mark"])
        await asyncio.sleep(dice.random() * 0.02)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"retCode":0}')

    async with (
        recorder(answer) as upstream,
        gateway(upstream.url, limits=OPEN) as app,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        bodies = noted_asks(app, monkeypatch)
        async with asyncio.TaskGroup() as group:
            for mark, (path, fields) in enumerate(stream):
                group.create_task(post(session, app, path, mark=mark, **fields))
                await asyncio.sleep(0.002)

    assert sorted(arrived) == list(range(len(stream)))
    place = {mark: position for position, mark in enumerate(arrived)}
    done = [operations(path, {"category": "linear", **fields}) for path, fields in stream]
    asked = [json.loads(body)["mark"] for body in bodies]
    for position, later in enumerate(asked):
        for earlier in asked[:position]:
            if any(must_wait(a, b) for a in done[later] for b in done[earlier]):
                assert place[earlier] < place[later], (stream[earlier], stream[later])


async def test_independent_symbols_stay_parallel() -> None:
    release = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        if b"BTCUSDT" in request.body:
            await release.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"retCode":0}')

    async with (
        recorder(answer) as upstream,
        gateway(upstream.url, limits=OPEN) as app,
        aiohttp.ClientSession() as session,
    ):
        held = asyncio.gather(
            post(session, app, "/v5/order/create", **new("a")),
            post(session, app, "/v5/order/cancel", symbol="BTCUSDT", orderLinkId="a"),
        )
        while app.attempts.gate.held == 0:
            await asyncio.sleep(0.005)
        assert (await post(session, app, "/v5/order/cancel-all", symbol="ETHUSDT"))["retCode"] == 0
        assert len(upstream.seen) == 2
        release.set()
        assert [reply["retCode"] for reply in await held] == [0, 0]
    assert len(app.attempts.gate) == 0


async def test_a_create_that_was_never_sent_frees_its_cancel() -> None:
    """Unreachable: the create is known not to have been sent, and the cancel must not wait for it for ever."""
    async with gateway("http://127.0.0.1:9", limits=OPEN) as app, aiohttp.ClientSession() as session:

        async def ask(path: str) -> int:
            body = json.dumps({"category": "linear", **new("a")})
            async with session.post(url(app, path), data=body, headers=signed(body)) as answer:
                return answer.status

        statuses = await asyncio.gather(ask("/v5/order/create"), ask("/v5/order/cancel"))

        assert statuses == [502, 502]
        assert len(app.attempts.gate) == 0


async def test_a_cancel_waits_for_its_create_even_when_the_clients_have_gone() -> None:
    """The create runs on without its client; whoever comes after it still comes after it."""
    release = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        if b"create" in request.line:
            await release.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"retCode":0}')

    async with recorder(answer) as upstream, gateway(upstream.url, limits=OPEN) as app:
        body = json.dumps({"category": "linear", **new("a")})
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        head = f"POST /v5/order/create HTTP/1.1\r\nHost: me\r\n{lines}Content-Length: {len(body)}\r\n\r\n{body}"
        writer.write(head.encode())
        while not upstream.seen:
            await asyncio.sleep(0.005)
        writer.close()
        async with aiohttp.ClientSession() as session:
            cancel = asyncio.gather(post(session, app, "/v5/order/cancel", symbol="BTCUSDT", orderLinkId="a"))
            while app.attempts.gate.held == 0:
                await asyncio.sleep(0.005)
            assert len(upstream.seen) == 1
            release.set()
            assert (await cancel)[0]["retCode"] == 0
        assert len(upstream.seen) == 2


async def test_what_must_not_overtake_is_refused_when_its_turn_does_not_come_in_time() -> None:
    async def never(_: Seen, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with (
        recorder(never) as upstream,
        gateway(upstream.url, limits=OPEN, queue__max_wait="100ms") as app,
        aiohttp.ClientSession() as session,
    ):
        create = asyncio.gather(post(session, app, "/v5/order/create", **new("a")), return_exceptions=True)
        while not upstream.seen:
            await asyncio.sleep(0.005)
        reply = await post(session, app, "/v5/order/cancel", symbol="BTCUSDT", orderLinkId="a")

        assert (reply["retCode"], reply["gateway"]) == (10006, "deadline")
        assert len(upstream.seen) == 1
        create.cancel()


async def test_a_batch_costs_its_account_as_many_orders_as_it_has() -> None:
    limits = [{"name": "orders", "quota": "10/60s", "partition": ["api_key", "endpoint"], "when_full": "refuse"}, *OPEN]
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits) as app, aiohttp.ClientSession() as session:
        reply = await post(session, app, "/v5/order/create-batch", request=[new(f"b{n}") for n in range(6)])
        assert reply["retCode"] == 0
        reply = await post(session, app, "/v5/order/create-batch", request=[new(f"c{n}") for n in range(5)])
        assert (reply["retCode"], reply["gateway"]) == (10006, "rate-limit")
        reply = await post(session, app, "/v5/order/create-batch", request=[new(f"d{n}") for n in range(4)])
        assert reply["retCode"] == 0
        used = {usage.charge_key[0]: usage.used for usage in await app.store.usage()}
        assert used == {"orders": 10, "ip": 2, "@order-create-batch.futures": 10}


async def learned(app: App) -> None:
    """Answers of the exchange from which its clock is known; what takes a second is made to have been one."""
    request = b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n"
    await exchange_bytes(app.port, request)
    sample = app.attempts.skew._samples[-1]
    app.attempts.skew._samples.appendleft(sample._replace(at_us=sample.at_us - 1_100_000))
    assert app.attempts.skew.known


@pytest.mark.parametrize("exchange_is_off_ms", [0, 30_000, -30_000])
async def test_a_timestamp_ahead_of_the_exchange_is_reported_as_such(exchange_is_off_ms: int) -> None:
    """By the exchange's own clock, however wrong ours may be; and it does not reach the exchange."""
    async with (
        FakeBybit(settings=Settings(clock_offset_ms=exchange_is_off_ms)) as exchange,
        gateway(exchange.url, limits=OPEN) as app,
        aiohttp.ClientSession() as session,
    ):
        await learned(app)
        sent = exchange.stats.requests
        stamp = time.time_ns() // 1_000_000 + exchange_is_off_ms + 3_000
        headers = signed("", stamp_ms=stamp)
        async with session.get(url(app, "/v5/account/info"), headers=headers) as answer:
            reply = await answer.json()

        assert (answer.status, reply["retCode"], answer.headers["X-Gateway"]) == (200, 10002, "clock-ahead")
        assert "ms ahead of the exchange" in reply["retMsg"]
        assert exchange.stats.requests == sent


async def test_a_request_that_is_expired_on_arrival_is_not_sent() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=OPEN) as app, aiohttp.ClientSession() as session:
        await learned(app)
        sent = exchange.stats.requests
        headers = signed("", stamp_ms=time.time_ns() // 1_000_000 - 6_000)
        async with session.get(url(app, "/v5/account/info"), headers=headers) as answer:
            assert (await answer.json())["retCode"] == 10002
            assert answer.headers["X-Gateway"] == "expired"
        assert exchange.stats.requests == sent


@pytest.mark.parametrize("exchange_is_off_ms", [0, 60_000, -60_000])
async def test_good_signatures_pass_whatever_our_own_clock_shows(exchange_is_off_ms: int) -> None:
    async with (
        FakeBybit(settings=Settings(clock_offset_ms=exchange_is_off_ms)) as exchange,
        gateway(exchange.url, limits=OPEN) as app,
        aiohttp.ClientSession() as session,
    ):
        await learned(app)
        for age_ms in (-500, 0, 4_000):
            headers = signed("", stamp_ms=time.time_ns() // 1_000_000 + exchange_is_off_ms - age_ms)
            async with session.get(url(app, "/v5/account/info"), headers=headers) as answer:
                assert (await answer.json())["retCode"] == 0


async def test_a_client_may_say_how_long_it_will_wait() -> None:
    limits = [{"name": "slow", "quota": "1/5s", "when_full": "wait"}]
    get = "GET /v5/account/info HTTP/1.1\r\nHost: me\r\n{}\r\n"
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        await exchange_bytes(app.port, get.format("").encode())
        answer = await exchange_bytes(app.port, get.format("X-Gateway-Max-Wait: 100ms\r\n").encode(), seconds=2)
        assert (answer.status, answer.get("X-Gateway")) == (429, "deadline")
        answer = await exchange_bytes(app.port, get.format("X-Gateway-Max-Wait: soon\r\n").encode())
        assert (answer.status, answer.get("X-Gateway")) == (400, "bad-max-wait")
        assert len(upstream.seen) == 1
        assert b"x-gateway-max-wait" not in upstream.seen[0].names()


@pytest.mark.parametrize("leave", ["close", "write_eof"])
async def test_who_has_ended_his_side_of_the_connection_leaves_the_queue(leave: str) -> None:
    limits = [{"name": "slow", "quota": "1/2s", "when_full": "wait"}]
    order = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n{}"
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        await exchange_bytes(app.port, b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(order)
        await until(lambda: app.limiter.waiting == 1)
        getattr(writer, leave)()
        await until(lambda: app.limiter.waiting == 0)
        if leave == "write_eof":
            assert await reader.read() == b""
            writer.close()
        assert (await exchange_bytes(app.port, order)).status == 200
        assert [seen.target for seen in upstream.seen] == [b"/v5/account/info", b"/v5/order/create"]


async def test_a_mistaken_wait_is_told_also_where_nobody_has_to_wait() -> None:
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        told = [(await asked(app, CLOSED, f"X-Gateway-Max-Wait: {wait}")).status for wait in ("1s", "soon", "1s")]
        assert told == [200, 400, 200]
        assert (await asked(app, CLOSED, "X-Gateway-Max-Wait: 1s", "X-Gateway-Max-Wait: 2s")).status == 400
        assert len(upstream.seen) == 1

"""Each line of the table of policies/retry.py as a conversation: what the client asks, what the exchange saw, what the
client got.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from proxy.app import App
from tests.conversation import CREATE, INFO, TICKERS, Client, Told, arrivals, new, new_session, now_us, until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.proxy.test_failures import closed_port, used
from tests.raw_http import exchange_bytes
from tests.recorder import Seen, answering, recorder
from tests.signing import signed

ALL = [{"name": "all", "quota": "1000/60s", "window": "held"}]
BATCH = "/v5/order/create-batch"
PATIENT: dict[str, Any] = {"breaker__enabled": "false"}
"""What is tried here is the retries alone."""

Fault = dict[str, Any]
ANSWERS: dict[str, Fault] = {
    "500": {"kind": "status", "status": 500},
    "502": {"kind": "status", "status": 502, "body": "html"},
    "503": {"kind": "status", "status": 503},
    "504": {"kind": "status", "status": 504, "body": "empty"},
    "429": {"kind": "status", "status": 429},
    "10429": {"kind": "ret_code", "ret_code": 10429},
    "10016": {"kind": "ret_code", "ret_code": 10016},
    "10000": {"kind": "ret_code", "ret_code": 10000},
}
"""What the exchange says when it is in trouble."""
BREAKS: dict[str, Fault] = {
    "reset before": {"kind": "reset_before"},
    "reset after": {"kind": "reset_after"},
    "truncated": {"kind": "truncate"},
}
"""What the network does to its answers."""
REASONS = {
    **dict.fromkeys(("500", "502", "503", "504", "10016", "10000"), "failing"),
    **dict.fromkeys(("429", "10429"), "protected"),
    **dict.fromkeys(("reset before", "reset after"), "no-answer"),
    "truncated": "broken-answer",
}
"""Labels of gateway_retries_total."""


async def retries(client: Client, endpoint: str, reason: str) -> float:
    return await client.metric(f'gateway_retries_total{{endpoint="{endpoint}",reason="{reason}"}}')


def known_answer(fault: Fault) -> tuple[int, int | None]:
    """Status and retCode of what the exchange says by a fault."""
    return (200, fault["ret_code"]) if fault["kind"] == "ret_code" else (fault["status"], None)


@pytest.mark.parametrize("trouble", [*ANSWERS, *BREAKS])
async def test_a_read_is_asked_again_and_succeeds(trouble: str) -> None:
    """Its client notices nothing; the limiter does, for the exchange has counted both."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({**(ANSWERS | BREAKS)[trouble], "count": 1})
        told = await client.get_signed()
        counted = await retries(client, "account-info", REASONS[trouble])
        charged = await used(app, "all")

    assert (told.status, told.code, told.gateway) == (200, 0, None)
    assert exchange.stats.requests == 2
    assert charged == 2
    assert counted == 1


@pytest.mark.parametrize("trouble", ANSWERS)
async def test_what_the_exchange_says_of_a_write_is_passed_on(trouble: str) -> None:
    """It may have been executed all the same: only its client can find out. It is sent once."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({**ANSWERS[trouble], "count": 1, "processed": True})
        told = await client.create("once")

    status, code = known_answer(ANSWERS[trouble])
    assert (told.status, told.code, told.gateway) == (status, code, None)
    assert exchange.stats.requests == 1
    assert exchange.stats.placed_link_ids["1001", "once"] == 1


@pytest.mark.parametrize("trouble", BREAKS)
@pytest.mark.parametrize("idle", [False, True], ids=["new connection", "idle connection"])
async def test_a_write_without_an_answer_is_of_unknown_fate(trouble: str, idle: bool) -> None:
    """Sent once, and the answer says what is known, and how to find out."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        client = Client(session, app)
        if idle:
            await client.get_signed()
        exchange.faults.add({**BREAKS[trouble], "count": 1})
        told = await client.create("once")
        sent = len(arrivals(exchange, CREATE))

    assert (told.status, told.code) == (504, 10016)
    assert told.json["retMsg"] == "Request timeout, please try again later"
    assert told.headers["X-Gateway-Outcome"] == "unknown"
    assert "/v5/order/realtime" in told.headers["X-Gateway-Remedy"]
    assert "orderLinkId" in told.headers["X-Gateway-Remedy"]
    assert sent == 1


async def test_a_read_without_an_answer_has_no_fate_to_ask_about() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        exchange.faults.add({"kind": "reset_after"})
        told = await Client(session, app).get_signed()

    assert (told.status, told.code) == (504, 10016)
    assert "X-Gateway-Outcome" not in told.headers
    assert "X-Gateway-Remedy" not in told.headers
    assert exchange.stats.requests == 3


async def test_a_read_on_a_connection_that_died_idle_costs_nothing_of_the_budget() -> None:
    """That is no sign of trouble: with a budget of nothing, and none left, it is asked again all the same."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=ALL, retry__budget="0", **PATIENT) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 503, "count": 20})
        while exchange.faults.rules[0].fired < 20:  # uses up the ten that are free at the start
            await client.get(TICKERS)
        await client.get(TICKERS)
        before = exchange.stats.requests
        exchange.faults.add({"kind": "reset_before", "count": 1})
        told = await client.get(TICKERS)
        counted = await retries(client, "tickers", "idle-connection")

    assert told.status == 200
    assert exchange.stats.requests - before == 2
    assert counted == 1


async def test_a_write_is_sent_again_after_too_many_visits() -> None:
    """The exchange says so before it does anything; its window says when there is room."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "ret_code", "ret_code": 10006, "match": {"path": CREATE}, "count": 1})
        told = await client.create("twice")
        counted = await retries(client, "order-create", "too-many")
        charged = await used(app, "all")

    assert (told.status, told.code) == (200, 0)
    first, second = arrivals(exchange, CREATE)
    assert first.body_sha256 == second.body_sha256
    assert second.time_us - first.time_us > 500_000, "not before its window may have room again"
    assert exchange.stats.placed_link_ids["1001", "twice"] == 1
    assert (counted, charged) == (1, 2)


async def test_a_batch_is_not_sent_again_after_too_many_visits() -> None:
    """It may have been placed in part."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        exchange.faults.add({"kind": "ret_code", "ret_code": 10006, "match": {"path": BATCH}, "count": 1})
        told = await Client(session, app).post(BATCH, request=[new("one"), new("two")])

    assert (told.status, told.code, told.gateway) == (200, 10006, None)
    assert len(arrivals(exchange, BATCH)) == 1


@pytest.mark.parametrize("ask", ["get_signed", "create"])
async def test_what_was_not_sent_is_sent_when_the_exchange_is_back(ask: str) -> None:
    """Not one byte left: a write is as safe to send as a read, once it can be."""
    port = closed_port()
    settings: dict[str, Any] = {"limits": ALL, "retry__backoff": "1s", "retry__attempts": "10", **PATIENT}
    async with (
        gateway(f"http://127.0.0.1:{port}", **settings) as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        call: Callable[..., Any] = client.create if ask == "create" else client.get_signed
        asked = group.create_task(call("late") if ask == "create" else call())
        reason = (("order-create" if ask == "create" else "account-info"), "not-sent")
        await until(lambda: app.metrics.retries.labels(*reason)._value.get() >= 1, "the first attempt")
        async with FakeBybit(port=port) as exchange:
            told = await asked
            assert exchange.stats.requests == 1
            assert await used(app, "all") == 1, "what was not sent was given back"

    assert (told.status, told.code) == (200, 0)


async def test_a_write_that_was_sent_once_stays_sent() -> None:
    """Refused with 10006 and then not sent any more: its client gets the exchange's word, not ours."""
    refusal = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1}'
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal)
    port = closed_port()
    seen: list[bytes] = []
    server: asyncio.Server

    async def refuse_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        server.close()
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse_and_go, "127.0.0.1", port)
    async with gateway(f"http://127.0.0.1:{port}", limits=ALL, **PATIENT) as app, new_session() as session:
        told = await Client(session, app).create("once")

    assert (told.status, told.body, told.gateway) == (200, refusal, None)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "fault", [{"kind": "ret_code", "ret_code": 10001}, {"kind": "ret_code", "ret_code": 110001}, {"kind": "geo_block"}]
)
async def test_nothing_would_be_gained_by_asking_again(fault: Fault) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        exchange.faults.add(fault)
        await Client(session, app).get_signed()

    assert exchange.stats.requests == 1


async def test_the_last_answer_is_the_exchanges_own() -> None:
    """Three times the same trouble: byte for byte what the exchange has said."""
    raw = b"HTTP/1.1 503 Oops\r\nContent-Type: text/html\r\nX-Theirs: 1\r\nContent-Length: 6\r\n\r\n<html>"
    async with recorder(answering(raw)) as upstream, gateway(upstream.url, limits=ALL, **PATIENT) as app:
        told = await exchange_bytes(app.port, b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n\r\n")

    assert (told.status, told.body, told.get("X-Gateway"), told.get("X-Theirs")) == (503, b"<html>", None, "1")
    assert len(upstream.seen) == 3


async def test_switched_off_everything_is_sent_once() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, retry__enabled="false", **PATIENT) as app:
        exchange.faults.add({"kind": "status", "status": 503, "count": 1})
        told = await exchange_bytes(app.port, b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n")

    assert told.status == 503
    assert exchange.stats.requests == 1


async def test_nothing_is_sent_after_the_signature_has_run_out() -> None:
    """A window of a second, a refusal that lasts for longer: the client can sign again, we cannot."""
    refusal = {"kind": "ret_code", "ret_code": 10006, "match": {"path": INFO}}
    async with FakeBybit() as exchange, gateway(exchange.url, limits=ALL, **PATIENT) as app, new_session() as session:
        client = Client(session, app)
        await learn_the_time(client, app)
        exchange.faults.add(refusal)
        began_us = now_us()
        told = await client.send("GET", INFO, headers=signed("", window_ms=1_000))
        sent = arrivals(exchange, INFO)

    assert (told.status, told.code, told.gateway) == (200, 10006, None), "the exchange's last word"
    assert told.told_us - began_us < 1_500_000
    assert all(entry.time_us < began_us + 1_000_000 for entry in sent)


async def learn_the_time(client: Client, app: App) -> None:
    """Of several answers, until the gateway trusts what they say of the exchange's clock."""
    await until_async(client, lambda: app.attempts.skew.known)


async def until_async(client: Client, holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        await client.get()
        await asyncio.sleep(0.03)
    raise AssertionError("it never learned the time")


@pytest.mark.parametrize("header", [True, False])
async def test_nothing_is_sent_after_the_client_has_waited_long_enough(header: bool) -> None:
    """By its own word, or by the queue's."""
    settings: dict[str, Any] = {
        "limits": ALL,
        "retry__backoff": "400ms",
        "retry__attempts": "10",
        "retry__max_backoff": "400ms",
        **PATIENT,
    }
    if not header:
        settings["queue__max_wait"] = "600ms"
    async with FakeBybit() as exchange, gateway(exchange.url, **settings) as app, new_session() as session:
        exchange.faults.add({"kind": "status", "status": 503})
        client = Client(session, app)
        told = await asyncio.gather(
            *(client.get(TICKERS, **({"X-Gateway-Max-Wait": "600ms"} if header else {})) for _ in range(4))
        )
        began_us = min(each.asked_us for each in told)

    assert {(each.status, each.gateway) for each in told} == {(503, None)}
    assert max(entry.time_us for entry in exchange.record.entries) - began_us < 600_000 + 200_000
    assert exchange.stats.requests < 4 * 10


async def test_an_exchange_in_trouble_is_asked_a_tenth_more_and_no_more() -> None:
    """All attempts together are paid from what all requests have paid in."""
    asked = 400
    settings: dict[str, Any] = {"limits": ALL, "retry__backoff": "1ms", "retry__max_backoff": "2ms", **PATIENT}
    async with FakeBybit() as exchange, gateway(exchange.url, **settings) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 503})

        async def clients() -> list[Told]:
            return [await client.get(TICKERS) for _ in range(asked // 20)]

        told = [each for some in await asyncio.gather(*(clients() for _ in range(20))) for each in some]
        counted = await retries(client, "tickers", "failing")

    assert [each.status for each in told] == [503] * asked
    assert asked * 1.05 < exchange.stats.requests <= asked * 1.1 + 10
    assert counted == exchange.stats.requests - asked


async def test_an_orphaned_write_is_not_sent_again() -> None:
    """Its client has gone: nobody would know what became of the second one."""
    release = asyncio.Event()
    refusal = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1}'

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal))

    async with recorder(later) as upstream, gateway(upstream.url, limits=ALL, **PATIENT) as app:
        body = json.dumps({"category": "linear", **new("gone")}).encode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
        request = f"POST {CREATE} HTTP/1.1\r\nHost: me\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(request)
        await until(lambda: upstream.seen, "the write")
        writer.close()
        await asyncio.sleep(0.05)  # until the gateway knows that its client has gone
        release.set()
        await asyncio.sleep(1.3)  # longer than the refusal lasts

    assert len(upstream.seen) == 1

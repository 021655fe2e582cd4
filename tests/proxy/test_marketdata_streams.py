"""Histories while they are read: the reader's pace, his leaving, and what goes wrong in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from proxy.app import App
from proxy.marketdata.room import Room
from tests.fake_bybit import FakeBybit, Settings
from tests.fake_bybit.symbols import utc_ms
from tests.gateway_fixture import gateway
from tests.hand_clock import START_US, HandClock, until
from tests.market import KLINES, ask, error_of, get, rows_of
from tests.raw_http import read_answer

START_MS = utc_ms(2026, 1, 1)
MINUTE_MS = 60_000
PAGE_MS = 1000 * MINUTE_MS
CALM: dict[str, Any] = {"limits": [], "retry__enabled": "false", "breaker__enabled": "false"}


def calm() -> Settings:
    return Settings(ip_limit=10**6)


def target(pages: int, format_: str = "ndjson") -> str:
    end_ms = START_MS + pages * PAGE_MS - MINUTE_MS
    return f"{KLINES}/BTCUSDT?interval=1&start={START_MS}&end={end_ms}&format={format_}"


def fetches(app: App, result: str) -> int:
    return int(app.metrics.history_fetches.labels(result)._value.get())


class Impatient(HandClock):
    """Whoever sleeps by it wakes up at once, and it is later."""

    async def sleep(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)
        await asyncio.sleep(0)


def after(exchange: FakeBybit, requests: int, happens: Callable[[], object]) -> None:
    """Something happens at the exchange once it has been asked for so many pages."""
    handle, left = exchange.market.handle, [requests]

    def counted(path: str, *rest: Any) -> Any:
        left[0] -= path.endswith("kline")
        if left[0] == 0:
            happens()
        return handle(path, *rest)

    exchange.market.handle = counted


async def unread(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose kernel takes little that nobody reads."""
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    near.setblocking(False)
    await asyncio.get_running_loop().sock_connect(near, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=near, limit=1 << 15)
    writer.write(request)
    return reader, writer


async def still(count: Callable[[], int]) -> int:
    """Until a number has not changed for a while: that nothing more happens has no event."""
    async with asyncio.timeout(30):
        before = -1
        while before != count():
            before = count()
            await asyncio.sleep(0.3)
    return before


async def test_a_reader_who_stands_still_holds_up_the_paging_and_then_gets_all_of_it() -> None:
    pages = 250
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        reader, writer = await unread(app.port, get(target(pages)))
        asked = await still(lambda: exchange.stats.requests)
        assert 0 < asked < pages - 50
        async with asyncio.timeout(60):
            answer = await read_answer(reader)
        writer.close()

        rows = rows_of(answer)
        assert answer.complete
        assert [int(row[0]) for row in rows] == list(range(START_MS, START_MS + pages * PAGE_MS, MINUTE_MS))
        assert exchange.stats.requests == pages
        assert fetches(app, "whole") == 1


@pytest.mark.parametrize("format_", ["json", "csv"])
async def test_a_reader_who_hangs_up_ends_the_paging(format_: str) -> None:
    pages = 250
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        reader, writer = await unread(app.port, get(target(pages, format_)))
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await until(lambda: fetches(app, "client-gone") == 1)
        asked = await still(lambda: exchange.stats.requests)

        assert asked < pages - 50
        assert len(app.tasks) == 0


async def test_at_most_so_many_questions_are_out_for_one_history() -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM, candles__parallel=3) as app:
        most, handle = [0], exchange.market.handle

        def counted(*given: Any) -> Any:
            most[0] = max(most[0], int(app.metrics.in_flight._value.get()))
            return handle(*given)

        exchange.market.handle = counted
        answer = await ask(app, target(30))

        assert len(rows_of(answer)) == 30_000
        assert 1 < most[0] <= 3


@pytest.mark.parametrize("format_", ["json", "ndjson", "csv"])
async def test_what_breaks_in_the_middle_does_not_look_whole(format_: str) -> None:
    clock = Impatient()
    async with (
        FakeBybit(settings=calm(), clock=clock) as exchange,
        gateway(exchange.url, **CALM, clock=clock, sleep=clock.sleep) as app,
    ):
        after(exchange, 8, lambda: exchange.faults.add({"kind": "status", "status": 503}))
        answer = await ask(app, target(30, format_))

        assert (answer.status, answer.complete) == (200, False)
        assert 0 < answer.body.count(b"\n" if format_ != "json" else b"],[") < 30_000
        if format_ == "json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(answer.body)
        assert fetches(app, "broken") == 1
        assert clock.now_us - START_US > 50_000_000, "it was tried for a while"


@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "ret_code", "ret_code": 10006},
        {"kind": "ret_code", "ret_code": 10016},
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 429},
        {"kind": "reset_after"},
        {"kind": "truncate"},
    ],
    ids=str,
)
async def test_trouble_that_passes_is_waited_for(trouble: dict[str, Any]) -> None:
    clock = Impatient()
    async with (
        FakeBybit(settings=calm(), clock=clock) as exchange,
        gateway(exchange.url, **CALM, clock=clock, sleep=clock.sleep, pacing__enabled="false") as app,
    ):
        after(exchange, 8, lambda: exchange.faults.add({**trouble, "count": 9}))
        answer = await ask(app, target(30))

        assert answer.complete
        assert [int(row[0]) for row in rows_of(answer)] == list(range(START_MS, START_MS + 30 * PAGE_MS, MINUTE_MS))
        assert exchange.faults.rules[0].fired == 9


async def test_a_rule_that_refuses_slows_a_history_down_and_does_not_break_it() -> None:
    clock = Impatient()
    rule = {"name": "few", "quota": "5/10s", "partition": ["egress"], "counts": "upstream", "when_full": "refuse"}
    async with (
        FakeBybit(settings=calm(), clock=clock) as exchange,
        gateway(exchange.url, **{**CALM, "limits": [rule]}, clock=clock, sleep=clock.sleep) as app,
    ):
        answer = await ask(app, target(30))

        assert len(rows_of(answer)) == 30_000
        assert clock.now_us - START_US >= 50_000_000


async def test_a_ban_in_the_middle_ends_it() -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        after(exchange, 8, lambda: exchange.faults.add({"kind": "ban"}))
        answer = await ask(app, target(200))
        later = await ask(app, target(2))

        assert (answer.status, answer.complete) == (200, False)
        assert (later.status, later.get("X-Gateway"), later.body) == (403, "banned", b"access too frequent")
        assert (fetches(app, "broken"), fetches(app, "failed")) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ({"kind": "status", "status": 503}, 502, "exchange-error"),
        ({"kind": "ret_code", "ret_code": 10016}, 502, "exchange-error"),
        ({"kind": "ret_code", "ret_code": 10006}, 429, "exchange-limit"),
        ({"kind": "status", "status": 429}, 429, "exchange-limit"),
        ({"kind": "geo_block"}, 502, "exchange-error"),
        ({"kind": "reset_after"}, 504, "upstream-disconnected"),
        ({"kind": "truncate"}, 502, "upstream-truncated"),
        ({"kind": "ban"}, 403, "banned"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "where",
    [
        target(3),
        target(30),
        f"{KLINES}/BTCUSDT?interval=1",
        f"{KLINES}?symbols=BTCUSDT&interval=1",
        "/api/v1/prices/btc-usdt",
    ],
)
async def test_what_fails_before_the_first_candle_has_a_status_of_its_own(
    where: str, fault: dict[str, Any], status: int, reason: str
) -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        exchange.faults.add(fault)
        answer = await ask(app, where)
        assert (answer.status, answer.get("X-Gateway")) == (status, reason)
        assert answer.get("X-Request-Id")
        if reason.startswith("exchange-"):
            assert error_of(answer)[1] != 0


async def test_lines_are_not_streamed_where_a_part_could_pass_for_the_whole() -> None:
    """HTTP/1.0 ends a body with its connection. Half of a JSON text says itself that it is half."""
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        refused = await ask(app, target(3), version="1.0")
        assert error_of(refused)[0::2] == (505, "http-version")
        assert exchange.stats.requests == 0
        answer = await ask(app, target(3, "json"), version="1.0")
        assert (answer.get("Transfer-Encoding"), len(rows_of(answer))) == (None, 3000)
        short = await ask(app, target(1), version="1.0")
        assert int(short.get("Content-Length") or 0) == len(short.body) > 0


@pytest.mark.parametrize(
    "where", [target(3), target(1), f"{KLINES}?symbols=BTCUSDT&interval=1", f"{KLINES}/BTCUSDT?interval=1&limit=1500"]
)
async def test_head_is_answered_as_get_without_a_body(where: str) -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        for _ in range(2):  # the connection is good for another
            writer.write(get(where, method="HEAD"))
            answer = await asyncio.wait_for(read_answer(reader, has_body=False), 10)
            assert (answer.status, answer.get("X-Gateway")) == (200, "marketdata")
        writer.close()
        assert exchange.stats.requests <= 4


async def test_a_connection_can_be_used_again_after_a_history() -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=2**24)
        for format_ in ("ndjson", "json", "csv"):
            writer.write(get(target(2, format_)))
            assert len(rows_of(await asyncio.wait_for(read_answer(reader), 10))) == 2000
        writer.close()


async def test_no_more_is_held_at_one_time_than_there_is_room_for() -> None:
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        app.marketdata.desk.room = Room(1500)
        answer = await ask(app, f"{KLINES}/BTCUSDT?interval=1&limit=1501")
        assert error_of(answer)[:3] == (429, 10006, "too-much-at-once")
        assert (answer.get("Retry-After"), json.loads(answer.body)["retry_after"]) == ("1", 1)
        for _ in range(2):  # what has been given is not held any more
            assert (await ask(app, f"{KLINES}/BTCUSDT?interval=1&limit=1500")).status == 200


async def test_a_long_history_leaves_the_caches_as_they_are() -> None:
    """What is longer than twenty pages is looked up there, but not kept."""
    async with FakeBybit(settings=calm()) as exchange, gateway(exchange.url, **CALM) as app:
        await ask(app, target(20))
        held = app.caches.candles.size_bytes if app.caches.candles else 0
        asked = exchange.stats.requests
        assert held > 1_000_000
        await ask(app, target(40))
        assert exchange.stats.requests - asked == 20, "half of it was known"
        assert app.caches.candles is not None
        assert app.caches.candles.size_bytes == held

"""The exchange bans our address: everything stops at once, one question ends it, and everybody knows meanwhile why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.app import App
from proxy.config import load
from tests.conversation import CREATE, TICKERS, TIME, Client, arrivals, new_session, now_us, until
from tests.crowd import LIMIT, LIMITS, WINDOW_S, Seen, asked_once, crowd, exchange_settings, market, questions
from tests.fake_bybit import FakeBybit
from tests.fake_bybit.answers import bad_request_page, geo_block_page
from tests.gateway_fixture import ROUTES, gateway
from tests.proxy.test_log import Captured, captured
from tests.raw_http import exchange_bytes
from tests.recorder import Seen as Request
from tests.recorder import answer_ok, answering, recorder

__all__ = ["captured"]

BAN_US = 2_000_000
KLINE = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
CLOSED = f"{KLINE}&start=1700000000000&end=1700000060000"
UNKNOWN_KLINE = "/v5/market/kline?category=linear&symbol=ETHUSDT&interval=1&limit=3"
_TIME_BODY = b'{"retCode":0,"retMsg":"OK","result":{},"retExtInfo":{},"time":1700000000000}'
THE_TIME = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_TIME_BODY), _TIME_BODY)
BANNED = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\naccess too frequent"


@asynccontextmanager
async def in_a_hurry(
    upstream_url: str, sleep: Callable[[float], Awaitable[None]], **overrides: str
) -> AsyncIterator[App]:
    """A gateway whose waiting for the end of a ban is done by `sleep`."""
    environment = {
        "GATEWAY__UPSTREAM__URL": upstream_url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": "0",
        **{f"GATEWAY__{name.upper()}": value for name, value in overrides.items()},
    }
    async with App(load(None, environment, ROUTES), ROUTES, sleep=sleep) as app:
        yield app


async def test_a_ban_stops_sixty_clients_until_one_question_is_answered() -> None:
    """Nothing arrives late but one question; who waits is told at once, orders too; then all goes on."""
    async with (
        FakeBybit(settings=exchange_settings(BAN_US * 3 // 4)) as exchange,
        gateway(exchange.url, limits=LIMITS, pacing__ban="2s", pacing__ramp="1s", queue__max_wait="30s") as app,
        new_session() as session,
        crowd(session, [app]) as people,
    ):
        await asyncio.sleep(2 * WINDOW_S)  # until the budget is in use
        waited = app.limiter.waiting
        exchange.faults.add({"kind": "ban", "count": 1})
        await until(lambda: app.egress.banned, "the ban")
        await until(lambda: not app.egress.banned, "its end")
        resumed_us = now_us()
        await asyncio.sleep(1.5 * WINDOW_S)  # the traffic after it

    seen = Seen(exchange)
    asked_once(seen, BAN_US)
    assert waited > 10
    assert exchange.books.ip.breaches == 0
    assert exchange.books.ip.max_in_window() <= LIMIT

    waiting = people.waiting_at(seen.began_us)
    turned_away = [told for told in waiting if told.gateway == "banned"]
    assert len(turned_away) > 10
    assert max(told.told_us for told in waiting) - seen.began_us < 1_000_000
    assert all(told.told_us - told.asked_us < 1_000_000 for told in people.since(seen.began_us) if told.status == 403)

    meanwhile = [told for told in people.since(seen.began_us + 200_000) if told.told_us < resumed_us - 200_000]
    assert {(told.status, told.gateway, told.body) for told in meanwhile} == {(403, "banned", b"access too frequent")}
    assert {told.headers["Content-Type"] for told in meanwhile} == {"text/plain"}
    assert {int(told.headers["Retry-After"]) for told in meanwhile} <= {1, 2}
    assert {told.status for told in people.told if told.told_us > resumed_us + 100_000} == {200}


async def test_orders_that_wait_for_their_turn_are_told_at_once() -> None:
    """An order that is certain not to be sent is worth knowing about: its client can act."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, pacing__ban="60s") as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        orders = [group.create_task(client.create(f"waits-{number}")) for number in range(40)]
        await until(lambda: app.limiter.waiting > 5, "orders that wait")
        exchange.faults.add({"kind": "ban", "match": {"path": "/v5/market/"}, "count": 1})
        struck = await client.get(TICKERS)
        struck_us = now_us()
        told = [await order for order in orders]
        later = await client.create("later")
        sent = len(arrivals(exchange, CREATE))

    assert (struck.status, struck.gateway) == (403, None), "the exchange's own answer is passed on"
    refused = [each for each in told if each.gateway == "banned"]
    assert len(refused) > 5
    assert {(each.status, each.body) for each in refused} == {(403, b"access too frequent")}
    assert max(each.told_us for each in refused) - struck_us < 1_000_000
    assert (later.status, later.gateway) == (403, "banned")
    assert sent == sum(each.gateway is None for each in told)


async def test_candles_that_are_known_are_answered_all_the_same() -> None:
    """An old candle is better than none, and says that it is old; a fresh one is as good as ever."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, pacing__ban="60s", cache__open_ttl="200ms", candles__boundary__enabled="false") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        open_one, closed_one = await client.get(KLINE), await client.get(CLOSED)
        await asyncio.sleep(0.3)  # the open one expires
        exchange.faults.add({"kind": "ban", "count": 1})
        await client.get(TICKERS)
        stale, fresh = await client.get(KLINE), await client.get(CLOSED)
        none = await client.get(UNKNOWN_KLINE)
        operations = [
            await client.metric(f'bybit_cache_operations_total{{operation="get",result="{result}"}}')
            for result in ("stale", "hit")
        ]

    assert (stale.status, stale.body) == (200, open_one.body)
    ttl = stale.headers["Cache-Status"].removeprefix("bybit-gateway; hit; ttl=-")
    assert ttl.removesuffix("; detail=banned").isdigit()
    assert ttl.endswith("; detail=banned")
    assert "Age" in stale.headers
    assert (fresh.status, fresh.body) == (200, closed_one.body)
    assert fresh.headers["Cache-Status"].startswith("bybit-gateway; hit; ttl=")
    assert "detail" not in fresh.headers["Cache-Status"]
    assert (none.status, none.gateway, none.body) == (403, "banned", b"access too frequent")
    assert operations == [1, 1]


async def test_candles_that_are_waited_for_are_answered_from_what_is_known() -> None:
    """Five ask for one candle that has expired, and wait for one fetch that is never made."""
    limits = [{"name": "bybit-ip", "quota": "2/60s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}]
    settings: dict[str, Any] = {
        "limits": limits,
        "queue__max_wait": "10m",
        "pacing__ban": "60s",
        "cache__open_ttl": "100ms",
        "cache__stale_while_revalidate": "0s",
        "candles__boundary__enabled": "false",
    }
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, **settings) as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        known = await client.get(KLINE)
        await asyncio.sleep(0.15)  # it expires
        exchange.faults.add({"kind": "delay", "delay_us": 300_000})
        exchange.faults.add({"kind": "ban", "count": 1})
        struck = group.create_task(client.get(TICKERS))
        await until(app.metrics.in_flight._value.get, "the request that meets the ban")
        asked = [group.create_task(client.get(KLINE)) for _ in range(5)]
        others = [group.create_task(client.get(UNKNOWN_KLINE)) for _ in range(5)]
        await until(lambda: app.limiter.waiting == 2, "the fetches")
        await struck
        told, unknown = [await each for each in asked], [await each for each in others]

    assert {(each.status, each.body) for each in told} == {(200, known.body)}
    assert all(each.headers["Cache-Status"].endswith("; detail=banned") for each in told)
    assert {(each.status, each.gateway) for each in unknown} == {(403, "banned")}
    assert exchange.stats.requests == 2


async def test_pages_metrics_and_log_tell_of_a_ban_and_of_its_end(captured: Captured) -> None:
    """Alive throughout: a restart would not help. Not ready, and why; until when; and afterwards as before."""
    async with (
        FakeBybit(settings=exchange_settings(500_000)) as exchange,
        gateway(exchange.url, pacing__ban="2s", pacing__ramp="200ms") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        before = [(await client.get(page)).status for page in ("/health/live", "/health/ready")]
        exchange.faults.add({"kind": "ban", "count": 1})
        await client.get()
        struck_us = now_us()
        live, ready, health = [await client.get(f"/health{page}") for page in ("/live", "/ready", "")]
        banned = [
            await client.metric(line)
            for line in ("gateway_banned", "gateway_bans_total", 'gateway_forbidden_total{reason="ban"}')
        ]
        left_s, part = [await client.metric(f"gateway_{name}") for name in ("ban_left_seconds", "budget_part_ratio")]
        await until(lambda: not app.egress.banned, "the end of the ban")
        await asyncio.sleep(0.3)  # the ramp
        after = [(await client.get(page)).status for page in ("/health/live", "/health/ready")]
        healthy = (await client.get("/health")).json
        over = [
            await client.metric(line) for line in ("gateway_banned", "gateway_bans_total", "gateway_ban_left_seconds")
        ]

    assert before == after == [200, 200]
    assert (live.status, ready.status, health.status) == (200, 503, 200)
    assert (ready.json["status"], ready.json["reason"]) == ("not ready", "banned")
    assert health.json["status"] == health.json["egress"]["status"] == "banned"
    until_us = datetime.fromisoformat(health.json["egress"]["banned_until"]).timestamp() * 1e6
    assert struck_us < until_us + 1_000_000 < struck_us + 3_100_000
    assert health.json["egress"]["banned_until"] == ready.json["banned_until"]
    assert banned == [1, 1, 1]
    assert 0 < left_s <= 2
    assert part == 1, "nothing is lifted yet"
    assert (healthy["status"], healthy["egress"]["status"], healthy["egress"]["banned_until"]) == ("ok", "ok", None)
    assert over == [0, 1, 0]
    events = {str(event["event"]): event for event in captured.events()}
    assert events["banned"]["until"] == health.json["egress"]["banned_until"]
    assert datetime.fromisoformat(str(events["banned"]["until"])).tzinfo == UTC
    assert "ban_lifted" in events


PAGES = {
    "page": (b"text/html", bad_request_page().body),
    "country": (b"text/html", geo_block_page().body),
    "other": (b"application/json", b'{"retCode":10024,"retMsg":"Compliance rules triggered.","result":{},"time":1}'),
}


@pytest.mark.parametrize("reason", PAGES)
async def test_any_other_403_concerns_one_request_only(reason: str) -> None:
    """The CDN's page (which a GET with a body earns too), a blocked country, a code of the exchange: passed on byte for
    byte and counted apart. Stopping would help nobody."""
    content_type, body = PAGES[reason]
    raw = b"HTTP/1.1 403 Forbidden\r\nContent-Type: %b\r\nX-Theirs: 1\r\nContent-Length: %d\r\n\r\n%b" % (
        content_type,
        len(body),
        body,
    )

    async def refuse_one(request: Request, writer: asyncio.StreamWriter) -> None:
        if b"account" in request.target:
            writer.write(raw)
        else:
            await answer_ok(request, writer)

    async with recorder(refuse_one) as upstream, gateway(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        told = await exchange_bytes(app.port, b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n\r\n")
        others = [(await client.get(f"/v5/market/tickers?n={number}")).status for number in range(5)]
        ready = await client.get("/health/ready")
        counted = {each: await client.metric(f'gateway_forbidden_total{{reason="{each}"}}') for each in (*PAGES, "ban")}
        banned = await client.metric("gateway_banned")
        sent = len(upstream.seen)

    assert (told.status, told.body, told.get("X-Gateway")) == (403, body, None)
    assert (told.get("Content-Type"), told.get("X-Theirs")) == (content_type.decode(), "1")
    assert others == [200] * 5
    assert sent == 6, "a 403 is not asked for again"
    assert ready.status == 200
    assert banned == 0
    assert counted == {**dict.fromkeys((*PAGES, "ban"), 0.0), reason: 1.0}


async def test_the_phrase_is_believed_in_whatever_dress() -> None:
    """Nobody knows its type for certain: in JSON or in a page it means the same."""
    body = b'{"retCode":10018,"retMsg":"Access too frequent","result":{}}'
    raw = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        first, second = await client.get(TICKERS), await client.get(TICKERS)

    assert (first.status, first.body, first.gateway) == (403, body, None)
    assert (second.status, second.gateway) == (403, "banned")
    assert len(upstream.seen) == 1


async def test_a_question_that_is_told_403_prolongs_the_ban() -> None:
    """The exchange's ban is longer than ours: each time we wait twice as long before we ask again."""
    async with (
        FakeBybit(settings=exchange_settings(2_400_000)) as exchange,
        gateway(exchange.url, pacing__ban="1s") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        exchange.faults.add({"kind": "ban", "count": 1})
        await client.get(TICKERS)
        await until(lambda: app.egress.ban.times == 2, "the first question")
        left_us = app.egress.ban_left_us
        told = await client.get(TICKERS)
        await until(lambda: not app.egress.banned, "the second question")
        bans = await client.metric("gateway_bans_total")

    seen = Seen(exchange)
    first, second = questions(exchange)
    assert [entry.target for entry in seen.late] == [TIME, TIME]
    assert (first.status, second.status) == (403, 200)
    assert first.time_us - seen.began_us >= 1_000_000
    assert second.time_us - first.time_us >= 2_000_000
    assert 1_500_000 < left_us <= 2_000_000
    assert told.headers["Retry-After"] == "2"
    assert bans == 1, "it is the same one"


async def test_a_question_without_an_answer_is_asked_again_later() -> None:
    """Silence says nothing: pauses grow, and there is no storm of questions."""
    asked: list[float] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.2))

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.target != TIME.encode():
            writer.write(BANNED)
        elif len(asked) < 3:
            asked.append(now_us())
            writer.transport.abort()
        else:
            writer.write(THE_TIME)

    async with (
        recorder(answer) as upstream,
        in_a_hurry(upstream.url, sleep, pacing__ban="300ms", pacing__ramp="0s") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        await client.get(TICKERS)
        await until(lambda: len(asked) == 2, "two questions")
        meanwhile = await client.get(TICKERS)
        await until(lambda: not app.egress.banned, "the answer")
        await asyncio.sleep(0.3)  # nobody goes on asking
        paths = [request.target.decode() for request in upstream.seen]

    assert (meanwhile.status, meanwhile.gateway) == (403, "banned")
    assert paths == [TICKERS, *[TIME] * 4]
    assert [seconds for seconds in slept if seconds >= 1] == [5.0, 10.0, 20.0]


async def test_after_a_ban_the_budget_grows_from_a_quarter_to_the_whole() -> None:
    """Sixty clients that push: little at first, then more, then all of it, and never a breach on the way."""
    ramp_s = 2.0
    async with (
        FakeBybit(settings=exchange_settings(500_000)) as exchange,
        gateway(exchange.url, limits=LIMITS, pacing__ban="600ms", pacing__ramp="2s", queue__max_wait="30s") as app,
        new_session() as session,
        crowd(session, [app], ask=market),
    ):
        await asyncio.sleep(WINDOW_S)  # until the budget is in use
        exchange.faults.add({"kind": "ban", "count": 1})
        await until(lambda: app.egress.banned, "the ban")
        await until(lambda: not app.egress.banned, "its end")
        quarter = await Client(session, app).metric("gateway_budget_part_ratio")
        await asyncio.sleep(ramp_s + 2.5 * WINDOW_S)
        whole = await Client(session, app).metric("gateway_budget_part_ratio")

    lifted = Seen(exchange).lifting
    assert lifted is not None
    times = [entry.time_us - lifted.time_us for entry in exchange.record.entries if entry.sequence > lifted.sequence]

    def arrived(from_s: float, to_s: float) -> int:
        return sum(from_s * 1e6 < time <= to_s * 1e6 for time in times)

    print([arrived(at / 4, at / 4 + 0.25) for at in range(18)])
    # After a quarter of the ramp seven sixteenths of the budget may be in use, after half of it five eighths.
    assert arrived(0, 0.5) <= 0.4375 * LIMIT + 2
    assert arrived(0, 1) <= 0.625 * LIMIT + 2
    assert arrived(ramp_s + 0.5, ramp_s + 2.5) >= 0.8 * 2 * LIMIT
    assert 0.25 <= quarter < 0.6
    assert whole == 1
    assert exchange.books.ip.breaches == 0
    assert exchange.books.ip.max_in_window() <= LIMIT


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 403 Forbidden\r\n\r\naccess too frequent", id="without an end"),
        pytest.param(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\naccess too frequent", id="cut short"),
    ],
)
async def test_a_ban_is_heard_although_its_answer_does_not_end(raw: bytes) -> None:
    """Nothing is sent again, and nothing more."""
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        told = [await client.get(TICKERS) for _ in range(5)]

        assert app.egress.banned
        assert [each.gateway for each in told[1:]] == ["banned"] * 4
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", id="404"),
        pytest.param(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", id="502"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", id="a page"),
    ],
)
async def test_only_the_exchange_itself_can_lift_a_ban(raw: bytes) -> None:
    """What somebody in between says proves nothing."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw if request.target == TIME.encode() else BANNED)

    async with (
        recorder(answer) as upstream,
        in_a_hurry(upstream.url, sleep, pacing__ban="50ms", pacing__ramp="0s") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        await client.get(TICKERS)
        await until(lambda: len(upstream.seen) >= 4, "three questions")

        assert app.egress.banned

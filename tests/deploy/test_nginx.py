"""nginx of the scaled stack: it changes no byte, sends no write twice, shows clients none of the gateways' pages."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import _RECONCILE
from tests.conversation import until
from tests.deploy.front import CONFIGURATION, Front, front, needs_nginx, written_for
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.proxy.test_bytes import odd_body, odd_query, signed
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import OK, Recorder, Seen, recorder

pytestmark = needs_nginx

ROOMY = [{"name": "all", "quota": "1000000/5s"}]
ODD = (
    "//v5/echo?category=linear",
    "/v5//echo?a=1",
    "/v5/echo?symbols=BTC%2CETH&other=%2c",
    '/v5/echo?x=|{}[]^`"<>',
    "/v5/echo?cursor=a%3Ab%252C2%3D",
    "/v5/echo?a=b?c=d?",
    "/v5/echo?a=1&a=1&&b=&=",
    "/v5/%65cho?a=1",
    "/v5/echo?plus=a+b%20c&percent=%zz",
)
OWN_PAGES = (
    "/metrics",
    "/metrics?x=1",
    "/gateway/",
    "/gateway/limits",
    "/gateway/trading",
    "/health",
    "/health/metrics",
    "/api/v1/health/metrics",
    "/api/v1/metrics",
    "//metrics",
    "/%6Detrics",
    "/v5/../metrics",
    "/./gateway/limits",
    "http://127.0.0.1/metrics",
)


@dataclass
class World:
    front: Front
    exchange: FakeBybit
    replicas: list[App] = field(default_factory=list)


@asynccontextmanager
async def world(**overrides: object) -> AsyncIterator[World]:
    """nginx, two gateways in this process, and the fake exchange."""
    fields = {"limits": ROOMY, "listen__trusted_proxies": ["127.0.0.1/32"], **overrides}
    async with AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(FakeBybit(settings=Settings(ip_limit=1_000_000)))
        replicas = [
            await stack.enter_async_context(gateway(exchange.url, upstream__stream_url=exchange.stream_url, **fields))
            for _ in range(2)
        ]
        yield World(stack.enter_context(front(*(app.port for app in replicas))), exchange, replicas)


def request(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost:8080", *lines, *length])
    return head.encode() + b"\r\n\r\n" + body


def echoed(answer: RawAnswer) -> dict[str, object]:
    content = gzip.decompress(answer.body) if answer.get("Content-Encoding") == "gzip" else answer.body
    reply = json.loads(content)
    assert reply["retCode"] == 0, reply
    assert isinstance(reply["result"], dict)
    return reply["result"]


async def test_signed_requests_keep_their_signature() -> None:
    """Half GET, half POST, odd in every way: the exchange verifies all of them over the bytes that it got."""
    dice = random.Random(8)
    async with world() as around:
        for number in range(200):
            stamp_ms = time.time_ns() // 1_000_000
            if number % 2:
                query = odd_query(dice)
                method, target, body = "GET", f"/v5/echo?{query}", b""
                headers = signed(query.encode(), stamp_ms=stamp_ms, window="5000")
            else:
                method, target, body = "POST", "/v5/echo", odd_body(dice)
                headers = signed(body, stamp_ms=stamp_ms, window="5000")
            lines = [f"{name}: {value}" for name, value in headers]

            seen = echoed(await exchange_bytes(around.front.port, request(method, target, *lines, body=body)))

            assert (seen["method"], seen["target"]) == (method, target)
            assert seen["body_sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("target", ODD)
async def test_a_target_arrives_as_it_was_written(target: str, method: str) -> None:
    """Slashes, percents, brackets and question marks: the exchange gets what it gets without nginx."""
    async with recorder() as exchange, gateway(exchange.url, limits=ROOMY) as replica:
        with front(replica.port) as before:
            for port in (replica.port, before.port):
                assert (await exchange_bytes(port, request(method, target))).status == 200

        assert [seen.line for seen in exchange.seen] == [f"{method} {target} HTTP/1.1".encode()] * 2


async def test_a_bare_question_mark_stays_what_it_is_without_nginx() -> None:
    async with recorder() as exchange, gateway(exchange.url, limits=ROOMY) as replica:
        with front(replica.port) as before:
            await exchange_bytes(replica.port, request("GET", "/v5/account/info?"))
            await exchange_bytes(before.port, request("GET", "/v5/account/info?"))

        directly, through = (seen.target for seen in exchange.seen)
        assert directly == through


async def test_header_lines_arrive_as_they_were_sent() -> None:
    """Names in their case, with underscores, twice: the exchange gets the lines that it gets without nginx."""
    lines = (
        "x-bapi-api-key: k",
        "X-Custom: one",
        "X-Custom: two",
        "with_underscore: 1",
        "Referer: CCXT",
        "Cookie: a=b",
    )
    async with (
        recorder() as exchange,
        gateway(exchange.url, limits=ROOMY, listen__trusted_proxies=["127.0.0.1"]) as app,
    ):
        with front(app.port) as before:
            await exchange_bytes(app.port, request("GET", "/v5/account/info?a=1", *lines))
            await exchange_bytes(before.port, request("GET", "/v5/account/info?a=1", *lines))

        directly, through = (sorted(seen.headers) for seen in exchange.seen)
        assert directly == through


@pytest.mark.parametrize("target", ["/v5/large?bytes=3000000", "/v5/large?bytes=100000&chunked=1", "/v5/nowhere"])
async def test_an_answer_comes_back_as_it_is(target: str) -> None:
    """Every byte and every header line that the gateway gives, whatever its length and its framing."""
    async with world() as around:
        sent = request("GET", target, "Accept-Encoding: gzip", "Connection: close")
        directly = await exchange_bytes(around.replicas[0].port, sent)
        through = await exchange_bytes(around.front.port, sent)

        assert (through.status, through.body) == (directly.status, directly.body)
        assert through.complete
        assert _lines(through) == _lines(directly)


async def test_limits_see_the_clients_address() -> None:
    """Not nginx's: one client that has had enough leaves the others theirs. What a client says of itself is hearsay."""
    few = [{"name": "few", "partition": ["ip"], "quota": "3/1m", "counts": "requests", "when_full": "refuse"}]
    async with recorder() as exchange, gateway(exchange.url, limits=few, listen__trusted_proxies=["127.0.0.1"]) as app:
        with front(app.port) as before:

            async def ask(source: str, *lines: str) -> int:
                reader, writer = await asyncio.open_connection("127.0.0.1", before.port, local_addr=(source, 0))
                try:
                    writer.write(request("GET", "/v5/account/info", "Connection: close", *lines))
                    return int((await asyncio.wait_for(reader.read(), 10)).split(b" ")[1])
                finally:
                    writer.close()

            first = [await ask("127.0.0.2") for _ in range(4)]
            forged = await ask("127.0.0.2", "X-Forwarded-For: 198.51.100.7")
            other = await ask("127.0.0.3")

    assert first == [200, 200, 200, 429]
    assert forged == 429
    assert other == 200


@pytest.mark.parametrize("target", OWN_PAGES)
async def test_the_gateways_own_pages_are_not_shown_to_clients(target: str) -> None:
    async with world() as around:
        answer = await exchange_bytes(around.front.port, request("GET", target))

        assert (answer.status, answer.get("X-Gateway")) == (404, "not-found"), answer.body
        assert answer.body == b"The gateways' own pages are on another port.\n"


async def test_a_balancer_may_ask_whether_anybody_is_ready() -> None:
    async with world() as around:
        for target in ("/health/ready", "/health/live", "/api/v1/health/ready"):
            assert (await exchange_bytes(around.front.port, request("GET", target))).status == 200


async def test_pages_are_on_their_own_port_and_nothing_else_is() -> None:
    async with world() as around:
        for target, status in (("/metrics", 200), ("/health", 200), ("/gateway/", 200), ("/v5/market/time", 404)):
            assert (await exchange_bytes(around.front.pages, request("GET", target))).status == status, target


async def test_events_are_not_held_back() -> None:
    """The first of the status page's events is here while the stream goes on."""
    async with (
        world() as around,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{around.front.pages}/gateway/events") as stream,
        asyncio.timeout(20),
    ):
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        told = b""
        while b"event: snapshot" not in told:
            told += await stream.content.readany()


@pytest.mark.parametrize("path", ["/v5/public/linear", "//v5/public/linear"])
async def test_a_websocket_passes(path: str) -> None:
    """Words of both sides, and the exchange's pushes."""
    async with world() as around, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{around.front.url}{path}") as stream, asyncio.timeout(20):
            await stream.send_json({"op": "subscribe", "args": ["kline.1.BTCUSDT"], "req_id": "1"})
            first, second = await stream.receive_json(), await stream.receive_json()

        assert (first["op"], first["success"]) == ("subscribe", True)
        assert second["topic"] == "kline.1.BTCUSDT"


@asynccontextmanager
async def two_replicas() -> AsyncIterator[
    tuple[Front, list[Recorder], list[subprocess.Popen[str]], asyncio.Queue[int]]
]:
    """Two gateways that can be killed, each with an exchange of its own, which says its number and does not answer."""
    asked: asyncio.Queue[int] = asyncio.Queue()

    def holding(number: int) -> Recorder:
        async def hold(_: Seen, __: asyncio.StreamWriter) -> None:
            asked.put_nowait(number)
            await asyncio.Event().wait()

        return Recorder(answer=hold)

    async with AsyncExitStack() as stack:
        exchanges = [await stack.enter_async_context(recorder(holding(number).answer)) for number in range(2)]
        ports = [free_port() for _ in exchanges]
        replicas = [
            stack.enter_context(
                process(
                    "run",
                    GATEWAY__UPSTREAM__URL=exchange.url,
                    GATEWAY__LISTEN__HOST="127.0.0.1",
                    GATEWAY__LISTEN__PORT=str(port),
                    GATEWAY__STORE__STATE_FILE="null",
                    LOG_LEVEL="error",
                )
            )
            for exchange, port in zip(exchanges, ports, strict=True)
        ]
        for port, replica in zip(ports, replicas, strict=True):
            await asyncio.to_thread(wait_until_ready, port, replica)
        yield stack.enter_context(front(*ports)), exchanges, replicas, asked


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_write_whose_replica_dies_is_not_sent_again(method: str) -> None:
    """It may have been executed. The client is told so in Bybit's own words, and the exchange has seen it once."""
    async with two_replicas() as (before, exchanges, replicas, asked):
        order = request(method, "/v5/order/create", body=b'{"orderLinkId":"one"}')
        pending = asyncio.create_task(exchange_bytes(before.port, order, seconds=60))  # noqa: TID251  # awaited below
        replicas[await asyncio.wait_for(asked.get(), 30)].kill()
        answer = await pending

        assert answer.status == 504
        assert (answer.get("X-Gateway"), answer.get("X-Gateway-Outcome")) == ("no-replica", "unknown")
        assert answer.get("X-Gateway-Remedy") == _RECONCILE.decode()
        told = json.loads(answer.body)
        assert told["retCode"] == 10016
        assert abs(told["time"] - time.time_ns() // 1_000_000) < 60_000
        assert sum(len(exchange.seen) for exchange in exchanges) == 1
        assert asked.empty()


async def test_a_read_whose_replica_dies_is_answered_by_the_other() -> None:
    async with two_replicas() as (before, exchanges, replicas, asked):
        read = request("GET", "/v5/account/info")
        pending = asyncio.create_task(exchange_bytes(before.port, read, seconds=60))  # noqa: TID251  # awaited below
        died = await asyncio.wait_for(asked.get(), 30)
        other = exchanges[1 - died]

        async def answer_at_once(_: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(OK)

        other.answer = answer_at_once
        replicas[died].kill()
        answer = await pending

        assert (answer.status, answer.body) == (200, b"{}")
        assert [len(exchange.seen) for exchange in exchanges] == [1, 1]


async def test_orders_go_on_while_a_replica_is_gone() -> None:
    """Where no connection can be made nothing was sent, so the other replica takes it: none fails, none is doubled."""
    async with two_replicas() as (before, exchanges, replicas, _):
        for exchange in exchanges:

            async def answer_at_once(_: Seen, writer: asyncio.StreamWriter) -> None:
                writer.write(OK)

            exchange.answer = answer_at_once
        replicas[0].kill()
        await asyncio.to_thread(replicas[0].wait, 10)
        for number in range(20):
            body = json.dumps({"orderLinkId": str(number)}).encode()
            assert (await exchange_bytes(before.port, request("POST", "/v5/order/create", body=body))).status == 200

        assert [json.loads(seen.body)["orderLinkId"] for seen in exchanges[1].seen] == [str(n) for n in range(20)]


async def test_the_busy_one_that_is_left_of_five_is_found() -> None:
    """Who is gone looks idle and is asked first: all are tried, with what may be sent again."""
    held = asyncio.Event()

    async def hold_the_first(_: Seen, writer: asyncio.StreamWriter) -> None:
        if len(exchange.seen) == 1:
            await held.wait()
        writer.write(OK)

    async with recorder(hold_the_first) as exchange, gateway(exchange.url, limits=ROOMY) as left:
        with front(*(free_port() for _ in range(4)), left.port) as before:
            read = request("GET", "/v5/account/info")
            async with asyncio.TaskGroup() as group:
                first = group.create_task(exchange_bytes(before.port, read))
                await until(lambda: exchange.seen, "the first at the exchange")
                for number in range(10):
                    order = request("POST", "/v5/order/create", body=json.dumps({"orderLinkId": str(number)}).encode())
                    for sent in (order, read):
                        assert (await exchange_bytes(before.port, sent)).status == 200
                held.set()

        assert first.result().status == 200
        assert [seen.line.split()[0] for seen in exchange.seen] == [b"GET"] + [b"POST", b"GET"] * 10


async def test_without_any_replica_nothing_is_sent_and_the_client_is_told_so() -> None:
    """Not executed, whatever it was: clients may send it again."""
    with front(free_port(), free_port()) as before:
        read = await exchange_bytes(before.port, request("GET", "/v5/market/time"))
        write = await exchange_bytes(before.port, request("POST", "/v5/order/create", body=b"{}"))

    for answer in (read, write):
        assert (answer.status, answer.body, answer.get("X-Gateway")) == (502, b"No gateway answered.\n", "no-replica")
        assert answer.get("X-Gateway-Outcome") is None


def test_the_file_is_what_the_installed_nginx_takes(tmp_path: Path) -> None:
    """All but `resolve`, which came with 1.27.3."""
    file = tmp_path / "nginx.conf"
    file.write_text(written_for([1], {"traffic": 1, "pages": 2, "own": 3}, tmp_path), encoding="utf-8")
    words = ["nginx", "-t", "-q", "-e", "stderr", "-p", tmp_path, "-c", file]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_never_repeats_a_write() -> None:
    """The word by which nginx would."""
    directives = [line.partition("#")[0] for line in CONFIGURATION.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in directives if "non_idempotent" in line]


def _lines(answer: RawAnswer) -> list[tuple[str, str]]:
    own = {"connection", "date", "x-request-id", "server-timing", "traceid", "timenow", "keep-alive"}
    return sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in own)

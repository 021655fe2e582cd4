"""A trace tells where the time of a request went, and nothing that is nobody's business."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from proxy.app import App
from proxy.config import load, load_routes
from proxy.reload import adopted
from tests.collector import Collector, Trace, collector, delivered
from tests.conversation import until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.proxy.test_failures import closed_port
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import OK, Seen, recorder
from tests.signing import signed

KLINE: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
TIME: Final = "/v5/market/time"
INFO: Final = "/v5/account/info"
TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID: Final = "b7ad6b7169203331"
SAMPLED: Final = f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED: Final = f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-00"


@pytest.fixture
def told() -> Iterator[Collector]:
    with collector() as running:
        yield running


@asynccontextmanager
async def traced(upstream_url: str, told: Collector, **overrides: Any) -> AsyncIterator[App]:
    tracing = {"tracing__enabled": "true", "tracing__endpoint": told.url}
    async with gateway(upstream_url, **{**tracing, **overrides}) as app:
        yield app


async def ask(app: App, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> RawAnswer:
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: me", *lines, *length])
    return await exchange_bytes(app.port, f"{head}\r\n\r\n".encode("utf-8", "surrogateescape") + body)


async def of(app: App, told: Collector) -> list[Trace]:
    await delivered(app)
    return told.traces()


async def test_a_miss_that_waited_for_its_turn_is_told_step_by_step(told: Collector) -> None:
    """Let in, looked up, waited, sent; the spans lie one behind the other inside the request's own."""
    free = asyncio.Event()

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        await free.wait()
        writer.write(OK)

    limits = [{"name": "one", "quota": "1/100ms", "window": "held", "when_full": "wait"}]
    async with recorder() as upstream, traced(upstream.url, told, limits=limits) as app:
        upstream.answer = answer
        first = asyncio.gather(ask(app, TIME))
        await until(lambda: upstream.seen, "the first is sent")
        second = asyncio.gather(ask(app, KLINE))
        await until(lambda: app.limiter.waiting, "the second waits")
        free.set()
        await first
        await second
        _, trace = await of(app, told)

    request = trace.request
    assert (request.name, request.kind, request.parent_id, request.failed) == ("GET kline", "SERVER", "", False)
    assert {name: request.attributes[name] for name in ("http.request.method", "http.route", "url.path")} == {
        "http.request.method": "GET",
        "http.route": "kline",
        "url.path": "/v5/market/kline",
    }
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["gateway.cache"] == "miss"
    admit, cache, queue, sent = (trace.one(name) for name in ("admit", "cache", "queue", "GET bybit"))
    assert [span.kind for span in (admit, cache, queue, sent)] == ["INTERNAL", "INTERNAL", "INTERNAL", "CLIENT"]
    assert request.began_ns == admit.began_ns
    assert admit.ended_ns == cache.began_ns <= cache.ended_ns == queue.began_ns < queue.ended_ns <= sent.began_ns
    assert cache.attributes == {"gateway.cache": "miss"}
    assert queue.attributes == {"gateway.wait": "queue"}
    assert sent.attributes["server.port"] == upstream.port
    assert sent.attributes["http.response.status_code"] == 200


async def test_a_hit_is_admitted_and_found(told: Collector) -> None:
    async with FakeBybit() as exchange, traced(exchange.url, told, tracing__service="mine") as app:
        for _ in range(2):
            answer = await ask(app, KLINE)
        trace = (await of(app, told))[1]

    assert [span.name for span in trace] == ["GET kline", "admit", "cache"]
    assert trace.request.attributes["gateway.cache"] == "hit"
    assert trace.request.attributes["gateway.request_id"] == answer.get("X-Request-Id")
    assert trace.one("cache").attributes == {"gateway.cache": "hit"}
    assert trace.one("cache").ended_ns == trace.request.ended_ns
    assert told.resources()[0]["service.name"] == "mine"


async def test_every_attempt_has_a_span(told: Collector) -> None:
    """Also the one that failed, and the pause between them."""
    async with FakeBybit() as exchange, traced(exchange.url, told) as app:
        exchange.faults.add({"kind": "status", "status": 500, "count": 1})
        await ask(app, INFO, *(f"{name}: {value}" for name, value in signed("").items()))
        (trace,) = await of(app, told)

    first, second = trace.all("GET bybit")
    assert (first.failed, first.attributes["error.type"]) == (True, "500")
    assert "http.request.resend_count" not in first.attributes
    assert (second.failed, second.attributes["http.request.resend_count"]) == (False, 1)
    assert second.attributes["bybit.ret_code"] == 0
    assert [wait.attributes["gateway.wait"] for wait in trace.all("queue")] == ["pause"]
    assert trace.all("cache") == []
    assert not trace.request.failed


async def test_an_attempt_without_an_answer_says_why(told: Collector) -> None:
    async with traced(f"http://127.0.0.1:{closed_port()}", told, retry__enabled="false") as app:
        await ask(app, TIME)
        (trace,) = await of(app, told)

    sent = trace.one("GET bybit")
    assert (sent.failed, sent.attributes["error.type"]) == (True, "upstream-unreachable")
    assert "http.response.status_code" not in sent.attributes
    assert (trace.request.failed, trace.request.attributes["http.response.status_code"]) == (True, 502)
    assert trace.request.attributes["gateway.outcome"] == "upstream-unreachable"


async def test_a_refusal_names_its_rule_and_goes_no_further(told: Collector) -> None:
    limits = [{"name": "few", "quota": "1/60s", "partition": ["ip"], "counts": "requests"}]
    async with FakeBybit() as exchange, traced(exchange.url, told, limits=limits) as app:
        for _ in range(2):
            await ask(app, TIME)
        trace = (await of(app, told))[1]

    assert [span.name for span in trace] == ["GET server-time", "admit"]
    assert trace.request.attributes["http.response.status_code"] == 429
    assert trace.request.attributes["gateway.rule"] == "few"
    assert trace.one("admit").attributes == {"gateway.admitted": False, "gateway.rule": "few"}
    assert not trace.request.failed  # its client's doing, not the gateway's


async def test_who_shares_a_fetch_is_linked_to_who_leads_it(told: Collector) -> None:
    free = asyncio.Event()
    async with FakeBybit() as exchange:
        candles = (await exchange_bytes(exchange.port, f"GET {KLINE} HTTP/1.1\r\nHost: me\r\n\r\n".encode())).body

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        await free.wait()
        writer.write(OK.replace(b"Length: 2", b"Length: %d" % len(candles)).removesuffix(b"{}") + candles)

    async with recorder() as upstream, traced(upstream.url, told) as app:
        upstream.answer = answer
        leader = asyncio.gather(ask(app, KLINE))
        await until(lambda: upstream.seen, "the leader's is sent")
        follower = asyncio.gather(ask(app, KLINE))
        collapsed = app.metrics.collapsed.labels("kline")
        await until(collapsed._value.get, "the follower waits")
        free.set()
        await leader
        await follower
        traces = await of(app, told)

    (shared,) = [trace for trace in traces if trace.request.links]
    (leading,) = [trace for trace in traces if not trace.request.links]
    assert shared.request.links == [(leading.request.trace_id, leading.request.span_id)]
    assert [span.name for span in shared] == ["GET kline", "admit", "cache"]
    assert shared.one("cache").attributes == {"gateway.cache": "collapsed"}
    assert len(leading.all("GET bybit")) == 1


async def test_what_its_client_did_not_wait_for_is_unfinished(told: Collector) -> None:
    """The attempt goes on; what is told of it ends with its request."""
    async with recorder() as upstream, traced(upstream.url, told) as app:
        hangs = asyncio.Event()

        async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
            await hangs.wait()
            writer.write(OK)

        upstream.answer = answer
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(f"GET {TIME} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
        await until(lambda: upstream.seen, "it is sent")
        writer.close()
        gone = ("server-time", "none", "gateway")
        await until(lambda: app.metrics.requests.value(*gone), "its client is gone")
        (trace,) = await of(app, told)
        hangs.set()

    assert trace.request.attributes["gateway.outcome"] == "client-gone"
    assert "http.response.status_code" not in trace.request.attributes
    assert trace.one("GET bybit").attributes["gateway.unfinished"] is True
    assert trace.one("GET bybit").ended_ns == trace.request.ended_ns


# Which requests, and under which ids


async def test_a_clients_trace_is_continued(told: Collector) -> None:
    """Under its span, with what its vendors say to each other."""
    async with FakeBybit() as exchange, traced(exchange.url, told, tracing__sample="0") as app:
        await ask(app, TIME, SAMPLED, "tracestate: one=1", "tracestate: two=2")
        (trace,) = await of(app, told)

    assert (trace.request.trace_id, trace.request.parent_id) == (TRACE_ID, SPAN_ID)
    assert {span.state for span in trace} == {"one=1,two=2"}


async def test_what_its_client_does_not_trace_is_not_traced(told: Collector) -> None:
    async with FakeBybit() as exchange, traced(exchange.url, told) as app:
        await ask(app, TIME, UNSAMPLED)
        await of(app, told)

    assert told.bodies == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["traceparent: nonsense"],
        [f"traceparent: ff-{TRACE_ID}-{SPAN_ID}-01"],
        [SAMPLED, f"traceparent: 00-{TRACE_ID}-{SPAN_ID[::-1]}-01"],
        ["tracestate: one=1"],
    ],
    ids=["none", "nonsense", "version ff", "two of them", "a state alone"],
)
async def test_without_a_parent_that_holds_a_trace_begins_here(told: Collector, lines: list[str]) -> None:
    """Its id is in the log, and on the page of metrics for who asks for it."""
    with capture_logs() as events:
        async with FakeBybit() as exchange, traced(exchange.url, told) as app:
            await ask(app, TIME, *lines)
            (trace,) = await of(app, told)
            page = (await ask(app, "/metrics", "Accept: application/openmetrics-text")).body.decode()

    request = trace.request
    assert re.fullmatch("[0-9a-f]{32}", request.trace_id)
    assert request.trace_id != TRACE_ID
    assert (request.parent_id, request.state) == ("", "")
    assert [event["trace_id"] for event in events if event["event"] == "request"] == [request.trace_id]
    assert f'# {{trace_id="{request.trace_id}"}}' in page


async def test_only_a_part_is_traced_where_that_is_said(told: Collector) -> None:
    """Of 400 requests a tenth, give or take what no chance gives in a million years; and none at 0."""
    async with FakeBybit() as exchange, traced(exchange.url, told, tracing__sample="10", limits=[]) as app:
        for _ in range(400):
            await ask(app, KLINE)
        assert 5 < len(await of(app, told)) < 110
        before = len(told.spans())
        app.apply(load(None, {**environment(told), "GATEWAY__TRACING__SAMPLE": "0"}, load_routes()))
        for _ in range(200):
            await ask(app, KLINE)
        await delivered(app)
        assert len(told.spans()) == before


def environment(told: Collector) -> dict[str, str]:
    return {"GATEWAY__TRACING__ENABLED": "true", "GATEWAY__TRACING__ENDPOINT": told.url}


def test_all_but_the_share_needs_a_restart() -> None:
    running = load(None, {}, load_routes())
    changed = {"ENABLED": "true", "SAMPLE": "7", "SERVICE": "other", "ENDPOINT": "http://localhost:1/x"}
    wanted = load(None, {f"GATEWAY__TRACING__{name}": value for name, value in changed.items()}, load_routes())

    config, left = adopted(running, wanted)

    assert left == ("tracing.enabled", "tracing.endpoint", "tracing.service")
    assert config.tracing == running.tracing.model_copy(update={"sample": 7})


async def test_the_exchange_gets_nothing_of_it(told: Collector) -> None:
    """No header is added; a client's own goes through as any other."""
    async with recorder() as upstream, traced(upstream.url, told) as app:
        await ask(app, INFO)
        await ask(app, INFO, SAMPLED, "tracestate: one=1")

    alone, with_own = upstream.seen
    assert not {b"traceparent", b"tracestate"} & alone.names()
    lines = with_own.head.lower().split(b"\r\n")
    assert {SAMPLED.lower().encode(), b"tracestate: one=1"} <= set(lines)


# What is nobody's business


async def test_planted_secrets_are_in_no_trace(told: Collector) -> None:
    """Not of queries, bodies, headers, paths; nothing of who asks; not of what the exchange echoes."""
    key, sign, token, address = "planted-key-7f3a", "0123456789abcdef" * 4, "planted-token-99", "203.0.113.77"
    echo = f'{{"retCode":10004,"retMsg":"error sign! origin_string[1{key}5000a=b]","result":{{}}}}'.encode()
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(echo) + echo,
        b"HTTP/1.1 500 Oops " + key.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        b"garbage " + key.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + key.encode(),
    ]
    lines = [
        f"X-BAPI-API-KEY: {key}",
        f"X-BAPI-SIGN: {sign}",
        f"Authorization: Bearer {token}",
        f"Cookie: token={token}",
        f"User-Agent: {token}",
        f"X-Forwarded-For: {address}",
        f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-01-{token}",
        f"tracestate: {key}=Oops={token}",
    ]
    targets = [f"/v5/account/info?api_key={key}&sign={sign}", f"/v5/{key}/x?token={token}", f"/{token}?{key}", KLINE]
    asked = 0
    for raw in answers:

        async def answer(_: Seen, writer: asyncio.StreamWriter, raw: bytes = raw) -> None:
            writer.write(raw)
            await writer.drain()
            writer.close()

        async with (
            recorder() as upstream,
            traced(upstream.url, told, listen__trusted_proxies=["127.0.0.1"], breaker__enabled="false") as app,
        ):
            upstream.answer = answer
            for method in ("GET", "POST"):
                for target in targets:
                    body = f'{{"apiKey":"{key}"}}'.encode() if method == "POST" else b""
                    await ask(app, target, *lines, method=method, body=body)
                    asked += 1
            await delivered(app)

    assert len(told.traces()) == asked
    everything = b"".join(told.bodies)
    for secret in (key, sign, token, address, "apiKey", "symbol=", TRACE_ID):
        assert secret.encode() not in everything
    assert bytes.fromhex(TRACE_ID) not in everything, "a traceparent that goes on is none of version 00"
    paths = {trace.request.attributes["url.path"] for trace in told.traces()}
    assert paths == {"/v5/account/info", "/v5/*/x", "/*", "/v5/market/kline"}


async def test_no_target_and_no_method_can_spoil_a_batch(told: Collector) -> None:
    """Whatever goes for HTTP: what could not be encoded would take others' spans along."""
    targets = ["/v5/\udcff\udc80", "/" + "x" * 5_000, "/%00/ä", "//v5//market", "/v5/{}|^", "*"]
    async with FakeBybit() as exchange, traced(exchange.url, told) as app:
        for target in targets:
            await ask(app, target)
        await ask(app, TIME, method="PROPFIND")
        traces = await of(app, told)

    assert len(traces) == sum(app.metrics.requests.counts.values()) >= 3  # the rest is no HTTP at all
    assert all(len(trace.request.attributes["url.path"]) <= 128 for trace in traces)
    odd = traces[-1].request
    assert (odd.name, odd.attributes["http.request.method"]) == ("HTTP unknown", "_OTHER")
    assert b"PROPFIND" not in b"".join(told.bodies)

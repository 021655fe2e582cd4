"""Conversations: what a client asks, what the exchange saw, what the client got."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.hand_clock import HandClock
from tests.raw_http import exchange_bytes
from tests.recorder import recorder

TIME = b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n"


def rule(**fields: object) -> dict[str, object]:
    return {"name": "rule", "quota": "2/60s", **fields}


async def test_a_request_goes_through_and_comes_back() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await exchange_bytes(app.port, TIME)

        assert answer.status == 200
        assert json.loads(answer.body)["retCode"] == 0
        assert answer.get("X-Gateway") is None
        assert answer.get("X-Request-Id")
        assert exchange.stats.requests == 1


async def test_the_gateways_own_rule_answers_429_with_all_that_clients_look_at() -> None:
    limits = [rule(partition=["ip"], counts="requests")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        for _ in range(2):
            assert (await exchange_bytes(app.port, TIME)).status == 200
        before_s = time.time_ns() / 1e9
        answer = await exchange_bytes(app.port, TIME)

        assert (answer.status, answer.get("X-Gateway")) == (429, "rate-limit")
        retry_s = int(answer.get("Retry-After") or 0)
        assert 58 <= retry_s <= 60
        assert answer.get("X-RateLimit-Limit") == "2"
        assert answer.get("X-RateLimit-Remaining") == "0"
        assert abs(int(answer.get("X-RateLimit-Reset") or 0) - before_s - 60) <= 2
        assert answer.get("RateLimit-Policy") == '"rule";q=2;w=60'
        assert answer.get("RateLimit") == f'"rule";r=0;t={retry_s}'
        body = json.loads(answer.body)
        assert (body["retCode"], body["result"], body["retExtInfo"]) == (10006, {}, {})
        assert (body["error"], body["limit"], body["period"]) == ("rate-limit", 2, 60)
        assert 58 <= body["retry_after"] <= 60
        assert len(upstream.seen) == 2


async def test_a_rule_in_the_exchanges_name_answers_as_the_exchange() -> None:
    """HTTP 200, code 10006, and an integer reset stamp that lies in the client's future."""
    limits = [rule(refuse_with="bybit", when_full="refuse")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        for _ in range(2):
            await exchange_bytes(app.port, TIME)
        now_ms = time.time_ns() / 1e6
        answer = await exchange_bytes(app.port, TIME)

        assert (answer.status, answer.get("X-Gateway")) == (200, "rate-limit")
        assert (answer.get("X-Bapi-Limit"), answer.get("X-Bapi-Limit-Status")) == ("2", "0")
        assert int(answer.get("X-Bapi-Limit-Reset-Timestamp") or 0) >= now_ms + 250
        body = json.loads(answer.body)
        assert set(body) == {"retCode", "retMsg", "result", "retExtInfo", "time"}
        assert (body["retCode"], body["result"], body["retExtInfo"]) == (10006, {}, {})


async def test_clients_do_not_spend_each_others_quota() -> None:
    limits = [rule(partition=["ip"], counts="requests")]
    async with (
        recorder() as upstream,
        gateway(upstream.url, limits=limits, listen__trusted_proxies=["127.0.0.1"]) as app,
    ):

        async def ask(address: str) -> int:
            request = f"GET /v5/market/time HTTP/1.1\r\nHost: me\r\nX-Forwarded-For: {address}\r\n\r\n"
            return (await exchange_bytes(app.port, request.encode())).status

        statuses = [await ask("198.51.100.1") for _ in range(3)] + [await ask("198.51.100.2") for _ in range(2)]

        assert statuses == [200, 200, 429, 200, 200]
        assert all(b"x-forwarded-for" not in seen.names() for seen in upstream.seen)


async def test_nobody_else_is_believed_about_addresses() -> None:
    """Without a trusted proxy in front, X-Forwarded-For is the client's own word: it buys no budget."""
    limits = [rule(partition=["ip"], counts="requests")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        statuses = []
        for number in range(3):
            request = f"GET /v5/market/time HTTP/1.1\r\nHost: me\r\nX-Forwarded-For: 198.51.100.{number}\r\n\r\n"
            statuses.append((await exchange_bytes(app.port, request.encode())).status)

        assert statuses == [200, 200, 429]


async def test_only_the_rightmost_untrusted_hop_counts() -> None:
    """What a client writes into X-Forwarded-For before the proxy adds to it is hearsay."""
    limits = [rule(partition=["ip"], counts="requests")]
    async with (
        recorder() as upstream,
        gateway(upstream.url, limits=limits, listen__trusted_proxies=["127.0.0.0/8"]) as app,
    ):
        statuses = []
        for number in range(3):
            hops = f"203.0.113.{number}, 198.51.100.1, 127.0.0.9"
            request = f"GET /v5/market/time HTTP/1.1\r\nHost: me\r\nX-Forwarded-For: {hops}\r\n\r\n"
            statuses.append((await exchange_bytes(app.port, request.encode())).status)

        assert statuses == [200, 200, 429]


async def test_a_rule_per_api_key_tells_accounts_apart() -> None:
    limits = [rule(partition=["api_key"], when_full="refuse")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:

        async def ask(key: str | None) -> int:
            line = "" if key is None else f"X-BAPI-API-KEY: {key}\r\n"
            request = f"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n{line}\r\n"
            return (await exchange_bytes(app.port, request.encode())).status

        statuses = [await ask(key) for key in ("a", "a", "a", "b", None, None, None)]

        assert statuses == [200, 200, 429, 200, 200, 200, 200]


async def test_shadow_rules_are_counted_and_not_enforced() -> None:
    limits = [rule(shadow=True, counts="requests", partition=["ip"])]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        statuses = [(await exchange_bytes(app.port, TIME)).status for _ in range(5)]

        assert statuses == [200] * 5
        assert app.metrics.decisions.value("rule", "shadow") == 3


async def test_waiting_is_preferred_to_refusing() -> None:
    """A burst beyond the quota is answered late, not refused, and in order."""
    limits = [rule(quota="5/200ms", when_full="wait")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        answers = await asyncio.gather(*(exchange_bytes(app.port, TIME) for _ in range(20)))

        assert [answer.status for answer in answers] == [200] * 20
        assert len(upstream.seen) == 20


async def test_a_signed_request_that_cannot_make_its_deadline_is_refused_at_once() -> None:
    """Waiting would end in 10002; the client can sign again instead."""
    limits = [rule(quota="1/60s", when_full="wait", refuse_with="bybit")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits, queue__max_wait="90s") as app:
        await exchange_bytes(app.port, TIME)
        stamp = time.time_ns() // 1_000_000
        lines = f"X-BAPI-API-KEY: k\r\nX-BAPI-SIGN: s\r\nX-BAPI-TIMESTAMP: {stamp}\r\n"
        answer = await exchange_bytes(
            app.port, f"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n{lines}\r\n".encode(), seconds=5
        )

        assert answer.get("X-Gateway") == "deadline"
        assert json.loads(answer.body)["retCode"] == 10006
        assert len(upstream.seen) == 1


async def test_without_rules_everything_passes_even_while_others_wait() -> None:
    limits = [rule(match={"endpoint": "tickers"}, quota="1/300ms", when_full="wait")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        tickers = b"GET /v5/market/tickers HTTP/1.1\r\nHost: me\r\n\r\n"
        waiting = asyncio.gather(*(exchange_bytes(app.port, tickers) for _ in range(3)))
        while app.limiter.waiting == 0:
            await asyncio.sleep(0.005)
        assert (await exchange_bytes(app.port, TIME)).status == 200
        assert app.limiter.waiting > 0
        await waiting
    async with recorder() as upstream, gateway(upstream.url, limits=[]) as app:
        assert [(await exchange_bytes(app.port, TIME)).status for _ in range(5)] == [200] * 5


async def test_a_full_queue_refuses() -> None:
    limits = [rule(quota="1/5s", when_full="wait")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits, queue__max_waiting="0") as app:
        assert (await exchange_bytes(app.port, TIME)).status == 200
        answer = await exchange_bytes(app.port, TIME)

        assert (answer.status, answer.get("X-Gateway")) == (429, "queue-full")


async def test_a_client_that_leaves_the_queue_is_not_sent() -> None:
    limits = [rule(quota="1/300ms", when_full="wait")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        await exchange_bytes(app.port, TIME)
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(b"GET /v5/abandoned HTTP/1.1\r\nHost: me\r\n\r\n")
        while app.limiter.waiting == 0:
            await asyncio.sleep(0.005)
        writer.close()
        answer = await exchange_bytes(app.port, TIME)

        assert answer.status == 200
        assert [seen.target for seen in upstream.seen] == [b"/v5/market/time"] * 2
        assert app.limiter.waiting == 0


async def test_a_ban_is_passed_on_in_the_exchanges_words() -> None:
    async with FakeBybit(settings=Settings(ip_limit=1)) as exchange, gateway(exchange.url) as app:
        await exchange_bytes(app.port, TIME)
        answer = await exchange_bytes(app.port, TIME)

        assert (answer.status, answer.body) == (403, b"access too frequent")
        assert answer.get("X-Gateway") is None


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/liveness", "/health/readiness"])
@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_health_pages_answer_without_the_exchange(prefix: str, path: str) -> None:
    """And are never limited."""
    limits = [rule(quota="1/60s", partition=["ip"], counts="requests")]
    async with gateway("http://127.0.0.1:9", limits=limits) as app:
        for _ in range(3):
            answer = await exchange_bytes(app.port, f"GET {prefix}{path} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
            assert answer.status == 200
            assert json.loads(answer.body)["status"] in {"ok", "alive", "ready"}


async def test_the_gateways_own_pages_are_never_forwarded() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        for path in ("/gateway/nothing", "/health/x", "/metrics/x"):
            answer = await exchange_bytes(app.port, f"GET {path} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
            assert (answer.status, answer.get("X-Gateway")) == (404, "not-found")
        answer = await exchange_bytes(app.port, b"POST /metrics HTTP/1.1\r\nHost: me\r\nContent-Length: 0\r\n\r\n")
        assert answer.status == 405
        assert upstream.seen == []
        assert (await exchange_bytes(app.port, b"GET /healthy HTTP/1.1\r\nHost: me\r\n\r\n")).status == 200
        assert len(upstream.seen) == 1


async def test_pages_can_live_on_a_port_of_their_own() -> None:
    async with recorder() as upstream, gateway(upstream.url, admin__port="0") as app:
        assert app.admin_port
        own = await exchange_bytes(app.admin_port, b"GET /health/live HTTP/1.1\r\nHost: me\r\n\r\n")
        traffic = await exchange_bytes(app.port, b"GET /health/live HTTP/1.1\r\nHost: me\r\n\r\n")

        assert (own.get("X-Gateway"), own.status) == ("own-page", 200)
        assert (traffic.get("X-Gateway"), traffic.status) == ("not-found", 404)
        assert b"admin.port" in traffic.body
        assert upstream.seen == [], "a token for our pages is not the exchange's business"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("", 200),
        ("Origin: http://me\r\nSec-Fetch-Site: same-origin\r\n", 200),
        ("Sec-Fetch-Site: none\r\n", 200),
        ("Origin: http://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
    ],
)
async def test_a_page_of_another_site_reads_nothing_where_no_token_is_asked_for(lines: str, status: int) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        for path in ("/gateway/limits", "/gateway/usage", "/gateway/status", "/gateway/memory"):
            request = f"GET {path} HTTP/1.1\r\nHost: me\r\n{lines}\r\n".encode()
            assert (await exchange_bytes(app.port, request)).status == status
        health = f"GET /health HTTP/1.1\r\nHost: me\r\n{lines}\r\n".encode()
        assert (await exchange_bytes(app.port, health)).status == 200


async def test_metrics_that_take_long_are_written_once_for_many_who_ask() -> None:
    """Orders wait while they are written."""
    clock = HandClock()
    async with recorder() as upstream, gateway(upstream.url, clock=clock) as app:
        taken = []

        def slow() -> None:
            taken.append(clock())
            clock.now_us += 50_000

        app.readings.more.append(slow)
        request = b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n"
        pages = [await exchange_bytes(app.port, request) for _ in range(5)]
        clock.now_us += 600_000
        later = await exchange_bytes(app.port, request)

        assert len(taken) == 2
        assert {page.body for page in pages} == {pages[0].body}
        assert later.status == 200


async def test_pages_that_tell_of_clients_can_be_locked() -> None:
    """With an admin token, /gateway pages ask for it; probes and scrapers are not asked."""
    async with recorder() as upstream, gateway(upstream.url, admin__token="open-sesame") as app:

        async def ask(path: str, line: str = "") -> int:
            return (await exchange_bytes(app.port, f"GET {path} HTTP/1.1\r\nHost: me\r\n{line}\r\n".encode())).status

        assert await ask("/gateway/limits") == 401
        assert await ask("/gateway/limits", "Authorization: Bearer wrong-sesame\r\n") == 401
        assert await ask("/gateway/limits", "Authorization: Bearer open-sesame\r\n") == 200
        assert [await ask(path) for path in ("/health", "/health/live", "/metrics")] == [200] * 3


async def test_limits_show_what_is_used() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        for _ in range(3):
            await exchange_bytes(app.port, TIME)
        answer = await exchange_bytes(app.port, b"GET /gateway/limits HTTP/1.1\r\nHost: me\r\n\r\n")

        rows = {row["rule"]: row for row in json.loads(answer.body)["limits"]}
        assert (rows["bybit-ip"]["used"], rows["bybit-ip"]["remaining"]) == (3, 597)
        assert rows["per-ip"]["partition"] == {"ip": "127.0.0.1"}


async def test_each_rule_tells_how_close_it_was() -> None:
    """Within, near from four fifths on, over."""
    limits = [rule(quota="10/60s", when_full="refuse")]
    async with recorder() as upstream, gateway(upstream.url, limits=limits) as app:
        for _ in range(12):
            await exchange_bytes(app.port, TIME)

        counted = {result: app.metrics.decisions.value("rule", result) for result in ("within", "near", "over")}
        assert counted == {"within": 8, "near": 2, "over": 2}


async def test_metrics_have_the_names_that_dashboards_rely_on() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        target = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1"
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                async with session.get(url(app, target)) as answer:
                    await answer.read()
            texts = []
            for path in ("/metrics", "/health/metrics", "/api/v1/health/metrics"):
                async with session.get(url(app, path)) as answer:
                    texts.append(await answer.text())

        for text in texts:
            for line in (
                'bybit_api_requests_total{endpoint="kline",source="cache",status="2xx"} 1.0',
                'bybit_api_requests_total{endpoint="kline",source="exchange",status="2xx"} 1.0',
                'bybit_api_duration_seconds_count{endpoint="kline"} 1.0',
                'bybit_cache_operations_total{operation="get",result="hit"} 1.0',
                'bybit_cache_operations_total{operation="get",result="miss"} 1.0',
                'bybit_candles_fetched_total{source="cache"} 200.0',
                'rate_limit_hits_total{endpoint="kline",identifier_type="ip",tier="none"} 2.0',
                "bybit_rate_limit_hits_total 0.0",
                'gateway_window_used{rule="bybit-ip"} 1.0',
                'gateway_window_limit{rule="bybit-ip"} 600.0',
            ):
                assert line in text, line
            assert "bybit_cache_size_bytes" in text
            assert "BTCUSDT" not in text


async def test_endpoints_in_metrics_come_from_the_route_table() -> None:
    """A client cannot make new time series."""
    async with recorder() as upstream, gateway(upstream.url) as app:
        for number in range(20):
            await exchange_bytes(app.port, f"GET /v5/made-up/{number} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
        answer = await exchange_bytes(app.port, b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n")

        assert b"made-up" not in answer.body
        assert b'bybit_api_requests_total{endpoint="unknown",source="exchange",status="2xx"} 20.0' in answer.body


async def test_the_exchanges_refusals_are_counted() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, retry__enabled="false") as app:
        exchange.faults.add({"kind": "ret_code", "ret_code": 10006, "ret_msg": "Too many visits!"})
        await exchange_bytes(app.port, TIME)

        assert app.metrics.exchange_limited._value.get() == 1
        assert app.metrics.exchange_codes.labels("10006")._value.get() == 1

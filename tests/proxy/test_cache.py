"""Candles from the cache: who gets what, how often the exchange is asked, and what it says about it."""

from __future__ import annotations

import asyncio
import gzip
import json

import aiohttp
import pytest

from policies.caching import Life
from proxy.cache import L1, Entry, Flights
from proxy.tasks import TaskOwner
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url
from tests.raw_http import exchange_bytes
from tests.recorder import Seen, answering, recorder

CLOSED = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&start=1770000000000&end=1770000600000"
LATEST = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=5"


def get(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: me", *lines, "", ""]).encode()


def kline_answer(*, code: int = 0, headers: bytes = b"") -> bytes:
    rows = '[["1770000000000","1","1","1","1","1","1"]]'
    body = (
        f'{{"retCode":{code},"retMsg":"","result":{{"symbol":"BTCUSDT","category":"linear","list":{rows}}}'
        f',"retExtInfo":{{}},"time":1770000000001}}'
    ).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        + headers
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.parametrize("path", ["kline", "mark-price-kline", "index-price-kline", "premium-index-price-kline"])
async def test_the_second_asker_is_served_from_the_cache(path: str) -> None:
    target = CLOSED.replace("/kline", f"/{path}")
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        first = await exchange_bytes(app.port, get(target))
        second = await exchange_bytes(app.port, get(target))

        assert first.get("Cache-Status") == "bybit-gateway; fwd=uri-miss; fwd-status=200; stored"
        assert (second.get("Cache-Status") or "").startswith("bybit-gateway; hit; ttl=")
        assert (first.get("Age"), second.get("Age")) == (None, "0")
        assert json.loads(second.body)["retCode"] == 0
        assert second.body == first.body
        assert exchange.stats.requests == 1


async def test_the_order_of_parameters_does_not_matter() -> None:
    swapped = "/v5/market/kline?interval=1&symbol=BTCUSDT&end=1770000600000&category=linear&start=1770000000000"
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        await exchange_bytes(app.port, get(CLOSED))
        answer = await exchange_bytes(app.port, get(swapped))

        assert (answer.get("Cache-Status") or "").startswith("bybit-gateway; hit")
        assert exchange.stats.requests == 1


async def test_an_answer_with_the_open_candle_is_asked_for_again_soon() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, cache__open_ttl="50ms", cache__stale_while_revalidate="0s") as app,
    ):
        await exchange_bytes(app.port, get(LATEST))
        async with asyncio.timeout(10):
            while (await exchange_bytes(app.port, get(LATEST))).get("Age") is not None:
                await asyncio.sleep(0.01)

        assert exchange.stats.requests == 2


async def test_a_hit_does_not_repeat_what_was_said_to_another() -> None:
    """Rate limits, trace ids, clocks and cookies of one answer are not another's."""
    private = (
        b"X-Bapi-Limit: 10\r\nX-Bapi-Limit-Status: 9\r\nX-Bapi-Limit-Reset-Timestamp: 1\r\nTraceid: t\r\n"
        b"Timenow: 1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nSet-Cookie: a=b\r\nServer: Openresty\r\n"
    )
    async with recorder(answering(kline_answer(headers=private))) as upstream, gateway(upstream.url) as app:
        first = await exchange_bytes(app.port, get(CLOSED))
        second = await exchange_bytes(app.port, get(CLOSED))

        assert first.get("X-Bapi-Limit") == "10"
        names = {name.lower() for name, _ in second.headers}
        assert not names & {"traceid", "timenow", "date", "set-cookie"}
        assert not {name for name in names if name.startswith("x-bapi")}
        assert {"server", "content-type", "age", "cache-status", "x-request-id"} <= names


@pytest.mark.parametrize("line", ["X-BAPI-API-KEY: k", "X-BAPI-SIGN: s"])
async def test_signed_requests_pass_by_the_cache(line: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        await exchange_bytes(app.port, get(CLOSED))
        answer = await exchange_bytes(app.port, get(CLOSED, line))

        assert answer.get("Cache-Status") == "bybit-gateway; fwd=bypass"
        assert exchange.stats.requests == 2


@pytest.mark.parametrize("suffix", ["&startTime=1", "&symbol=ETHUSDT", "&limit=007", "&"])
async def test_odd_requests_pass_by_the_cache_unchanged(suffix: str) -> None:
    async with recorder(answering(kline_answer())) as upstream, gateway(upstream.url) as app:
        for _ in range(2):
            answer = await exchange_bytes(app.port, get(CLOSED + suffix))
            assert answer.get("Cache-Status") == "bybit-gateway; fwd=bypass"

        assert [seen.target.decode() for seen in upstream.seen] == [CLOSED + suffix] * 2


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(kline_answer(code=10006), id="limited"),
        pytest.param(kline_answer(code=10001), id="bad parameter"),
        pytest.param(kline_answer(code=10016), id="server error"),
        pytest.param(kline_answer().replace(b"200 OK", b"500 OK"), id="not 200"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", id="no envelope"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", id="html"),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{"retCode":0,"result":{"list":[1]}}'[:-1], id="odd"
        ),
    ],
)
async def test_only_whole_successful_answers_are_kept(raw: bytes) -> None:
    async with recorder(answering(raw)) as upstream, gateway(upstream.url, retry__enabled="false") as app:
        first = await exchange_bytes(app.port, get(CLOSED))
        await exchange_bytes(app.port, get(CLOSED))

        assert "stored" not in (first.get("Cache-Status") or "")
        assert len(upstream.seen) == 2


async def test_an_answer_that_breaks_off_is_not_kept() -> None:
    whole = kline_answer()
    broken = True

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(whole[:-10] if broken else whole)
        if broken:
            await writer.drain()
            writer.close()

    async with recorder(answer) as upstream, gateway(upstream.url) as app:
        assert (await exchange_bytes(app.port, get(CLOSED))).status == 502
        broken = False
        assert (await exchange_bytes(app.port, get(CLOSED))).status == 200
        assert (await exchange_bytes(app.port, get(CLOSED))).get("Age") == "0"


async def test_two_hundred_callers_of_one_candle_cost_one_request() -> None:
    async with FakeBybit() as exchange:
        exchange.faults.add({"kind": "delay", "delay_us": 100_000})
        limits = [{"name": "one", "quota": "1/60s", "when_full": "refuse"}]
        async with gateway(exchange.url, limits=limits) as app, aiohttp.ClientSession() as session:

            async def ask() -> tuple[str, bytes]:
                async with session.get(url(app, CLOSED)) as answer:
                    return answer.headers["Cache-Status"], await answer.read()

            answers = await asyncio.gather(*(ask() for _ in range(200)))

        assert exchange.stats.requests == 1
        assert len({body for _, body in answers}) == 1
        leaders = [status for status, _ in answers if status.endswith("stored")]
        assert len(leaders) == 1
        assert {status for status, _ in answers} <= {
            "bybit-gateway; fwd=uri-miss; fwd-status=200; stored",
            "bybit-gateway; fwd=uri-miss; collapsed",
            *(f"bybit-gateway; hit; ttl={n}" for n in range(604_795, 604_801)),
        }


async def test_the_leader_may_hang_up_without_harm_to_the_others() -> None:
    release = asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(kline_answer())

    async with recorder(later) as upstream, gateway(upstream.url) as app:
        _, leader = await asyncio.open_connection("127.0.0.1", app.port)
        leader.write(get(CLOSED))
        while not upstream.seen:
            await asyncio.sleep(0.005)
        follower = asyncio.gather(exchange_bytes(app.port, get(CLOSED)))
        while app.metrics.collapsed.labels("kline")._value.get() == 0:
            await asyncio.sleep(0.005)
        leader.close()
        await asyncio.sleep(0.05)
        release.set()
        (answer,) = await follower

        assert answer.status == 200
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("line", ["If-None-Match: x", "Range: bytes=0-1", "Origin: https://x.example", "Cookie: a=b"])
async def test_what_one_clients_headers_make_is_not_anothers_answer(line: str) -> None:
    """Such a request is not fetched for others, nor kept."""
    async with recorder(answering(kline_answer())) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, get(CLOSED, line))
        assert answer.get("Cache-Status") == "bybit-gateway; fwd=bypass"
        await exchange_bytes(app.port, get(CLOSED))
        assert len(upstream.seen) == 2


async def test_followers_get_neither_cookies_nor_refusals_nor_odd_statuses_of_the_leader() -> None:
    answers = [b"HTTP/1.1 304 Not Modified\r\n\r\n", kline_answer(headers=b"Set-Cookie: sid=leaders\r\n")]
    release = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(answers[0] if b"x-lead" in request.names() and len(answers) == 2 else answers[-1])

    for _ in range(2):
        release.clear()
        async with recorder(answer) as upstream, gateway(upstream.url) as app:
            leader = asyncio.gather(exchange_bytes(app.port, get(CLOSED, "X-Lead: 1")))
            while not upstream.seen:
                await asyncio.sleep(0.005)
            follower = asyncio.gather(exchange_bytes(app.port, get(CLOSED)))
            while app.metrics.collapsed.labels("kline")._value.get() == 0:
                await asyncio.sleep(0.005)
            release.set()
            ((led,), (followed,)) = await leader, await follower
            assert followed.status == 200
            if led.status == 200:
                assert (led.get("Set-Cookie"), followed.get("Set-Cookie")) == ("sid=leaders", None)
        answers.pop(0) if len(answers) == 2 else None


async def test_the_leaders_empty_quota_is_not_the_followers() -> None:
    limits = [{"name": "mine", "partition": ["ip"], "quota": "1/60s", "counts": "upstream", "when_full": "wait"}]
    overrides = {"limits": limits, "queue__max_wait": "1s", "listen__trusted_proxies": ["127.0.0.1"]}
    async with recorder(answering(kline_answer())) as upstream, gateway(upstream.url, **overrides) as app:
        await exchange_bytes(app.port, get("/v5/x", "X-Forwarded-For: 192.0.2.1"))
        answers = await asyncio.gather(
            exchange_bytes(app.port, get(CLOSED, "X-Forwarded-For: 192.0.2.1")),
            exchange_bytes(app.port, get(CLOSED, "X-Forwarded-For: 192.0.2.2")),
        )

        assert answers[1].status == 200


async def test_two_slashes_are_another_request() -> None:
    """It is forwarded as it is, and may be answered otherwise."""
    async with recorder(answering(kline_answer())) as upstream, gateway(upstream.url) as app:
        await exchange_bytes(app.port, get(CLOSED))
        answer = await exchange_bytes(app.port, get("/" + CLOSED))
        assert answer.get("Cache-Status") == "bybit-gateway; fwd=bypass"
        assert len(upstream.seen) == 2


async def test_a_failed_fetch_is_shared_by_those_who_waited_and_by_nobody_else() -> None:
    fail = asyncio.Event()

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        if not fail.is_set():
            await fail.wait()
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(kline_answer())

    async with recorder(answer) as upstream, gateway(upstream.url, retry__enabled="false") as app:
        waiting = asyncio.gather(*(exchange_bytes(app.port, get(CLOSED)) for _ in range(5)))
        while not upstream.seen or app.metrics.collapsed.labels("kline")._value.get() < 4:
            await asyncio.sleep(0.005)
        fail.set()

        assert [each.status for each in await waiting] == [503] * 5
        assert (await exchange_bytes(app.port, get(CLOSED))).status == 200
        assert len(upstream.seen) == 2


async def test_compressed_answers_are_kept_for_both_kinds_of_clients() -> None:
    """One fetch, compressed by the exchange: those who take gzip get its bytes, the others what is in them."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        first = await exchange_bytes(app.port, get(CLOSED, "Accept-Encoding: gzip, deflate"))
        packed = await exchange_bytes(app.port, get(CLOSED, "Accept-Encoding: gzip"))
        plain = await exchange_bytes(app.port, get(CLOSED))
        refused = await exchange_bytes(app.port, get(CLOSED, "Accept-Encoding: gzip;q=0, br"))

        assert exchange.stats.requests == 1
        assert (first.get("Content-Encoding"), packed.get("Content-Encoding")) == ("gzip", "gzip")
        assert packed.body == first.body
        assert plain.get("Content-Encoding") is None
        assert refused.get("Content-Encoding") is None
        assert plain.body == refused.body == gzip.decompress(first.body)
        assert plain.get("Vary") == "Accept-Encoding"


async def test_without_a_cache_everything_is_forwarded() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, cache__enabled="false") as app:
        for _ in range(2):
            assert (await exchange_bytes(app.port, get(CLOSED))).status == 200

        assert exchange.stats.requests == 2


def entry(key: str, size: int = 100, expires_us: int = 1_000) -> Entry:
    return Entry.of(key, b"", b"x" * size, 1, 0, Life(expires_us, expires_us, expires_us))


def test_memory_is_bounded_and_the_least_used_goes_first() -> None:
    l1 = L1(3 * entry("a").size_bytes)
    for key in "abc":
        l1.put(entry(key))
    assert l1.get("a", 0) is not None
    l1.put(entry("d"))

    assert [key for key in "abcd" if l1.get(key, 0) is not None] == ["a", "c", "d"]
    assert l1.size_bytes == 3 * entry("a").size_bytes


def test_what_is_too_large_is_not_kept_and_what_is_replaced_is_not_counted_twice() -> None:
    l1 = L1(2_000)
    l1.put(entry("big", size=3_000))
    l1.put(entry("a"))
    l1.put(entry("a", size=200))

    assert len(l1) == 1
    assert l1.size_bytes == entry("a", size=200).size_bytes


def test_an_entry_ends_with_its_time() -> None:
    l1 = L1(10_000)
    l1.put(entry("a", expires_us=50))

    assert l1.get("a", 49) is not None
    assert l1.get("a", 50) is None
    assert l1.stale("a") is not None


async def test_a_fetch_that_nobody_waits_for_ends() -> None:
    tasks = TaskOwner()
    flights = Flights(tasks)
    ended = asyncio.Event()

    async def fetch() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiter = tasks.spawn(flights.join("k", fetch), "waiter", reported=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiter.cancel()

    await asyncio.wait_for(ended.wait(), 5)
    assert "k" not in flights


async def test_the_exchanges_clock_is_learned_from_long_compressed_candles_too() -> None:
    """A gateway that is asked for charts and nothing else knows when a candle ends by the exchange's clock."""
    target = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=1000"
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await exchange_bytes(app.port, get(target, "Accept-Encoding: gzip"))

        assert answer.get("Content-Encoding") == "gzip"
        assert len(answer.body) > 4 << 10  # longer than what is decoded for a look at an error code
        assert app.attempts.skew._samples

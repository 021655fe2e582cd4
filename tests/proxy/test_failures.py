"""Whatever the upstream does, the client gets an answer that it understands."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from proxy.app import App
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import OK, Recorder, Seen, answering, recorder
from tests.signing import signed

GET = b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n\r\n"
POST = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n{}"
ONE_PER_WINDOW = [{"name": "one", "quota": "1/60s", "window": "held", "when_full": "refuse"}]


def is_fate_unknown(answer: RawAnswer) -> bool:
    """504 in the one form that clients take for a time-out that may have been executed."""
    body = json.loads(answer.body)
    return (
        answer.status == 504
        and body["retCode"] == 10016
        and body["retMsg"] == "Request timeout, please try again later"
        and body["result"] == {}
        and body["retExtInfo"] == {}
    )


async def used(app: App, rule: str) -> int:
    return sum(usage.used for usage in await app.store.usage() if usage.charge_key[0] == rule)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("request_bytes", [GET, POST])
async def test_an_unreachable_upstream_is_not_executed(request_bytes: bytes) -> None:
    """502 in plain text, which clients take for "not sent"; the budget is given back."""
    async with gateway(f"http://127.0.0.1:{closed_port()}", limits=ONE_PER_WINDOW) as app:
        for _ in range(3):
            answer = await exchange_bytes(app.port, request_bytes)

            assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-unreachable")
            assert (answer.get("Content-Type") or "").startswith("text/plain")
            assert b"not sent" in answer.body
            assert await used(app, "one") == 0


async def test_a_name_that_does_not_resolve_is_not_executed() -> None:
    async with gateway("http://no-such-host.invalid:9") as app:
        answer = await exchange_bytes(app.port, POST)

        assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-dns")


async def test_a_certificate_that_is_not_trusted_ends_it() -> None:
    """Verification is never off: without the CA nothing is sent, with it everything works."""
    async with FakeBybit(tls=True) as exchange:
        async with gateway(exchange.url) as app:
            answer = await exchange_bytes(app.port, b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n")
            assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-certificate")
        async with gateway(exchange.url, upstream__ca_file=str(exchange.ca_path)) as app:
            answer = await exchange_bytes(app.port, b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n")
            assert (answer.status, answer.get("X-Gateway")) == (200, None)
        assert exchange.stats.requests == 1


async def test_a_write_whose_answer_never_comes_is_of_unknown_fate() -> None:
    """Dropped after it was sent: 504, sent once, and its permit is held on because it may still arrive."""

    async def drop(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with recorder(drop) as upstream, gateway(upstream.url, limits=ONE_PER_WINDOW) as app:
        answer = await exchange_bytes(app.port, POST)

        assert is_fate_unknown(answer)
        assert answer.get("X-Gateway") == "upstream-disconnected"
        assert len(upstream.seen) == 1
        assert await used(app, "one") == 1


@pytest.mark.parametrize(("request_bytes", "sent"), [(GET, 3), (POST, 1)])
async def test_a_silent_upstream_is_given_up(request_bytes: bytes, sent: int) -> None:
    """A read is asked a few times, a write once."""

    async def never(_: Seen, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with recorder(never) as upstream, gateway(upstream.url, upstream__timeouts__read="100ms") as app:
        answer = await exchange_bytes(app.port, request_bytes)

        assert is_fate_unknown(answer)
        assert answer.get("X-Gateway") == "upstream-timeout"
        assert answer.get("X-Gateway-Outcome") == ("unknown" if sent == 1 else None)
        assert len(upstream.seen) == sent
        assert app.metrics.registry.get_sample_value("gateway_unknown_writes_total") == (sent == 1)


async def test_a_read_on_a_dead_connection_is_sent_again_and_counted_again() -> None:
    """The client does not notice a pooled connection that had died; the limiter does."""
    upstream_requests = 0

    async def drop_second(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal upstream_requests
        upstream_requests += 1
        if upstream_requests == 2:
            writer.close()
        else:
            writer.write(OK)

    limits = [{"name": "some", "quota": "10/60s", "window": "held"}]
    async with recorder(drop_second) as upstream, gateway(upstream.url, limits=limits) as app:
        answers = [await exchange_bytes(app.port, GET) for _ in range(2)]

        assert [answer.status for answer in answers] == [200, 200]
        assert len(upstream.seen) == 3
        assert await used(app, "some") == 3


async def test_a_read_on_a_connection_that_was_reset_is_sent_again() -> None:
    """The usual form of a connection that died while idle."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[]) as app:
        get = b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n"
        assert (await exchange_bytes(app.port, get)).status == 200
        exchange.faults.add({"kind": "reset_before", "count": 1})
        assert (await exchange_bytes(app.port, get)).status == 200
        assert exchange.stats.requests == 3


async def test_a_write_on_a_dead_connection_is_never_sent_again() -> None:
    upstream_requests = 0

    async def drop_second(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal upstream_requests
        upstream_requests += 1
        if upstream_requests == 2:
            writer.close()
        else:
            writer.write(OK)

    async with recorder(drop_second) as upstream, gateway(upstream.url) as app:
        first, second = [await exchange_bytes(app.port, POST) for _ in range(2)]

        assert first.status == 200
        assert is_fate_unknown(second)
        assert len(upstream.seen) == 2


async def test_aiohttp_does_not_repeat_a_read_behind_the_limiters_back() -> None:
    """Every request on the wire is one that was admitted."""

    async def drop(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.close()

    limits = [{"name": "all", "quota": "100/60s", "window": "held"}]
    async with recorder(drop) as upstream, gateway(upstream.url, limits=limits) as app:
        answer = await exchange_bytes(app.port, GET)

        assert answer.status == 504
        assert len(upstream.seen) == 3
        assert await used(app, "all") == len(upstream.seen)


@pytest.mark.parametrize(("request_bytes", "status"), [(GET, 502), (POST, 504)])
async def test_an_answer_that_breaks_off_is_not_passed_on_as_a_whole(request_bytes: bytes, status: int) -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"retCode":0'
    async with recorder(answering(raw, close=True)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, request_bytes)

        assert answer.status == status
        assert answer.get("X-Gateway") in {"upstream-truncated", "upstream-disconnected"}


async def test_a_stream_that_breaks_off_breaks_off_at_the_client_too() -> None:
    """The client must not take a part for the whole, chunked or not."""
    begun = asyncio.Event()

    async def break_off(_: Seen, writer: asyncio.StreamWriter) -> None:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 2 * chunk)
        await begun.wait()
        writer.close()

    async with recorder(break_off) as upstream, gateway(upstream.url) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=2**20)
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"x" * 0x8000), 5)
        begun.set()
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert not rest.endswith(b"0\r\n\r\n")


async def test_nonsense_from_upstream_is_of_unknown_fate() -> None:
    async with recorder(answering(b"this is not HTTP\r\n\r\n", close=True)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, POST)

        assert is_fate_unknown(answer)
        assert answer.get("X-Gateway") == "upstream-malformed"


@pytest.mark.parametrize("status", [403, 429, 500, 502, 503, 504])
async def test_errors_of_the_exchange_are_passed_on_unchanged(status: int) -> None:
    """Their HTML too: it is the exchange's answer, not ours."""
    raw = b"HTTP/1.1 %d Oops\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>" % status
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, POST)

        assert (answer.status, answer.body, answer.get("X-Gateway")) == (status, b"<html>", None)
        assert len(upstream.seen) == 1


async def test_connections_can_be_warm_before_the_first_request() -> None:
    """`prewarm` opens them without sending anything; the first request finds one."""
    async with recorder() as upstream, gateway(upstream.url, upstream__prewarm="3") as app:
        async with asyncio.timeout(5):
            while upstream.connections < 3:
                await asyncio.sleep(0.005)
        assert upstream.seen == []

        assert (await exchange_bytes(app.port, GET)).status == 200
        assert upstream.connections == 3


async def test_a_gateway_starts_even_when_nothing_can_be_warmed() -> None:
    async with gateway(f"http://127.0.0.1:{closed_port()}", upstream__prewarm="3") as app:
        assert (await exchange_bytes(app.port, b"GET /health/ready HTTP/1.1\r\nHost: me\r\n\r\n")).status == 200


async def test_waiting_for_a_free_connection_in_vain_is_not_executed() -> None:
    async def never(_: Seen, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    overrides = {"upstream__pool__total": "1", "upstream__timeouts__connect": "100ms"}
    async with recorder(never) as upstream, gateway(upstream.url, **overrides) as app:
        _, first = await asyncio.open_connection("127.0.0.1", app.port)
        first.write(POST)
        await wait_for(upstream, 1)
        answer = await exchange_bytes(app.port, POST)
        first.close()

        assert (answer.status, answer.get("X-Gateway")) == (502, "upstream-connect-timeout")
        assert len(upstream.seen) == 1


async def test_the_exchanges_own_request_id_stands() -> None:
    raw = b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n"
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        assert (await exchange_bytes(app.port, GET)).all("X-Request-Id") == ["theirs"]


async def test_a_late_answer_on_an_idle_connection_goes_to_nobody() -> None:
    """Whatever arrives between two requests is not the answer to the second."""
    late = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        body = request.target
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        if body == b"/first":
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
            await writer.drain()
            late.set()

    async with recorder(answer) as upstream, gateway(upstream.url) as app:
        await exchange_bytes(app.port, b"GET /first HTTP/1.1\r\nHost: me\r\n\r\n")
        await late.wait()
        await asyncio.sleep(0.05)
        for number in range(3):
            answered = await exchange_bytes(app.port, b"GET /v%d HTTP/1.1\r\nHost: me\r\n\r\n" % number)
            assert answered.body == b"/v%d" % number


async def test_a_chunk_that_makes_no_sense_ends_the_wait() -> None:
    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"ZZ\r\nabc\r\n")
        await asyncio.Event().wait()

    async with recorder(answer) as upstream, gateway(upstream.url, upstream__timeouts__read="300ms") as app:
        answered = await exchange_bytes(app.port, GET, seconds=5)

        assert answered.status == 502


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity"])
async def test_transfer_codings_that_would_be_lost_are_refused(coding: bytes) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        request = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
        assert (await exchange_bytes(app.port, request)).status in {400, 501}
        assert upstream.seen == []


async def test_a_client_that_hangs_up_leaves_its_permit_until_the_answer() -> None:
    """What was sent may still be counted at the exchange, however long it takes to arrive there."""
    release = asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    limits = [{"name": "held", "quota": "5/1s", "window": "held"}]
    async with recorder(later) as upstream, gateway(upstream.url, limits=limits) as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(GET)
        await wait_for(upstream, 1)
        writer.close()
        await asyncio.sleep(2.2)
        assert await used(app, "held") == 1
        release.set()
        async with asyncio.timeout(5):
            while await used(app, "held"):
                await asyncio.sleep(0.05)


async def test_a_signature_that_expires_while_a_connection_is_waited_for_does_not_leave() -> None:
    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        if b"market" in request.line:
            body = b'{"retCode":0,"time":%d}' % (time.time_ns() // 1_000_000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            await asyncio.Event().wait()

    async with recorder(answer) as upstream, gateway(upstream.url, upstream__pool__total="1") as app:
        await exchange_bytes(app.port, b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n")
        sample = app.attempts.skew._samples[-1]
        app.attempts.skew._samples.appendleft(sample._replace(at_us=sample.at_us - 1_100_000))
        assert app.attempts.skew.known
        _, blocker = await asyncio.open_connection("127.0.0.1", app.port)
        blocker.write(POST)
        await wait_for(upstream, 2)
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed("", window_ms=1_000).items())
        request = f"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n{lines}\r\n".encode()
        answered = await exchange_bytes(app.port, request, seconds=5)
        blocker.close()

        assert answered.get("X-Gateway") == "upstream-connect-timeout"
        assert len(upstream.seen) == 2


async def wait_for(upstream: Recorder, requests: int) -> None:
    async with asyncio.timeout(5):
        while len(upstream.seen) < requests:
            await asyncio.sleep(0.005)


async def test_a_write_runs_on_when_its_client_hangs_up() -> None:
    """The order exists at the exchange anyway: its connection is not torn, its permit ends with its answer."""
    release = asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    async with recorder(later) as upstream, gateway(upstream.url) as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(POST)
        await wait_for(upstream, 1)
        writer.close()
        await asyncio.sleep(0.05)
        release.set()
        answer = await exchange_bytes(app.port, GET)

        assert answer.status == 200
        assert upstream.connections <= 2
        async with asyncio.timeout(5):
            while app.metrics.in_flight._value.get() != 0:
                await asyncio.sleep(0.005)


async def test_a_mistake_of_ours_is_a_clean_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, no text of the exception: both can hold what the client sent."""

    def explode(*_: object) -> None:
        raise RuntimeError("secret-in-the-exception")

    async with recorder() as upstream, gateway(upstream.url) as app:
        monkeypatch.setattr(app.gateway._telemetry, "count_admitted", explode)
        answer = await exchange_bytes(app.port, GET)

        assert (answer.status, answer.get("X-Gateway")) == (500, "internal-error")
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body

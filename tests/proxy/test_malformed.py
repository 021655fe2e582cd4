"""What cannot be forwarded gets a clear 4xx and reaches nobody."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes, read_answer
from tests.recorder import recorder

HOST = b"Host: me\r\n"
POST = b"POST /v5/order/create HTTP/1.1\r\n" + HOST
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: me\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        pytest.param(
            POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
            400,
            "bad-http",
            id="length and chunks",
        ),
        pytest.param(POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 400, "bad-http", id="two lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, "bad-http", id="negative length"),
        pytest.param(POST + b"Content-Length: 1_0\r\n\r\n", 400, "bad-http", id="length that Python reads as 10"),
        pytest.param(POST + b"Content-Length: +2\r\n\r\n{}", 400, "bad-http", id="signed length"),
        pytest.param(POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, "bad-http", id="transfer coding without chunks"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad-http", id="chunk size no number"),
        pytest.param(b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-target", id="absolute form"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-target", id="CONNECT"),
        pytest.param(b"GET //evil.example/v5 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-target", id="//host"),
        pytest.param(b"GET @evil.example/v5 HTTP/1.1\r\n" + HOST + b"\r\n", 400, None, id="@host"),
        pytest.param(b"GET /\\evil.example HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-target", id="backslash"),
        pytest.param(b"GET /v5/a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-target", id="fragment"),
        pytest.param(b"GET /v5/a\x01b HTTP/1.1\r\n" + HOST + b"\r\n", 400, None, id="control byte in the target"),
        pytest.param(b"GET /v5/\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", 400, None, id="bytes beyond ASCII"),
        pytest.param(b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400, "bad-http", id="NUL in a header"),
        pytest.param(b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X : b\r\n\r\n", 400, "bad-http", id="blank before the colon"),
        pytest.param(b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400, "bad-http", id="folded header"),
        pytest.param(b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: caf\xe9\r\n\r\n", 400, "bad-header", id="not UTF-8"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400, "bad-http", id="TLS"),
        pytest.param(
            b"GET /v5/a?" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431, "head-too-large", id="target"
        ),
        pytest.param(
            b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431, "head-too-large", id="header"
        ),
        pytest.param(
            b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", 431, "head-too-large", id="many headers"
        ),
        pytest.param(POST + b"Content-Length: 99999999\r\n\r\n", 413, "body-too-large", id="announced body"),
    ],
)
async def test_malformed_requests_are_refused(request_bytes: bytes, status: int, reason: str | None) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, request_bytes)

        assert answer.status == status, answer
        assert reason is None or answer.get("X-Gateway") == reason
        assert answer.get("X-Request-Id")
        assert answer.get("Connection") == "close"
        body = json.loads(answer.body)
        assert {"retCode", "retMsg", "result", "retExtInfo", "time"} <= body.keys()
        assert b"Traceback" not in answer.body
        assert upstream.seen == []


@pytest.mark.parametrize(
    ("request_bytes", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, "TLS spoken to a plain port"),
        (b"get /v5/a HTTP/1.1\r\n" + HOST + b"\r\n", "no method of HTTP"),
        (b"GET /v5/a HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", "listen.max_headers"),
    ],
)
async def test_the_reason_names_what_to_look_at(request_bytes: bytes, told: str) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, request_bytes)

        assert told in json.loads(answer.body)["retMsg"]


async def test_a_body_that_grows_beyond_the_limit_is_cut_off() -> None:
    """The length of a chunked body is known only at its end; the limit does not wait for it."""
    async with recorder() as upstream, gateway(upstream.url, listen__max_body="1KiB") as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"x" * 0x400 + b"\r\n") * 2)
        answer = await asyncio.wait_for(read_answer(reader), 5)
        writer.close()

        assert (answer.status, answer.get("X-Gateway")) == (413, "body-too-large")
        assert upstream.seen == []


async def test_a_client_that_dribbles_its_body_holds_no_permit_and_is_let_go() -> None:
    async with recorder() as upstream, gateway(upstream.url, listen__body_timeout="50ms") as app:
        answer = await exchange_bytes(app.port, POST + b"Content-Length: 10\r\n\r\n{")

        assert (answer.status, answer.get("X-Gateway")) == (408, "body-timeout")
        assert upstream.seen == []
        assert all(usage.used == 0 for usage in await app.store.usage() if usage.charge_key[0] == "bybit-ip")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(b"".join(b"GET /v5/x?n=%d HTTP/1.1\r\nHost: me\r\n\r\n" % n for n in range(5)))
        answers = [await asyncio.wait_for(read_answer(reader), 5) for _ in range(5)]
        writer.close()

        assert [answer.status for answer in answers] == [200] * 5
        assert [seen.target for seen in upstream.seen] == [b"/v5/x?n=%d" % n for n in range(5)]


async def test_a_websocket_never_goes_where_requests_go() -> None:
    """Its host is another one; switched off, it goes nowhere."""
    async with recorder() as upstream, gateway(upstream.url, streams__enabled="false") as app:
        answer = await exchange_bytes(
            app.port,
            b"GET /v5/public/linear HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )

        assert (answer.status, answer.get("X-Gateway")) == (501, "no-websocket")
        assert upstream.seen == []

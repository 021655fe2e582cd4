"""Not one byte of what is signed may change, in either direction."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import random
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import target as targets
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes
from tests.recorder import answering, recorder

KEY, SECRET = "test-key", "test-secret"
ADDED = {b"accept", b"accept-encoding", b"user-agent", b"content-type", b"via", b"connection", b"expect"}


def signed(payload: bytes, *, stamp_ms: int, window: str | None) -> list[tuple[str, str]]:
    text = f"{stamp_ms}{KEY}{window or ''}".encode() + payload
    sign = hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    headers = [("X-BAPI-API-KEY", KEY), ("X-BAPI-TIMESTAMP", str(stamp_ms)), ("X-BAPI-SIGN", sign)]
    return headers if window is None else [*headers, ("X-BAPI-RECV-WINDOW", window)]


def odd_value(dice: random.Random) -> str:
    """A value as some client somewhere writes it: plain, quoted this way or that, half quoted, empty."""
    plain = "".join(dice.choice("abcXYZ019-_.~,:/@!$&'()*+;= %[]{}|^\"`<>äß中") for _ in range(dice.randint(0, 12)))
    quoted = quote(plain, safe="")
    match dice.randrange(6):
        case 0:
            return quoted
        case 1:
            return "".join(c.lower() if i % 2 else c for i, c in enumerate(quoted))  # %2c beside %2C
        case 2:
            return quote_plus(plain)
        case 3:
            return quote(quoted, safe="")  # %253A
        case 4:
            return dice.choice(["", "%zz", "%", "%2", "a%3Ab%2C2", "lastid%3D19408935%26lasttime%3D1780617600", "+"])
        case _:
            return "".join(c for c in plain if c.isascii() and c not in ' &#%="<>`')


def odd_query(dice: random.Random) -> str:
    names = ["category", "symbol", "cursor", "limit", "a", "b", "b", "orderLinkId", "%61", "x[]"]
    pairs = [f"{dice.choice(names)}={odd_value(dice)}" for _ in range(dice.randint(1, 6))]
    if dice.random() < 0.1:
        pairs.append(dice.choice(["flag", "=", "", "a=b=c"]))
    return "&".join(pairs)


def odd_body(dice: random.Random) -> bytes:
    order = {
        "category": dice.choice(["linear", "spot"]),
        "symbol": "BTCUSDT",
        "qty": "0.10",
        "orderLinkId": f"id-{dice.randrange(10**9)}",
        "note": odd_value(dice) + "äöü ☃ \u2028",
    }
    match dice.randrange(4):
        case 0:
            return json.dumps(order).encode()  # blanks and \u escapes
        case 1:
            return json.dumps(order, separators=(",", ":"), ensure_ascii=False).encode()
        case 2:
            return json.dumps(order, indent=dice.randint(0, 3), ensure_ascii=False).encode() + b"\n"
        case _:
            return bytes(dice.randrange(256) for _ in range(dice.randint(1, 300)))


async def test_a_thousand_odd_signed_requests_keep_their_signature() -> None:
    """Half GET, half POST: the exchange verifies every signature over the bytes that it got; none is refused."""
    dice = random.Random(20261120)
    async with FakeBybit(settings=Settings(ip_limit=1_000_000)) as exchange:
        limits = [{"name": "all", "quota": "1000000/5s"}]
        async with gateway(exchange.url, limits=limits) as app:
            for number in range(1_000):
                window = dice.choice([None, "5000", "20000"])
                stamp_ms = time.time_ns() // 1_000_000
                encoding = dice.choice(["", "Accept-Encoding: gzip, deflate\r\n"])
                if number % 2:
                    query = odd_query(dice)
                    target, body, method = f"/v5/echo?{query}", b"", "GET"
                    headers = signed(query.encode(), stamp_ms=stamp_ms, window=window)
                else:
                    target, body, method = "/v5/echo", odd_body(dice), "POST"
                    headers = signed(body, stamp_ms=stamp_ms, window=window)
                assert targets.refusal(method, target) is None, target
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
                length = f"Content-Length: {len(body)}\r\n" if body else ""
                text = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{encoding}{lines}{length}\r\n"

                answer = await exchange_bytes(app.port, text.encode() + body)

                content = gzip.decompress(answer.body) if answer.get("Content-Encoding") == "gzip" else answer.body
                reply = json.loads(content)
                assert reply["retCode"] == 0, (target, body, reply)
                assert reply["result"]["target"] == target
                assert reply["result"]["body_sha256"] == hashlib.sha256(body).hexdigest()
                names = [name.lower().encode() for name, _ in reply["result"]["headers"]]
                assert not (ADDED - ({b"accept-encoding"} if encoding else set())) & set(names)
                assert method == "POST" or b"content-length" not in names


async def test_no_header_is_added_and_none_is_lost() -> None:
    """What the exchange gets is what the client sent, names in their case, repeated lines apart, plus its own Host."""
    sent = [
        (b"x-bapi-api-key", b"k"),
        (b"X-Custom", b"one"),
        (b"X-Custom", b"two"),
        (b"Referer", b"CCXT"),
        (b"x-referer", b"bybitapinode"),
        (b"cdn-request-id", b"abc"),
        (b"X-Forwarded-For", b"198.51.100.7"),
        (b"Cookie", b"a=b; c=d"),
    ]
    async with recorder() as upstream, gateway(upstream.url) as app:
        lines = b"".join(b"%b: %b\r\n" % pair for pair in sent)
        await exchange_bytes(app.port, b"GET /v5/account/info?a=1 HTTP/1.1\r\nHost: me:1\r\n" + lines + b"\r\n")

        (seen,) = upstream.seen
        assert [pair for pair in seen.headers if pair[0] != b"Host"] == sent
        assert dict(seen.headers)[b"Host"] == f"127.0.0.1:{upstream.port}".encode()


async def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        await exchange_bytes(
            app.port,
            b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: secret\r\nX-Gateway-Max-Wait: 1s\r\n"
            b"X-Stays: 1\r\n\r\n",
        )

        assert upstream.seen[0].names() == {b"host", b"x-stays"}


async def test_connection_cannot_take_away_what_is_signed() -> None:
    """A `Connection: X-BAPI-SIGN` does not strip the signature."""
    async with recorder() as upstream, gateway(upstream.url) as app:
        await exchange_bytes(
            app.port,
            b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\nConnection: X-BAPI-SIGN\r\nX-BAPI-SIGN: abc\r\n\r\n",
        )

        assert b"x-bapi-sign" in upstream.seen[0].names()


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_a_get_never_carries_a_body(body: bytes) -> None:
    """The exchange answers 403 to a GET with a body, even an empty JSON one."""
    async with recorder() as upstream, gateway(upstream.url) as app:
        request = b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\nContent-Type: application/json\r\n"
        await exchange_bytes(app.port, request + b"Content-Length: %d\r\n\r\n" % len(body) + body)

        (seen,) = upstream.seen
        assert seen.names() == {b"host", b"content-type"}
        assert seen.body == b""


async def test_a_chunked_body_arrives_whole_with_its_length() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        await exchange_bytes(
            app.port,
            b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n',
        )

        (seen,) = upstream.seen
        assert seen.body == b'{"a": 1}'
        assert dict(seen.headers)[b"Content-Length"] == b"8"
        assert b"transfer-encoding" not in seen.names()


async def test_a_compressed_body_is_not_unpacked() -> None:
    """Its signature covers the compressed bytes."""
    packed = gzip.compress(b'{"category":"linear"}')
    async with recorder() as upstream, gateway(upstream.url) as app:
        head = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        await exchange_bytes(app.port, head % len(packed) + packed)

        assert upstream.seen[0].body == packed
        assert dict(upstream.seen[0].headers)[b"Content-Encoding"] == b"gzip"


async def test_a_client_that_waits_for_100_continue_gets_it_here() -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        request = b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
        answer = await exchange_bytes(app.port, request)

        assert answer.status == 100
        assert b"expect" not in upstream.seen[0].names() if upstream.seen else True


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_any_method_is_forwarded(method: str) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        request = f"{method} /v5/anything/at/all?x=%zz HTTP/1.1\r\nHost: me\r\n\r\n"
        answer = await exchange_bytes(app.port, request.encode())

        assert answer.status == 200
        assert upstream.seen[0].line == f"{method} /v5/anything/at/all?x=%zz HTTP/1.1".encode()


ANSWER_HEADERS = (
    b"X-Bapi-Limit: 10\r\nX-Bapi-Limit-Status: 9\r\nX-Bapi-Limit-Reset-Timestamp: 1672738134824\r\n"
    b"traceid: abc\r\nTimenow: 1672738134825\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: Openresty\r\n"
    b"Cache-Control: no-store\r\nX-Odd: caf\xe9\r\n"
)


async def test_an_answer_comes_back_as_it_was_sent() -> None:
    """Status, reason, every header line in order and case, repeated ones apart, bytes outside ASCII, and the body."""
    body = b'{"retCode":0,"x":"\xc3\xa4"}'
    raw = b"HTTP/1.1 201 Very Created\r\n" + ANSWER_HEADERS + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, b"POST /v5/order/create HTTP/1.1\r\nHost: me\r\n\r\n")

        lines = answer.head.split(b"\r\n")
        expected = raw.split(b"\r\n\r\n")[0].split(b"\r\n")
        assert [line for line in lines if line in expected] == expected
        assert {line.split(b":")[0] for line in lines if line and line not in expected} == {b"X-Request-Id"}
        assert answer.body == body


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_passed_on_not_followed(status: int) -> None:
    raw = b"HTTP/1.1 %d Moved\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n" % status
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, b"GET /v5/x HTTP/1.1\r\nHost: me\r\n\r\n")

        assert (answer.status, answer.get("Location")) == (status, "https://elsewhere.example/")
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n", 404, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", 403, b"<html>"),
    ],
)
async def test_every_framing_of_an_answer_is_understood(raw: bytes, status: int, body: bytes) -> None:
    async with recorder(answering(raw, close=True)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, b"GET /v5/x HTTP/1.1\r\nHost: me\r\n\r\n")

        assert (answer.status, answer.body, answer.complete) == (status, body, True)
        assert answer.get("Content-Type") in {None, "application/json", "text/html"}


async def test_a_long_answer_streams_byte_for_byte() -> None:
    """Five megabytes, far beyond what is held in one piece."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        direct = await exchange_bytes(exchange.port, b"GET /v5/large?bytes=5000000 HTTP/1.1\r\nHost: me\r\n\r\n")
        answer = await exchange_bytes(app.port, b"GET /v5/large?bytes=5000000 HTTP/1.1\r\nHost: me\r\n\r\n")

        assert len(direct.body) == 5_000_000
        assert answer.body == direct.body
        assert answer.complete


async def test_head_has_the_length_and_no_body() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\n"
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answer = await exchange_bytes(app.port, b"HEAD /v5/x HTTP/1.1\r\nHost: me\r\n\r\n")

        assert answer.get("Content-Length") == "123"


@settings(max_examples=30)
@given(text=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_printable_target_survives(text: str) -> None:
    """Whatever is accepted reaches the upstream as it is (a bare trailing `?` signs nothing and may go)."""
    import asyncio

    target = f"/v5/x?{text}"
    if targets.refusal("GET", target) is not None:
        return

    async def conversation() -> bytes:
        async with recorder() as upstream, gateway(upstream.url) as app:
            answer = await exchange_bytes(app.port, f"GET {target} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
            assert answer.status == 200, answer
            return upstream.seen[0].target

    assert asyncio.run(conversation()) in {target.encode(), target.encode().removesuffix(b"?")}

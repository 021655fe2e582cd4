"""Header lines of clients that are not installed here, as recorded from them: what arrives is what was written."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

import pytest

from tests.clients.chain import KEY, SECRET
from tests.clients.compare import sent

if TYPE_CHECKING:
    from tests.clients.chain import Chain
    from tests.fake_bybit import Entry

Lines: TypeAlias = list[tuple[str, str]]
Client: TypeAlias = Callable[[int, str], Lines]

NEVER_ADDED: Final = {
    *("accept", "accept-encoding", "user-agent", "content-type", "content-length", "transfer-encoding", "via"),
    *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id", "cookie"),
}
QUERY: Final = "accountType=UNIFIED&coin=BTC%2CUSDT"
BODY: Final = (
    '{"category": "linear", "symbol":"BTCUSDT", "side": "Buy", "orderType": "Limit",'
    ' "qty": "0.010", "price": "1000", "note": "\u00e9 \\u00e9"}\n'
)


def signature(at_ms: int, window: str, payload: str) -> str:
    return hmac.new(SECRET.encode(), f"{at_ms}{KEY}{window}{payload}".encode(), hashlib.sha256).hexdigest()


def go_hirokisan(at_ms: int, payload: str) -> Lines:
    """Signs without a window and sends none."""
    return [
        ("User-Agent", "Go-http-client/1.1"),
        ("X-Bapi-Api-Key", KEY),
        ("X-Bapi-Sign", signature(at_ms, "", payload)),
        ("X-Bapi-Timestamp", str(at_ms)),
        ("Accept-Encoding", "gzip"),
    ]


def rust_nautilus(at_ms: int, payload: str) -> Lines:
    """Small letters, no Accept-Encoding, its own order."""
    return [
        ("x-bapi-recv-window", "5000"),
        ("referer", "Qy000878"),
        ("x-bapi-sign", signature(at_ms, "5000", payload)),
        ("x-bapi-api-key", KEY),
        ("user-agent", "nautilus-trader/1.221.0"),
        ("x-bapi-timestamp", str(at_ms)),
        ("accept", "*/*"),
    ]


def frugal(at_ms: int, payload: str) -> Lines:
    """The three that Bybit asks for and nothing else."""
    return [
        ("X-BAPI-SIGN", signature(at_ms, "", payload)),
        ("X-BAPI-API-KEY", KEY),
        ("X-BAPI-TIMESTAMP", str(at_ms)),
    ]


def talkative(at_ms: int, payload: str) -> Lines:
    """A repeated name, an empty value, blanks inside; a proxy of the client's own."""
    return [
        *frugal(at_ms, payload),
        ("X-BAPI-SIGN-TYPE", "2"),
        ("x-Referer", "some broker,  with blanks"),
        ("X-Note", "one"),
        ("X-Note", "two"),
        ("X-Empty", ""),
        ("Cookie", "a=b; c=d"),
        ("Via", "1.1 a-proxy-of-theirs"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("Accept-Encoding", "gzip;q=0.5, br;q=0.1"),
    ]


CLIENTS = {"go": go_hirokisan, "rust": rust_nautilus, "frugal": frugal, "talkative": talkative}


def ask(base: str, method: str, target: str, lines: Lines, body: bytes = b"") -> bytes:
    """One request on a connection of its own, of exactly these bytes; the answer until it ends."""
    url = urlsplit(base)
    length = [("content-length", str(len(body)))] if body else []
    head = [f"{method} {target} HTTP/1.1", f"host: {url.netloc}"]
    head += [f"{name}: {value}" for name, value in [*lines, *length, ("connection", "close")]]
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def lines_of(entry: Entry) -> Lines:
    """Names in small letters: their case means nothing in HTTP, and aiohttp writes the common ones in its own."""
    return [
        (name.lower(), value)
        for name, value in entry.headers()
        if name.lower() not in {"host", "connection", "content-length"}
    ]


def in_small_letters(lines: Lines) -> Lines:
    return [(name.lower(), value) for name, value in lines]


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_signed_read_arrives_line_for_line(chain: Chain, client: Client) -> None:
    """Lines in their order, values and the target in their bytes; nothing added, nothing left out."""
    lines = client(chain.clock() // 1000, QUERY)
    target = f"/v5/account/wallet-balance?{QUERY}"
    mark = chain.mark()
    answer = ask(chain.gateway_url, "GET", target, lines)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    (arrival,) = mark.behind()
    assert (arrival.method, arrival.target, arrival.ret_code) == ("GET", target, 0)
    assert lines_of(arrival) == in_small_letters(lines)
    added = {name.lower() for name, _ in arrival.headers()} - {name.lower() for name, _ in lines}
    assert not NEVER_ADDED & added


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_signed_write_arrives_line_for_line(chain: Chain, client: Client) -> None:
    """Its body in its bytes, its length said once, no type of content that the client did not name."""
    body = BODY.encode()
    lines = client(chain.clock() // 1000, BODY)
    mark = chain.mark()
    answer = ask(chain.gateway_url, "POST", "/v5/order/create", lines, body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    (arrival,) = mark.behind()
    assert (arrival.method, arrival.target, arrival.ret_code) == ("POST", "/v5/order/create", 0)
    assert arrival.body_sha256 == hashlib.sha256(body).hexdigest()
    assert sent(arrival).content_length == str(len(body))
    assert lines_of(arrival) == in_small_letters(lines)


def test_a_read_that_says_nothing_arrives_saying_nothing(chain: Chain) -> None:
    """A client without Accept-Encoding must not be sent gzip because the gateway asked for it."""
    mark = chain.mark()
    answer = ask(chain.gateway_url, "GET", "/v5/market/tickers?category=spot", [])
    (arrival,) = mark.behind()
    assert {name.lower() for name, _ in arrival.headers()} <= {"host", "connection"}
    assert b"content-encoding" not in answer.partition(b"\r\n\r\n")[0].lower()


def test_slashes_that_a_base_url_doubled_reach_the_exchange(chain: Chain) -> None:
    """A base URL that ends in a slash, or a client that always writes two, is served all the same."""
    mark = chain.mark()
    answer = ask(chain.gateway_url, "GET", "//v5/market/time", [])
    assert b'"retCode":0' in answer
    assert mark.behind()[0].target in {"//v5/market/time", "/v5/market/time"}

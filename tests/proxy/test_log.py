"""One event tells a request's story, and no secret is in any of them."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from proxy import log
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes
from tests.recorder import answering, recorder

KEY, SIGN, TOKEN = "planted-key-7f3a", "0123456789abcdef" * 4, "planted-token-99"


class Captured(log.Sink):
    """Keeps what would be written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.dropped = 0

    def put(self, line: bytes) -> None:
        self.written.append(line)

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.written]


@pytest.fixture
def captured() -> Iterator[Captured]:
    sink = Captured()
    log.set_up("info", "json", sink)
    # A logger that was used before would keep writing where it wrote then.
    structlog.configure(cache_logger_on_first_use=False)
    yield sink
    structlog.reset_defaults()


async def test_one_event_tells_the_story_of_a_request(captured: Captured) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        target = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
        for _ in range(2):
            answer = await exchange_bytes(app.port, f"GET {target} HTTP/1.1\r\nHost: me\r\n\r\n".encode())

        first, second = [event for event in captured.events() if event["event"] == "request"]
        assert (first["endpoint"], first["status"], first["source"], first["attempts"]) == ("kline", 200, "exchange", 1)
        assert first["cache"] == "fwd=uri-miss; fwd-status=200; stored"
        assert first["ret_code"] == 0
        assert (second["source"], second["cache"], second["status"]) == ("cache", "hit", 200)
        assert second["id"] == answer.get("X-Request-Id")
        assert second["bytes"] == len(answer.body)


async def test_planted_secrets_are_nowhere(captured: Captured) -> None:
    """Not in logs, metrics, limits or errors of our own, whatever goes wrong with a request that carries them."""
    echo = f'{{"retCode":10004,"retMsg":"error sign! origin_string[1{KEY}5000a=b]","result":{{}}}}'.encode()
    replies = [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(echo) + echo,
        b"HTTP/1.1 500 Oops " + KEY.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        b"garbage " + KEY.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + KEY.encode(),
    ]
    lines = (
        f"X-BAPI-API-KEY: {KEY}\r\nX-BAPI-SIGN: {SIGN}\r\nAuthorization: Bearer {TOKEN}\r\nCookie: token={TOKEN}\r\n"
        f"X-BAPI-TIMESTAMP: 99999999999999\r\n"
    )
    limits = [{"name": "key", "quota": "5/60s", "partition": ["api_key"], "counts": "requests"}]
    own: list[bytes] = []
    for raw in replies:
        async with recorder(answering(raw, close=True)) as upstream, gateway(upstream.url, limits=limits) as app:
            for method in ("GET", "POST"):
                for target in (f"/v5/account/info?api_key={KEY}&sign={SIGN}", f"/v5/{KEY}/x?token={TOKEN}"):
                    body = f'{{"apiKey":"{KEY}"}}' if method == "POST" else ""
                    request = (
                        f"{method} {target} HTTP/1.1\r\nHost: me\r\n{lines}Content-Length: {len(body)}\r\n\r\n{body}"
                    )
                    answer = await exchange_bytes(app.port, request.encode())
                    if answer.get("X-Gateway"):
                        own.append(answer.head + answer.body)
            bad = await exchange_bytes(app.port, f"GET /v5 x {KEY} HTTP/1.1\r\nX-BAPI-SIGN: {SIGN}\r\n\r\n".encode())
            own.append(bad.head + bad.body)
            pages = (b"/metrics", b"/gateway/limits", b"/health")
            own += [(await exchange_bytes(app.port, b"GET %b HTTP/1.1\r\nHost: me\r\n\r\n" % p)).body for p in pages]
            own.append(generate_latest(app.metrics.registry))
            own.append(repr(await app.store.usage()).encode())

    assert captured.written
    everything = b"".join(captured.written) + b"".join(own)
    for secret in (KEY, SIGN, TOKEN):
        assert secret.encode() not in everything


@pytest.mark.parametrize(
    "text",
    [
        "error sign! origin_string[1668{k}5000category=linear]",
        'error sign! origin_string[16685000{{"ids":["a"],"note":"{k}"}}]',
        "GET /v5/x?api_key={k}&a=b",
        "X-BAPI-API-KEY: {k}",
        '{{"secret": "{k}"}}',
        "Authorization: Bearer {k}",
        "redis://user:{k}@host:6379/0",
        "token={k}",
    ],
)
def test_what_looks_like_a_secret_is_cut_out(text: str) -> None:
    assert KEY not in log.redact_text(text.format(k=KEY))


def test_redaction_reaches_into_every_depth() -> None:
    event = {"event": "x", "a": [{"b": ("token=abc", 5)}], "c": SIGN}

    cleaned = str(log.redact(None, "info", event))

    assert "abc" not in cleaned
    assert SIGN not in cleaned


def test_a_reader_that_is_stuck_does_not_hold_up_anybody() -> None:
    """Lines beyond the bound are dropped and counted; nothing blocks."""
    reading, writing = os.pipe()
    sink = log.Sink(writing, max_lines=10)
    for _ in range(100_000):
        sink.put(b"x" * 100 + b"\n")

    assert sink.dropped > 0
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(_read_all(reading)))
    reader.start()
    sink.close(10)
    os.close(writing)
    reader.join(10)
    assert received
    assert set(bytes(received).splitlines()) == {b"x" * 100}
    os.close(reading)


def test_everything_written_before_the_end_arrives() -> None:
    reading, writing = os.pipe()
    sink = log.Sink(writing)
    for number in range(1_000):
        sink.put(b"%d\n" % number)
    sink.close(10)
    os.close(writing)

    assert _read_all(reading).splitlines() == [b"%d" % number for number in range(1_000)]
    os.close(reading)


def pieces_of(lines: list[bytes], *, shared: bool) -> list[bytes]:
    """Each write by itself: a socket of packets keeps them apart, where a pipe does not."""
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sink = log.Sink(writing.fileno(), shared=shared)
    for line in lines:
        sink.put(line)
    pieces: list[bytes] = []
    reader = threading.Thread(target=lambda: pieces.extend(iter(lambda: reading.recv(1 << 20), b"")))
    reader.start()
    sink.close(10)
    writing.close()
    reader.join(10)
    reading.close()
    return pieces


@given(st.lists(st.integers(1, 9_000).map(lambda length: b"x" * (length - 1) + b"\n"), min_size=1, max_size=20))
@settings(max_examples=20)
def test_several_processes_on_one_pipe_cannot_break_each_others_lines(lines: list[bytes]) -> None:
    """What goes into a pipe in pieces of at most PIPE_BUF is not torn apart: whole lines, as many as fit."""
    pieces = pieces_of(lines, shared=True)

    assert b"".join(pieces) == b"".join(lines)
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1
    for piece, following in pairwise(pieces):
        assert len(piece) + len(following.split(b"\n")[0]) + 1 > select.PIPE_BUF


def test_one_process_writes_a_burst_at_once() -> None:
    assert len(pieces_of([b"x" * 99 + b"\n"] * 500, shared=False)) < 10


def test_every_event_of_a_worker_tells_which_one_it_is() -> None:
    sink = Captured()
    log.set_up("info", "json", sink, worker=3)
    try:
        structlog.configure(cache_logger_on_first_use=False)
        structlog.get_logger().info("started")
        log.request_events()({"id": "1"})
    finally:
        structlog.reset_defaults()

    assert [(event["event"], event["worker"]) for event in sink.events()] == [("started", 3), ("request", 3)]


def test_the_level_can_be_set_for_a_while() -> None:
    """For the loggers of this program and of its libraries, which exist already; adopt() ends it."""
    sink = Captured()
    log.set_up("warning", "json", sink)
    try:
        structlog.configure(cache_logger_on_first_use=False)
        own, library = structlog.get_logger(), logging.getLogger("some.library")
        for level in (None, "debug", "error"):
            if level is not None:
                log.set_level(level)
            own.debug("small")
            library.info("of a library")
            log.request_events()({"id": "1"})
            log.request_events()({"id": "1"}, slow=True)
        assert (log.level(), log.form()) == ("error", "json")
        log.adopt("info", "console")
        assert (log.level(), log.form()) == ("info", "console")
    finally:
        structlog.reset_defaults()
        log.adopt("info", "json")

    assert [event["event"] for event in sink.events()] == [
        "slow_request",
        "small",
        "library",
        "request",
        "slow_request",
    ]


def test_of_what_a_library_says_only_the_first_line_is_written(captured: Captured) -> None:
    """On the others asyncio describes what has failed, with the text of its exception: that may hold anything."""
    error = RuntimeError(f"odd header {KEY}")
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=%r>", error, exc_info=error
    )

    (event,) = captured.events()
    assert (event["message"], event["error"]) == ("Task exception was never retrieved", "RuntimeError")
    assert KEY not in str(event)


def _read_all(descriptor: int) -> bytes:
    text = b""
    while piece := os.read(descriptor, 65_536):
        text += piece
    return text


@pytest.mark.parametrize(
    "text",
    [
        "r.yaml:3: admin.token: expected at least 8 characters",
        "cache.l2.secret: nothing secret seals what is kept in Redis",
        "store.password: expected a text, got 5",
    ],
)
def test_what_we_say_of_a_field_is_no_secret(text: str) -> None:
    assert log.redact_text(text) == text


@pytest.mark.parametrize("text", ["token: expectedly", "secret=nothing", 'password: "needs"', "token:expected"])
def test_a_secret_may_begin_like_our_own_words(text: str) -> None:
    assert "[redacted]" in log.redact_text(text)

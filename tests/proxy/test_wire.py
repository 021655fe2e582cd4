"""What the answers' own heads rely on in aiohttp's connection handling: framing, keep-alive, back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tests.gateway_fixture import gateway
from tests.raw_http import read_answer
from tests.recorder import answering, recorder

BODY = b"x" * 1000
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + BODY + b"\r\n0\r\n\r\n"
LONG = BODY * 100
LONG_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + LONG + b"\r\n0\r\n\r\n"


async def talk(port: int, *requests: bytes) -> tuple[list[dict[str, str | None]], bool]:
    """Send the requests on one connection, one after another; also: does the gateway keep it open?"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for request in requests:
        writer.write(request)
        answer = await asyncio.wait_for(read_answer(reader), 5)
        assert answer.body in {BODY, LONG}
        answers.append({name: answer.get(name) for name in ("Connection", "Content-Length", "Transfer-Encoding")})
    open_still = True
    with contextlib.suppress(TimeoutError):
        open_still = await asyncio.wait_for(reader.read(1), 0.1) != b""
    writer.close()
    return answers, open_still


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, LONG_CHUNKED])
async def test_connections_are_kept(raw: bytes) -> None:
    request = b"GET /v5/x HTTP/1.1\r\nHost: me\r\n\r\n"
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answers, open_still = await talk(app.port, request, request, request)

        assert [answer["Connection"] for answer in answers] == [None] * 3
        assert open_still
        assert upstream.connections == 1


async def test_a_short_answer_in_chunks_is_looked_into_like_any_other() -> None:
    """Its code is known to the log and the metrics, its clock is learned."""
    stamp = time.time_ns() // 1_000_000
    body = b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":%d}' % stamp
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with recorder(answering(raw)) as upstream, gateway(upstream.url, retry__enabled="false") as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(b"GET /v5/account/info HTTP/1.1\r\nHost: me\r\n\r\n")
        answer = await asyncio.wait_for(read_answer(reader), 5)
        writer.close()

        assert answer.body == body
        assert app.metrics.exchange_limited._value.get() == 1
        assert app.attempts.skew._samples


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, LONG_CHUNKED])
async def test_a_client_that_asks_for_the_end_gets_it(raw: bytes) -> None:
    request = b"GET /v5/x HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n"
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        answers, open_still = await talk(app.port, request)

        assert answers[0]["Connection"] == "close"
        assert not open_still


async def test_an_old_client_gets_no_chunks_and_the_end_of_the_connection_as_the_end() -> None:
    async with recorder(answering(LONG_CHUNKED)) as upstream, gateway(upstream.url) as app:
        answers, open_still = await talk(app.port, b"GET /v5/x HTTP/1.0\r\nHost: me\r\n\r\n")

        assert answers[0] == {"Connection": "close", "Content-Length": None, "Transfer-Encoding": None}
        assert not open_still


async def test_an_old_client_may_keep_its_connection_when_the_length_is_known() -> None:
    request = b"GET /v5/x HTTP/1.0\r\nHost: me\r\nConnection: keep-alive\r\n\r\n"
    async with recorder(answering(SIZED)) as upstream, gateway(upstream.url) as app:
        answers, open_still = await talk(app.port, request, request)

        assert [answer["Connection"] for answer in answers] == ["keep-alive"] * 2
        assert open_still


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_that_does_not_read_holds_up_only_itself(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Its answers are not piled up in memory: the next of its requests waits until it has taken the last.

    On the loop of production as well: both write an answer of several pieces in ways of their own.
    """
    run(late_reader())


async def late_reader() -> None:
    body = b"y" * 200_000
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body
    async with recorder(answering(raw)) as upstream, gateway(upstream.url) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=2**16)
        for _ in range(200):
            writer.write(b"GET /v5/x HTTP/1.1\r\nHost: me\r\n\r\n")
        seen = -1
        while len(upstream.seen) != seen:
            seen = len(upstream.seen)
            await asyncio.sleep(0.3)  # until nothing more is asked of the upstream

        assert seen < 100
        for _ in range(200):
            assert (await asyncio.wait_for(read_answer(reader), 10)).body == body
        assert len(upstream.seen) == 200
        writer.close()

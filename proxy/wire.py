"""Answers as bytes on the client's connection.

aiohttp's own responses add Content-Type, Date and Server where they are missing and rewrite what they know better; an
answer of the exchange must arrive as it was sent. These classes write their own heads. They rely on what aiohttp's
connection handler asks of a response (prepare, write_eof, keep_alive); tests/proxy/test_wire.py pins that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

PATIENCE_S: Final = 5.0
"""How long a client may take nothing of what is written to it."""

Pairs = Iterable[tuple[bytes, bytes]]

_CLOSE: Final = b"Connection: close\r\n\r\n"
_KEEP: Final = b"Connection: keep-alive\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"


@lru_cache(maxsize=256)
def status_line(status: int, reason: str | None = None) -> bytes:
    """A handful of statuses in practice; reasons are the upstream's to vary, so what is remembered is bounded."""
    if reason is None:
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = ""
    return f"HTTP/1.1 {status} {reason}\r\n".encode("utf-8", "surrogateescape")


def head(status: int, pairs: Pairs, reason: str | None = None) -> bytes:
    """Status line and header lines, without the blank line that ends them."""
    return b"".join((status_line(status, reason), *(b"%b: %b\r\n" % pair for pair in pairs)))


class Whole(web.StreamResponse):
    """A complete answer: one write. `head` is without its ending blank line, `body` is already framed by it."""

    def __init__(self, head_bytes: bytes, body: bytes, *, close: bool = False) -> None:
        # Not calling super().__init__: nothing of what it builds is used, and this is the hottest object there is.
        self._head_bytes = head_bytes
        self._body_bytes = body
        self._close = close
        self._keeps = False

    @property
    def keep_alive(self) -> bool | None:
        return self._keeps

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self._keeps = request.keep_alive and not self._close
        body = b"" if request.method == "HEAD" else self._body_bytes
        # One system call, and without a copy of the body: a tenth of a cache hit with a page of candles.
        transport.writelines((self._head_bytes, _ending(request, keeps=self._keeps), body))
        if request.protocol.writing_paused:
            await _drained(request)
        return None

    def give(self, transport: asyncio.Transport) -> None:
        """As prepare() does for a GET of HTTP/1.1 on a connection that is kept, but for the wait for its reader."""
        transport.writelines((self._head_bytes, b"\r\n", self._body_bytes))

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything is written by prepare()."""


class Stream(web.StreamResponse):
    """An answer that is passed on piece by piece, with the client's pace holding back the upstream's."""

    def __init__(self, head_bytes: bytes, *, length: int | None, patience_s: float = PATIENCE_S) -> None:
        self._head_bytes = head_bytes
        self._length = length
        self._patience_s = patience_s
        self._keeps = False

    @property
    def keep_alive(self) -> bool | None:
        return self._keeps

    async def send(self, request: web.BaseRequest, pieces: AsyncIterator[bytes]) -> int:
        """Write head and pieces; the answer is the number of body bytes. A break is passed on as a break."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        chunked = self._length is None and request.version >= HttpVersion11
        keeps = request.keep_alive and (chunked or self._length is not None)
        transport.write(b"".join((self._head_bytes, _CHUNKED if chunked else b"", _ending(request, keeps=keeps))))
        written = 0
        try:
            async for piece in pieces:
                if not piece:
                    continue  # an empty chunk is the last one
                written += len(piece)
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if request.protocol.writing_paused:
                    await _drained(request, self._patience_s)
        except BaseException:
            # The client must not take a part for the whole: no end of chunks, no further request on this connection.
            transport.abort()
            raise
        if chunked:
            transport.write(b"0\r\n\r\n")
        self._keeps = keeps
        return written

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Everything was written by send()."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything was written by send()."""


class Gone(web.StreamResponse):
    """Nothing more to say: the connection is broken, or was broken off on purpose."""

    def __init__(self) -> None:
        pass

    @property
    def keep_alive(self) -> bool | None:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


async def _drained(request: web.BaseRequest, patience_s: float = PATIENCE_S) -> None:
    """Wait until the client has taken what is written. One that does not is let go: it holds a connection upstream."""
    try:
        async with asyncio.timeout(patience_s):
            await request.writer.drain()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None


def _ending(request: web.BaseRequest, *, keeps: bool) -> bytes:
    if not keeps:
        return _CLOSE
    return b"\r\n" if request.version >= HttpVersion11 else _KEEP

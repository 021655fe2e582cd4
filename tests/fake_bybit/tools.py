"""Paths that Bybit does not have: mirrors and measuring tools for whoever tests a proxy or a client."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from aiohttp import web

from tests.fake_bybit.answers import Answer
from tests.fake_bybit.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multidict import CIMultiDict

ECHO = "/v5/echo"
REDIRECT = "/v5/redirect"
LARGE = "/v5/large"
OWN_PATHS = (ECHO, REDIRECT, LARGE)

_BLOCK = bytes(range(256)) * 256
_LARGEST = 4 << 30


def echo(request: web.BaseRequest, body: bytes) -> Reply:
    """The request as it came in: the target unparsed, header names in their case, duplicates apart."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    return Reply(
        result={
            "method": request.method,
            "target": request.raw_path,
            "headers": headers,
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "body_length": len(body),
        }
    )


def redirect(query: str) -> Answer:
    """A redirect that nobody should follow by himself: `?to=` and `?status=`, by default 302."""
    asked = parse_qs(query)
    status = asked.get("status", ["302"])[0]
    to = asked.get("to", ["/v5/market/time"])[0]
    known = status in ("301", "302", "303", "307", "308")
    safe = "".join(letter for letter in to if letter.isprintable())
    return Answer(int(status) if known else 302, content_type="text/plain", headers=[("Location", safe)])


def large_size(query: str) -> int | None:
    """How much `?bytes=` asks for, or None when that is no number."""
    text = parse_qs(query).get("bytes", ["0"])[0]
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    return size if 0 <= size <= _LARGEST else None


def large_body(size: int) -> Iterator[bytes]:
    """Byte i is i modulo 256."""
    for start in range(0, size, len(_BLOCK)):
        yield _BLOCK[: size - start]


async def send_large(request: web.BaseRequest, query: str, size: int, headers: CIMultiDict[str]) -> web.StreamResponse:
    """Stream it, with a Content-Length unless the query has `chunked=1`."""
    response = web.StreamResponse(headers=headers)
    if "chunked=1" in query:
        response.enable_chunked_encoding()
    else:
        response.content_length = size
    await response.prepare(request)
    for block in large_body(size):
        await response.write(block)
    await response.write_eof()
    return response

"""The body of a client's request: read whole, bounded in size and time, before anything is spent on it.

A permit must not be held while a client dribbles, and a signed body is forwarded from the very bytes that came in.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import Malformed


class BodyLimits(NamedTuple):
    max_bytes: int
    timeout_us: int


async def read(request: web.BaseRequest, limits: BodyLimits) -> bytes:
    """All bytes of the body, as framed by the client and not decoded. Raises Malformed."""
    if not request.body_exists:
        return b""
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise Malformed(501, "transfer-coding", "of the transfer codings only chunked is understood")
    length = request.content_length
    if length is not None and length > limits.max_bytes:
        raise Malformed(413, "body-too-large", f"the body is longer than {limits.max_bytes} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(limits.timeout_us / 1e6):
            return await _pieces(request, limits.max_bytes)
    except TimeoutError:
        raise Malformed(408, "body-timeout", "the body did not arrive in time") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Malformed(400, "bad-body", "the body is not framed as its headers say") from None


async def _pieces(request: web.BaseRequest, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await request.content.readany():
        size += len(piece)
        if size > max_bytes:
            raise Malformed(413, "body-too-large", f"the body is longer than {max_bytes} bytes")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

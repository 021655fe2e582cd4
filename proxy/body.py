"""The body of a client's request: read whole, bounded in size and time, before anything is spent on it.

A permit must not be held while a client dribbles, and a signed body is forwarded from the very bytes that came in.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import Malformed


class BodyLimits:
    """Bounds of one body, and of all that are held at one time."""

    def __init__(self, max_bytes: int, timeout_us: int, max_total_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.timeout_us = timeout_us
        self.max_total_bytes = max_total_bytes
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Count bytes that have come in. Raises Malformed when there are too many of all clients together."""
        if self.held_bytes + size > self.max_total_bytes:
            raise Malformed(503, "too-many-bodies", "too many request bodies at one time; try again")
        self.held_bytes += size

    def release(self, size: int) -> None:
        self.held_bytes -= size


async def read(request: web.BaseRequest, limits: BodyLimits) -> bytes:
    """All bytes of the body, as framed by the client and not decoded. Raises Malformed.

    The bytes of a body that was read count as held until the caller releases them.
    """
    if not request.body_exists:
        return b""
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise Malformed(501, "transfer-coding", "of the transfer codings only chunked is understood")
    length = request.content_length
    if length is not None and length > limits.max_bytes:
        raise _too_large(limits)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(limits.timeout_us / 1e6):
            return await _pieces(request, limits)
    except TimeoutError:
        raise Malformed(408, "body-timeout", "the body did not arrive in time") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Malformed(400, "bad-body", "the body is not framed as its headers say") from None


async def _pieces(request: web.BaseRequest, limits: BodyLimits) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := await request.content.readany():
            limits.hold(len(piece))
            size += len(piece)
            if size > limits.max_bytes:
                raise _too_large(limits)
            pieces.append(piece)
    except BaseException:
        limits.release(size)
        raise
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limits: BodyLimits) -> Malformed:
    return Malformed(413, "body-too-large", f"the body is longer than {limits.max_bytes} bytes")

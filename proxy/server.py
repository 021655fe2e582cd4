"""The listening side: aiohttp's low-level server, set up so that it changes nothing and explains what it refuses."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong
from aiohttp.http_parser import RawRequestMessage

from proxy import errors
from proxy.clock import Clock
from proxy.config import ListenSection
from proxy.errors import Malformed
from proxy.metrics import Metrics

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(web.RequestHandler):
    """One connection of a client. What cannot be read as HTTP is answered in our shapes, and never as a traceback."""

    __slots__ = ("_clock", "_metrics")

    def __init__(self, manager: web.Server, *, clock: Clock, metrics: Metrics, **options: Any) -> None:
        super().__init__(manager, **options)
        self._clock = clock
        self._metrics = metrics

    def retire(self) -> None:
        """The answer to what it is asked at present is its last."""
        if self._current_request is not None:
            self._current_request._message = _last(self._current_request._message)  # noqa: SLF001  # fixed at its birth

    def end_idle(self) -> None:
        """Close it, if nothing is under way on it; else it ends by itself."""
        waiter, request = self._waiter, self._current_request
        if waiter is not None and not waiter.done() and not self._messages:
            self.force_close()
        elif request is not None and request.content.is_eof() and not self._upgraded:
            self._close = True  # its answer may have begun before it could say that it is the last

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # of a request that could not be read
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes what the client sent
    ) -> web.StreamResponse:
        request_id = secrets.token_hex(8).encode()
        if status >= 500 or not isinstance(exc, BadHttpMessage):
            self._metrics.errors.labels("internal-error").inc()
            error = None if exc is None else type(exc).__name__
            structlog.get_logger().error("internal_error", id=request_id.decode(), error=error)
            return errors.internal(request_id)
        self._metrics.errors.labels("bad-http").inc()
        return errors.malformed(_explained(exc), request_id, self._clock() // 1000)


class TrafficServer(web.Server):
    """A protocol factory whose connections explain themselves, and come to an end one by one."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._open: set[_Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._retired = False

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if isinstance(handler, _Connection):
            self._open.add(handler)
            self._nobody.clear()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if isinstance(handler, _Connection):
            self._open.discard(handler)
        if not self._open:
            self._nobody.set()

    def retire(self) -> None:
        """From now on every answer says `Connection: close`."""
        self._retired = True
        for connection in self._open:
            connection.retire()

    def end_idle(self) -> None:
        """Close connections on which nothing is under way; the others end with what they are busy with."""
        for connection in tuple(self._open):
            connection.end_idle()

    async def left(self) -> None:
        """When there is no connection any more."""
        await self._nobody.wait()

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        if self._retired:
            message = _last(message)
        return super()._make_request(message, payload, protocol, writer, task)


def _last(message: RawRequestMessage) -> RawRequestMessage:
    """A request of a client that wants to send none after it, as far as answers are concerned."""
    return message._replace(should_close=True)


def traffic_server(handler: Handler, settings: ListenSection, clock: Clock, metrics: Metrics) -> TrafficServer:
    """The server for clients' requests. A client that hangs up cancels the handling of its request."""
    return TrafficServer(
        handler,
        handler_cancellation=True,
        access_log=None,
        logger=logging.getLogger("proxy.server"),
        auto_decompress=False,  # a compressed body is signed as it is
        keepalive_timeout=settings.keepalive / 1e6,
        lingering_time=1.0,
        max_line_size=settings.max_target,
        max_field_size=settings.max_header,
        max_headers=settings.max_headers,
        clock=clock,
        metrics=metrics,
    )


def _explained(error: BadHttpMessage) -> Malformed:
    if isinstance(error, LineTooLong):
        return Malformed(431, "head-too-large", "the request line or a header is longer than this gateway takes")
    if isinstance(error, BadHttpMethod):
        return Malformed(400, "bad-http", "this is not HTTP/1.1 (TLS spoken to a plain port?)")
    first_line = error.message.partition("\n")[0].strip(" :")
    return Malformed(400, "bad-http", f"not readable as HTTP/1.1: {first_line}")

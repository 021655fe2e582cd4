"""The listening side: aiohttp's low-level server, set up so that it changes nothing and explains what it refuses."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong

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
    """A protocol factory whose connections explain themselves."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


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

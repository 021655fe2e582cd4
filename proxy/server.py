"""The listening side: aiohttp's low-level server, set up so that it changes nothing and explains what it refuses.

What can be answered without a wait is answered as it is read, on a connection where nothing else is under way: a task
for each request, and the event loop's way there and back, cost more than a kept answer does. All else goes the long
way, as if nobody had looked. What this relies on in aiohttp is pinned by tests/proxy/test_at_once.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.hdrs import UPGRADE
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import MultiMapping

from proxy import errors
from proxy.clock import Clock
from proxy.config import ListenSection
from proxy.errors import Malformed
from proxy.metrics import Metrics
from proxy.wire import PATIENCE_S, Whole

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
AtOnce = Callable[[str, str, MultiMapping[str]], Whole | None]
"""For a GET without a body: its target, the address of its connection, its headers. None: nothing was done for it."""


class _Connection(web.RequestHandler):
    """One connection of a client. What cannot be read as HTTP is answered in our shapes, and never as a traceback."""

    __slots__ = ("_at_once", "_clock", "_metrics", "_unread")

    def __init__(
        self, manager: web.Server, *, at_once: AtOnce | None, clock: Clock, metrics: Metrics, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._at_once = at_once
        self._clock = clock
        self._metrics = metrics
        self._unread: asyncio.TimerHandle | None = None
        if at_once is not None:
            self._parser: Any = _Interceptor(self._parser, self._answered_at_once)

    def retire(self) -> None:
        """The answer to what it is asked at present is its last."""
        self._at_once = None
        if self._current_request is not None:
            self._current_request._message = _last(self._current_request._message)  # noqa: SLF001  # fixed at its birth

    def end_idle(self) -> None:
        """Close it, if nothing is under way on it; else it ends by itself."""
        waiter, request = self._waiter, self._current_request
        if waiter is not None and not waiter.done() and not self._messages:
            self.force_close()
        elif request is not None and request.content.is_eof() and not self._upgraded:
            self._close = True  # its answer may have begun before it could say that it is the last

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._forget_unread()
            self._put_off_the_end()
            self._resume_reading_for_buffer()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._forget_unread()

    def _answered_at_once(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Whether a request has been answered as it was read: then nobody else may hear of it."""
        waiter, transport, peer = self._waiter, self.transport, self.peername
        idle = waiter is not None and not waiter.done() and not self._messages and not self._paused
        if self._at_once is None or not idle or not _is_everyday(message, payload):
            return False
        if transport is None or not isinstance(peer, tuple):
            return False
        whole = self._at_once(message.path, peer[0], message.headers)
        if whole is None:
            return False
        whole.give(transport)
        self._put_off_the_end()
        if self._paused:  # no more is heard of who does not take what he has asked for
            self._unread = self._loop.call_later(PATIENCE_S, transport.abort)
            self._next_keepalive_close_time += PATIENCE_S  # it is not idle before that
            self._pause_reading_for_buffer()
        return True

    def _put_off_the_end(self) -> None:
        """An idle connection ends so long after its last answer."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

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


class _Interceptor:
    """Stands before aiohttp's parser, and lets out every request but those that `answered` says yes to."""

    def __init__(self, parser: Any, answered: Callable[[RawRequestMessage, StreamReader], bool]) -> None:
        self._parser = parser
        self._answered = answered
        self._feed = parser.feed_data
        self.message_consumed = parser.message_consumed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[Sequence[tuple[RawRequestMessage, StreamReader]], bool, bytes]:
        messages, upgraded, rest = self._feed(data)
        if len(messages) == 1 and self._answered(*messages[0]):
            self.message_consumed()
            messages = ()
        return messages, upgraded, rest


class TrafficServer(web.Server):
    """A protocol factory whose connections explain themselves, and come to an end one by one."""

    def __init__(self, handler: Handler, *, at_once: AtOnce | None = None, **options: Any) -> None:
        super().__init__(handler, **options)
        self._at_once = at_once
        self._open: set[_Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._retired = False

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, at_once=self._at_once, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if isinstance(handler, _Connection):
            self._open.add(handler)
            self._nobody.clear()
            if self._retired:  # while it was made
                handler.retire()

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


def _is_everyday(message: RawRequestMessage, payload: StreamReader) -> bool:
    """A GET without a body of somebody who will ask more of HTTP/1.1."""
    return (
        message.method == "GET"
        and payload is EMPTY_PAYLOAD
        and not message.should_close
        and message.version == HttpVersion11
        and UPGRADE not in message.headers
    )


def traffic_server(
    handler: Handler, settings: ListenSection, clock: Clock, metrics: Metrics, at_once: AtOnce | None = None
) -> TrafficServer:
    """The server for clients' requests. A client that hangs up cancels the handling of its request."""
    return TrafficServer(
        handler,
        at_once=at_once,
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
    if "Too many headers" in error.message:
        return Malformed(431, "head-too-large", "there are more headers than this gateway takes (listen.max_headers)")
    if isinstance(error, BadHttpMethod):
        why = "TLS spoken to a plain port" if "HTTPS" in error.message else "no method of HTTP, which has capitals: GET"
        return Malformed(400, "bad-http", f"not readable as HTTP/1.1: {why}")
    first_line = error.message.partition("\n")[0].strip(" :")
    return Malformed(400, "bad-http", f"not readable as HTTP/1.1: {first_line}")

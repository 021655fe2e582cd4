"""The state of the gateway as a stream of events, to everybody who watches.

One snapshot a second is made for all of them together, and none while nobody watches. A viewer has no queue: whoever
reads slowly gets the latest snapshot when he is ready for one. As the gateway drains all streams end, so that nobody's
curiosity holds it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from proxy import errors
from proxy.clock import Sleep
from proxy.wire import Stream, head

EVERY_S: Final = 1.0
VIEWERS: Final = 50
_HEARTBEAT_S: Final = 10.0
_PATIENCE_S: Final = 10.0
_RETRY_MS: Final = 2_000


class Live:
    """`take` makes a snapshot; what it raises costs that snapshot and nothing else."""

    def __init__(
        self,
        take: Callable[[], Awaitable[Mapping[str, Any]]],
        sleep: Sleep,
        *,
        viewers: int = VIEWERS,
        heartbeat_s: float = _HEARTBEAT_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._take = take
        self._sleep = sleep
        self._most = viewers
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._watched = asyncio.Event()
        self._news = asyncio.Event()
        self._latest = b""
        self._number = 0
        self._ended = False
        self.viewers = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._watched.wait()
            await self._publish()
            await self._sleep(EVERY_S)

    async def end(self) -> None:
        """Tell everybody how it stands at last, and let them go; nobody is let in any more."""
        if self.viewers:
            await self._publish()
        self._ended = True
        self._wake()

    async def events(self, request: web.BaseRequest, request_id: bytes) -> web.StreamResponse:
        """GET: the stream."""
        if request.method != "GET":
            return errors.plain(405, "method-not-allowed", "This stream can only be read.", request_id)
        if self._ended:
            return errors.plain(503, "draining", "The gateway is ending.", request_id)
        if self.viewers >= self._most:
            return errors.plain(503, "too-many-viewers", "Too many are watching already.", request_id)
        lines = [
            (b"Content-Type", b"text/event-stream; charset=utf-8"),
            (b"Cache-Control", b"no-store"),
            (b"X-Accel-Buffering", b"no"),  # nginx would keep the events until it has a page of them
            (b"X-Gateway", b"own-page"),
            (b"X-Request-Id", request_id),
        ]
        stream = Stream(head(200, lines), length=None, patience_s=self._patience_s)
        self._enter()
        try:
            await stream.send(request, self._pieces())
        finally:
            self._leave()
        return stream

    def _enter(self) -> None:
        self.viewers += 1
        if self.viewers == 1:
            self._latest = b""  # of some time ago
        self._watched.set()

    def _leave(self) -> None:
        self.viewers -= 1
        if not self.viewers:
            self._watched.clear()

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % _RETRY_MS
        seen = 0
        while True:
            if self._latest and self._number != seen:
                seen = self._number
                yield self._latest
            elif self._ended:
                return
            else:
                news = self._news
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await news.wait()
                except TimeoutError:
                    yield b": nothing new\n\n"

    async def _publish(self) -> None:
        try:
            snapshot = orjson.dumps(await self._take())
        except Exception as error:  # noqa: BLE001  # whatever it is: the next may succeed
            structlog.get_logger().error("snapshot_failed", error=type(error).__name__)
            return
        self._number += 1
        self._latest = b"id: %d\nevent: snapshot\ndata: %b\n\n" % (self._number, snapshot)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

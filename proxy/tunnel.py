"""One WebSocket connection of a client and its counterpart at the exchange: what one side says, the other hears.

Messages pass whole and unread, pings and pongs too, so that each side finds out by itself whether the other lives. A
side that reads slowly is not read ahead for: its counterpart waits, and the exchange sees that as it would without us.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any, NamedTuple

import aiohttp
from aiohttp import WSMsgType, web

from policies.stream_paths import GOING_AWAY, INTERNAL, NORMAL, close_code
from proxy.tally import TallyCounter

Side = web.WebSocketResponse[bool] | aiohttp.ClientWebSocketResponse[bool]


class Ended(StrEnum):
    """Who has ended a connection."""

    CLIENT = "client"
    EXCHANGE = "exchange"
    CLIENT_GONE = "client-gone"
    EXCHANGE_LOST = "stream-lost"
    DRAINED = "drained"


class End(NamedTuple):
    """`code` and `reason` are what the other side is to be told."""

    by: Ended
    code: int
    reason: bytes = b""


class Tunnel:
    """run() until one of them ends it. `to_client` and `from_client` count bytes."""

    def __init__(self, client: Side, exchange: Side, endpoint: str, messages: TallyCounter) -> None:
        self.to_client = self.from_client = 0
        self._client = client
        self._exchange = exchange
        self._messages = messages
        self._labels_out, self._labels_in = (endpoint, "out"), (endpoint, "in")
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        """The gateway ends."""
        self._ends(End(Ended.DRAINED, GOING_AWAY, b"the gateway is shutting down"))

    async def run(self) -> End:
        """Both sides are closed when it returns."""
        try:
            async with asyncio.TaskGroup() as group:
                works = [group.create_task(work) for work in (self._listen_to_client(), self._listen_to_exchange())]
                end = await self._end
                for work in works:
                    work.cancel()
            await self._close(end)
        except asyncio.CancelledError:
            # The server has noticed that the client is gone, or will wait no longer for the end.
            await _closed(self._exchange, GOING_AWAY, b"")
            raise
        return end

    async def _close(self, end: End) -> None:
        if end.by in {Ended.EXCHANGE, Ended.EXCHANGE_LOST, Ended.DRAINED}:
            await _closed(self._client, end.code, end.reason)
            await _closed(self._exchange, NORMAL if end.by is not Ended.DRAINED else GOING_AWAY, b"")
        else:
            await _closed(self._exchange, end.code, end.reason)
            await _closed(self._client, end.code, b"")

    async def _listen_to_client(self) -> None:
        while True:
            message = await self._client.receive()
            size = await self._passed_on(message, self._exchange)
            if size is None:
                self._ends(_end(message, Ended.CLIENT, Ended.CLIENT_GONE))
                return
            self.from_client += size
            self._messages.counts[self._labels_in] += 1

    async def _listen_to_exchange(self) -> None:
        while True:
            message = await self._exchange.receive()
            size = await self._passed_on(message, self._client)
            if size is None:
                self._ends(_end(message, Ended.EXCHANGE, Ended.EXCHANGE_LOST))
                return
            self.to_client += size
            self._messages.counts[self._labels_out] += 1

    async def _passed_on(self, message: Any, sink: Side) -> int | None:
        """How many bytes; None when it was the last. A sink that is gone is noticed by who listens to it."""
        data: bytes = message.data
        try:
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    await sink.send_frame(data, message.type)
                case WSMsgType.PING:
                    await sink.ping(data)
                case WSMsgType.PONG:
                    await sink.pong(data)
                case _:
                    return None
        except ConnectionError:
            return 0
        return len(data)

    def _ends(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)


def _end(message: Any, closed: Ended, lost: Ended) -> End:
    """By its last message: a close frame, or none."""
    if message.type is WSMsgType.CLOSE:
        return End(closed, close_code(message.data), (message.extra or "").encode())
    if isinstance(message.data, aiohttp.WebSocketError):  # too long, or no WebSocket any more
        return End(lost, close_code(message.data.code))
    return End(lost, INTERNAL if lost is Ended.EXCHANGE_LOST else GOING_AWAY)


async def _closed(side: Side, code: int, reason: bytes) -> None:
    """Whatever has become of it."""
    try:
        await side.close(code=code, message=reason)
    except (ConnectionError, RuntimeError, aiohttp.ClientError):
        return

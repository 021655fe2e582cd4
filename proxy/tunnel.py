"""One WebSocket connection of a client and its counterpart at the exchange: what one side says, the other hears.

Messages pass whole and unread, pings and pongs too, so that each side finds out by itself whether the other lives. A
side that reads slowly is not read ahead for: its counterpart waits, and sees that as it would without us. One that does
not read at all for long is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType, web

from policies.stream_paths import GOING_AWAY, INTERNAL, NORMAL, close_code
from proxy.tally import TallyCounter

CLOSE_S: Final = 2.0
"""How long a side that is told of the end is waited for."""
_PATIENCE_S: Final = 30.0
"""How long a side may take none of what is said to it."""

Socket = web.WebSocketResponse[bool] | aiohttp.ClientWebSocketResponse[bool]


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


@dataclass(eq=False, slots=True)
class Side:
    """One end of a tunnel. `heard` counts bytes that it was told."""

    socket: Socket
    leave: Callable[[], None]
    """Gives it up at once, with all that it has not taken."""
    closes: Ended
    """What it is called when it says that it ends,"""
    goes: Ended
    """and when it does not."""
    patience_s: float = _PATIENCE_S
    heard: int = 0
    blocked: bool = False
    """It is being told something."""

    async def tell(self, message: Any) -> bool:
        """Pass a message on to it. False: that was none, but the end of the other side. Raises ConnectionError when it
        is gone, or takes nothing."""
        data: bytes = message.data
        self.blocked = True
        try:
            async with asyncio.timeout(self.patience_s):
                match message.type:
                    case WSMsgType.TEXT | WSMsgType.BINARY:
                        await self.socket.send_frame(data, message.type)
                    case WSMsgType.PING:
                        await self.socket.ping(data)
                    case WSMsgType.PONG:
                        await self.socket.pong(data)
                    case _:
                        self.blocked = False
                        return False
        except TimeoutError:
            raise ConnectionResetError("it takes nothing") from None
        self.blocked = False
        self.heard += len(data)
        return True

    async def close(self, code: int, reason: bytes) -> None:
        """Whatever has become of it. One that was being told something cannot be told of the end."""
        try:
            if not self.blocked:
                async with asyncio.timeout(2 * CLOSE_S):
                    await self.socket.close(code=code, message=reason)
        except (TimeoutError, ConnectionError, RuntimeError, aiohttp.ClientError):
            pass
        finally:
            self.leave()  # what it was told and does not read would be kept for it as long as it stays


class Tunnel:
    """run() until one of them ends it."""

    def __init__(self, client: Side, exchange: Side, endpoint: str, messages: TallyCounter) -> None:
        self.client = client
        self.exchange = exchange
        self._messages = messages
        self._labels = {id(client): (endpoint, "out"), id(exchange): (endpoint, "in")}
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> Ended | None:
        """By whom; None while it stands."""
        return self._end.result().by if self._end.done() and not self._end.cancelled() else None

    def drain(self) -> None:
        """The gateway ends."""
        self._ends(End(Ended.DRAINED, GOING_AWAY, b"the gateway is shutting down"))

    async def run(self) -> End:
        """Both sides are closed when it returns."""
        try:
            async with asyncio.TaskGroup() as group:
                works = [
                    group.create_task(self._pass_on(self.client, self.exchange)),
                    group.create_task(self._pass_on(self.exchange, self.client)),
                ]
                end = await self._end
                for work in works:
                    work.cancel()
            await self._close(end)
        except asyncio.CancelledError:
            # The server has noticed that the client is gone, or will wait no longer for the end.
            await self.exchange.close(GOING_AWAY, b"")
            raise
        return end

    async def _close(self, end: End) -> None:
        """Who has not ended it is told first, and why."""
        to_exchange = NORMAL if end.by in {Ended.EXCHANGE, Ended.EXCHANGE_LOST} else end.code
        reason = b"" if end.by is Ended.DRAINED else end.reason
        async with asyncio.TaskGroup() as group:
            group.create_task(self.client.close(end.code, end.reason))
            group.create_task(self.exchange.close(to_exchange, reason))

    async def _pass_on(self, source: Side, sink: Side) -> None:
        labels = self._labels[id(sink)]
        while True:
            message: Any = await source.socket.receive()
            try:
                if not await sink.tell(message):
                    self._ends(_end(message, source))
                    return
            except ConnectionError:
                self._ends(End(sink.goes, _code_of_loss(sink)))
                return
            self._messages.counts[labels] += 1

    def _ends(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)


def _end(message: Any, side: Side) -> End:
    """By its last message: a close frame, or none."""
    if message.type is WSMsgType.CLOSE:
        return End(side.closes, close_code(message.data), (message.extra or "").encode())
    if isinstance(message.data, aiohttp.WebSocketError):  # too long, or no WebSocket any more
        return End(side.goes, close_code(message.data.code))
    return End(side.goes, _code_of_loss(side))


def _code_of_loss(side: Side) -> int:
    return INTERNAL if side.goes is Ended.EXCHANGE_LOST else GOING_AWAY

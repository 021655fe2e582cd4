"""The public WebSocket streams: handshakes, requests, pushes. bybit.md 4.2 to 4.6.

Each connection has two hands. One answers what the client says. The other looks at the exchange's clock every few
milliseconds and pushes what is due by it, so that a clock that is set forward pushes at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
from aiohttp import WSMsgType, web

from tests.fake_bybit import answers
from tests.fake_bybit import stream_words as words
from tests.fake_bybit.kline_topic import KlineTopic, kline_topic
from tests.fake_bybit.stream_book import StreamBook

if TYPE_CHECKING:
    import random

    from tests.fake_bybit.answers import Answer
    from tests.fake_bybit.call import Call, Clock
    from tests.fake_bybit.settings import Settings

_LOOK_S: Final = 0.01  # of real time, whatever the exchange's clock does
_CLOSE_S: Final = 1.0


@dataclass(eq=False)
class Connection:
    """One client on one category. A topic that pushes nothing (options, spreads) has no KlineTopic."""

    category: str
    ip: str
    conn_id: str
    request: web.BaseRequest
    socket: web.WebSocketResponse
    alive_us: int
    topics: dict[str, KlineTopic | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON for the control port."""
        return {"conn_id": self.conn_id, "category": self.category, "ip": self.ip, "topics": list(self.topics)}


class Streams:
    """All connections. `clock` counts the limits, `now_us` is what the exchange says the time is."""

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int,
        clock: Clock,
        now_us: Clock,
        ids: random.Random,
        stopping: asyncio.Event,
    ) -> None:
        self.connections: list[Connection] = []
        self._settings = settings
        self._seed = seed
        self._clock = clock
        self._now_us = now_us
        self._ids = ids
        self._stopping = stopping
        self.reset()

    def reset(self) -> None:
        """Forget the counts. Connections stay."""
        self.book = StreamBook(self._settings)

    # --- by remote control ---

    def drop(self, category: str | None = None, how: Literal["reset", "close"] = "reset") -> int:
        """End connections, by RST or by FIN without a close frame. The answer is how many there were."""
        chosen = self._chosen(category)
        for connection in chosen:
            transport = connection.request.transport
            if transport is not None:
                answers.reset(transport) if how == "reset" else transport.close()
        return len(chosen)

    async def say(self, text: str, category: str | None = None) -> int:
        """Send any text to everybody, garbage included."""
        chosen = self._chosen(category)
        for connection in chosen:
            await _send(connection, text.encode())
        return len(chosen)

    async def replay(self, category: str | None = None) -> int:
        """Send the oldest remembered message of every topic once more. The answer is how many there were."""
        old = [
            (connection, topic.sent[0])
            for connection in self._chosen(category)
            for topic in connection.topics.values()
            if topic is not None and topic.sent
        ]
        for connection, message in old:
            await _send(connection, message)
        return len(old)

    def _chosen(self, category: str | None) -> list[Connection]:
        return [each for each in self.connections if category in (None, each.category)]

    # --- a connection ---

    async def serve(self, call: Call, category: str) -> web.WebSocketResponse | Answer:
        """Shake hands and stay until one side ends it; or the answer to what is no handshake, or one too many."""
        now_us, ip = self._clock(), call.entry.ip
        socket = web.WebSocketResponse(timeout=_CLOSE_S, compress=False)
        if call.method != "GET" or not socket.can_prepare(call.request):
            return answers.Answer(400, b"Bad Request\n", "text/plain")  # not documented
        active = sum(each.ip == ip for each in self._chosen(category))
        if not self.book.admit(ip, category, active, now_us):
            return answers.banned(self._settings)  # bybit.md 4.3: a breach is a handshake 403
        call.entry.status = 101
        # In the list before the first await: two handshakes must not take the same place.
        conn_id = f"{self._ids.getrandbits(128):032x}"
        connection = Connection(category, ip, conn_id, call.request, socket, now_us)
        self.connections.append(connection)
        try:
            await socket.prepare(call.request)
            async with asyncio.TaskGroup() as group:
                pushing = group.create_task(self._push(connection))
                await self._listen(connection)
                pushing.cancel()
        finally:
            self.connections.remove(connection)
        return socket

    async def _listen(self, connection: Connection) -> None:
        async for message in connection.socket:
            connection.alive_us = self._clock()
            if self._settings.stream_silent:
                continue
            await asyncio.sleep(self._settings.stream_answer_us / 1e6)
            if message.type is not WSMsgType.TEXT or not await self._answer(connection, _object(message.data)):
                break
        await connection.socket.close()

    async def _push(self, connection: Connection) -> None:
        while not connection.socket.closed:
            now_us = self._clock()
            if connection.topics and not self._settings.stream_silent:
                await self._push_due(connection, now_us)
            # bybit.md 4.4: no ping and no data is cut after ten minutes
            idle = now_us - connection.alive_us >= self._settings.stream_idle_us
            transport = connection.request.transport
            if (self._stopping.is_set() or idle) and transport is not None:
                transport.close()
                return
            await asyncio.sleep(_LOOK_S)

    async def _push_due(self, connection: Connection, now_us: int) -> None:
        counts = self.book.of(connection.category)
        for name, topic in list(connection.topics.items()):
            for message, confirms in topic.due(self._now_us()) if topic is not None else ():
                await _send(connection, message)
                connection.alive_us = now_us
                counts.pushes += 1
                counts.confirmed[name] += confirms

    async def _answer(self, connection: Connection, asked: dict[str, Any]) -> bool:
        """Answer one request; False when the connection is to be closed for it."""
        category, op, args = connection.category, asked.get("op"), asked.get("args")
        req_id = asked.get("req_id") if isinstance(asked.get("req_id"), str) else None
        if op == "ping":
            self.book.of(category).pings += 1
            await _send(connection, words.pong(category, connection.conn_id, req_id, self._now_us() // 1000))
            return True
        if op not in ("subscribe", "unsubscribe") or not _texts(args):
            what = op if isinstance(op, str) else ""
            await _send(connection, words.refused(category, connection.conn_id, req_id, what, words.NOT_UNDERSTOOD))
            return True
        if op == "unsubscribe":
            gone = [topic for topic in args if topic in connection.topics]
            for topic in gone:
                del connection.topics[topic]
            self.book.of(category).unsubscribed.update(gone)
            await _send(connection, words.done(category, connection.conn_id, req_id, op, args))
            return True
        return await self._subscribe(connection, req_id, args)

    async def _subscribe(self, connection: Connection, req_id: str | None, args: list[str]) -> bool:
        category, counts = connection.category, self.book.of(connection.category)
        counts.largest_request = max(counts.largest_request, len(args))
        if (why := self._over_limit(connection, args)) is not None:
            if self._settings.stream_over_limit == "close":
                return False
            await _send(connection, words.refused(category, connection.conn_id, req_id, "subscribe", why))
            return True
        begun, bad, why = self._begun(connection, args)
        counts.refused_topics.update(bad)
        if category in ("option", "spread"):
            told = words.command(connection.conn_id, list(begun), bad)
        elif why is None:
            told = words.done(category, connection.conn_id, req_id, "subscribe", args)
        else:
            told = words.refused(category, connection.conn_id, req_id, "subscribe", why)
            if self._settings.stream_bad_topic == "all":
                begun = {}
        counts.subscribed.update(begun.keys() - connection.topics.keys())
        # First the word, then the data: the other hand sends as soon as the topic stands.
        await _send(connection, told)
        connection.topics.update(begun)
        return True

    def _begun(
        self, connection: Connection, args: list[str]
    ) -> tuple[dict[str, KlineTopic | None], list[str], str | None]:
        """The topics that are good, those that are not, and the reason for the first of these."""
        category, why = connection.category, None
        begun: dict[str, KlineTopic | None] = {}
        bad: list[str] = []
        for name in args:
            if name in connection.topics or name in begun:
                # posted from linear only; on spot nobody complains of it
                if category in ("linear", "inverse"):
                    why = why or words.repeated_topic(name)
                continue
            topic = kline_topic(category, name, self._seed, self._settings, self._now_us())
            if topic is None and category not in ("option", "spread"):
                why = why or words.bad_topic(category, name)
                bad.append(name)
            elif "." not in name:
                bad.append(name)
            else:
                begun[name] = topic
        return begun, bad, why

    def _over_limit(self, connection: Connection, args: list[str]) -> str | None:
        """bybit.md 4.3: the limits on args, each read the strict way."""
        settings, category = self._settings, connection.category
        if category == "spot" and len(args) > settings.stream_spot_args:
            return words.TOO_MANY_SPOT_ARGS
        together = [*connection.topics, *args]
        if category == "option" and len(together) > settings.stream_option_args:
            return words.TOO_MANY_OPTION_ARGS
        if len(orjson.dumps(together).decode()) > settings.stream_args_chars:
            return words.TOO_LONG_ARGS
        return None


async def _send(connection: Connection, data: bytes) -> None:
    with suppress(ConnectionError):  # the client has gone; whoever listens to it notices
        await connection.socket.send_frame(data, WSMsgType.TEXT)


def _object(text: str) -> dict[str, Any]:
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return given if isinstance(given, dict) else {}


def _texts(args: Any) -> bool:
    return isinstance(args, list) and bool(args) and all(isinstance(each, str) for each in args)

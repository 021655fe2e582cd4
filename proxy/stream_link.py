"""A connection to one public stream while it stands: what is subscribed to, what is heard, whether it is alive.

Subscriptions follow demand (policies/stream_demand.py). Every series that is let go or lost is told as a gap, and so is
the beginning of each subscription: what it brings joins on to nothing that was heard before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import aiohttp
import orjson

from policies import stream_rows
from policies import stream_words as words
from policies.segments import Series
from policies.stream_demand import Demand, batches, halves
from policies.stream_rows import HOLES, TOLD, Line, Odd, Row, Step
from proxy.clock import Clock, Sleep

DISCONNECTED: Final = "disconnected"
SILENT: Final = "silent"
UNANSWERED: Final = "unanswered"
UNWANTED: Final = "unwanted"
"""Why a connection ended."""

_LOOK_US: Final = 1_000_000
_PLAN_EVERY_US: Final = 5_000_000


OnRow = Callable[[Series, int, bytes, bool, int], None]
"""on_row(series, open_ms, row, confirmed, heard_us): a candle as REST would write it; `confirmed`: it has closed and is
final. Called on the event loop: it must not wait."""
OnGap = Callable[[Series], None]
"""on_gap(series): what was heard of it so far does not join on to what comes. A REST answer fills the gap if it is
asked for after this call. Until on_row() is called for it again, nothing comes at all."""


class Patience(NamedTuple):
    connect_us: int = 10_000_000
    silence_us: int = 30_000_000
    """Longer than from one ping to the next: a connection that lives says something in this time."""
    answer_us: int = 10_000_000


class _Request(NamedTuple):
    op: str
    series: list[Series]
    asked_us: int


class Link:
    """run() until the connection ends. `changed` is set when demand has changed."""

    def __init__(
        self,
        category: str,
        socket: aiohttp.ClientWebSocketResponse[bool],
        *,
        demand: Demand,
        on_row: OnRow,
        on_gap: OnGap,
        patience: Patience,
        count: Callable[[str], None],
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self.changed = asyncio.Event()
        self.changed.set()
        self._category = category
        self._socket = socket
        self._demand = demand
        self._on_row = on_row
        self._on_gap = on_gap
        self._patience = patience
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._lines: dict[Series, Line] = {}
        self._topics: dict[str, Series] = {}
        self._waiting: dict[str, _Request] = {}
        self._divided: deque[list[Series]] = deque()
        self._numbers = itertools.count(1)
        self._heard = False
        self._ended = asyncio.Event()
        self._why = DISCONNECTED

    @property
    def subscribed(self) -> int:
        """Series that it brings, or has been asked for."""
        return len(self._lines)

    def covers(self, series: Series) -> bool:
        """Something has come of it, and what follows will come too."""
        line = self._lines.get(series)
        return line is not None and line.begun

    async def run(self) -> str:
        """Why it ended. Closing the socket is left to whoever opened it."""
        async with asyncio.TaskGroup() as group:
            works = [group.create_task(work) for work in (self._listen(), self._follow(), self._beat())]
            await self._ended.wait()
            for work in works:
                work.cancel()
        return self._why

    def abandon(self) -> None:
        """The connection is gone, and with it all its subscriptions."""
        self._forget(list(self._lines))

    def _end(self, why: str) -> None:
        if not self._ended.is_set():
            self._why = why
            self._ended.set()

    # --- hearing ---

    async def _listen(self) -> None:
        async for message in self._socket:
            self._heard = True
            if message.type is aiohttp.WSMsgType.TEXT:
                self._take(message.data)
            else:
                self._count(Odd.SHAPE)
        self._end(DISCONNECTED)

    def _take(self, data: bytes) -> None:
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError:
            self._count("odd-json")
            return
        answer = words.answer_of(message)
        if answer is not None:
            self._answered(answer)
            return
        push = stream_rows.read(message, self._topics)
        if isinstance(push, Odd):
            self._count(push)
            return
        heard_us = self._clock()
        for row in push.rows:
            self._tell(push.series, row, heard_us)

    def _tell(self, series: Series, row: Row, heard_us: int) -> None:
        step = self._lines[series].take(row)
        if step in HOLES:
            self._on_gap(series)
        if step in TOLD:
            self._on_row(series, row.open_ms, row.text, row.confirmed, heard_us)
        if step in TOLD and step is not Step.JUMP:
            self._count("closed" if row.confirmed else "open")
        else:
            self._count(step)

    def _answered(self, answer: words.Answer) -> None:
        if answer.is_pong:
            self._count("pong")
            return
        # Not every refusal repeats the number of its request; answers come in the order of requests.
        request = self._waiting.pop(answer.req_id or next(iter(self._waiting), ""), None)
        if request is None:
            self._count("odd-answer")
            return
        self._count("accepted" if answer.success else "refused")
        if answer.success or request.op != "subscribe":
            return
        self._forget(request.series)
        if len(request.series) == 1:
            self._demand.refuse(request.series[0], self._clock())
        else:
            self._divided.append(request.series)
        self.changed.set()

    # --- asking ---

    async def _follow(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            await self._ask_divided()
            changes = self._demand.plan(self._lines.keys(), self._clock())
            for batch in batches(self._category, changes.remove):
                self._forget(batch)
                await self._ask("unsubscribe", batch)
            for batch in batches(self._category, changes.add):
                await self._subscribe(batch)
            if not self._lines and not self._divided:
                self._end(UNWANTED)
                return

    async def _ask_divided(self) -> None:
        """What was refused together, in two. Nobody says whether a part of it stands; then that would be refused as a
        repetition."""
        while self._divided:
            series = self._divided.popleft()
            await self._ask("unsubscribe", series)
            for half in halves(series):
                await self._subscribe(half)

    async def _subscribe(self, series: list[Series]) -> None:
        for each in series:
            self._lines[each] = Line(each.interval)
            self._topics[words.topic_of(each)] = each
        await self._ask("subscribe", series)

    def _forget(self, series: Iterable[Series]) -> None:
        for each in series:
            if self._lines.pop(each, None) is not None:
                del self._topics[words.topic_of(each)]
                self._on_gap(each)

    async def _ask(self, op: str, series: list[Series]) -> None:
        number = str(next(self._numbers))
        self._waiting[number] = _Request(op, series, self._clock())
        await self._send(words.request(op, [words.topic_of(each) for each in series], number))

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (aiohttp.ClientError, ConnectionError):
            self._end(DISCONNECTED)

    # --- being alive ---

    async def _beat(self) -> None:
        looked_us = pinged_us = planned_us = self._clock()
        quiet_us = 0
        while True:
            await self._sleep(_LOOK_US / 1e6)
            now_us = self._clock()
            # A process that was stopped was not listening: no look counts for more than two.
            quiet_us = 0 if self._heard else quiet_us + min(now_us - looked_us, 2 * _LOOK_US)
            self._heard, looked_us = False, now_us
            if quiet_us >= self._patience.silence_us:
                self._end(SILENT)
                return
            if self._unanswered(now_us):
                self._end(UNANSWERED)
                return
            if now_us - pinged_us >= words.PING_EVERY_US:
                pinged_us = now_us
                await self._send(words.PING)
            if now_us - planned_us >= _PLAN_EVERY_US:
                planned_us = now_us
                self.changed.set()

    def _unanswered(self, now_us: int) -> bool:
        """Whether a subscription has brought neither a word nor a row. What works without an answer is let be."""
        for number, request in list(self._waiting.items()):
            if now_us - request.asked_us < self._patience.answer_us:
                return False
            if request.op == "subscribe" and any(
                not line.begun for each in request.series if (line := self._lines.get(each)) is not None
            ):
                return True
            del self._waiting[number]
        return False

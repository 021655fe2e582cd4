"""Candles as the exchange streams them, for the series that are asked for.

One connection for each category with something wanted in it, none for the others. want() is told of every demand and
only notes it; nobody waits for anything here. Rows and gaps are told through callbacks (stream_link.py: OnRow, OnGap).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiohttp
import structlog
from yarl import URL

from policies import stream_words as words
from policies.health import Patience as Failing
from policies.segments import Series
from policies.stream_demand import Demand, DemandRules
from policies.stream_reconnect import Opened, ReconnectRules, Reconnects
from proxy.clock import Clock, Sleep, shown
from proxy.metrics import Metrics
from proxy.pulse import Pulse
from proxy.stream_link import UNWANTED, Link, OnGap, OnRow, Patience
from proxy.stream_session import NotUpgraded, stream_session

_REFUSED: Final = "refused"
_BARRED_S: Final = 5.0
_CLOSE_S: Final = 1.0
_MESSAGE_BYTES: Final = 256 << 10
_FORBIDDEN: Final = 403
_AT_ONCE: Final = Failing(failing_us=0)
"""A connection that is lost is not there."""


class StreamRules(NamedTuple):
    demand: DemandRules = DemandRules()
    reconnect: ReconnectRules = ReconnectRules()
    patience: Patience = Patience()


def _draw() -> int:
    return random.randrange(1_000_000)  # noqa: S311  # so that not all come back at once


class Streams:
    """`run()` it in a task; whoever ends that ends all connections.

    `url`: scheme and host of the streams, without a path. `may_connect`: while it says no, nothing is opened; what
    stands stays. `chance`: a draw from 0 to 999_999.
    """

    def __init__(
        self,
        url: str,
        ca_file: str | None,
        *,
        on_row: OnRow,
        on_gap: OnGap,
        metrics: Metrics,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], int] = _draw,
        may_connect: Callable[[], bool] = lambda: True,
        rules: StreamRules = StreamRules(),  # noqa: B008  # a value
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        opened = Opened(rules.reconnect.connections)
        self._feeds = {
            category: _Feed(
                category,
                URL(url + words.path_of(category), encoded=True),
                on_row=on_row,
                on_gap=on_gap,
                metrics=metrics,
                reconnects=Reconnects(rules.reconnect, opened),
                clock=clock,
                sleep=sleep,
                chance=chance,
                may_connect=may_connect,
                rules=rules,
            )
            for category in words.CATEGORIES
        }

    def want(self, series: Series) -> None:
        """It was asked for. What has no stream is ignored."""
        if words.is_streamed(series):
            self._feeds[series.category].want(series)

    def covers(self, series: Series) -> bool:
        """Whether its candles come by themselves at present: a row has come since the last gap that lost the stream."""
        feed = self._feeds.get(series.category)
        return feed is not None and feed.covers(series)

    def pulses(self) -> list[Pulse]:
        """Of each category; unknown where nothing is wanted."""
        return [feed.pulse for feed in self._feeds.values()]

    def status(self) -> dict[str, dict[str, Any]]:
        """For the health page, by category: is there a connection, since when, and how many series does it bring?"""
        return {category: feed.status() for category, feed in self._feeds.items()}

    async def run(self) -> None:
        async with (
            stream_session(self._url, self._ca_file) as session,
            asyncio.TaskGroup() as group,
        ):
            for feed in self._feeds.values():
                group.create_task(feed.run(session))


class _Feed:
    """The connection of one category, from the first demand to the last, however often it is lost in between."""

    def __init__(
        self,
        category: str,
        url: URL,
        *,
        on_row: OnRow,
        on_gap: OnGap,
        metrics: Metrics,
        reconnects: Reconnects,
        clock: Clock,
        sleep: Sleep,
        chance: Callable[[], int],
        may_connect: Callable[[], bool],
        rules: StreamRules,
    ) -> None:
        self._category = category
        self._endpoint = f"public-{category}"
        self._url = url
        self._on_row = on_row
        self._on_gap = on_gap
        self._metrics = metrics
        self._reconnects = reconnects
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._may_connect = may_connect
        self._patience = rules.patience
        self._demand = Demand(rules.demand)
        self._due = asyncio.Event()
        self.pulse = Pulse(clock, _AT_ONCE)
        self._link: Link | None = None
        self._log: Any = structlog.get_logger()

    def want(self, series: Series) -> None:
        if self._demand.want(series, self._clock()):
            self._due.set()
            if self._link is not None:
                self._link.changed.set()

    def covers(self, series: Series) -> bool:
        return self._link is not None and self._link.covers(series)

    def status(self) -> dict[str, Any]:
        status, link = self.pulse.status, self._link
        vitals = self.pulse.vitals
        return {
            "status": status,
            "connected": link is not None,
            "series": 0 if link is None else link.subscribed,
            "since": shown(vitals.since_us),
            "reason": vitals.reason or None,
        }

    async def run(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if not self._wanted():
                continue
            while wait_us := self._wait_us():
                await self._sleep(wait_us / 1e6)
            if self._wanted():  # still
                await self._hold(session)
                self._due.set()

    def _wanted(self) -> bool:
        return bool(self._demand.plan((), self._clock()).add)

    def _wait_us(self) -> int:
        return self._reconnects.wait_us(self._clock()) if self._may_connect() else round(_BARRED_S * 1e6)

    async def _hold(self, session: aiohttp.ClientSession) -> None:
        self._reconnects.opening(self._clock())
        try:
            why = await self._connected(session)
        except Exception as error:  # noqa: BLE001  # whatever it is: candles are asked for as if there were no stream
            why = "failed"
            self._log.error("stream_failed", endpoint=self._endpoint, error=type(error).__name__)
        now_us = self._clock()
        if why == UNWANTED:
            self._reconnects.closed(now_us)
            self.pulse.forget()
            self._log.info("stream_closed", endpoint=self._endpoint)
            return
        self._reconnects.ended(now_us, self._chance(), refused=why == _REFUSED)
        self.pulse.failed(why)
        self._metrics.stream_reconnects.labels(self._endpoint, why).inc()
        again_s = self._reconnects.wait_us(now_us) / 1e6
        self._log.warning("stream_lost", endpoint=self._endpoint, reason=why, again_s=again_s)

    async def _connected(self, session: aiohttp.ClientSession) -> str:
        """Connect, and stay connected; why not, or not any more."""
        asked_us = self._clock()
        try:
            async with asyncio.timeout(self._patience.connect_us / 1e6):
                socket = await session.ws_connect(
                    self._url,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                    max_msg_size=_MESSAGE_BYTES,
                    decode_text=False,
                )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return _name(error)
        self.pulse.answered(self._clock() - asked_us)
        counts = self._metrics.stream_messages.counts

        def count(result: str) -> None:
            counts[self._endpoint, result] += 1

        link = self._link = Link(
            self._category,
            socket,
            demand=self._demand,
            on_row=self._on_row,
            on_gap=self._on_gap,
            patience=self._patience,
            count=count,
            clock=self._clock,
            sleep=self._sleep,
        )
        active = self._metrics.websocket_connections.labels(self._endpoint)
        active.inc()
        self._log.info("stream_opened", endpoint=self._endpoint)
        try:
            return await link.run()
        finally:
            self._link = None
            active.dec()
            try:
                link.abandon()
            finally:
                await socket.close()


def _name(error: BaseException) -> str:
    """A bounded word for why there is no connection."""
    match error:
        case TimeoutError():
            return "connect-timeout"
        case NotUpgraded(status=status):
            return _REFUSED if status == _FORBIDDEN else "handshake"
        case aiohttp.WSServerHandshakeError():
            return "handshake"
        case aiohttp.ClientConnectorCertificateError():
            return "certificate"
        case aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientConnectorError():
            return "unreachable"
        case _:
            return "disconnected"

"""Clients' WebSocket connections, passed through to the exchange's streams.

Each of them is asked for at the door as any request is, spends one of the exchange's new connections, which all
gateways of the address share, and has a place among those that may stand at one time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp import HttpVersion11, web
from aiohttp.hdrs import SEC_WEBSOCKET_PROTOCOL
from multidict import CIMultiDict
from yarl import URL

from policies import stream_paths, target
from policies.admission import Charge, Quota, Refused, WhenFull, Why
from policies.priority import Priority
from policies.stream_paths import GOING_AWAY
from policies.streams_schema import StreamsSection
from proxy import errors, headers
from proxy.clock import Clock
from proxy.config import Config
from proxy.describe import Asked
from proxy.egress import Egress
from proxy.errors import Banned, Malformed, NotSent
from proxy.limiter import Claim, Limiter
from proxy.metrics import Metrics
from proxy.stream_session import SWITCHING, NotUpgraded, stream_session
from proxy.telemetry import Story
from proxy.tunnel import CLOSE_S, Ended, Side, Tunnel

_AGAIN_US: Final = 1_000_000
_HANDSHAKE: Final = frozenset(
    {
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "sec-websocket-accept",
    }
)
"""Lines of one handshake: each side has its own."""
_HOP_BY_HOP: Final = frozenset({"connection", "upgrade", "content-length", "transfer-encoding"})


class Websockets:
    """`sharers` tells how many gateways have this address."""

    def __init__(
        self,
        config: Config,
        *,
        limiter: Limiter,
        egress: Egress,
        metrics: Metrics,
        clock: Clock,
        sharers: Callable[[], int],
    ) -> None:
        self._url, self._ca_file = config.upstream.stream_url, config.upstream.ca_file
        self._connect_s = config.upstream.timeouts.connect / 1e6
        self._rules: StreamsSection = config.streams
        self._address = config.egress.id
        self._limiter = limiter
        self._egress = egress
        self._metrics = metrics
        self._clock = clock
        self._sharers = sharers
        self._session: aiohttp.ClientSession | None = None
        self._standing: Counter[str] = Counter()
        self._tunnels: set[Tunnel] = set()
        self._draining = False

    def adopt(self, config: Config) -> None:
        """After a reload. Connections that stand go on."""
        self._rules = config.streams

    def drain(self) -> None:
        """End all of them, and take no more."""
        self._draining = True
        for tunnel in self._tunnels:
            tunnel.drain()

    async def close(self) -> None:
        """When none is left."""
        if self._session is not None:
            await self._session.close()

    def endpoint(self, raw_target: str) -> str:
        """A name for rules, metrics and logs."""
        return stream_paths.endpoint_of(target.split(raw_target)[0]) or stream_paths.UNLISTED

    async def answer(
        self, request: web.BaseRequest, asked: Asked, story: Story, request_id: bytes
    ) -> web.StreamResponse | Refused:
        """Returns when the connection has ended, or why there is none; raises what proxy/errors.py names."""
        endpoint = asked.descriptor.endpoint
        self._judge(request)
        if self._egress.banned:
            raise Banned
        if self._standing[endpoint] >= (most := self._most()):
            return Refused(Why.FULL, self._full(most), _AGAIN_US)
        with self._place(endpoint):
            answer = await self._limiter.spend(self._claim(asked))
            if isinstance(answer, Refused):
                if answer.why is Why.BAN:
                    raise Banned
                return answer
            return await self._connected(request, asked, story, request_id)

    def _judge(self, request: web.BaseRequest) -> None:
        """What is wrong with it, before anything is spent."""
        if not self._rules.enabled:
            raise Malformed(501, "no-websocket", "WebSocket streams are not forwarded here: streams.enabled is false")
        if self._draining:
            raise Malformed(503, "draining", "the gateway is shutting down")
        why = target.refusal(request.method, request.raw_path)
        if why is not None:
            raise Malformed(400, "bad-target", why)
        if stream_paths.endpoint_of(target.split(request.raw_path)[0]) is None:
            raise Malformed(404, "no-such-stream", "the exchange's streams are under /v5/, such as /v5/public/linear")
        try:
            good = web.WebSocketResponse().can_prepare(request).ok
        except (web.HTTPException, ValueError):
            good = False
        if not good or request.method != "GET" or request.version < HttpVersion11:
            raise Malformed(400, "bad-websocket", "this is not a WebSocket handshake of version 13 (RFC 6455)")

    def _most(self) -> int:
        """So many may stand here at one time."""
        return max(1, self._rules.concurrent // max(1, self._sharers()))

    def _full(self, most: int) -> Charge:
        quota = Quota("stream-concurrent", most, _AGAIN_US, ("egress",), when_full=WhenFull.REFUSE)
        return Charge(quota, (quota.name, self._address), 1)

    def _claim(self, asked: Asked) -> Claim:
        quota = self._rules.quota()
        charge = Charge(quota, (quota.name, self._address), 1)
        return Claim((charge,), Priority.LIVE, asked.descriptor.client or asked.descriptor.ip)

    @contextmanager
    def _place(self, endpoint: str) -> Iterator[None]:
        active = self._metrics.websocket_connections.labels(endpoint)
        self._standing[endpoint] += 1
        active.inc()
        try:
            yield
        finally:
            self._standing[endpoint] -= 1
            active.dec()

    async def _connected(
        self, request: web.BaseRequest, asked: Asked, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        began_us = self._clock()
        endpoint, opened = asked.descriptor.endpoint, self._metrics.websocket_opened
        async with AsyncExitStack() as stack:
            try:
                exchange = await self._open(request, asked)
            except NotUpgraded as error:
                opened.labels(endpoint, "refused").inc()
                story.source, story.status, story.outcome = "exchange", error.status, "stream-refused"
                detail = f"The exchange refused the stream (HTTP {error.status})."
                return errors.plain(_as_refusal(error.status), "stream-refused", detail, request_id)
            except (aiohttp.ClientError, TimeoutError, OSError):
                opened.labels(endpoint, "failed").inc()
                raise NotSent("stream-unreachable") from None
            finally:
                story.upstream_us = self._clock() - began_us
            there = Side(exchange, _leaving(exchange), Ended.EXCHANGE, Ended.EXCHANGE_LOST)
            stack.push_async_callback(there.close, GOING_AWAY, b"")
            client = self._accepting(exchange, request_id)
            await client.prepare(request)
            here = Side(client, partial(_abort, request), Ended.CLIENT, Ended.CLIENT_GONE)
            opened.labels(endpoint, "opened").inc()
            story.source, story.status, story.attempts = "exchange", SWITCHING, 1
            story.streamed_us = self._clock()
            await self._pass(Tunnel(here, there, endpoint, self._metrics.websocket_messages), endpoint, story)
        return client

    async def _open(self, request: web.BaseRequest, asked: Asked) -> aiohttp.ClientWebSocketResponse[bool]:
        if self._session is None:
            self._session = stream_session(self._url, self._ca_file)
        lines = headers.to_upstream(request.raw_headers, behind_proxy=asked.behind_proxy, bearer=asked.bearer)
        passed = CIMultiDict((name, value) for name, value in lines.items() if name.lower() not in _HANDSHAKE)
        async with asyncio.timeout(self._connect_s):
            made: Any = await self._session.ws_connect(
                URL(self._url.rstrip("/") + request.raw_path, encoded=True),
                protocols=_protocols(request),
                headers=passed,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                autoclose=False,
                autoping=False,
                max_msg_size=self._rules.max_message + 1,  # the library refuses what is as large
                decode_text=False,
            )
        exchange: aiohttp.ClientWebSocketResponse[bool] = made
        return exchange

    def _accepting(
        self, exchange: aiohttp.ClientWebSocketResponse[bool], request_id: bytes
    ) -> web.WebSocketResponse[bool]:
        protocol = exchange.protocol
        client: Any = web.WebSocketResponse(
            timeout=CLOSE_S,
            autoclose=False,
            autoping=False,
            protocols=(protocol,) if protocol else (),
            compress=False,  # a message of nothing but zeros grows a thousandfold
            max_msg_size=self._rules.max_message + 1,  # the library refuses what is as large
            decode_text=False,
        )
        for name, value in exchange._response.raw_headers:  # noqa: SLF001  # its 101, which the library keeps to itself
            if (lower := name.decode("latin-1").lower()) not in _HANDSHAKE and lower not in _HOP_BY_HOP:
                client.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        client.headers.setdefault("Server", "bybit-gateway")
        client.headers.setdefault("X-Request-Id", request_id.decode())
        accepting: web.WebSocketResponse[bool] = client
        return accepting

    async def _pass(self, tunnel: Tunnel, endpoint: str, story: Story) -> None:
        self._tunnels.add(tunnel)
        if self._draining:
            tunnel.drain()
        try:
            await tunnel.run()
        except asyncio.CancelledError:
            if tunnel.ended is None:
                raise
            # The client has gone as soon as it was told of the end.
        finally:
            by = tunnel.ended or Ended.CLIENT_GONE
            self._tunnels.discard(tunnel)
            self._metrics.websocket_closed.labels(endpoint, by.value).inc()
            story.body_bytes, story.asked_bytes = tunnel.client.heard, tunnel.exchange.heard
            if by not in {Ended.CLIENT, Ended.EXCHANGE}:
                story.outcome = by.value


def _leaving(exchange: aiohttp.ClientWebSocketResponse[bool]) -> Callable[[], None]:
    """The library knows how to end it in order only, which a side that reads nothing would hold up."""
    response = exchange._response  # noqa: SLF001
    transport = None if response.connection is None else response.connection.transport

    def leave() -> None:
        response.close()
        if transport is not None:
            transport.abort()

    return leave


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _protocols(request: web.BaseRequest) -> list[str]:
    offered = request.headers.getall(SEC_WEBSOCKET_PROTOCOL, ())
    return [name.strip() for line in offered for name in line.split(",") if name.strip()]


def _as_refusal(status: int) -> int:
    """The exchange's own status, where it is one that a client can take for a refusal."""
    return status if 400 <= status < 600 else 502

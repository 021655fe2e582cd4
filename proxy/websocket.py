"""Clients' WebSocket connections, passed through to the exchange's streams.

Each of them is asked for at the door as any request is, spends one of the exchange's new connections, which all
gateways of the address share, and has a place among those that may stand at one time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.hdrs import SEC_WEBSOCKET_PROTOCOL
from multidict import CIMultiDict
from yarl import URL

from policies import stream_paths, target
from policies.admission import Charge, Quota, Refused, WhenFull, Why
from policies.priority import Priority
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
from proxy.tunnel import Ended, Side, Tunnel

_CLOSE_S: Final = 2.0
"""How long a side that is told of the end is waited for."""
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
        except web.HTTPException:
            good = False
        if not good:
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
            stack.push_async_callback(_left, exchange, _transport_of(exchange))
            client = self._accepting(exchange, request_id)
            await client.prepare(request)
            opened.labels(endpoint, "opened").inc()
            story.source, story.status, story.attempts = "exchange", SWITCHING, 1
            story.streamed_us = self._clock()
            await self._pass(client, exchange, endpoint, story)
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
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                autoclose=False,
                autoping=False,
                compress=15 if "permessage-deflate" in request.headers.get("Sec-WebSocket-Extensions", "") else 0,
                max_msg_size=self._rules.max_message,
                decode_text=False,
            )
        exchange: aiohttp.ClientWebSocketResponse[bool] = made
        return exchange

    def _accepting(self, exchange: Side, request_id: bytes) -> web.WebSocketResponse[bool]:
        protocol = exchange.ws_protocol if isinstance(exchange, web.WebSocketResponse) else exchange.protocol
        client: Any = web.WebSocketResponse(
            timeout=_CLOSE_S,
            autoclose=False,
            autoping=False,
            protocols=(protocol,) if protocol else (),
            max_msg_size=self._rules.max_message,
            decode_text=False,
        )
        client.headers["X-Request-Id"] = request_id.decode()
        accepting: web.WebSocketResponse[bool] = client
        return accepting

    async def _pass(self, client: web.WebSocketResponse[bool], exchange: Side, endpoint: str, story: Story) -> None:
        tunnel = Tunnel(client, exchange, endpoint, self._metrics.websocket_messages)
        self._tunnels.add(tunnel)
        if self._draining:
            tunnel.drain()
        by = Ended.CLIENT_GONE
        try:
            by = (await tunnel.run()).by
        finally:
            self._tunnels.discard(tunnel)
            self._metrics.websocket_closed.labels(endpoint, by.value).inc()
            story.body_bytes, story.asked_bytes = tunnel.to_client, tunnel.from_client
            if by not in {Ended.CLIENT, Ended.EXCHANGE}:
                story.outcome = by.value


async def _left(exchange: aiohttp.ClientWebSocketResponse[bool], transport: asyncio.Transport | None) -> None:
    """The exchange is told if it has not been. A side that does not read would hold what was written to it for ever."""
    await exchange.close()
    if transport is not None:
        transport.abort()


def _transport_of(exchange: aiohttp.ClientWebSocketResponse[bool]) -> asyncio.Transport | None:
    connection = exchange._response.connection  # noqa: SLF001  # the library gives its socket only, which uvloop does not shut
    return None if connection is None else connection.transport


def _protocols(request: web.BaseRequest) -> list[str]:
    offered = request.headers.getall(SEC_WEBSOCKET_PROTOCOL, ())
    return [name.strip() for line in offered for name in line.split(",") if name.strip()]


def _as_refusal(status: int) -> int:
    """The exchange's own status, where it is one that a client can take for a refusal."""
    return status if 400 <= status < 600 else 502

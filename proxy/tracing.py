"""Which requests are traced and under which ids, decided as they begin; their spans, made when they are over.

Nothing is wrapped around a request on its way: it only notes when things happened (proxy/steps.py). A traceparent is
continued as its client has decided, sampled or not; nothing of that is sent to the exchange.
"""

from __future__ import annotations

import random
import socket
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from policies import traceparent
from policies.traceparent import Trace
from proxy.clock import Clock
from proxy.config import Config
from proxy.span_export import SpanExport
from proxy.spans import Cast, Place, spans_of
from proxy.steps import Steps
from proxy.telemetry import Story, Telemetry

_LOW_64: Final = (1 << 64) - 1
_PORTS: Final = {"http": 80, "https": 443}
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # nothing listens here


class Tracing:
    """`sample` is a percentage, and can be changed at any time."""

    def __init__(self, config: Config, version: str, telemetry: Telemetry, clock: Clock) -> None:
        tracing = config.tracing
        self.sample = tracing.sample
        self._cast = _cast(config)
        self._telemetry = telemetry
        self._export = SpanExport(tracing.endpoint, tracing.service, version, metrics=telemetry.metrics, clock=clock)
        telemetry.begin = self.begin
        telemetry.listeners.append(self.tell)

    def begin(self, story: Story, request: web.BaseRequest) -> None:
        """On the hot path."""
        headers = request.headers
        trace = story.trace
        if trace is not None and len(headers.getall("traceparent")) == 1:
            if trace.sampled:
                state = traceparent.state(",".join(headers.getall("tracestate", ())))
                story.steps = _steps(int(trace.trace_id, 16), state, request)
            return
        trace_id = random.getrandbits(128) or 1
        if (trace_id & _LOW_64) * 100 < self.sample << 64:
            story.trace, story.steps = Trace(f"{trace_id:032x}", "", sampled=True), _steps(trace_id, "", request)
        else:
            story.trace = None

    def tell(self, story: Story) -> None:
        """At the end of a request."""
        steps = story.steps
        if steps is None or story.trace is None:
            return
        export, trace_id, state = self._export, steps.trace_id, steps.state
        above = story.trace.span_id
        parent = export.context(trace_id, int(above, 16), state, remote=True) if above else None
        own = export.context(trace_id, steps.span_id, state)
        leader = steps.leader
        linked = None if leader is None else export.context(leader.trace_id, leader.span_id)
        request, *parts = spans_of(story, steps, self._cast)
        export.give(request, own, parent, linked)
        for span in parts:
            export.give(span, export.context(trace_id, _span_id(), state), own)

    async def close(self) -> None:
        self._telemetry.begin = None
        self._telemetry.listeners.remove(self.tell)
        await self._export.close()


def _steps(trace_id: int, state: str, request: web.BaseRequest) -> Steps:
    return Steps(trace_id, _span_id(), state, f"{request.version.major}.{request.version.minor}")


def _span_id() -> int:
    return random.getrandbits(64) or 1


def _cast(config: Config) -> Cast:
    listen, upstream = config.listen, urlsplit(config.upstream.url)
    host = socket.gethostname() if listen.host in _EVERYWHERE else listen.host
    exchange = Place(upstream.hostname or "", upstream.port or _PORTS[upstream.scheme])
    return Cast(Place(host, listen.port), exchange, upstream.scheme)

"""An OpenTelemetry collector on loopback: takes OTLP over HTTP, and keeps what it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told

from proxy.app import App


class Span:
    """As it was told."""

    def __init__(self, told: Told) -> None:
        self.name = told.name
        self.kind = Told.SpanKind.Name(told.kind).removeprefix("SPAN_KIND_")
        self.trace_id, self.span_id, self.parent_id = told.trace_id.hex(), told.span_id.hex(), told.parent_span_id.hex()
        self.state = told.trace_state
        self.began_ns, self.ended_ns = told.start_time_unix_nano, told.end_time_unix_nano
        self.failed = told.status.code == told.status.STATUS_CODE_ERROR
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in told.links]
        self.attributes = {each.key: _value(each.value) for each in told.attributes}

    def __repr__(self) -> str:
        return f"{self.name} {self.attributes}"


class Trace(list[Span]):
    """The spans of one request; its own is the first."""

    @property
    def request(self) -> Span:
        return self[0]

    def all(self, name: str) -> list[Span]:
        return [span for span in self if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.all(name)
        return span


class Collector:
    """`open` is cleared to take requests and never answer them."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/traces"
        self.bodies: list[bytes] = []
        self.asked = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def spans(self) -> list[Span]:
        told = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            Span(span)
            for each in told
            for resource in each.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, Any]]:
        told = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            {each.key: _value(each.value) for each in resource.resource.attributes}
            for request in told
            for resource in request.resource_spans
        ]

    def traces(self) -> list[Trace]:
        """In the order in which requests ended. Every span lies inside its parent, in time too."""
        spans = self.spans()
        found = []
        for request in (span for span in spans if span.kind == "SERVER"):
            parts = [span for span in spans if span.parent_id == request.span_id]
            for span in parts:
                assert span.trace_id == request.trace_id
                assert request.began_ns <= span.began_ns <= span.ended_ns <= request.ended_ns, span
            found.append(Trace([request, *parts]))
        assert sum(map(len, found)) == len(spans), "a span without its request"
        assert len({span.span_id for span in spans}) == len(spans)
        return found


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.asked.set()
            told.open.wait()
            told.bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        told = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.open.set()
            server.shutdown()
            thread.join()


async def delivered(app: App) -> None:
    """What the gateway has to tell is with the collector, or lost."""
    assert app.watch._tracing is not None
    await asyncio.to_thread(app.watch._tracing._export._processor.force_flush)


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))

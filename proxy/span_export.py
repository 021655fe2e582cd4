"""Spans on their way to a collector: a bounded queue, a thread of the library's own, OTLP over HTTP.

The only room that knows the OpenTelemetry libraries, which are an extra. A collector that is slow, broken or not there
costs spans, which are counted, and at most a line in the log every five minutes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.spans import Kind, Span

_QUEUE: Final = 8_192
_BATCH: Final = 512
_DELAY_MS: Final = 1_000
_PATIENCE_S: Final = 2.0
_SILENCE_US: Final = 300_000_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_KINDS: Final = {Kind.SERVER: SpanKind.SERVER, Kind.INTERNAL: SpanKind.INTERNAL, Kind.CLIENT: SpanKind.CLIENT}


class SpanExport:
    """Starts a thread. `endpoint` None: where OTEL_EXPORTER_OTLP_... say."""

    def __init__(
        self,
        endpoint: str | None,
        service: str,
        version: str,
        *,
        metrics: Metrics,
        clock: Clock,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        library = logging.getLogger("opentelemetry")
        library.handlers[:] = [_Rarely(clock)]
        library.propagate = False
        self._resource = Resource.create(
            {"service.name": service, "service.version": version, "service.instance.id": str(uuid4())}
        )
        self._scope = InstrumentationScope("bybit-gateway", version)
        self._outlet = _Outlet(OTLPSpanExporter(endpoint=endpoint), metrics)
        self._processor = BatchSpanProcessor(
            self._outlet, max_queue_size=_QUEUE, schedule_delay_millis=_DELAY_MS, max_export_batch_size=_BATCH
        )
        self._dropped = metrics.spans_dropped.labels("queue-full")
        self._patience_s = patience_s
        self._given = 0

    def context(self, trace_id: int, span_id: int, state: str = "", *, remote: bool = False) -> SpanContext:
        """Names a span that is sampled. `state`: a well-formed tracestate."""
        return SpanContext(trace_id, span_id, remote, _SAMPLED, TraceState.from_header([state]) if state else None)

    def give(
        self, span: Span, context: SpanContext, parent: SpanContext | None, linked: SpanContext | None = None
    ) -> None:
        """In a few microseconds, whatever the collector does."""
        # The queue is watched here: the library would log a line for what it drops, and not count it.
        if self._given - self._outlet.taken >= _QUEUE:
            self._dropped.inc()
            return
        self._given += 1
        # Built as the SDK's tracer builds it, in a quarter of its time: the spans are over already, their ids known.
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context,
                parent,
                self._resource,
                span.attributes,
                links=() if linked is None else (Link(linked),),
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR) if span.error else _UNSET,
                start_time=span.began_us * 1000,
                end_time=span.ended_us * 1000,
                instrumentation_scope=self._scope,
            )
        )

    async def close(self) -> None:
        """What waits is still delivered, as far as that is quick."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # it has taken too long: nobody listens any more
                loop.call_soon_threadsafe(done.set)

        # Not a thread of the loop's own: those are waited for at the end of the process, however long that takes.
        threading.Thread(target=end, name="end-of-traces", daemon=True).start()
        try:
            async with asyncio.timeout(self._patience_s):
                await done.wait()
        except TimeoutError:
            self._outlet.give_up()
            self._outlet.lost.inc(self._given - self._outlet.taken)


class _Outlet(SpanExporter):
    """The library's exporter, with a count of what it takes and of what it loses. Called in the library's thread."""

    def __init__(self, exporter: OTLPSpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._ended = False
        self.lost = metrics.spans_dropped.labels("not-delivered")
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._ended:  # what waits is counted already
            return SpanExportResult.FAILURE
        self.taken += len(spans)
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.lost.inc(len(spans))
        return result

    def give_up(self) -> None:
        self._ended = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def shutdown(self) -> None:
        if not self._ended:
            self.give_up()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Rarely(logging.Handler):
    """What the library says of its troubles, in our log: the first of it at once, then only now and then."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._silent_until_us = 0
        self._unsaid = 0
        self._log: Any = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        now_us = self._clock()
        if now_us < self._silent_until_us:
            self._unsaid += 1
            return
        self._silent_until_us = now_us + _SILENCE_US
        self._log.warning("tracing_trouble", message=record.getMessage(), unsaid=self._unsaid)
        self._unsaid = 0

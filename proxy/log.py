"""structlog set-up: one JSON line per event, written without ever holding up a request, with no secret in it.

Events are built from words of our own and never from headers, queries or bodies. As a second line, redact() cuts out
whatever looks like a key, a signature or a token from every event but that of a request, which holds no foreign text.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS: Final = ("debug", "info", "warning", "error")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET: Final = re.compile(
    # A signed body can hold brackets: what follows is not searched for the one that ends it.
    r"(?i)(?:origin_string\[[\s\S]*"
    # Words of our own about a field are no value of it: `admin.token: expected at least 8 characters`.
    r"|(?:api[_-]?key|sign(?:ature)?|secret|token|authorization|password|passwd)[\"']?\s*[=:]\s*"
    r"(?!(?:expected|nothing|needs|cannot) )[\"']?(?:bearer\s+)?[^\s\"'&,}]+"
    r"|\bbearer\s+\S+"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|\b[0-9a-f]{32,}\b)"
)
_REDACTED: Final = "[redacted]"
REQUEST: Final = "request"
SLOW: Final = "slow_request"


def redact_text(text: str) -> str:
    """Cut out what looks like a secret."""
    return _SECRET.sub(_REDACTED, text)


class RequestEvents(Protocol):
    """Takes the event of a request, as `request` at level info, or as `slow_request`, a warning."""

    def __call__(self, event: EventDict, *, slow: bool = False) -> None: ...


def request_events() -> RequestEvents:
    """Where the events of requests are written: the short way of set_up(), or structlog as somebody else set it up."""
    logger = structlog.get_logger().bind()
    short: RequestEvents | None = getattr(logger, "request", None)
    if short is not None:
        return short

    def tell(event: EventDict, *, slow: bool = False) -> None:
        if slow:
            logger.warning(SLOW, **event)
        else:
            logger.info(REQUEST, **event)

    return tell


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Processor: clean every text of an event, however deep."""
    return {name: _clean(value) for name, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


class Sink:
    """Writes lines to a descriptor from a thread of its own: a stuck reader of our log must not stop trading.

    At most `max_lines` wait; what comes beyond that is dropped and counted. `shared`: other processes write to the same
    pipe, and only what goes there in pieces of at most PIPE_BUF bytes cannot come apart.
    """

    def __init__(self, descriptor: int, max_lines: int = 50_000, *, shared: bool = False) -> None:
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._take = self._whole_lines if shared else self._many_lines
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        self.dropped = 0

    def put(self, line: bytes) -> None:
        if len(self._lines) >= self._max_lines:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, but not for ever."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            # Let a burst gather: one write for many lines, and the event loop keeps the interpreter meanwhile.
            if not self._closing:
                threading.Event().wait(0.05)
            self._wake.clear()
            if not self._write() or (self._closing and not self._lines):
                return

    def _write(self) -> bool:
        lines = self._lines
        while lines:
            batch = self._take()
            while batch:
                try:
                    batch = batch[os.write(self._descriptor, batch) :]
                except OSError:
                    return False  # nobody reads any more
        return True

    def _many_lines(self) -> bytes:
        return b"".join([self._lines.popleft() for _ in range(min(len(self._lines), 1000))])

    def _whole_lines(self) -> bytes:
        """As many lines as a pipe takes in one piece; a longer line goes alone, and may be broken up by others."""
        lines = self._lines
        batch = [lines.popleft()]
        room = select.PIPE_BUF - len(batch[0])
        while lines and len(lines[0]) <= room:
            room -= len(lines[0])
            batch.append(lines.popleft())
        return b"".join(batch)


class SinkLogger:
    """What structlog calls at the end of its chain: the rendered line goes to the sink."""

    def __init__(self, sink: Sink) -> None:
        self._put = sink.put

    def msg(self, line: bytes) -> None:
        self._put(line)

    debug = info = warning = error = critical = exception = msg


def set_up(level: str, form: str, sink: Sink, worker: int | None = None) -> None:
    """Configure structlog and bring the standard library's loggers (aiohttp, asyncio) into the same stream.

    `worker`: the number of this process, where several write to one stream; every event tells it.
    """
    stamp, put = _Stamp() if worker is None else _WorkerStamp(worker), sink.put

    class Log(structlog.make_filtering_bound_logger(logging.DEBUG)):  # type: ignore[misc]  # made at run time
        """structlog's logger, with a short way for the event of every request."""

        def request(self, event: EventDict, *, slow: bool = False) -> None:
            """Written as info() would write it, without the general chain: it holds nothing to redact."""
            name, level = (SLOW, "warning") if slow else (REQUEST, "info")
            if _LEVELS[level] >= _manner.level:
                event["event"], event["level"] = name, level
                put(_manner.render(None, level, stamp(None, level, event)))

    structlog.configure(
        processors=[_wanted, structlog.processors.add_log_level, stamp, redact, _render],
        wrapper_class=Log,
        logger_factory=lambda *_: SinkLogger(sink),
        cache_logger_on_first_use=True,
    )
    logging.getLogger().handlers[:] = [_Bridge()]
    # It warns of subprotocols that nobody speaks, in the words of the client: browsers carry tokens there.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    adopt(level, form)


def adopt(level: str, form: str) -> None:
    """Write what comes from now on at this level and in this form, loggers that exist already included."""
    _manner.form = form
    _manner.render = _render_json if form == "json" else _Console()
    set_level(level)


def set_level(level: str) -> None:
    """From now on, until the next adopt()."""
    _manner.level = _LEVELS[level]
    logging.getLogger().setLevel(max(_LEVELS[level], logging.INFO))


def level() -> str:
    """The least important events that are written at present."""
    return next(name for name, number in _LEVELS.items() if number == _manner.level)


def form() -> str:
    """How they are written at present: json or console."""
    return _manner.form


def tells_requests() -> bool:
    """Whether the event of an everyday request is written at all, at this level."""
    return _manner.level <= logging.INFO


class _Stamp:
    """`time` in UTC to the microsecond. The text of a second is made once a second."""

    def __init__(self) -> None:
        self._second_us = 0
        self._text = ""

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        past_us = time.time_ns() // 1000 - self._second_us
        if not 0 <= past_us < 1_000_000:
            past_us = self._turn(past_us + self._second_us)
        event["time"] = f"{self._text}{past_us:06d}Z"
        return event

    def _turn(self, now_us: int) -> int:
        """Another second: how much of it is over."""
        second, past_us = divmod(now_us, 1_000_000)
        self._second_us = second * 1_000_000
        self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return past_us


class _WorkerStamp(_Stamp):
    """`time`, and which of several processes tells the event."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        event["worker"] = self._worker
        return super().__call__(logger, name, event)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    return orjson.dumps(event, str, orjson.OPT_APPEND_NEWLINE)


def _render(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
    return _manner.render(logger, name, event)


def _wanted(_: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Processor: the level is asked for each event, because structlog's own filter is built into each logger."""
    if _LEVELS.get(name, logging.ERROR) < _manner.level:
        raise structlog.DropEvent
    return event


class _Console:
    """For people: the same events, one readable line each."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), timestamp_key="time")

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> bytes:
        return f"{self._render(logger, name, event)}\n".encode()


class _Manner:
    """How events are written at this moment."""

    level = logging.INFO
    form = "json"
    render: Callable[[WrappedLogger, str, EventDict], bytes] = staticmethod(_render_json)


_manner = _Manner()


class _Bridge(logging.Handler):
    """The standard library's records. Tracebacks become the exception's class: their texts can hold URLs. Of a message
    the first line is kept: on the others asyncio describes a task, with the text of what it has raised."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        structlog.get_logger().log(
            min(record.levelno, logging.ERROR),
            "library",
            logger=record.name,
            message=record.getMessage().partition("\n")[0],
            error=None if error is None else error.__name__,
        )

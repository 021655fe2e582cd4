"""One way to an exchange that breaks at a byte: before, inside or behind a request or its answer.

It knows as much of HTTP/1.1 as it takes to tell where a request begins and an answer ends on a kept connection: heads,
and Content-Length. A request names its case in the header `X-Case`, which the gateway passes on like any other; the
first attempt of a case meets its first fault, the second attempt the second, and so on. What has none passes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from proxy.tasks import TaskOwner
from tests.redis_servers.ports import reserve_port

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_CASE: Final = re.compile(rb"\r\nx-case: *([\w-]+) *\r\n", re.IGNORECASE)
_CHUNK_BYTES: Final = 50
_BUFFER_BYTES: Final = 32 << 10
"""Of each connection, in the kernel and here: what is not taken from the gateway has not left it."""
_SETTLING_S: Final = 10.0

BEHIND: Final = -1
"""The place behind the last byte. Behind an answer, a cut hurts whoever uses the connection next."""


class Leg(StrEnum):
    REQUEST = "request"
    ANSWER = "answer"


class How(StrEnum):
    RESET = "reset"
    """RST, to both sides."""
    END = "end"
    """FIN, to both sides."""
    STALL = "stall"
    """Nothing for a while, and then the rest."""


@dataclass(frozen=True, slots=True)
class Cut:
    """At a point of the way: `at` bytes of the request have been forwarded, or of the answer given back.

    It is in front of the last byte at the latest, or BEHIND. An answer of which 0 bytes are given back is one that the
    exchange gave: the request was carried out. A request is cut behind its last byte without waiting for that.
    `chunked`: the answer comes in chunks, whose bytes count.
    """

    leg: Leg
    at: int
    how: How
    stall_s: float = 0.0
    chunked: bool = False

    def place(self, size: int) -> int:
        return size if self.at == BEHIND else min(self.at, size - 1)


@dataclass(frozen=True, slots=True)
class Say:
    """An answer as if it were the exchange's, instead of forwarding, or after the exchange has carried it out."""

    status: int
    content_type: str
    body: bytes
    forwarded: bool

    @property
    def raw(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Oops\r\nContent-Type: {self.content_type}\r\nContent-Length: {len(self.body)}"
        return f"{head}\r\n\r\n".encode() + self.body


Fault = Cut | Say


@dataclass(slots=True)
class Attempt:
    """A request that came in, and how far it and its answer got."""

    case: str
    on_used: bool
    """It came on a connection that had served before."""
    request: bytes = b""
    """What was taken of it: all, unless it was cut inside."""
    forwarded: int = 0
    whole: bool = False
    """It was forwarded to its last byte."""
    answer: bytes = b""
    """What the exchange answered."""
    given: int = 0
    struck: bool = False
    """Its fault was reached."""

    @property
    def answer_body(self) -> bytes | None:
        return self.answer.partition(b"\r\n\r\n")[2] if self.answer else None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a request as it comes from the gateway, of its answer, and of the answer in chunks."""

    request: int
    answer: int
    chunked: int

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(len(attempt.request), len(attempt.answer), len(in_chunks(attempt.answer)))

    def cuts(self, leg: Leg, how: How, step: int, *, stall_s: float = 0.0, chunked: bool = False) -> list[Cut]:
        """At every `step`-th byte boundary in front of the last byte, beginning with the first."""
        size = self.request if leg is Leg.REQUEST else self.chunked if chunked else self.answer
        return [Cut(leg, at, how, stall_s, chunked) for at in range(0, size, step)]


class _CutError(Exception):
    """Both connections end in this way."""

    def __init__(self, how: How) -> None:
        self.how = how


@dataclass(eq=False)
class _Line:
    """A connection of the gateway and the one behind it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle: bool = True
    used: bool = False
    behind: asyncio.StreamWriter | None = None

    def end(self, how: How) -> None:
        for writer in (self.writer, self.behind):
            if writer is not None:
                end(writer, how)


@dataclass
class CuttingRelay:
    """`async with CuttingRelay(exchange.port) as relay:` and the gateway's upstream is `relay.url`."""

    target_port: int
    attempts: defaultdict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """By case."""
    slammed: int = 0
    """So many of the next connections are reset as soon as they are accepted."""

    def __post_init__(self) -> None:
        self._plans: dict[str, Iterator[Fault]] = {}
        self._reserved = reserve_port()
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()
        self._tasks = TaskOwner()
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def port(self) -> int:
        return self._reserved.number

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.settle()
        await self.shut()
        await self._tasks.close()
        self._reserved.release()

    def plan(self, case: str, faults: Iterable[Fault]) -> None:
        """The faults that the attempts of a case meet, in turn."""
        self._plans[case] = iter(faults)

    async def open(self) -> None:
        if self._server is None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=1000)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._server = await asyncio.start_server(self._accepted, sock=listener, limit=_BUFFER_BYTES)

    async def shut(self) -> None:
        """New connections are refused. Those that stand serve on."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()

    def cut_idle(self, how: How) -> int:
        """End the connections on which no request is; the answer is how many there were."""
        idle = [line for line in self._lines if line.idle]
        for line in idle:
            line.end(how)
        return len(idle)

    async def settle(self) -> None:
        """Until nothing is on its way any more, stalled bytes included."""
        async with asyncio.timeout(_SETTLING_S):
            await self._settled.wait()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.slammed > 0:
            self.slammed -= 1
            end(writer, How.RESET)
        elif self._server is None:  # accepted just before it was shut
            end(writer, How.END)
        else:
            self._tasks.spawn(self._serve(_Line(reader, writer)), "line")

    async def _serve(self, line: _Line) -> None:
        self._lines.add(line)
        how = How.END
        try:
            reader, line.behind = await asyncio.open_connection("127.0.0.1", self.target_port)
            while True:
                head = await line.reader.readuntil(b"\r\n\r\n")
                self._mark(line, idle=False)
                await self._pass(head, line, reader, line.behind)
                line.used = True
                self._mark(line, idle=True)
        except _CutError as cut:
            how = cut.how
        except (OSError, EOFError, RuntimeError):  # either side hung up; uvloop says RuntimeError of a closed handle
            pass
        finally:
            line.end(how)
            self._lines.discard(line)
            self._mark(line, idle=True)

    def _mark(self, line: _Line, *, idle: bool) -> None:
        line.idle = idle
        if all(other.idle for other in self._lines):
            self._settled.set()
        else:
            self._settled.clear()

    async def _pass(self, head: bytes, line: _Line, reader: asyncio.StreamReader, behind: asyncio.StreamWriter) -> None:
        """One request and its answer."""
        named = _CASE.search(head)
        attempt = Attempt(named[1].decode() if named else "", line.used)
        self.attempts[attempt.case].append(attempt)
        fault = next(self._plans.get(attempt.case, iter(())), None)
        if isinstance(fault, Say) and not fault.forwarded:
            attempt.request = head + await line.reader.readexactly(_length(head))
        else:
            await _forward(attempt, head, line.reader, behind, fault)
            attempt.answer = await _message(reader)
        await _give_back(attempt, line.writer, fault)


async def _forward(
    attempt: Attempt, head: bytes, source: asyncio.StreamReader, sink: asyncio.StreamWriter, fault: Fault | None
) -> None:
    """No more is taken from the gateway than is forwarded: the end of a long body waits in front of the cut."""
    size = len(head) + _length(head)
    cut = fault if isinstance(fault, Cut) and fault.leg is Leg.REQUEST else None
    stop = cut.place(size) if cut else size
    attempt.request = head + await source.readexactly(max(0, stop - len(head)))
    await _write(sink, attempt.request[:stop])
    attempt.forwarded, attempt.whole = stop, stop == size
    if cut:
        await _strike(attempt, cut)
        attempt.request += await source.readexactly(size - len(attempt.request))
        await _write(sink, attempt.request[stop:])
        attempt.forwarded, attempt.whole = size, True


async def _give_back(attempt: Attempt, sink: asyncio.StreamWriter, fault: Fault | None) -> None:
    answer = attempt.answer
    if isinstance(fault, Say):
        answer, attempt.struck = fault.raw, True
    cut = fault if isinstance(fault, Cut) and fault.leg is Leg.ANSWER else None
    if cut and cut.chunked:
        answer = in_chunks(answer)
    stop = cut.place(len(answer)) if cut else len(answer)
    await _write(sink, answer[:stop])
    attempt.given = stop
    if cut:
        await _strike(attempt, cut)
        await _write(sink, answer[stop:])
        attempt.given = len(answer)


async def _strike(attempt: Attempt, cut: Cut) -> None:
    attempt.struck = True
    if cut.how is not How.STALL:
        raise _CutError(cut.how)
    await asyncio.sleep(cut.stall_s)  # the fault itself


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(_length(head))


async def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        sink.write(data)
        await sink.drain()


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def in_chunks(answer: bytes) -> bytes:
    """The same answer without its length, in chunks."""
    head, _, body = answer.partition(b"\r\n\r\n")
    head = _LENGTH.sub(b"\r\n", head + b"\r\n")
    pieces = [body[at : at + _CHUNK_BYTES] for at in range(0, len(body), _CHUNK_BYTES)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def end(writer: asyncio.StreamWriter, how: How) -> None:
    """FIN behind what was written, or RST."""
    if how is How.RESET:
        if not writer.transport.is_closing():
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()

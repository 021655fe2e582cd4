"""Asks the archive, for a short time or not at all: who asks can do without the answer.

A few connections work off what is asked. After a failure, or an answer that did not come in time, nothing is asked for
a while, so that requests do not wait for a database that is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from policies.coverage import gaps
from policies.segments import Series
from proxy.archive.line import NOTHING, Found, Line, Lost
from proxy.archive.writer import Connect
from proxy.clock import Clock
from proxy.metrics import Metrics

WORKERS: Final = 2
_ALONE_US: Final = 5_000_000


class _Question:
    __slots__ = ("answer", "high_ms", "low_ms", "series", "taken")

    def __init__(self, series: Series, low_ms: int, high_ms: int) -> None:
        self.series = series
        self.low_ms = low_ms
        self.high_ms = high_ms
        self.taken = False
        self.answer: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()


class Reader:
    """`run` is to be started WORKERS times."""

    def __init__(self, connect: Connect, metrics: Metrics, clock: Clock, timeout_s: float) -> None:
        self._connect = connect
        self._metrics = metrics
        self._clock = clock
        self._timeout_s = timeout_s
        self._asked: deque[_Question] = deque()
        self._wake = asyncio.Event()
        self._alone_until_us = 0
        self._log = structlog.get_logger()

    @property
    def left_alone(self) -> bool:
        return self._clock() < self._alone_until_us

    async def read(self, series: Series, low_ms: int, high_ms: int) -> Found:
        """What is known of [low, high); nothing, when it cannot be learned in time. Raises nothing."""
        if low_ms >= high_ms:
            return NOTHING
        if self.left_alone:
            return self._counted("skipped")
        question = _Question(series, low_ms, high_ms)
        self._asked.append(question)
        self._wake.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await question.answer
        except TimeoutError:
            if not question.taken:
                return self._counted("skipped")  # that others ask too much says nothing of the database
            self._leave_alone(Lost("timeout"))
            return self._counted("failed")
        if found is None:
            return self._counted("failed")
        whole = not gaps(found.covered, low_ms, high_ms)
        return self._counted("whole" if whole else "part" if found.covered else "nothing", found)

    async def run(self) -> None:
        line: Line | None = None
        try:
            while True:
                question = await self._next()
                try:
                    if line is None or line.closed:
                        line = await self._connect()
                    if question.answer.done():
                        continue  # nobody waits any more: he did not wait for the connection
                    found = await line.read(question.series, question.low_ms, question.high_ms, self._timeout_s)
                except Lost as lost:
                    self._leave_alone(lost)
                    _give(question, None)
                else:
                    _give(question, found)
        finally:
            if line is not None:
                line.drop()

    async def _next(self) -> _Question:
        while True:
            while not self._asked:
                self._wake.clear()
                await self._wake.wait()
            question = self._asked.popleft()
            if not question.answer.done():
                question.taken = True
                return question

    def _leave_alone(self, lost: Lost) -> None:
        """All that wait are told at once: none of them shall wait for a second failure."""
        if not self.left_alone:
            self._log.warning("archive_not_read", reason=lost.reason)
        self._alone_until_us = self._clock() + _ALONE_US
        for question in self._asked:
            _give(question, None)
        self._asked.clear()

    def _counted(self, result: str, found: Found = NOTHING) -> Found:
        self._metrics.db_reads.labels(result).inc()
        return found


def _give(question: _Question, found: Found | None) -> None:
    if not question.answer.done():
        question.answer.set_result(found)

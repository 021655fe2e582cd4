"""The newest candles of several symbols at once. A symbol that has none is named, and does not spoil the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from policies import candle_formats
from policies.caching import CandleQuery
from policies.candle_formats import Format
from policies.market_questions import Batch, Order
from policies.priority import Priority
from policies.segments import Series
from proxy.errors import Unanswered
from proxy.marketdata.ahead import Ahead
from proxy.marketdata.asking import FAILURES, Asker, Behalf, Page, told
from proxy.marketdata.candles import PATIENCE_S, needs_chunks
from proxy.marketdata.desk import Desk, has_closed, lines
from proxy.telemetry import Story
from proxy.wire import Stream, Whole

AT_ONCE: Final = 30
_ROWS: Final = AT_ONCE * 1000
_NAMED: Final = 5


class _Result(NamedTuple):
    symbol: str
    page: Page | None
    error: Exception | None


class BatchPage:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def answer(
        self, question: Batch, request: web.BaseRequest, of: Behalf, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """Written symbol by symbol, from the first one on that has candles. Where none has, what went wrong is
        raised."""
        desk, format_ = self._desk, question.format
        if format_ is not Format.JSON:
            needs_chunks(request)
        asker = desk.asker(of, Priority.LIVE)
        with desk.room.holding(_ROWS):
            async with aclosing(self._results(question, asker)) as results:
                begun: list[_Result] = []
                while not begun or begun[-1].page is None:
                    result = await desk.waited(story, anext(results, None))
                    if result is None:
                        raise _why_none(begun)
                    begun.append(result)
                asker.patient = True
                if request.method == "HEAD":
                    desk.given(0, asker, story)
                    return Whole(lines(format_, request_id), b"")
                stream = Stream(lines(format_, request_id), length=None, patience_s=PATIENCE_S)
                story.streamed_us = desk.clock()
                async with aclosing(self._pieces(question, begun, results, asker, story)) as pieces:
                    story.body_bytes = await stream.send(request, pieces)
                return stream

    async def _results(self, question: Batch, asker: Asker) -> AsyncGenerator[_Result]:
        """In the order of the symbols."""
        waiting = iter(question.series)
        with Ahead[_Result](self._desk.tasks, "marketdata-batch") as ahead:
            while True:
                while len(ahead) < AT_ONCE and (series := next(waiting, None)) is not None:
                    ahead.begin(_one(series, question.limit, asker))
                if not ahead:
                    return
                yield await ahead.next()

    async def _pieces(
        self, question: Batch, begun: list[_Result], others: AsyncIterator[_Result], asker: Asker, story: Story
    ) -> AsyncGenerator[bytes]:
        desk, head = self._desk, question.series[0]
        written = _Lines() if question.format is Format.NDJSON else _Json()
        yield written.head(head, question.order)
        rows, waiting = 0, iter(begun)
        try:
            while True:
                result = next(waiting, None) or await desk.waited(story, anext(others, None))
                if result is None:
                    break
                if result.page is not None:
                    rows += len(result.page.rows.opens)
                    piece = written.found(head._replace(symbol=result.symbol), result.page, question.order)
                else:
                    assert result.error is not None  # noqa: S101
                    piece = written.failed(result.symbol, result.error)
                began_us = desk.clock()
                yield piece
                story.upstream_us += desk.clock() - began_us  # the reader's time
        finally:
            desk.given(rows, asker, story)
        yield written.tail(desk.now_ms())


class _Json:
    """One object with a list for each symbol."""

    def __init__(self) -> None:
        self._closed: dict[str, bool | None] = {}
        self._errors: dict[str, bytes] = {}
        self._newest_ms = 0

    def head(self, series: Series, order: Order) -> bytes:
        return candle_formats.batch_head(series, order.value)

    def found(self, series: Series, page: Page, order: Order) -> bytes:
        first = not self._closed
        self._closed[series.symbol] = has_closed(series, page)
        self._newest_ms = max(self._newest_ms, page.at_ms)
        return candle_formats.batch_list(series.symbol, _ordered(page, order), first=first)

    def failed(self, symbol: str, error: Exception) -> bytes:
        self._errors[symbol] = _error(error)
        return b""

    def tail(self, now_ms: int) -> bytes:
        return candle_formats.batch_tail(self._closed, self._errors, self._newest_ms or now_ms)


class _Lines:
    """A line for each symbol."""

    def head(self, series: Series, order: Order) -> bytes:  # noqa: ARG002
        return b""

    def found(self, series: Series, page: Page, order: Order) -> bytes:
        return candle_formats.batch_line(series.symbol, _ordered(page, order), closed=has_closed(series, page))

    def failed(self, symbol: str, error: Exception) -> bytes:
        return candle_formats.batch_error_line(symbol, _error(error))

    def tail(self, now_ms: int) -> bytes:  # noqa: ARG002
        return b""


async def _one(series: Series, limit: int, asker: Asker) -> _Result:
    try:
        page = await asker.page(CandleQuery(*series, None, None, limit))
    except FAILURES as error:
        return _Result(series.symbol, None, error)
    return _Result(series.symbol, page, None)


def _ordered(page: Page, order: Order) -> list[bytes]:
    return page.rows.texts[::-1] if order is Order.OLDEST_FIRST else page.rows.texts


def _error(error: Exception) -> bytes:
    return orjson.dumps(told(error).members())


def _why_none(results: list[_Result]) -> Exception:
    """What is wrong with all of them, rather than that one is not known."""
    errors = [result.error for result in results if result.error is not None]
    graver = [error for error in errors if not (isinstance(error, Unanswered) and error.status == 404)]
    if graver:
        return graver[0]
    names = ", ".join(result.symbol for result in results[:_NAMED])
    rest = f" and {len(results) - _NAMED} more" if len(results) > _NAMED else ""
    return Unanswered(404, "unknown-symbol", f"the exchange offers none of {names}{rest}")

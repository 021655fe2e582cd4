"""Candles of one symbol: the newest, collected; or a history, given while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from policies import candle_formats
from policies.blocks import span_of
from policies.candle_formats import Format
from policies.market_questions import History, Latest, Order, page_rows
from policies.priority import Priority
from policies.walk import Walk
from proxy.errors import Unanswered
from proxy.marketdata.asking import FAILURES, Asker, Behalf, Limited, Page
from proxy.marketdata.desk import Desk, has_closed, lines, whole
from proxy.marketdata.pages import Pages
from proxy.telemetry import Story
from proxy.wire import Gone, Stream, Whole

_KEPT_ROWS: Final = 20_000
"""What is longer is not worth the place of what others ask for again."""
_UNDER_WAY: Final = 25_000
"""What the pages of a history that are under way count for, in rows that are packed."""
PATIENCE_S: Final = 60.0
"""How long a reader may take nothing. It holds no connection upstream meanwhile."""


class CandlePages:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def latest(
        self, question: Latest, request: web.BaseRequest, of: Behalf, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """The newest candles, collected first: the oldest of them is known last."""
        desk, limit, format_ = self._desk, question.limit, question.format
        short = limit <= page_rows(question.series.category)
        asker = desk.asker(of, Priority.LIVE if short else Priority.HISTORY)
        asker.keep = limit <= _KEPT_ROWS
        with desk.room.holding(limit):
            pieces = await self._collected(question, asker, story)
            if short or request.method == "HEAD":
                return whole(format_, b"".join(pieces), story, request_id)
            length = sum(map(len, pieces))
            head = lines(format_, request_id) + b"Content-Length: %d\r\n" % length
            stream = Stream(head, length=length, patience_s=PATIENCE_S)
            story.streamed_us = desk.clock()
            story.body_bytes = await desk.waited(story, stream.send(request, _each(pieces)))
            return stream

    async def _collected(self, question: Latest, asker: Asker, story: Story) -> list[bytes]:
        """The body in pieces: a page is packed as soon as it is there."""
        desk, series, format_ = self._desk, question.series, question.format
        end_ms = question.end_ms if question.end_ms is not None and question.end_ms < desk.now_ms() else None
        pages = Pages(series, asker, parallel=desk.parallel, tasks=desk.tasks)
        packed, rows, newest = list[bytes](), 0, None
        async with aclosing(pages.newest(question.limit, end_ms)) as found:
            while (page := await desk.waited(story, anext(found, None))) is not None:
                newest = newest or page
                rows += len(page.rows.opens)
                packed.append(_packed(format_, page, question.order))
        if question.order is Order.OLDEST_FIRST:
            packed.reverse()
        desk.given(rows, asker, story)
        joint = b"," if format_ is Format.JSON else b""
        at_ms = desk.now_ms() if newest is None else newest.at_ms
        return [
            candle_formats.head(format_, series, question.order.value),
            *_joined(packed, joint),
            candle_formats.tail(format_, at_ms, closed=has_closed(series, newest)),
        ]

    async def history(
        self, question: History, request: web.BaseRequest, of: Behalf, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """All candles of a range. What goes wrong before the first page has a status of its own; afterwards the answer
        breaks off."""
        desk, began_us, result = self._desk, self._desk.clock(), "failed"
        with desk.room.holding(_UNDER_WAY):
            try:
                answer = await self._history(question, request, of, story, request_id)
                result = "broken" if isinstance(answer, Gone) else "whole"
            except (asyncio.CancelledError, ConnectionError):
                result = "client-gone"
                raise
            finally:
                desk.metrics.history_fetches.labels(result).inc()
                desk.metrics.history_seconds.observe((), desk.clock() - began_us)
        return answer

    async def _history(
        self, question: History, request: web.BaseRequest, of: Behalf, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        desk, series, format_ = self._desk, question.series, question.format
        now_ms = desk.now_ms()
        last_ms = now_ms if question.end_ms is None else min(question.end_ms, now_ms)
        span = span_of(series.category, series.interval, question.start_ms, last_ms + 1)
        short = span.end - span.first <= span.size
        if not short and format_ is not Format.JSON:
            needs_chunks(request)
        asker = desk.asker(of, Priority.HISTORY)
        asker.keep = span.end - span.first <= _KEPT_ROWS
        pages = Pages(series, asker, parallel=desk.parallel, tasks=desk.tasks)
        walk = Walk(span, newest_first=question.order is Order.NEWEST_FIRST)
        async with aclosing(pages.along(walk)) as found:
            first = await desk.waited(story, anext(found, None))
            async with aclosing(self._pieces(question, asker, story, first, found)) as pieces:
                if short:
                    return whole(format_, b"".join([piece async for piece in pieces]), story, request_id)
                if request.method == "HEAD":
                    desk.given(0, asker, story)
                    return Whole(lines(format_, request_id), b"")
                asker.patient = True
                stream = Stream(lines(format_, request_id), length=None, patience_s=PATIENCE_S)
                story.streamed_us = desk.clock()
                try:
                    story.body_bytes = await stream.send(request, pieces)
                except FAILURES as error:
                    story.source, story.outcome = "gateway", "history-broken"
                    story.rule = error.refused.charge.quota.name if isinstance(error, Limited) else ""
                    return Gone()
                return stream

    async def _pieces(
        self,
        question: History,
        asker: Asker,
        story: Story,
        first: Page | None,
        others: AsyncIterator[Page],
    ) -> AsyncGenerator[bytes]:
        """The body, page by page. Never ended where a page is missing."""
        desk, series, format_ = self._desk, question.series, question.format
        yield candle_formats.head(format_, series, question.order.value)
        page, newest, rows = first, first, 0
        joint = b"," if format_ is Format.JSON else b""
        try:
            while page is not None:
                text = _packed(format_, page, question.order)
                begun_us = desk.clock()
                yield joint + text if rows else text
                story.upstream_us += desk.clock() - begun_us  # the reader's time
                rows += len(page.rows.opens)
                if question.order is Order.OLDEST_FIRST:
                    newest = page
                page = await desk.waited(story, anext(others, None))
        finally:
            desk.given(rows, asker, story)
        at_ms = desk.now_ms() if newest is None else newest.at_ms
        yield candle_formats.tail(format_, at_ms, closed=has_closed(series, newest))


def needs_chunks(request: web.BaseRequest) -> None:
    """Lines of text that end with their connection look whole wherever they end. Raises Unanswered."""
    if request.version < HttpVersion11:
        detail = (
            "lines are streamed to HTTP/1.1 only, where a part cannot be taken for the whole: "
            "ask for format=json, or set proxy_http_version 1.1 where nginx stands between"
        )
        raise Unanswered(505, "http-version", detail)


def _packed(format_: Format, page: Page, order: Order) -> bytes:
    texts = page.rows.texts
    return candle_formats.rows(format_, texts[::-1] if order is Order.OLDEST_FIRST else texts)


def _joined(packed: list[bytes], joint: bytes) -> Iterable[bytes]:
    for at, each in enumerate(packed):
        if at and joint:
            yield joint
        yield each


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece

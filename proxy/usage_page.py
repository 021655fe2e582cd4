"""/gateway/usage: what clients have asked for, as JSON or CSV. docs/usage.md tells what the figures mean.

A long report reads thousands of hours. Only one is made at a time, and none while the gateway drains: nobody's
curiosity holds that up.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from aiohttp import web

from policies.usage import COUNTS, HOUR_US
from policies.usage_report import (
    COLUMNS,
    MOST_ROWS,
    BadUsageQuestion,
    Question,
    Report,
    TooManyRows,
    Wholeness,
    csv_line,
    instant,
    understood,
)
from proxy import errors
from proxy.admin import Admin
from proxy.clock import Clock
from proxy.usage import Usage
from proxy.wire import Whole, head

PATH: Final = "/gateway/usage"
_ENDING: Final = "The gateway is ending."


class UsagePage:
    """`usage`: None where nothing is counted."""

    def __init__(self, admin: Admin, usage: Usage | None, clock: Clock) -> None:
        self._admin = admin
        self._usage = usage
        self._clock = clock
        self._running: asyncio.Timeout | None = None
        """Of the report that is being made: it has all the time it wants, until the drain begins."""
        admin.draining.append(self._end)
        admin.serve(PATH, self._answer)

    async def _answer(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        if self._usage is None:
            return errors.plain(404, "not-counted", "Usage is not counted: set usage.enabled: true.", request_id)
        if request.method not in {"GET", "HEAD"}:
            return errors.plain(405, "method-not-allowed", "This page can only be read.", request_id)
        try:
            question = understood(request.raw_path.partition("?")[2], self._clock())
        except BadUsageQuestion as error:
            return errors.plain(400, "bad-parameter", str(error), request_id)
        if self._admin.drains:
            return errors.plain(503, "draining", _ENDING, request_id)
        if self._running is not None:
            busy = "Another report is being made; ask again when it is done."
            return errors.plain(503, "report-running", busy, request_id, retry_s=1)
        self._running = asyncio.timeout(None)
        try:
            async with self._running:
                return await self._made(self._usage, question, request_id)
        except TimeoutError:
            return errors.plain(503, "draining", _ENDING, request_id)
        except TooManyRows:
            remedy = "ask for a shorter time, for by=day or by=total, or for one client or tier"
            return errors.plain(400, "too-many-rows", f"More than {MOST_ROWS} rows: {remedy}.", request_id)
        finally:
            self._running = None

    def _end(self) -> None:
        if self._running is not None:
            self._running.reschedule(0)

    async def _made(self, usage: Usage, question: Question, request_id: bytes) -> Whole:
        report, wholeness = await usage.report(question)
        # In a thread: a long answer is written in some hundred milliseconds, in which others want theirs.
        body = await asyncio.to_thread(_csv if question.csv else _json, question, report, wholeness)
        lines = [
            (b"Content-Type", b"text/csv; charset=utf-8; header=present" if question.csv else b"application/json"),
            (b"Cache-Control", b"no-store"),
            (b"X-Gateway", b"own-page"),
            (b"X-Gateway-Complete", b"true" if wholeness.complete else b"false"),
            (b"X-Request-Id", request_id),
            (b"Content-Length", b"%d" % len(body)),
        ]
        if question.csv:
            lines.append((b"Content-Disposition", b'attachment; filename="usage.csv"'))
        if wholeness.note:
            lines.append((b"X-Gateway-Note", wholeness.note.encode()))
        return Whole(head(200, lines), body)


def _json(question: Question, report: Report, wholeness: Wholeness) -> bytes:
    """In pieces: one call of the encoder holds up everything else until it is done."""
    told = {
        "from": instant(question.from_us),
        "to": instant(question.to_us),
        "by": question.by.value,
        "since": None if wholeness.since is None else instant(wholeness.since * HOUR_US),
        "complete": wholeness.complete,
        "partial": [instant(hour * HOUR_US) for hour in wholeness.partial],
        "note": wholeness.note or None,
    }
    pieces = []
    for rows in report.periods():
        for start, client, tier, sums in rows:
            row = {"start": start, "client": client, "tier": tier or None, **dict(zip(COUNTS, sums, strict=True))}
            pieces.append(orjson.dumps(row))
    listed = b"[\n" + b",\n".join(pieces) + b"\n]" if pieces else b"[]"
    return (
        b"%b,\n" % orjson.dumps(told, option=orjson.OPT_INDENT_2).removesuffix(b"\n}") + b'  "rows": %b\n}\n' % listed
    )


def _csv(question: Question, report: Report, wholeness: Wholeness) -> bytes:  # noqa: ARG001  # as _json
    lines = [csv_line(COLUMNS)]
    for rows in report.periods():
        lines += [csv_line((start, client, tier, *sums)) for start, client, tier, sums in rows]
    return "".join(lines).encode()

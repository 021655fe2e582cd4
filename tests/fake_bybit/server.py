"""The exchange's front door. Every request walks this corridor:

network delay, record, IP limiter, faults, then the judge (GET with a body, route, signature, account limiter,
handler), and out again. The handshake of a stream leaves it after the record: its limits are its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.fake_bybit import answers, tools
from tests.fake_bybit.books import Books, Verdict
from tests.fake_bybit.call import Call
from tests.fake_bybit.faults import Faults
from tests.fake_bybit.record import Record, Stats
from tests.fake_bybit.reply import Reply
from tests.fake_bybit.stream_words import category_of
from tests.fake_bybit.streams import Streams

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from tests.fake_bybit.answers import Answer
    from tests.fake_bybit.call import Clock
    from tests.fake_bybit.faults import Rule
    from tests.fake_bybit.judge import Judge
    from tests.fake_bybit.settings import Settings

Sleep = Callable[[float], Awaitable[Any]]  # seconds, as asyncio.sleep takes them

_LINE_BYTES = 64 * 1024


class Exchange:
    """Books, records, breaks and answers requests. Owns everything that a reset forgets."""

    def __init__(self, settings: Settings, judge: Judge, *, seed: int, clock: Clock, sleep: Sleep) -> None:
        self.settings = settings
        self.judge = judge
        self.stopping = asyncio.Event()
        self._seed = seed
        self._clock = clock
        self._sleep = sleep
        self._traceids = random.Random(seed)
        self.streams = Streams(
            settings,
            seed=seed,
            clock=clock,
            now_us=judge.now_us,
            ids=random.Random(seed),
            stopping=self.stopping,
        )
        self.reset()

    def reset(self) -> None:
        """Forget what happened: books, record, counts and faults. Settings and orders stay."""
        self.books = Books(self.settings)
        self.faults = Faults(self._seed)
        self.record = Record(self.settings.record_size)
        self.stats = Stats()
        self.streams.reset()

    def now_us(self) -> int:
        """The clock the books run on. It has no offset: a skew set halfway must not bend their windows."""
        return self._clock()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Walk one request down the corridor."""
        raw_path, _, raw_query = request.raw_path.partition("?")
        path = self._route_path(raw_path)
        plan = self.faults.plan(request.method, path, self._clock())
        # The network's delay comes before the booking: it is what squeezes requests together on arrival.
        if plan.request_delay_us:
            await self._sleep(plan.request_delay_us / 1_000_000)
        try:
            body = await request.content.read() if request.can_read_body else b""
        except (web.RequestPayloadError, ConnectionError):
            return answers.Dropped()
        self.record.resize(self.settings.record_size)
        entry = self.record.add(
            self._clock(),
            request.remote or "",
            method=request.method,
            target=request.raw_path,
            raw_headers=request.raw_headers,
            body=body,
        )
        call = Call(request, path, raw_query, body, entry, plan)
        if (category := category_of(path)) is not None:
            return await self._stream(call, category)
        response = await self._respond(call)
        if plan.response_delay_us:
            await self._sleep(plan.response_delay_us / 1_000_000)
        return response

    async def _respond(self, call: Call) -> web.StreamResponse:
        self.books.follow_settings()
        if self.books.ip.arrive(call.entry.ip, call.entry.time_us) is not Verdict.OK:
            return self._send(call, answers.banned(self.settings))
        if call.plan.outcome is not None:
            return await self._break(call, call.plan.outcome)
        if call.path == tools.LARGE and call.method == "GET":
            return await self._large(call)
        return self._send(call, self._serve(call))

    async def _stream(self, call: Call, category: str) -> web.StreamResponse:
        # At Bybit this is another host (bybit.md 4.2): the address's window of REST requests has no part in it.
        if call.plan.outcome is not None:
            return await self._break(call, call.plan.outcome)
        served = await self.streams.serve(call, category)
        return served if isinstance(served, web.StreamResponse) else self._send(call, served)

    async def _break(self, call: Call, rule: Rule) -> web.StreamResponse:
        match rule.kind:
            case "ban":
                self.books.ip.ban(call.entry.ip, call.entry.time_us)
                return self._send(call, answers.banned(self.settings))
            case "cloudfront_html":
                return self._send(call, answers.bad_request_page())
            case "geo_block":
                return self._send(call, answers.geo_block_page())
            case "status" | "ret_code":
                return self._send(call, self._lie(call, rule))
            case "edit":
                answer = self._serve(call)
                answer.body = answer.body.replace(rule.find.encode(), rule.replace.encode(), 1)
                return self._send(call, answer)
            case "truncate":
                answer = self._serve(call)
                self._count(call, answer.status, answer.ret_code)
                return answers.Truncated(answer, self._dress(call, answer))
            case "reset_after":
                self._count(call, None, self._serve(call).ret_code)
                return answers.Dropped()
            case "hang":
                self._count(call, None, None)
                await self.stopping.wait()
                return answers.Dropped()
            case _:  # reset_before
                self._count(call, None, None)
                return answers.Dropped()

    def _lie(self, call: Call, rule: Rule) -> Answer:
        if rule.processed:
            self._serve(call)
        if rule.kind == "status":
            return answers.scripted(rule, self.judge.now_us())
        told = answers.envelope(Reply(rule.ret_code, rule.ret_msg), self.judge.now_us())
        told.headers += [(name, value) for name, value in rule.headers]
        return told

    async def _large(self, call: Call) -> web.StreamResponse:
        size = tools.large_size(call.raw_query)
        if size is None:
            return self._send(call, answers.not_found())
        self._count(call, 200, None)
        headers = self._dress(call, answers.Answer(content_type="application/octet-stream"))
        return await tools.send_large(call.request, call.raw_query, size, headers)

    def _serve(self, call: Call) -> Answer:
        return self.judge.serve(call, self.books, self.stats)

    def _send(self, call: Call, answer: Answer) -> web.Response:
        self._count(call, answer.status, answer.ret_code)
        headers = self._dress(call, answer)  # before the body is read: dressing may compress it
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    def _dress(self, call: Call, answer: Answer) -> CIMultiDict[str]:
        traceid = f"{self._traceids.getrandbits(128):032x}"
        accepted = call.headers.get("Accept-Encoding", "")
        return answers.dress(answer, self.settings, self.judge.now_us(), traceid, accepted)

    def _count(self, call: Call, status: int | None, ret_code: int | None) -> None:
        call.entry.status, call.entry.ret_code = status, ret_code
        if category_of(call.path) is not None:
            return  # streams have books of their own
        # Paths that clients make up would fill the memory of a long-running exchange.
        endpoint = "(unknown)" if status == 404 else f"{call.method} {call.path}"
        self.stats.answered(endpoint, status, ret_code)

    def _route_path(self, path: str) -> str:
        # clients.md 1: a base URL that ends in a slash makes //v5/..., and one client always sends that
        if self.settings.collapse_slashes and path.startswith("//"):
            return "/" + path.lstrip("/")
        return path


def low_level_server(exchange: Exchange) -> web.Server:
    """aiohttp's server without its application: nothing between the socket and the corridor re-reads a URL."""
    return web.Server(
        exchange.handle,
        auto_decompress=False,
        max_line_size=_LINE_BYTES,
        max_field_size=_LINE_BYTES,
        access_log=None,
    )

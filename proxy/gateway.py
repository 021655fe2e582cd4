"""The life of a request, top to bottom:

client -> describe -> admit (the client's own quotas) -> cache --hit--> client
                                                           | miss: one fetch for all who ask
                                                           v
                          acquire (the exchange's quotas, queue, deadline) -> send -> exchange
client <- one log event <- store if storable <- observe <-'
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Final

import structlog
from aiohttp import web
from aiohttp.hdrs import ACCEPT_ENCODING, UPGRADE

from policies import bybit
from policies.admission import Refused, RefuseWith
from policies.caching import CandleLifetimes
from policies.descriptor import Descriptor, Outcome
from proxy import coding, errors, headers
from proxy.answers import CandleAnswer, Kept, read_answer
from proxy.ask import Ask, read_ask
from proxy.attempts import READS, Attempts
from proxy.body import BodyLimits
from proxy.cache import L1, Entry, Flights
from proxy.clock import Clock
from proxy.describe import Asked, Describer
from proxy.errors import BadClock, BrokenAnswer, FateUnknown, Malformed, NotSent, Unauthorized
from proxy.identity import Rejected
from proxy.limiter import Limiter
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.upstream import Reply
from proxy.wire import Gone, Stream, Whole, head

_WHOLE_BYTES: Final = 256 << 10
"""Answers up to this length go out in one piece; longer ones stream."""
_CONDITIONS: Final = (
    "Range",
    "If-None-Match",
    "If-Modified-Since",
    "If-Match",
    "If-Unmodified-Since",
    "If-Range",
    "Origin",
    "Cookie",
    "Authorization",
)
"""Headers by which one client's answer may differ from another's: such a request is not fetched for others."""
_BEGINNING_BYTES: Final = 64 << 10
"""So much of an answer without a length is read before it is taken for a long one."""
_HIT: Final = ("get", "hit")
_FROM_CACHE: Final = ("cache",)


class Gateway:
    """Introduces the rooms to each other; knows the order of things and nothing else."""

    def __init__(
        self,
        *,
        describer: Describer,
        attempts: Attempts,
        door: Limiter,
        l1: L1 | None,
        lifetimes: CandleLifetimes,
        telemetry: Telemetry,
        tasks: TaskOwner,
        clock: Clock,
        body_limits: BodyLimits,
    ) -> None:
        self._describer = describer
        self._door = door
        self._l1 = l1
        self._lifetimes = lifetimes
        self._flights = Flights(tasks)
        self._attempts = attempts
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._clock = clock
        self._body_limits = body_limits
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._log = structlog.get_logger()

    def adopt(self, describer: Describer, l1: L1 | None, lifetimes: CandleLifetimes) -> None:
        """After a reload. What has been described already goes on as it was understood."""
        self._describer, self._l1, self._lifetimes = describer, l1, lifetimes

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Every end of it is told once, a client that hangs up included."""
        story = Story(f"{self._prefix}{next(self._numbers):08x}", request.method, self._clock())
        request_id = story.request_id.encode()
        try:
            return await self._answer(request, story, request_id)
        except Malformed as error:
            story.status, story.outcome = error.status, error.reason
            return errors.malformed(error, request_id, self._clock() // 1000)
        except Unauthorized as error:
            story.status, story.outcome = 401, "unauthorized"
            return errors.unauthorized(error, request_id, self._clock() // 1000)
        except BadClock as error:
            story.status, story.outcome = 200, error.reason
            return errors.bad_clock(error, request_id, self._clock() // 1000)
        except NotSent as error:
            story.status, story.outcome = 502, error.reason
            return errors.not_sent(error.reason, request_id)
        except FateUnknown as error:
            story.status, story.outcome = 504, error.reason
            return errors.fate_unknown(error.reason, request_id, self._clock() // 1000)
        except BrokenAnswer as error:
            return self._broken(request, error, story, request_id)
        except asyncio.CancelledError:
            story.outcome = "client-gone"
            raise
        except ConnectionError:
            story.outcome = "client-gone"
            return Gone()
        except Exception as error:  # noqa: BLE001  # the last line before the client: no traceback may pass it
            story.status, story.outcome = 500, "internal-error"
            self._log.error("internal_error", id=story.request_id, error=type(error).__name__, at=_where(error))
            return errors.internal(request_id)
        finally:
            self._telemetry.tell(story)

    async def _answer(self, request: web.BaseRequest, story: Story, request_id: bytes) -> web.StreamResponse:
        asked = self._describer.describe(request.method, request.raw_path, request.remote, request.headers)
        story.endpoint, story.ip = asked.descriptor.endpoint, asked.descriptor.ip
        if asked.refusal is not None:
            if isinstance(asked.refusal, Rejected):
                raise Unauthorized(asked.refusal.detail, asked.refusal.challenge)
            raise Malformed(400, "bad-target", asked.refusal)
        if request.headers.get(UPGRADE, "").lower() == "websocket":
            raise Malformed(501, "no-websocket", "WebSocket streams are not forwarded: connect to the stream host")

        claim = asked.claim
        if claim.charges:  # the quotas that a client spends by asking, whether the exchange hears of it or not
            self._metrics.limit_hits.counts[_limited_as(asked.descriptor)] += 1
            spent = self._door.spend_now(claim)
            answer = await self._door.spend(claim) if spent is None else spent
            if isinstance(answer, Refused):
                return self._limited(answer, asked.descriptor, story, request_id)
            self._telemetry.count_admitted(claim.charges, answer)

        if self._l1 is not None and asked.candles is not None:
            entry = self._l1.get(asked.key, story.began_us)
            if entry is not None:
                return self._hit(entry, request, story, request_id)
        fetch = asked.candles is not None and self._l1 is not None
        if fetch and any(name in request.headers for name in _CONDITIONS):
            fetch = False
        if asked.route.candles and not fetch:
            story.cache = "bypass"
        ask = await read_ask(request, asked, self._body_limits)
        try:
            if fetch:
                return await self._collapsed(ask, asked, request, story, request_id)
            return await self._forward(ask, request, story, request_id)
        finally:
            self._body_limits.release(len(ask.body))

    async def _collapsed(
        self, ask: Ask, asked: Asked, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """A miss: the first asker fetches for all who ask meanwhile. What is his doing alone is not theirs."""
        leads = asked.key not in self._flights
        if not leads:
            self._metrics.collapsed.labels(story.endpoint).inc()
        answer = await self._flights.join(asked.key, lambda: self._fetch(ask, asked, story))
        accept_encoding = request.headers.get(ACCEPT_ENCODING)
        if not leads and (isinstance(answer, Refused) or not answer.suits(accept_encoding)):
            return await self._forward(ask, request, story, request_id)
        if isinstance(answer, Refused):
            return self._limited(answer, ask.descriptor, story, request_id)
        story.source, story.status, story.ret_code = "exchange", answer.status, answer.ret_code
        stored = "; stored" if answer.entry is not None else ""
        story.cache = f"fwd=uri-miss; fwd-status={answer.status}{stored}" if leads else "fwd=uri-miss; collapsed"
        self._metrics.cache_operations.inc(("get", "miss" if leads else "collapsed"))
        self._metrics.candles.inc(("exchange",), answer.rows)
        variant = answer.own if leads else answer.variant(accept_encoding)
        story.body_bytes = len(variant.body)
        return Whole(variant.head + _ours(request_id, story.cache), variant.body)

    async def _fetch(self, ask: Ask, asked: Asked, story: Story) -> CandleAnswer | Refused:
        reply = await self._attempts.send(ask, story)
        if isinstance(reply, Refused):
            return reply
        assert asked.candles is not None  # noqa: S101
        received_us = self._clock()
        raw = await reply.read()
        exchange_us = received_us + self._attempts.skew.offset_us
        answer = read_answer(reply, raw, Kept(asked.candles, asked.key, self._lifetimes, received_us, exchange_us))
        self._telemetry.observe(Outcome(answer.status, answer.ret_code))
        if answer.plain is not None:
            self._attempts.learn(reply, answer.plain.body)
        if answer.entry is not None and self._l1 is not None:  # a reload may have switched it off meanwhile
            self._l1.put(answer.entry)
            self._metrics.cache_operations.inc(("set", "stored"))
        return answer

    async def _forward(self, ask: Ask, request: web.BaseRequest, story: Story, request_id: bytes) -> web.StreamResponse:
        """By itself, past the cache."""
        reply = await self._attempts.send(ask, story)
        if isinstance(reply, Refused):
            return self._limited(reply, ask.descriptor, story, request_id)
        return await self._pass_on(reply, request, story, request_id)

    async def _pass_on(
        self, reply: Reply, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """The exchange's answer as it came: whole when it is short, in pieces when it is long or its end unknown."""
        story.source, story.status = "exchange", reply.status
        cache_status = f"fwd={story.cache}" if story.cache else ""
        length = reply.length
        pairs = headers.to_client(reply.raw_headers, length_known=length is not None)
        if any(name.lower() == b"x-request-id" for name, _ in pairs):
            request_id = b""  # the exchange has named it already
        lines = head(reply.status, pairs, reply.reason) + _ours(request_id, cache_status)
        if not reply.has_body:
            reply.close()
            self._telemetry.observe(Outcome(reply.status, None))
            return Whole(lines, b"")
        raw = await _whole(reply, length)
        if raw is not None:
            story.body_bytes = len(raw)
            text = coding.decode_if_short(raw, reply.encoding)
            story.ret_code = bybit.ret_code(text)
            self._attempts.learn(reply, text)
            self._telemetry.observe(Outcome(reply.status, story.ret_code))
            return Whole(lines if length is not None else lines + b"Content-Length: %d\r\n" % len(raw), raw)
        self._telemetry.observe(Outcome(reply.status, None))
        stream = Stream(lines, length=length)
        try:
            story.body_bytes = await stream.send(request, reply.pieces())
        except BrokenAnswer as error:
            story.outcome = error.reason
            return Gone()
        finally:
            reply.close()
        return stream

    def _hit(self, entry: Entry, request: web.BaseRequest, story: Story, request_id: bytes) -> Whole:
        now_us = story.began_us
        variant = entry.variant(request.headers.get(ACCEPT_ENCODING))
        story.source, story.cache, story.status = "cache", "hit", 200
        story.body_bytes = len(variant.body)
        self._metrics.cache_operations.counts[_HIT] += 1
        self._metrics.candles.counts[_FROM_CACHE] += entry.rows
        age_s = (now_us - entry.stored_us) // 1_000_000
        ttl_s = (entry.expires_us - now_us) // 1_000_000
        lines = b"%bAge: %d\r\nCache-Status: bybit-gateway; hit; ttl=%d\r\nX-Request-Id: %b\r\n" % (
            variant.head,
            age_s,
            ttl_s,
            request_id,
        )
        return Whole(lines, variant.body)

    def _limited(self, refused: Refused, descriptor: Descriptor, story: Story, request_id: bytes) -> Whole:
        quota = refused.charge.quota
        story.outcome, story.rule = f"limit-{refused.why}", quota.name
        self._telemetry.count_refused(refused)
        self._metrics.limit_blocks.labels(*_limited_as(descriptor)).inc()
        story.status = 200 if quota.refuse_with is RefuseWith.BYBIT else 429
        return errors.limited(refused, request_id, self._clock())

    def _broken(
        self, request: web.BaseRequest, error: BrokenAnswer, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        if request.method in READS:
            story.source, story.status, story.outcome = "gateway", 502, error.reason
            return errors.broken_answer(error.reason, request_id)
        story.source, story.status, story.outcome = "gateway", 504, error.reason
        return errors.fate_unknown(error.reason, request_id, self._clock() // 1000)


async def _whole(reply: Reply, length: int | None) -> bytes | None:
    """The body of a short answer; None for one that is long. Most answers without a length end soon as well."""
    if length is None:
        return await reply.begin(_BEGINNING_BYTES)
    return await reply.read() if length <= _WHOLE_BYTES else None


def _ours(request_id: bytes, cache_status: str) -> bytes:
    """The two lines that the gateway adds to an answer of the exchange."""
    line = b"X-Request-Id: %b\r\n" % request_id if request_id else b""
    return line + f"Cache-Status: bybit-gateway; {cache_status}\r\n".encode() if cache_status else line


def _limited_as(descriptor: Descriptor) -> tuple[str, str, str]:
    """identifier_type, tier, endpoint: the labels of the limits' metrics."""
    client = descriptor.client
    kind = "ip" if client == descriptor.ip else "api_key" if client == descriptor.api_key else "client"
    return kind, descriptor.tier or "none", descriptor.endpoint


def _where(error: BaseException) -> str:
    """file:line of a mistake, without its text: that may hold what the client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"

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

from policies.admission import Refused, RefuseWith
from policies.caching import CandleLifetimes
from policies.descriptor import Descriptor
from proxy import errors, headers
from proxy.answered import Answered
from proxy.answers import CandleAnswer, Kept, read_answer
from proxy.ask import Ask, read_ask
from proxy.attempts import READS, Attempts
from proxy.body import BodyLimits
from proxy.cache import L1, Entry, Flights
from proxy.clock import Clock
from proxy.describe import Asked, Describer
from proxy.egress import Egress
from proxy.errors import (
    BadClock,
    Banned,
    Broken,
    BrokenAnswer,
    Halted,
    Malformed,
    NotSent,
    Unauthorized,
    UpstreamError,
)
from proxy.identity import Rejected
from proxy.limiter import Limiter
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.wire import Gone, Stream, Whole, head

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
_HIT: Final = ("get", "hit")
_STALE: Final = ("get", "stale")
_FROM_CACHE: Final = ("cache",)


class Gateway:
    """Introduces the rooms to each other; knows the order of things and nothing else."""

    def __init__(
        self,
        *,
        describer: Describer,
        attempts: Attempts,
        egress: Egress,
        door: Limiter,
        l1: L1 | None,
        lifetimes: CandleLifetimes,
        telemetry: Telemetry,
        tasks: TaskOwner,
        clock: Clock,
        body_limits: BodyLimits,
    ) -> None:
        self.describer = describer
        self._door = door
        self._l1 = l1
        self._lifetimes = lifetimes
        self._flights = Flights(tasks)
        self._attempts = attempts
        self._egress = egress
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._clock = clock
        self._body_limits = body_limits
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._log = structlog.get_logger()

    def adopt(self, describer: Describer, l1: L1 | None, lifetimes: CandleLifetimes) -> None:
        """After a reload. What has been described already goes on as it was understood."""
        self.describer, self._l1, self._lifetimes = describer, l1, lifetimes

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
        except (Banned, Broken, Halted) as error:
            return self._held_back(error, story, request_id)
        except UpstreamError as error:
            return self._failed(error, request.method in READS, story, request_id)
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
        asked = self.describer.describe(request.method, request.raw_path, request.remote, request.headers)
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
        except (Banned, Broken) as error:
            entry = None if self._l1 is None or asked.candles is None else self._l1.stale(asked.key)
            if entry is None:
                raise
            return self._hit(entry, request, story, request_id, "banned" if isinstance(error, Banned) else "breaker")
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
        answered = await self._attempts.send(ask, story)
        if isinstance(answered, Refused):
            return answered
        if answered.status == 403 and self._egress.banned:
            raise Banned  # its own answer tells of the ban: what is kept is better than that
        assert asked.candles is not None  # noqa: S101
        reply, received_us = answered.reply, self._clock()
        raw = await reply.read() if answered.raw is None else answered.raw
        exchange_us = received_us + self._attempts.skew.offset_us
        answer = read_answer(reply, raw, Kept(asked.candles, asked.key, self._lifetimes, received_us, exchange_us))
        if not answered.text and answer.plain is not None:  # long and compressed: it is decoded here only
            self._attempts.learn_time(answered, answer.plain.body)
        if answer.entry is not None and self._l1 is not None:  # a reload may have switched it off meanwhile
            self._l1.put(answer.entry)
            self._metrics.cache_operations.inc(("set", "stored"))
        return answer

    async def _forward(self, ask: Ask, request: web.BaseRequest, story: Story, request_id: bytes) -> web.StreamResponse:
        """By itself, past the cache."""
        answered = await self._attempts.send(ask, story)
        if isinstance(answered, Refused):
            return self._limited(answered, ask.descriptor, story, request_id)
        return await self._pass_on(answered, request, story, request_id)

    async def _pass_on(
        self, answered: Answered, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """The exchange's answer as it came: whole when it is short, in pieces when it is long or its end unknown."""
        reply = answered.reply
        story.source, story.status = "exchange", reply.status
        cache_status = f"fwd={story.cache}" if story.cache else ""
        length = reply.length
        pairs = headers.to_client(reply.raw_headers, length_known=length is not None)
        if any(name.lower() == b"x-request-id" for name, _ in pairs):
            request_id = b""  # the exchange has named it already
        lines = head(reply.status, pairs, reply.reason) + _ours(request_id, cache_status)
        if not reply.has_body:
            return Whole(lines, b"")
        raw, story.ret_code = answered.raw, answered.ret_code
        if raw is not None:
            story.body_bytes = len(raw)
            return Whole(lines if length is not None else lines + b"Content-Length: %d\r\n" % len(raw), raw)
        stream = Stream(lines, length=length)
        try:
            story.body_bytes = await stream.send(request, reply.pieces())
        except BrokenAnswer as error:
            story.outcome = error.reason
            return Gone()
        finally:
            reply.close()
        return stream

    def _hit(
        self, entry: Entry, request: web.BaseRequest, story: Story, request_id: bytes, stale_because: str = ""
    ) -> Whole:
        now_us = story.began_us
        variant = entry.variant(request.headers.get(ACCEPT_ENCODING))
        story.source, story.cache, story.status = "cache", "stale" if stale_because else "hit", 200
        story.body_bytes = len(variant.body)
        self._metrics.cache_operations.counts[_STALE if stale_because else _HIT] += 1
        self._metrics.candles.counts[_FROM_CACHE] += entry.rows
        age_s = (now_us - entry.stored_us) // 1_000_000
        ttl_s = (entry.expires_us - now_us) // 1_000_000
        lines = b"%bAge: %d\r\nCache-Status: bybit-gateway; hit; ttl=%d%b\r\nX-Request-Id: %b\r\n" % (
            variant.head,
            age_s,
            ttl_s,
            b"; detail=%b" % stale_because.encode() if stale_because else b"",
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

    def _held_back(self, error: Banned | Broken | Halted, story: Story, request_id: bytes) -> Whole:
        """Nothing is sent at present: not by anybody, or none of its kind."""
        match error:
            case Banned():
                story.status, story.outcome = 403, "banned"
                return errors.banned(self._egress.ban_left_us, request_id)
            case Broken():
                story.status, story.outcome = 503, "breaker-open"
                return errors.broken(error, request_id)
            case Halted():
                story.status, story.outcome = 200, "trading-halted"
                return errors.halted(request_id, self._clock() // 1000)

    def _failed(self, error: UpstreamError, read: bool, story: Story, request_id: bytes) -> Whole:  # noqa: FBT001
        """No answer of the exchange, or not all of it."""
        story.source, story.outcome = "gateway", error.reason
        if isinstance(error, NotSent):
            story.status = 502
            return errors.not_sent(error.reason, request_id)
        if isinstance(error, BrokenAnswer) and read:
            story.status = 502
            return errors.broken_answer(error.reason, request_id)
        story.status = 504
        return errors.fate_unknown(error.reason, request_id, self._clock() // 1000, write=not read)


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

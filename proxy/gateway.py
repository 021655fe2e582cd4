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

from policies import bybit
from policies.admission import Refused, RefuseWith
from policies.caching import CandleLifetimes
from policies.descriptor import Descriptor, Outcome
from proxy import body as bodies
from proxy import coding, errors, headers
from proxy.answers import CandleAnswer, read_answer
from proxy.attempts import READS, Ask, Attempts
from proxy.cache import L1, Entry, Flights
from proxy.clock import Clock
from proxy.describe import Asked, Describer
from proxy.errors import BrokenAnswer, FateUnknown, Malformed, NotSent
from proxy.limiter import Limiter
from proxy.tasks import TaskOwner
from proxy.telemetry import Story, Telemetry
from proxy.upstream import Reply
from proxy.wire import Gone, Stream, Whole, head

_WHOLE_BYTES: Final = 256 << 10
"""Answers up to this length go out in one piece; longer ones stream."""
_HIT: Final = ("get", "hit")
_FROM_CACHE: Final = ("cache",)


class Gateway:
    """Introduces the rooms to each other; knows the order of things and nothing else."""

    def __init__(
        self,
        *,
        describer: Describer,
        attempts: Attempts,
        limiter: Limiter,
        l1: L1 | None,
        lifetimes: CandleLifetimes,
        telemetry: Telemetry,
        tasks: TaskOwner,
        clock: Clock,
        body_limits: bodies.BodyLimits,
    ) -> None:
        self._describer = describer
        self._limiter = limiter
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

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Every end of it is told once, a client that hangs up included."""
        story = Story(f"{self._prefix}{next(self._numbers):08x}", request.method, self._clock())
        request_id = story.request_id.encode()
        try:
            return await self._answer(request, story, request_id)
        except Malformed as error:
            story.status, story.outcome = error.status, error.reason
            return errors.malformed(error, request_id, self._clock() // 1000)
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
            raise Malformed(400, "bad-target", asked.refusal)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            raise Malformed(501, "no-websocket", "WebSocket streams are not forwarded: connect to the stream host")

        refused = await self._admit(asked)
        if refused is not None:
            return self._limited(refused, asked.descriptor, story, request_id)

        if self._l1 is not None and asked.candles is not None:
            entry = self._l1.get(asked.key, story.began_us)
            if entry is not None:
                return self._hit(entry, request, story, request_id)
            return await self._collapsed(await self._ask(request, asked), asked, request, story, request_id)
        if asked.route.candles:
            story.cache = "bypass"
        reply = await self._attempts.send(await self._ask(request, asked), story)
        if isinstance(reply, Refused):
            return self._limited(reply, asked.descriptor, story, request_id)
        return await self._pass_on(reply, request, story, request_id)

    async def _admit(self, asked: Asked) -> Refused | None:
        """The quotas that a client spends by asking, whether the exchange hears of it or not."""
        if not asked.claim.charges:
            return None
        self._metrics.limit_hits.inc(_limited_as(asked.descriptor))
        spent = await self._limiter.spend(asked.claim)
        if isinstance(spent, Refused):
            return spent
        if spent.over:
            self._telemetry.count_shadow(spent.over)
        return None

    async def _ask(self, request: web.BaseRequest, asked: Asked) -> Ask:
        body = await bodies.read(request, self._body_limits)
        lines = headers.to_upstream(request.raw_headers, behind_proxy=asked.behind_proxy)
        return Ask(asked.descriptor, request.raw_path, lines, body)

    async def _collapsed(
        self, ask: Ask, asked: Asked, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """A miss: the first asker fetches for all who ask meanwhile."""
        leads = asked.key not in self._flights
        if not leads:
            self._metrics.collapsed.labels(story.endpoint).inc()
        answer = await self._flights.join(asked.key, lambda: self._fetch(ask, asked, story))
        if isinstance(answer, Refused):
            return self._limited(answer, ask.descriptor, story, request_id)
        accept_encoding = request.headers.get("Accept-Encoding")
        if not leads and not answer.suits(accept_encoding):
            reply = await self._attempts.send(ask, story)
            if isinstance(reply, Refused):
                return self._limited(reply, ask.descriptor, story, request_id)
            return await self._pass_on(reply, request, story, request_id)
        story.source, story.status, story.ret_code = "exchange", answer.status, answer.ret_code
        stored = "; stored" if answer.entry is not None else ""
        story.cache = f"fwd=uri-miss; fwd-status={answer.status}{stored}" if leads else "fwd=uri-miss; collapsed"
        self._metrics.cache_operations.inc(("get", "miss" if leads else "collapsed"))
        self._metrics.candles.inc(("exchange",), answer.rows)
        variant = answer.variant(accept_encoding)
        story.body_bytes = len(variant.body)
        return Whole(variant.head + _ours(request_id, story.cache), variant.body)

    async def _fetch(self, ask: Ask, asked: Asked, story: Story) -> CandleAnswer | Refused:
        reply = await self._attempts.send(ask, story)
        if isinstance(reply, Refused):
            return reply
        assert asked.candles is not None and self._l1 is not None  # noqa: S101, PT018
        received_us = self._clock()
        raw = await reply.read()
        answer = read_answer(reply, raw, asked.candles, asked.key, self._lifetimes, received_us)
        self._telemetry.observe(Outcome(answer.status, answer.ret_code))
        if answer.entry is not None:
            self._l1.put(answer.entry)
            self._metrics.cache_operations.inc(("set", "stored"))
        return answer

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
            return Whole(lines, b"")
        if length is not None and length <= _WHOLE_BYTES:
            raw = await reply.read()
            story.body_bytes = len(raw)
            story.ret_code = bybit.ret_code(coding.decode_if_short(raw, reply.encoding))
            self._telemetry.observe(Outcome(reply.status, story.ret_code))
            return Whole(lines, raw)
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
        variant = entry.variant(request.headers.get("Accept-Encoding"))
        story.source, story.cache, story.status = "cache", "hit", 200
        story.body_bytes = len(variant.body)
        self._metrics.cache_operations.inc(_HIT)
        self._metrics.candles.inc(_FROM_CACHE, entry.rows)
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
        self._metrics.refusals.labels(quota.name, refused.why.value).inc()
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


def _ours(request_id: bytes, cache_status: str) -> bytes:
    """The two lines that the gateway adds to an answer of the exchange."""
    line = b"X-Request-Id: %b\r\n" % request_id if request_id else b""
    return line + f"Cache-Status: bybit-gateway; {cache_status}\r\n".encode() if cache_status else line


def _limited_as(descriptor: Descriptor) -> tuple[str, str, str]:
    """identifier_type, tier, endpoint: the labels of the limits' metrics."""
    kind = "ip" if descriptor.api_key is None else "api_key"
    return kind, descriptor.tier or "none", descriptor.endpoint


def _where(error: BaseException) -> str:
    """file:line of a mistake, without its text: that may hold what the client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"

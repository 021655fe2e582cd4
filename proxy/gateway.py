"""The life of a request, top to bottom:

client -> describe -> admit (the client's own quotas) -> cache --hit--> client
                                                           | miss: one fetch for all who ask
                                                           v
                          acquire (the exchange's quotas, queue, deadline) -> send -> exchange
client <- one log event <- store if storable <- observe <-'

A hit that needs no wait goes its way in at_once(), everything else in handle().
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Final, Protocol

from aiohttp import web
from aiohttp.hdrs import ACCEPT_ENCODING
from multidict import MultiMapping

from policies import bybit
from policies.admission import Refused
from policies.caching import CandleQuery
from policies.conditions import NONE as UNSAID
from policies.conditions import Directives, tolerable
from policies.traceparent import read as read_trace
from proxy import errors, told
from proxy.answered import Answered
from proxy.ask import Ask, max_wait_us, read_ask
from proxy.attempts import Attempts
from proxy.body import BodyLimits
from proxy.brought import Brought, Late
from proxy.cache import L1, Entry
from proxy.clock import Clock
from proxy.describe import Asked, Describer
from proxy.door import Door
from proxy.egress import Egress
from proxy.errors import Banned, Broken, BrokenAnswer, Malformed, Shed, Unauthorized, UpstreamError
from proxy.headers import fetch_for_all, to_client
from proxy.identity import Rejected
from proxy.limiter import Limiter
from proxy.lookup import Lookup
from proxy.replies import Replies
from proxy.telemetry import Story, Telemetry
from proxy.wire import Gone, Stream, Whole, head

_HIT: Final = ("get", "hit")
_STALE: Final = ("get", "stale")
_FROM_CACHE: Final = ("cache",)
_PATIENCE_S: Final = 3.0
"""How long the exchange is waited for by who can be given an older answer: clients give up at about 10 s."""


class OwnPages(Protocol):
    """What is not forwarded as a request, for clients with their own identity and quotas: pages that are made here of
    public data, and WebSocket connections."""

    def endpoint(self, raw_target: str) -> str:
        """A name for rules, metrics and logs."""

    async def answer(
        self, request: web.BaseRequest, asked: Asked, story: Story, request_id: bytes
    ) -> web.StreamResponse | Refused: ...


class Gateway:
    """Introduces the rooms to each other; knows the order of things and nothing else."""

    def __init__(
        self,
        *,
        describer: Describer,
        attempts: Attempts,
        egress: Egress,
        door: Limiter,
        lookup: Lookup,
        telemetry: Telemetry,
        clock: Clock,
        body_limits: BodyLimits,
    ) -> None:
        self.describer = describer
        self._door = Door(door, telemetry)
        self._lookup = lookup
        self._attempts = attempts
        self._replies = Replies(egress, telemetry, clock)
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._clock = clock
        self._body_limits = body_limits
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def adopt(self, describer: Describer) -> None:
        """After a reload. What has been described already goes on as it was understood."""
        self.describer = describer

    def at_once(self, raw_target: str, peer: str, headers: MultiMapping[str]) -> Whole | None:
        """What handle() answers to a GET where that needs no wait: it is kept, and the client has room. None: nothing
        was spent or told, handle() it. Of all requests these are the most, and a task for each would cost more than its
        answer does."""
        l1 = self._lookup.l1
        # Of a traced request each step is noted; what is asked with a key is never kept.
        if l1 is None or self._telemetry.begin is not None or bybit.API_KEY in headers:
            return None
        try:
            max_wait_us(headers)
            asked = self.describer.describe("GET", raw_target, peer, headers)
            if asked.kept is None or asked.refusal is not None:
                return None
            story = self._story("GET", headers)
            story.descriptor, story.endpoint = asked.descriptor, asked.descriptor.endpoint
            entry = self._at_hand(l1, asked, headers, story)
            if entry is None or not self._door.let_in_now(asked, story):
                return None
        except Exception:  # noqa: BLE001  # handle() meets it again, and has words for it
            return None
        request_id = story.request_id.encode()
        try:
            return self._hit(entry, headers, story, request_id)
        except Exception as error:  # noqa: BLE001  # as in handle()
            return self._replies.failed(error, story, request_id)
        finally:
            self._telemetry.tell(story)

    async def handle(self, request: web.BaseRequest, own: OwnPages | None = None) -> web.StreamResponse:
        """Answer one request. Every end of it is told once, a client that hangs up included. `own`: it is for pages of
        ours, and goes no further than the door."""
        story = self._story(request.method, request.headers)
        request_id = story.request_id.encode()
        try:
            if self._telemetry.begin is not None:
                self._telemetry.begin(story, request)
            return await self._answer(request, own, story, request_id)
        except asyncio.CancelledError:
            story.outcome = "client-gone"
            raise
        except ConnectionError:
            story.outcome = "client-gone"
            return Gone()
        except Exception as error:  # noqa: BLE001  # the last line before the client: no traceback may pass it
            return self._replies.failed(error, story, request_id)
        finally:
            self._telemetry.tell(story)

    async def _answer(
        self, request: web.BaseRequest, own: OwnPages | None, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        if own is None:
            asked = self.describer.describe(request.method, request.raw_path, request.remote, request.headers)
        else:
            name = own.endpoint(request.raw_path)
            asked = self.describer.describe_own(name, request.method, request.raw_path, request.remote, request.headers)
        story.descriptor, story.endpoint = asked.descriptor, asked.descriptor.endpoint
        if asked.refusal is not None:
            if isinstance(asked.refusal, Rejected):
                raise Unauthorized(asked.refusal.detail, asked.refusal.challenge)
            raise Malformed(400, "bad-target", asked.refusal)

        if not self._door.let_in_now(asked, story):
            refused = await self._door.let_in(asked, story)
            if refused is not None:
                return self._replies.limited(refused, asked.descriptor, story, request_id)
        if story.steps is not None:
            story.steps.admitted_us = self._clock()

        if own is not None:
            given = await own.answer(request, asked, story, request_id)
            if isinstance(given, Refused):
                return self._replies.limited(given, asked.descriptor, story, request_id)
            return given
        max_wait_us(request.headers)  # a mistake in it is told also where nobody has to wait
        if asked.kept is not None and (l1 := self._lookup.l1) is not None:
            entry = self._at_hand(l1, asked, request.headers, story)
            if entry is not None:
                return self._hit(entry, request.headers, story, request_id)
            return await self._missed(asked, told.said_in(request.headers), request, story, request_id)
        if self.describer.keeps(asked.route):
            story.cache = "bypass"
        return await self._by_itself(asked, request, story, request_id)

    def _story(self, method: str, headers: MultiMapping[str]) -> Story:
        story = Story(f"{self._prefix}{next(self._numbers):08x}", method, self._clock())
        if (traceparent := headers.get("traceparent")) is not None:
            story.trace = read_trace(traceparent)
        return story

    def _at_hand(self, l1: L1, asked: Asked, headers: MultiMapping[str], story: Story) -> Entry | None:
        """A kept answer that is good, and good enough for who asks."""
        entry = l1.get(asked.key, story.began_us)
        if entry is None:
            return None
        said = told.said_in(headers)
        return entry if said is UNSAID or told.will_do(entry, said, story) else None

    async def _by_itself(
        self, asked: Asked, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """Past the cache."""
        ask = await read_ask(request, asked, self._body_limits)
        story.asked_bytes = len(ask.body)
        try:
            return await self._forward(ask, request, story, request_id)
        finally:
            self._body_limits.release(len(ask.body))

    async def _missed(
        self, asked: Asked, said: Directives, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """There is no answer at hand that will do."""
        if story.steps is not None:
            story.steps.missed = True
        if said.refuses_kept:
            story.cache = "request"
            return await self._by_itself(asked, request, story, request_id)
        entry = self._lookup.remembered(asked)
        if entry is not None and told.will_do(entry, said, story):
            return self._hit(entry, request.headers, story, request_id)
        entry = self._lookup.to_revalidate(asked, story.began_us)
        if entry is not None and self._tolerates(entry, said):
            self._lookup.revalidate(asked, story)
            return self._hit(entry, request.headers, story, request_id, "stale-while-revalidate")
        entry = None if said.max_stale_s is None else self._lookup.last(asked)
        if entry is not None and told.will_do(entry, said, story):
            return self._hit(entry, request.headers, story, request_id, "max-stale")
        if said.only_if_cached:
            story.status, story.outcome = 504, "only-if-cached"
            return errors.plain(504, "only-if-cached", "There is no fresh answer in the cache.", request_id)
        if not told.for_everybody(request.headers, bearer=asked.bearer):
            story.cache = "bypass"
            return await self._by_itself(asked, request, story, request_id)
        ask = await read_ask(request, asked, self._body_limits)
        story.asked_bytes = len(ask.body)
        fetch_for_all(ask.headers)
        try:
            return await self._brought(ask, asked, said, request, story, request_id)
        except (Banned, Broken, Shed, UpstreamError) as error:
            # Candles are given however old while nothing is sent at all; of the rest a rule says how old.
            bounded = isinstance(error, UpstreamError) or not isinstance(asked.kept, CandleQuery)
            entry = self._lookup.last(asked)
            if entry is None or not self._tolerates(entry, said, for_error=bounded):
                raise
            return self._hit(entry, request.headers, story, request_id, told.why_stale(error))
        finally:
            self._body_limits.release(len(ask.body))

    async def _brought(
        self, ask: Ask, asked: Asked, said: Directives, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """The first asker fetches for all who ask meanwhile. What is his doing alone is not theirs."""
        accept_encoding = request.headers.get(ACCEPT_ENCODING)
        brought: Brought | Answered | Late | Refused | None
        asked_us = self._clock()
        brought = await self._lookup.bring_within(_PATIENCE_S, ask, asked, story, afresh=told.demanding(said))
        if isinstance(brought, Late):
            entry = self._lookup.last(asked)
            if entry is not None and self._tolerates(entry, said, for_error=True):
                self._lookup.revalidate(asked, story)
                brought.leave()
                story.upstream_us += self._clock() - asked_us  # it was the exchange that took so long
                return self._hit(entry, request.headers, story, request_id, "stale-if-error")
            brought = await brought.wait()
        if brought is None or (isinstance(brought, Brought) and not brought.suits(accept_encoding)):
            story.cache = "uri-miss"
            brought = await self._attempts.send(ask, story)
        if isinstance(brought, Refused) or brought.failed:
            entry = self._lookup.last(asked)
            if entry is not None and self._tolerates(entry, said, for_error=True):
                if isinstance(brought, Answered):
                    brought.reply.close()
                why = "limited" if isinstance(brought, Refused) else "stale-if-error"
                return self._hit(entry, request.headers, story, request_id, why)
        if isinstance(brought, Refused):
            return self._replies.limited(brought, ask.descriptor, story, request_id)
        if isinstance(brought, Answered):
            return await self._pass_on(brought, request, story, request_id)
        answer, made = brought.answer, brought.entry
        if answer is None:
            assert made is not None  # noqa: S101  # of another gateway
            return self._hit(made, request.headers, story, request_id, found_in="l2")
        story.source, story.status, story.ret_code = "exchange", answer.status, answer.ret_code
        story.cache = brought.cache_status
        self._metrics.cache_operations.inc(("get", "miss" if brought.leads else "collapsed"))
        self._metrics.candles.inc(("exchange",), answer.rows if made is None else made.rows)
        entry = made or answer.entry
        if made is not None:
            variant = self._lookup.variant(made, accept_encoding)
        else:
            variant = answer.own if brought.leads else answer.variant(accept_encoding)
        if told.names(variant, b"x-request-id"):
            request_id = b""  # the exchange has named it already
        lines = told.of_exchange(story, self._clock(), request_id)
        if entry is not None and entry.tag:
            if told.has_it(request.headers, entry):
                return told.unchanged(entry, lines, story)
            if made is None and not told.names(variant, b"etag"):
                lines += b"ETag: %b\r\n" % entry.tag.encode()
        story.body_bytes = len(variant.body)
        return Whole(variant.head + lines, variant.body)

    async def _forward(self, ask: Ask, request: web.BaseRequest, story: Story, request_id: bytes) -> web.StreamResponse:
        """By itself, past the cache."""
        answered = await self._attempts.send(ask, story)
        if isinstance(answered, Refused):
            return self._replies.limited(answered, ask.descriptor, story, request_id)
        return await self._pass_on(answered, request, story, request_id)

    async def _pass_on(
        self, answered: Answered, request: web.BaseRequest, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        """The exchange's answer as it came: whole when it is short, in pieces when it is long or its end unknown."""
        reply = answered.reply
        story.source, story.status = "exchange", reply.status
        length = reply.length
        pairs = to_client(reply.raw_headers, length_known=length is not None)
        if any(name.lower() == b"x-request-id" for name, _ in pairs):
            request_id = b""  # the exchange has named it already
        if story.cache:
            story.cache = f"fwd={story.cache}"
        lines = head(reply.status, pairs, reply.reason) + told.of_exchange(story, self._clock(), request_id)
        if not reply.has_body:
            return Whole(lines, b"")
        raw, story.ret_code = answered.raw, answered.ret_code
        if raw is not None:
            story.body_bytes = len(raw)
            return Whole(lines if length is not None else lines + b"Content-Length: %d\r\n" % len(raw), raw)
        stream, story.streamed_us = Stream(lines, length=length), self._clock()
        try:
            story.body_bytes = await stream.send(request, reply.pieces())
        except BrokenAnswer as error:
            story.outcome = error.reason
            return Gone()
        finally:
            reply.close()
        return stream

    def _hit(
        self,
        entry: Entry,
        headers: MultiMapping[str],
        story: Story,
        request_id: bytes,
        stale_because: str = "",
        *,
        found_in: str = "",
    ) -> Whole:
        now_us = story.began_us
        detail = stale_because or found_in
        story.source, story.cache, story.status = "cache", "stale" if stale_because else "hit", 200
        self._metrics.cache_operations.counts[_STALE if stale_because else _HIT] += 1
        self._metrics.candles.counts[_FROM_CACHE] += entry.rows
        lines = told.of_hit(entry, now_us, self._clock(), detail, request_id)
        if told.has_it(headers, entry):
            return told.unchanged(entry, lines, story)
        variant = self._lookup.variant(entry, headers.get(ACCEPT_ENCODING))
        story.body_bytes = len(variant.body)
        return Whole(variant.head + lines, variant.body)

    def _tolerates(self, entry: Entry, said: Directives, *, for_error: bool = False) -> bool:
        """Whether the client takes it although it is past its time; on an error not for ever."""
        now_us = self._clock()
        if for_error and now_us >= entry.error_us:
            return False
        return tolerable(said, now_us - entry.stored_us, entry.expires_us - now_us)

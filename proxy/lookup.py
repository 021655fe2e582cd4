"""What is kept, and how it is brought when it is not: the request cache, the candle store, the level of all gateways.

    entry of this process -> page of known candles -> what others have put into Redis -> the exchange

Whoever asks first fetches for all who ask meanwhile, here and, where a lease is worth it, in the other gateways. A
fetch is never more than the client's own request would have cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from multidict import CIMultiDict

from policies import candles as calendar
from policies.admission import Refused
from policies.answer_rules import AnswerQuery
from policies.caching import CandleLifetimes, CandleQuery
from policies.pages import Need, Page, Reach
from policies.priority import Priority
from proxy.answers import Kept, SharedAnswer, lines_of, read_answer, told_in
from proxy.archived import Archived
from proxy.ask import Ask
from proxy.attempts import Attempts
from proxy.brought import Brought, Late
from proxy.cache import L1, Entry, Flights, Impatient, Variant
from proxy.candles import Candles
from proxy.clock import Clock
from proxy.describe import Asked
from proxy.egress import Egress
from proxy.errors import Banned, Broken, Shed, UpstreamError
from proxy.level_two import LevelTwo
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner
from proxy.telemetry import Story

T = TypeVar("T")

NEUTRAL: Final = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "bybit-gateway"}
"""Of requests that are not a client's own: nothing of his may colour an answer for all."""
_FOUND: Final = "found"


class LookupRules(NamedTuple):
    lifetimes: CandleLifetimes
    tagged: bool


class Lookup:
    """`l1`, `candles` and `two` are None where they are switched off."""

    def __init__(
        self,
        *,
        l1: L1 | None,
        candles: Candles | None,
        two: LevelTwo | None,
        archived: Archived | None,
        rules: LookupRules,
        attempts: Attempts,
        egress: Egress,
        metrics: Metrics,
        tasks: TaskOwner,
        clock: Clock,
    ) -> None:
        self.l1 = l1
        self.candles = candles
        self.two = two
        self.made: list[Callable[[CandleQuery, Entry], None]] = []
        """Called for every answer that is put together."""
        self._archived = archived
        self.rules = rules
        self._attempts = attempts
        self._egress = egress
        self._metrics = metrics
        self._tasks = tasks
        self._flights = Flights(tasks)
        self._revalidating: set[str] = set()
        self._clock = clock

    def exchange_us(self) -> int:
        """The exchange's time, as far as it is known."""
        return self._clock() + self._attempts.skew.offset_us

    def remembered(self, asked: Asked, *, stale: bool = False, keep: bool = True) -> Entry | None:
        """An answer made of known candles. `stale`: however old what it is made of."""
        if self.candles is None or not isinstance(asked.kept, CandleQuery):
            return None
        page = self.candles.page(asked.kept, stale=stale)
        if page is None:
            return None
        return self._made(asked.key, asked.kept, page, keep=keep)

    def last(self, asked: Asked) -> Entry | None:
        """The newest answer that there is, however old: for when the exchange cannot be asked."""
        known = None if self.l1 is None else self.l1.stale(asked.key)
        if known is not None and known.expires_us > self._clock():
            return known
        made = self.remembered(asked, stale=True)
        return made if made is not None and (known is None or made.stored_us > known.stored_us) else known

    def variant(self, entry: Entry, accept_encoding: str | None) -> Variant:
        """Of an answer, the one to send."""
        return entry.plain if self.l1 is None else self.l1.variant(entry, accept_encoding)

    def to_revalidate(self, asked: Asked, now_us: int) -> Entry | None:
        """An answer that is a little past its time, and may be given while a newer one is fetched."""
        entry = None if self.l1 is None else self.l1.stale(asked.key)
        if entry is None or now_us >= entry.revalidate_us or not self._attempts.may_send(asked.descriptor):
            return None
        return entry

    def may_send(self, asked: Asked) -> bool:
        """Whether anything is sent at present."""
        return self._attempts.may_send(asked.descriptor)

    def revalidate(self, asked: Asked, story: Story) -> None:
        """Fetch a newer one in the background, unless that is under way."""
        if asked.key not in self._revalidating:
            self._revalidating.add(asked.key)
            target = f"{asked.descriptor.path}?{asked.descriptor.query}".removesuffix("?")
            ask = Ask(asked.descriptor, target, CIMultiDict(NEUTRAL), b"")
            self._tasks.spawn(self._revalidate(ask, asked, Story(story.request_id, "GET", self._clock())), "revalidate")

    async def _revalidate(self, ask: Ask, asked: Asked, story: Story) -> None:
        try:
            await self.bring(ask, asked, story)
        except (Banned, Broken, Shed, UpstreamError):
            pass  # who asks next finds out for himself
        finally:
            self._revalidating.discard(asked.key)

    async def bring_within(
        self, seconds: float, ask: Ask, asked: Asked, story: Story, *, afresh: bool
    ) -> Brought | Late | Refused | None:
        """As bring(), as long as that does not take longer."""
        task = self._tasks.spawn(self.bring(ask, asked, story, afresh=afresh), "bring", reported=False)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        return await task if task.done() else Late(task)

    async def bring(self, ask: Ask, asked: Asked, story: Story, *, afresh: bool = False) -> Brought | Refused | None:
        """Fetch what is missing, or wait for who fetches it. None: this request has to be sent by itself.

        `afresh`: all of it, whatever is kept anywhere.
        """
        try:
            if self.candles is not None and isinstance(asked.kept, CandleQuery) and not afresh:
                need = self.candles.need(asked.kept)
                if need is not None and need.reach is not Reach.OWN:
                    brought = await self._part(need, ask, asked, story)
                    if brought is not None:
                        return brought
            return await self._whole(ask, asked, story, afresh=afresh)
        except Impatient:
            return None

    async def refresh(self, need: Need, ask: Ask, story: Story) -> SharedAnswer | Refused | None:
        """Fetch what somebody is going to ask for; None when another gateway had."""
        return await self._flights.join(self._flight_of(need.query), lambda: self._fetch_part(need, ask, story))

    async def _whole(self, ask: Ask, asked: Asked, story: Story, *, afresh: bool) -> Brought | Refused | None:
        """The client's own request, as he has written it."""
        assert asked.kept is not None  # noqa: S101
        key = self._flight_of(asked.kept) + ("!" if afresh else "")
        leads = self._leads(key, story)
        fetch = partial(self._fetch_whole, ask, asked, story, afresh=afresh)
        got = await self._joined(key, fetch, ask, story, leads=leads)
        if isinstance(got, Refused):
            return got if leads else None
        return Brought(None, got, leads) if isinstance(got, Entry) else Brought(got, None, leads)

    async def _part(self, need: Need, ask: Ask, asked: Asked, story: Story) -> Brought | Refused | None:
        """What completes a page; None when it does not, as it should."""
        key, began_us = self._flight_of(need.query), self.exchange_us()
        leads = self._leads(key, story)
        got = await self._joined(key, partial(self._fetch_part, need, ask, story), ask, story, leads=leads)
        if isinstance(got, Refused):
            return got if leads else None
        if got is not None and not got.good:
            return Brought(got, None, leads)
        entry = self._page(asked, began_us)
        return None if entry is None else Brought(got, entry, leads)

    def _leads(self, key: str, story: Story) -> bool:
        if key in self._flights:
            self._metrics.collapsed.labels(story.endpoint).inc()
            if story.steps is not None:
                story.steps.leader = self._flights.begun_by(key)
            return False
        return True

    async def _joined(
        self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]], ask: Ask, story: Story, *, leads: bool
    ) -> T:
        """Who waits for another's fetch waits for the exchange, and his own story says so. While that one has to wait
        for its turn, no longer than he has said."""
        began_us = self._clock()
        patience_s = None
        if not leads and ask.max_wait_us is not None:
            patience_s = (story.began_us + ask.max_wait_us - began_us) / 1e6
        try:
            return await self._flights.join(
                key, fetch, sent=lambda: story.attempts > 0, patience_s=patience_s, by=story.steps
            )
        except Shed:
            if leads:
                raise
            raise Impatient from None  # that one may have been of a less urgent class
        finally:
            if not leads:
                story.upstream_us += self._clock() - began_us

    def _page(self, asked: Asked, began_us: int) -> Entry | None:
        """Of what has been fetched since: good for those who waited for it, even where its time is over by now. Where
        it was over before they asked, or its candle had ended, the fetch has not told what it should have."""
        assert isinstance(asked.kept, CandleQuery)  # noqa: S101
        if self.candles is None:
            return None
        page = self.candles.page(asked.kept, stale=True, asked_us=began_us)
        if page is None:
            return None
        if page.tail is not None and (page.tail.expires_us < began_us or page.tail.ends_us <= began_us):
            return None
        return self._made(asked.key, asked.kept, page)

    def _made(self, key: str, query: CandleQuery, page: Page, *, keep: bool = True) -> Entry:
        assert self.candles is not None  # noqa: S101
        entry = self.candles.entry(key, query, page)
        if keep:
            self._keep(entry)
        for each in self.made:
            each(query, entry)
        return entry

    async def _fetch_whole(
        self, ask: Ask, asked: Asked, story: Story, *, afresh: bool
    ) -> SharedAnswer | Entry | Refused:
        kept = asked.kept
        assert kept is not None  # noqa: S101

        async def look(*, again: bool) -> Entry | None:
            return await self._from_two(asked, again=again)

        async def fetch() -> SharedAnswer | Refused:
            got = await self._exchange(ask, kept, asked.key, story)
            if isinstance(got, SharedAnswer) and got.entry is not None:
                self._keep(got.entry)
                if self.two is not None and not self._as_candles(kept):
                    await self.two.put_entry(got.entry, ranged=_ranged(kept))
            return got

        if afresh:
            return await fetch()
        if self.two is None:
            return await look(again=False) or await fetch()
        return await self.two.once(asked.key, look, fetch, ranged=_ranged(kept))

    async def _fetch_part(self, need: Need, ask: Ask, story: Story) -> SharedAnswer | Refused | None:
        """The answer of the exchange, None where another gateway had fetched it."""
        query = need.query

        async def look(*, again: bool) -> str | None:
            restored = await self._restored(query, newest_only=need.reach is Reach.TAIL, again=again)
            return _FOUND if restored else None

        async def fetch() -> SharedAnswer | Refused:
            return await self._exchange(_asking(ask, query), query, query.key(), story)

        if self.two is None:
            return None if await look(again=False) else await fetch()
        got = await self.two.once(query.key(), look, fetch, ranged=_ranged(query))
        return None if isinstance(got, str) else got

    async def _restored(self, query: CandleQuery, *, newest_only: bool = False, again: bool = False) -> bool:
        """Whether what others have kept completes a page. `newest_only`: nothing else of it is missing; `again`: it is
        what another gateway may have fetched meanwhile."""
        candles = self.candles
        if candles is None:
            return False
        if (
            self.two is not None
            and await self.two.restore(query, newest_only=newest_only, again=again)
            and candles.knows(query)
        ):
            return True
        if newest_only or again or self._archived is None or not await self._archived.restore(candles, query):
            return False
        return candles.knows(query)

    async def _from_two(self, asked: Asked, *, again: bool) -> Entry | None:
        """What the other gateways have of it, or the archive."""
        query = asked.kept
        if isinstance(query, CandleQuery) and self._as_candles(query):
            return self.remembered(asked) if await self._restored(query, again=again) else None
        error_us = query.rule.stale_us if isinstance(query, AnswerQuery) else self.rules.lifetimes.error_us
        entry = None if self.two is None else await self.two.entry(asked.key, error_us)
        if entry is not None:
            self._keep(entry)
        return entry

    async def _exchange(self, ask: Ask, kept: Any, key: str, story: Story) -> SharedAnswer | Refused:
        """Ask the exchange, and take over what it says."""
        answered = await self._attempts.send(ask, story)
        if isinstance(answered, Refused):
            return answered
        if answered.status == 403 and self._egress.banned:
            raise Banned  # its own answer tells of the ban: what is kept is better than that
        reply, received_us = answered.reply, self._clock()
        raw = await reply.read() if answered.raw is None else answered.raw
        exchange_us = received_us + self._attempts.skew.offset_us
        rules = self.rules
        how = Kept(kept, key, rules.lifetimes, received_us, exchange_us, rules.tagged)
        answer = read_answer(reply, raw, how)
        if not answered.text and answer.plain is not None:  # long and compressed: it is decoded here only
            self._attempts.learn_time(answered, answer.plain.body)
        if answer.told is not None and self._as_candles(kept):
            await self._learn(kept, answer, lines_of(reply))
        elif answer.told is not None and self._archived is not None:
            self._archived.seen(kept.series, answer.told, rules.lifetimes.settle_us)
        return answer

    def _as_candles(self, kept: object) -> bool:
        """Whether its answers are kept row by row; others are kept by their requests."""
        candles = self.candles
        return isinstance(kept, CandleQuery) and candles is not None and candles.select(kept) is not None

    async def _learn(self, query: CandleQuery, answer: SharedAnswer, lines: bytes) -> None:
        assert answer.told is not None and self.candles is not None  # noqa: S101, PT018
        before = self.candles.tail(query.series)
        if not self.candles.learn(query, answer.told, lines):
            self._metrics.odd_answers.labels(query.endpoint).inc()
        elif self.two is not None:
            tail = self.candles.tail(query.series)
            if tail is not None and tail is not before:
                await self.two.put_tail(query, answer, lines)
            if self.two.locks(ranged=_ranged(query)):
                await self.two.write_series(query.series)

    def pass_to_archive(self, query: CandleQuery, text: bytes) -> None:
        """The candles of an answer that is not kept here, where there is an archive."""
        if self._archived is None:
            return
        told = told_in(query, text)
        if told is not None:
            self._archived.seen(query.series, told, self.rules.lifetimes.settle_us)

    def _keep(self, entry: Entry) -> None:
        if self.l1 is not None and entry.expires_us > self._clock():  # a reload may have switched it off meanwhile
            self.l1.put(entry)
            self._metrics.cache_operations.inc(("set", "stored"))

    def _flight_of(self, query: Any) -> str:
        """Who asks when the running candle has ended does not join those who asked before."""
        if not isinstance(query, CandleQuery):
            return str(query.key())
        running_ms = calendar.open_of(query.interval, self.exchange_us() // 1000)
        return f"{query.key()}@{running_ms}"


def _ranged(kept: object) -> bool:
    return isinstance(kept, CandleQuery) and (kept.start_ms is not None or kept.end_ms is not None)


def _asking(ask: Ask, query: CandleQuery) -> Ask:
    """Another request about the same series, in nobody's name."""
    path, written = ask.descriptor.path, query.written()
    priority = Priority.HISTORY if _ranged(query) else Priority.LIVE
    descriptor = ask.descriptor._replace(query=written, priority=priority)
    return ask._replace(descriptor=descriptor, target=f"{path}?{written}", headers=CIMultiDict(NEUTRAL), body=b"")

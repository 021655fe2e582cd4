"""Public market data for the gateway's own pages: asked for as a client would, through the same cache and limits.

Nothing here is signed, and nothing of a client goes to the exchange with it; but it is asked on somebody's behalf, so
it waits in his turn and spends what he may spend.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from multidict import CIMultiDict

from policies.admission import Refused
from policies.caching import CandleQuery
from policies.descriptor import Descriptor
from policies.priority import Priority
from proxy import coding
from proxy.ask import Ask
from proxy.attempts import Attempts
from proxy.cache import Entry
from proxy.clock import Clock
from proxy.describe import Asked, Describer
from proxy.errors import Banned, Broken, Shed, UpstreamError
from proxy.lookup import NEUTRAL, Lookup
from proxy.telemetry import Story


class Inside(NamedTuple):
    """An answer of the exchange, or one that was kept, in no coding."""

    status: int
    body: bytes
    source: str
    """cache or exchange."""


class Inner:
    """`describer` is asked for each time: a reload brings another."""

    def __init__(self, *, describer: Callable[[], Describer], lookup: Lookup, attempts: Attempts, clock: Clock) -> None:
        self._describer = describer
        self._lookup = lookup
        self._attempts = attempts
        self._clock = clock
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def get(
        self,
        target: str,
        *,
        of: Descriptor | None = None,
        priority: Priority | None = None,
        keep: bool = True,
        max_wait_us: int | None = None,
    ) -> Inside | Refused:
        """The answer to a GET of a public endpoint. `of`: on whose behalf, and `max_wait_us`: how long he wants to wait
        for his turn. `keep` false: for more than anybody will ask for again, it is looked up but not remembered.

        Raises Banned, Broken, Shed and UpstreamError (proxy/errors.py), where nothing that was kept will do instead.
        """
        ask, asked = self.asking(target, of=of, priority=priority)
        ask = ask._replace(max_wait_us=max_wait_us)
        story = self.story(ask)
        lookup = self._lookup
        if asked.kept is None or lookup.l1 is None:
            return await self._by_itself(ask, story)
        entry = lookup.l1.get(asked.key, story.began_us) or lookup.remembered(asked, keep=keep)
        if entry is not None:
            return _kept(entry)
        if not keep:
            inside = await self._by_itself(ask, story)
            if isinstance(inside, Inside) and inside.status == 200 and isinstance(asked.kept, CandleQuery):
                lookup.pass_to_archive(asked.kept, inside.body)
            return inside
        try:
            brought = await lookup.bring(ask, asked, story)
            if brought is None:
                return await self._by_itself(ask, story)
        except (Banned, Broken, Shed, UpstreamError) as error:
            return self._stale(asked, for_ever=not isinstance(error, UpstreamError)) or _raised(error)
        if isinstance(brought, Refused) or brought.failed:
            stale = self._stale(asked, for_ever=False)
            if stale is not None:
                return stale
        if isinstance(brought, Refused):
            return brought
        if brought.entry is not None:
            return _kept(brought.entry, "cache" if brought.answer is None else "exchange")
        answer = brought.answer
        if answer is None or answer.plain is None:
            return await self._by_itself(ask, story)
        return Inside(answer.status, answer.plain.body, "exchange")

    def _stale(self, asked: Asked, *, for_ever: bool) -> Inside | None:
        """What was kept, where the exchange cannot be asked: candles during a ban however old."""
        entry = self._lookup.last(asked)
        if entry is None or not (self._clock() < entry.error_us or (for_ever and isinstance(asked.kept, CandleQuery))):
            return None
        return _kept(entry)

    def asking(
        self, target: str, *, of: Descriptor | None = None, priority: Priority | None = None
    ) -> tuple[Ask, Asked]:
        """The request as it would be sent, in nobody's name."""
        asked = self._describer().describe("GET", target, None, CIMultiDict())
        descriptor = asked.descriptor
        if of is not None:
            descriptor = descriptor._replace(ip=of.ip, client=of.client, tier=of.tier, api_key=of.api_key)
        if priority is not None:
            descriptor = descriptor._replace(priority=priority)
        return Ask(descriptor, target, CIMultiDict(NEUTRAL), b""), asked._replace(descriptor=descriptor)

    async def by_itself(self, ask: Ask) -> Inside | Refused:
        """Past all that is kept."""
        return await self._by_itself(ask, self.story(ask))

    def story(self, ask: Ask) -> Story:
        """Of a request of ours that begins now."""
        story = Story(f"{self._prefix}{next(self._numbers):08x}", "GET", self._clock())
        story.endpoint, story.descriptor = ask.descriptor.endpoint, ask.descriptor
        return story

    async def _by_itself(self, ask: Ask, story: Story) -> Inside | Refused:
        answered = await self._attempts.send(ask, story)
        if isinstance(answered, Refused):
            return answered
        reply = answered.reply
        raw = await reply.read() if answered.raw is None else answered.raw
        try:
            return Inside(answered.status, coding.decode(raw, reply.encoding), "exchange")
        except coding.Undecodable:
            return Inside(502, b"", "exchange")


def _raised(error: Exception) -> NoReturn:
    raise error


def _kept(entry: Entry, source: str = "cache") -> Inside:
    return Inside(200, entry.body, source)

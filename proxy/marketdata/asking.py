"""One question to the exchange, on a client's behalf, through the gateway's own cache and limits; and what its answer
means here."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from policies import bybit, kline_text
from policies.admission import Refused
from policies.caching import CandleQuery
from policies.descriptor import Descriptor
from policies.priority import Priority
from policies.segments import Rows, Series
from proxy.clock import Clock, Sleep
from proxy.errors import Banned, Broken, Shed, Unanswered, UpstreamError, reason_of
from proxy.inner import Inner, Inside
from proxy.log import redact_text

CLAMPED: Final = frozenset({200, 500})
"""Numbers of rows to which answers have been cut, whatever was asked for."""
_PATIENCE_US: Final = 60_000_000
_PAUSE_US: Final = 500_000
_LEAST_PAUSE_US: Final = 20_000
_LONGEST_PAUSE_US: Final = 5_000_000
_SHOWN: Final = 120


class Limited(Exception):
    """A rule has refused."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.why.value)
        self.refused = refused


FAILURES: Final = (Unanswered, Limited, Banned, Broken, Shed, UpstreamError)
"""Why there may be no answer."""


class Page(NamedTuple):
    """Candles, newest first, as the exchange told of them at `at_ms` by its own clock."""

    rows: Rows
    at_ms: int


class Behalf(NamedTuple):
    """In whose name the exchange is asked."""

    client: Descriptor
    until_us: int | None = None
    """The last instant for which he wants to wait for his turn, where he has said so."""


class Asker:
    """The questions of one request. `patient`: what is already being given to the client is worth waiting for."""

    def __init__(self, inner: Inner, of: Behalf, priority: Priority, *, clock: Clock, sleep: Sleep) -> None:
        self._inner = inner
        self._of = of
        self._priority = priority
        self._clock = clock
        self._sleep = sleep
        self.keep = True
        self.patient = False
        self.from_exchange = 0
        """Answers that were not kept ones."""

    async def page(self, query: CandleQuery) -> Page:
        """Raises Unanswered, Limited, and what Inner raises."""
        target = f"/v5/market/{query.endpoint}?{query.written()}"
        body = await self.ask(target, f"{query.symbol} in {query.category}")
        return _page(query.series, query, body)

    async def whole(self, query: CandleQuery) -> Page:
        """All candles from its start to its end, even if the exchange gives fewer at a time than it is asked for."""
        page = part = await self.page(query)
        while len(part.rows.opens) in CLAMPED and part.rows.opens[-1] > (query.start_ms or 0):
            part = await self.page(query._replace(end_ms=part.rows.opens[-1] - 1))
            rows = Rows(page.rows.opens + part.rows.opens, page.rows.texts + part.rows.texts)
            page = Page(rows, page.at_ms)
        return page

    async def ask(self, target: str, subject: str) -> bytes:
        """The body of a good answer. `subject`: what it is about, in words for the client."""
        since_us, pause_us = self._clock(), _PAUSE_US
        while True:
            try:
                return await self._once(target, subject)
            except (Unanswered, Limited, Broken, Shed, UpstreamError) as error:
                wait_us = _wait_us(error, pause_us)
                if not self.patient or wait_us is None or self._clock() + wait_us - since_us > _PATIENCE_US:
                    raise
            pause_us = min(2 * pause_us, _LONGEST_PAUSE_US)
            await self._sleep(max(wait_us, _LEAST_PAUSE_US) / 1e6)

    async def _once(self, target: str, subject: str) -> bytes:
        until_us = None if self.patient else self._of.until_us
        inside = await self._inner.get(
            target,
            of=self._of.client,
            priority=self._priority,
            keep=self.keep,
            max_wait_us=None if until_us is None else max(0, until_us - self._clock()),
        )
        if isinstance(inside, Refused):
            raise Limited(inside)
        self.from_exchange += inside.source == "exchange"
        return _good(inside, subject)


def told(error: Exception) -> Unanswered:
    """A failure as it is told where it is one of several."""
    match error:
        case Unanswered():
            return error
        case Limited():
            refused = error.refused
            detail, wait_us = f"the rule {refused.charge.quota.name} has no room", max(1, refused.wait_us)
            return Unanswered(429, reason_of(refused), detail, code=bybit.TOO_MANY_VISITS, wait_us=wait_us)
        case Banned():
            return Unanswered(403, "banned", bybit.BANNED_TEXT, code=bybit.IP_LIMITED)
        case Broken():
            detail = "the exchange fails, nothing is sent for a while"
            return Unanswered(503, "breaker-open", detail, code=bybit.SERVER_ERROR, wait_us=error.wait_us)
        case Shed():
            detail = "the gateway has too much to do, nothing is sent for it for a while"
            return Unanswered(503, "overload", detail, code=bybit.SERVER_ERROR, wait_us=error.wait_us)
        case UpstreamError():
            return Unanswered(502, error.reason, "no answer of the exchange", code=bybit.SERVER_ERROR)
        case _:
            raise error


def _wait_us(error: Exception, pause_us: int) -> int | None:
    """When it may be asked again; None where that is of no use."""
    match error:
        case Limited():
            return error.refused.wait_us
        case Broken() | Shed() | Unanswered():
            return error.wait_us
        case _:
            return pause_us


def _good(inside: Inside, subject: str) -> bytes:
    status, code = inside.status, bybit.ret_code(inside.body)
    if status == 200 and code == bybit.OK:
        return inside.body
    if status == 403 and bybit.BANNED_TEXT.encode() in inside.body:
        raise Banned
    if status == 429 or code == bybit.TOO_MANY_VISITS or code in bybit.PROTECTING_CODES:
        detail = "the exchange is asked for too much"
        raise Unanswered(429, "exchange-limit", detail, code=bybit.TOO_MANY_VISITS, wait_us=1_000_000)
    if status == 200 and code == bybit.PARAMETER_ERROR:
        raise Unanswered(404, "unknown-symbol", f"the exchange does not offer {subject}: {_text(inside.body)}")
    if status == 200 and code is not None:
        wait_us = _PAUSE_US if code in bybit.TROUBLE else None
        detail = f"the exchange could not answer about {subject}: {_text(inside.body)}"
        raise Unanswered(502, "exchange-error", detail, code=code, wait_us=wait_us)
    wait_us = _PAUSE_US if status >= 500 else None
    detail = f"the exchange answered about {subject} with HTTP {status}"
    raise Unanswered(502, "exchange-error", detail, code=bybit.SERVER_ERROR, wait_us=wait_us)


def odd(subject: str) -> Unanswered:
    """A good answer that is not what was asked for."""
    detail = f"the exchange's answer about {subject} is not as it is documented"
    return Unanswered(502, "exchange-odd-answer", detail, code=bybit.SERVER_ERROR)


def _page(series: Series, query: CandleQuery, body: bytes) -> Page:
    told = kline_text.read(series, body)
    if told is None or not _fits(query, told.rows.opens):
        raise odd(f"{series.symbol} in {series.category}")
    return Page(told.rows, told.at_ms)


def _fits(query: CandleQuery, opens: list[int]) -> bool:
    """Whether there are no more candles than were asked for, and no others."""
    if not opens:
        return True
    high_ms = opens[0] if query.end_ms is None else query.end_ms
    return (query.start_ms or 0) <= opens[-1] and opens[0] <= high_ms and len(opens) <= (query.limit or len(opens))


def _text(body: bytes) -> str:
    """What the exchange says of an error, for people."""
    try:
        text = orjson.loads(body)["retMsg"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "no reason given"
    return redact_text(str(text))[:_SHOWN]

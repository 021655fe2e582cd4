"""Which answers may be kept, under which key, and for how long.

An allow-list, not heuristics: only unsigned GETs of listed routes whose parameters are all known, single and plainly
written get a key. Anything odd passes by the cache untouched: the exchange ignores parameters that it does not know,
so dropping them from a key would let one client poison another's answer, and keeping them would let it fill the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from policies import candles
from policies.routing import Route
from policies.segments import Series

_CATEGORIES: Final = frozenset({"spot", "linear", "inverse", "option"})
_SYMBOL: Final = re.compile(r"[A-Z0-9]{2,32}(?:-[A-Z0-9]{1,16}){0,4}")
_MAX_ROWS: Final = 1000
DEFAULT_ROWS: Final = 200
_LATEST_MS: Final = 10**13
_KNOWN: Final = ("category", "symbol", "interval", "start", "end", "limit")


@dataclass(frozen=True, slots=True)
class CandleLifetimes:
    """open_us: how long an answer lives that may still change; closed_us: one that may not; settle_us: how long
    after its end a candle still counts as open. revalidate_us: so long past its time an answer is given while a newer
    one is fetched; error_us: one that may still change, while none can be fetched."""

    open_us: int
    closed_us: int
    settle_us: int
    revalidate_us: int = 0
    error_us: int = 0


class Life(NamedTuple):
    """How long an answer is kept: fresh for so long, given while a newer one is fetched until the second instant from
    now on, given where none can be fetched until the third."""

    fresh_us: int
    revalidate_us: int
    error_us: int


FOR_EVER_US: Final = 10 * 365 * 86_400_000_000
"""Longer than anything is kept: what cannot change is as good as it was."""
_EMPTY_US: Final = 60_000_000
"""An answer without a row is not believed for longer: history may be mislaid for a moment."""


class CandleQuery(NamedTuple):
    """A candle request whose every parameter is understood. Instants are epoch milliseconds."""

    endpoint: str
    category: str | None
    symbol: str
    interval: str
    start_ms: int | None
    end_ms: int | None
    limit: int | None

    @property
    def series(self) -> Series:
        """The line of candles that it is about; of a category that is left out, the empty one."""
        return Series(self.endpoint, self.category or "", self.symbol, self.interval)

    def written(self) -> str:
        """As a query string."""
        given = zip(_KNOWN, self[1:], strict=True)
        return "&".join(f"{name}={value}" for name, value in given if value is not None)

    def key(self) -> str:
        """Readable, the same for every order of parameters, distinct where the answer may differ."""
        return "bybit:klines:" + ":".join(
            "-" if value is None else str(value)
            for value in (
                self.category,
                self.symbol,
                self.interval,
                self.endpoint,
                self.start_ms,
                self.end_ms,
                self.limit,
            )
        )


def understand(route: Route, method: str, query: str) -> CandleQuery | None:
    """The candle query of an unsigned request, or None when it must pass by the cache. Signed requests always do."""
    if not route.candles or method != "GET":
        return None
    given = _parameters(query)
    if given is None:
        return None
    category, symbol, interval = given.get("category"), given.get("symbol"), given.get("interval")
    if category is not None and category not in _CATEGORIES:
        return None
    if symbol is None or _SYMBOL.fullmatch(symbol) is None or interval not in candles.INTERVALS:
        return None
    numbers: dict[str, int | None] = {}
    for name in ("start", "end", "limit"):
        text = given.get(name)
        if text is not None and not _is_canonical_number(text):
            return None
        numbers[name] = None if text is None else int(text)
    asked = CandleQuery(route.endpoint, category, symbol, interval, numbers["start"], numbers["end"], numbers["limit"])
    return asked if is_sensible(asked) else None


def is_sensible(query: CandleQuery) -> bool:
    """Its numbers are such as the documents explain."""
    start_ms, end_ms, limit = query.start_ms, query.end_ms, query.limit
    if limit is not None and not 1 <= limit <= _MAX_ROWS:
        return False
    if any(each is not None and not 0 <= each < _LATEST_MS for each in (start_ms, end_ms)):
        return False
    return start_ms is None or end_ms is None or start_ms <= end_ms


def life(
    query: CandleQuery, rows: list[int] | None, lifetimes: CandleLifetimes, now_us: int, given_us: int | None = None
) -> Life:
    """How long an answer may be kept from now on. `given_us`: when the exchange gave it, where it is known.

    `rows` are the open times in the answer, newest first; None when they are not known. Only what lies wholly before
    now - settle lives long. An answer that merely happens to hold no open candle is not final: a quiet or late market
    can still add a row. One that can change lives for a short time, and never past the end of its newest possible
    candle: a reader at 12:01:00 must not get the answer of 12:00:59.
    """
    given_ms = (now_us if given_us is None else given_us) // 1000
    settle_ms = lifetimes.settle_us // 1000
    horizon_ms = _last_possible_open(query, rows or [])
    if horizon_ms is not None and candles.settled(query.interval, horizon_ms, settle_ms, given_ms):
        return closed_life(lifetimes, _EMPTY_US if rows == [] else lifetimes.closed_us)
    boundary_ms = candles.end_of(query.interval, candles.open_of(query.interval, given_ms))
    return open_life(lifetimes, lifetimes.open_us, boundary_ms * 1000 - now_us)


def open_life(lifetimes: CandleLifetimes, fresh_us: int, ends_us: int) -> Life:
    """Of an answer that can still change. `ends_us`: how long until the running candle ends."""
    fresh_us = min(fresh_us, ends_us)
    return Life(fresh_us, min(fresh_us + lifetimes.revalidate_us, ends_us), fresh_us + lifetimes.error_us)


def closed_life(lifetimes: CandleLifetimes, fresh_us: int) -> Life:
    """Of an answer that lies wholly in the past."""
    fresh_us = min(fresh_us, lifetimes.closed_us)
    return Life(fresh_us, fresh_us + lifetimes.revalidate_us, FOR_EVER_US)


def _last_possible_open(query: CandleQuery, rows: list[int]) -> int | None:
    """The newest candle that any later answer to this query could hold; None when that lies in the future for ever."""
    if query.end_ms is not None:
        return candles.open_of(query.interval, query.end_ms)
    if query.start_ms is not None and len(rows) == (query.limit or DEFAULT_ROWS):
        # `start` alone runs forward: once the page is full its last row is the newest it will ever hold.
        return rows[0]
    return None


def _parameters(query: str) -> dict[str, str] | None:
    """The parameters of a raw query; None when one is unknown, doubled, empty or written with escapes."""
    given: dict[str, str] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if not equals or not value or name not in _KNOWN or name in given or "%" in value or "+" in value:
            return None
        given[name] = value
    return given


def _is_canonical_number(text: str) -> bool:
    """Digits as the exchange writes them: no sign, no leading zero, no other script's digits, no absurd length."""
    return text.isascii() and text.isdigit() and len(text) <= 13 and (text == "0" or not text.startswith("0"))

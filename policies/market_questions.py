"""What is asked of the convenience API (docs/marketdata.md): from a path and a query to a question.

Strict where the exchange is lax: a parameter that is not known, doubled or out of range is a mistake that is told. The
exchange ignores such, and somebody who writes `startTime` gets candles that he has not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote, unquote_plus

from policies import blocks, candle_formats, candles
from policies.candle_formats import Format
from policies.segments import Series

T = TypeVar("T")

MOST_ROWS: Final = 100_000
"""Of one symbol where the newest candles are asked for; a history has no such bound."""
MOST_SYMBOLS: Final = 200
DEFAULT_ROWS: Final = 200

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kline": ("linear", "spot", "inverse"),
    "mark-price-kline": ("linear", "inverse", "option"),
    "index-price-kline": ("linear", "inverse"),
    "premium-index-price-kline": ("linear",),
}
"""Kinds of candles, by the exchange's own names, and the categories that have them (market/kline and its siblings)."""
INTERVALS: Final = (*candles.FIXED_MS, "W", "M")
PRICE_CATEGORIES: Final = ("spot", "linear", "inverse")

_SYMBOL: Final = re.compile(r"[A-Z0-9]{2,32}(?:-[A-Z0-9]{1,16}){0,4}")
_PAIR: Final = re.compile(r"([A-Z0-9]{1,20})-([A-Z0-9]{1,12})")
_LAST_MS: Final = 10**13 - 1
_SHOWN: Final = 60


class BadQuestion(ValueError):
    """Names the parameter, what was expected and what was given, for who asks."""


class Order(Enum):
    """Of candles in an answer."""

    OLDEST_FIRST = "asc"
    NEWEST_FIRST = "desc"


class Latest(NamedTuple):
    """The newest `limit` candles, or the newest that open no later than `end_ms`."""

    series: Series
    limit: int
    end_ms: int | None
    order: Order
    format: Format


class History(NamedTuple):
    """All candles that open from `start_ms` to `end_ms`, both included; None: the running one."""

    series: Series
    start_ms: int
    end_ms: int | None
    order: Order
    format: Format


class Batch(NamedTuple):
    """The newest `limit` candles of each series."""

    series: tuple[Series, ...]
    limit: int
    order: Order
    format: Format


class Price(NamedTuple):
    """`category`: None for wherever the pair is found."""

    base: str
    quote: str
    category: str | None


def about_candles(segment: str, query: str, accept: str | None) -> Latest | History:
    """The question of `.../klines/{symbol}`. `segment` and `query` are as they stand in the target."""
    given = _parameters(query, ("interval", "limit", "category", "kind", "start", "end", "order", "format"))
    (series,) = _series(given, [_symbol(unquote(segment), "symbol")])
    order = _word(given, "order", {each.value: each for each in Order}, Order.OLDEST_FIRST)
    format_ = _format(given, accept, tuple(Format))
    start_ms, end_ms = _number(given, "start", 0, _LAST_MS), _number(given, "end", 0, _LAST_MS)
    limit = _number(given, "limit", 1, MOST_ROWS)
    if start_ms is None:
        return Latest(series, limit or DEFAULT_ROWS, end_ms, order, format_)
    if limit is not None:
        raise BadQuestion("limit: it counts back from the newest; with start all candles from there on are given")
    if end_ms is not None and end_ms < start_ms:
        raise BadQuestion(f"end: expected an instant no earlier than start, {start_ms}, got {end_ms}")
    return History(series, start_ms, end_ms, order, format_)


def about_many(query: str, accept: str | None) -> Batch:
    """The question of `.../klines?symbols=`. A symbol that is named twice is answered once."""
    given = _parameters(query, ("symbols", "interval", "limit", "category", "kind", "order", "format"))
    text = given.get("symbols")
    if text is None:
        raise BadQuestion("symbols: expected names with commas between, such as BTCUSDT,ETHUSDT")
    symbols = list(dict.fromkeys(_symbol(each, "symbols") for each in text.split(",")))
    if len(symbols) > MOST_SYMBOLS:
        raise BadQuestion(f"symbols: expected at most {MOST_SYMBOLS}, got {len(symbols)}")
    series = _series(given, symbols)
    return Batch(
        tuple(series),
        _number(given, "limit", 1, page_rows(series[0].category)) or DEFAULT_ROWS,
        _word(given, "order", {each.value: each for each in Order}, Order.OLDEST_FIRST),
        _format(given, accept, (Format.JSON, Format.NDJSON)),
    )


def about_price(segment: str, query: str) -> Price:
    """The question of `/prices/{base}-{quote}`."""
    given = _parameters(query, ("category",))
    pair = unquote(segment).upper()
    found = _PAIR.fullmatch(pair)
    if found is None:
        raise BadQuestion(f"pair: expected base and quote such as btc-usdt, got {_shown(pair)}")
    category = _word(given, "category", {each: each for each in PRICE_CATEGORIES}, None)
    return Price(found[1], found[2], category)


def markets_of(price: Price) -> tuple[tuple[str, str], ...]:
    """Category and symbol of what trades the pair, in the order in which it is looked for.

    Perpetuals that settle in USDC are named after their base alone.
    """
    categories = PRICE_CATEGORIES if price.category is None else (price.category,)
    found = [(category, price.base + price.quote) for category in categories]
    if price.quote == "USDC" and "linear" in categories:
        found.append(("linear", f"{price.base}PERP"))
    return tuple(found)


def page_rows(category: str) -> int:
    """How many candles the exchange gives in one answer."""
    return blocks.span_of(category, "1", 0, 0).size


def _parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        name, value = unquote_plus(name), unquote_plus(value)
        if name not in known:
            raise BadQuestion(f"{_shown(name)}: no such parameter, expected {', '.join(known)}")
        if name in given:
            raise BadQuestion(f"{name}: expected once, it is there twice")
        given[name] = value
    return given


def _series(given: Mapping[str, str], symbols: Sequence[str]) -> list[Series]:
    kind = _word(given, "kind", {each: each for each in KINDS}, "kline")
    category = _word(given, "category", {each: each for each in KINDS[kind]}, "linear", f" for {kind}")
    interval = _word(given, "interval", {each: each for each in INTERVALS}, None)
    if interval is None:
        raise BadQuestion(f"interval: expected one of {', '.join(INTERVALS)}")
    return [Series(kind, category, symbol, interval) for symbol in symbols]


def _symbol(text: str, name: str) -> str:
    symbol = text.strip().upper()
    if _SYMBOL.fullmatch(symbol) is None:
        raise BadQuestion(f"{name}: expected a name such as BTCUSDT, got {_shown(text)}")
    return symbol


def _word(given: Mapping[str, str], name: str, words: Mapping[str, T], default: T, where: str = "") -> T:
    text = given.get(name)
    if text is None:
        return default
    if text not in words:
        raise BadQuestion(f"{name}: expected one of {', '.join(words)}{where}, got {_shown(text)}")
    return words[text]


_SECONDS: Final = range(1_000_000_000, 10_000_000_000)
"""Meant as seconds, of this century and the next two: as milliseconds they lie before all that is traded."""


def _number(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        what = "an instant in epoch milliseconds" if name in {"start", "end"} else f"a number from {least} to {most}"
        raise BadQuestion(f"{name}: expected {what}, got {_shown(text)}")
    if name in {"start", "end"} and int(text) in _SECONDS:
        raise BadQuestion(f"{name}: expected epoch milliseconds, not seconds, got {text}, which lies in 1970")
    return int(text)


def _format(given: Mapping[str, str], accept: str | None, offered: tuple[Format, ...]) -> Format:
    """What `format` says; where it says nothing, what is accepted."""
    chosen: Callable[[], Format] = lambda: candle_formats.accepted(accept, offered)  # noqa: E731
    named = _word(given, "format", {each.value: each for each in offered}, None)
    return chosen() if named is None else named


def _shown(text: str) -> str:
    """Somebody's own text, as it can be shown to him."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return ascii(short)

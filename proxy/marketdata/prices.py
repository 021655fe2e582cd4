"""The last price of a pair. Whoever asks within a second of another gets what he got."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import orjson

from policies import bybit
from policies.candle_formats import Format
from policies.market_questions import Price, markets_of
from policies.priority import Priority
from proxy.cache import Flights, Impatient
from proxy.errors import Unanswered
from proxy.marketdata.asking import Behalf, Limited, odd
from proxy.marketdata.desk import Desk, whole
from proxy.telemetry import Story
from proxy.wire import Whole

_FRESH_US: Final = 1_000_000
_UNKNOWN_US: Final = 10_000_000
"""That a category does not have a symbol is believed for longer: most pairs are looked for in more than one."""
_MOST: Final = 4096


class _Quote(NamedTuple):
    """What the exchange said at `at_ms` by its own clock. `price` None: it does not have the symbol, or no price."""

    price: str | None
    bid: str | None
    ask: str | None
    at_ms: int
    until_us: int


class PricePage:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: OrderedDict[tuple[str, str], _Quote] = OrderedDict()
        self._flights = Flights(desk.tasks)

    async def answer(self, question: Price, of: Behalf, story: Story, request_id: bytes) -> Whole:
        """Of the first market that has a price. Raises Unanswered, Limited and what Inner raises."""
        for category, symbol in markets_of(question):
            quote = await self._quote(category, symbol, of, story)
            if quote.price is not None:
                body = _body(question, category, symbol, quote)
                return whole(Format.JSON, body, story, request_id)
        looked_in = ", ".join(dict.fromkeys(category for category, _ in markets_of(question)))
        detail = f"the exchange has no price of {question.base}-{question.quote} in {looked_in}"
        raise Unanswered(404, "unknown-pair", detail)

    async def _quote(self, category: str, symbol: str, of: Behalf, story: Story) -> _Quote:
        desk, key = self._desk, (category, symbol)
        known = self._known.get(key)
        if known is not None and desk.clock() < known.until_us:
            if story.source == "gateway":
                story.source, story.status = "cache", 200
            return known
        flight = f"price {category} {symbol}"
        leads = flight not in self._flights
        patience_s = None if leads or of.until_us is None else (of.until_us - desk.clock()) / 1e6
        fetched = self._flights.join(
            flight, lambda: self._fetch(category, symbol, of), sent=lambda: False, patience_s=patience_s
        )
        try:
            quote = await desk.waited(story, fetched)
        except (Limited, Impatient):
            if leads:
                raise
            quote = await desk.waited(story, self._fetch(category, symbol, of))  # that was another's limit, or wait
        story.source, story.status, story.attempts = "exchange", 200, story.attempts + 1
        return quote

    async def _fetch(self, category: str, symbol: str, of: Behalf) -> _Quote:
        desk = self._desk
        asker = desk.asker(of, Priority.LIVE)
        subject = f"{symbol} in {category}"
        try:
            body = await asker.ask(f"/v5/market/tickers?category={category}&symbol={symbol}", subject)
            quote = _read(body, symbol, subject, desk.clock() + _FRESH_US)
        except Unanswered as error:
            if error.status != 404:
                raise
            quote = _Quote(None, None, None, 0, desk.clock() + _UNKNOWN_US)
        self._known[category, symbol] = quote
        self._known.move_to_end((category, symbol))
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return quote


def _read(body: bytes, symbol: str, subject: str, until_us: int) -> _Quote:
    try:
        listed: list[dict[str, Any]] = orjson.loads(body)["result"]["list"]
        found = [row for row in listed if row["symbol"] == symbol]
        if not found:
            return _Quote(None, None, None, 0, until_us)
        price, bid, ask = (_decimal(found[0].get(name)) for name in ("lastPrice", "bid1Price", "ask1Price"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise odd(subject) from None
    at_ms = bybit.server_ms(body)
    if at_ms is None:
        raise odd(subject)
    return _Quote(price, bid, ask, at_ms, until_us)


def _decimal(text: object) -> str | None:
    """As the exchange wrote it; empty where there is none."""
    return text if isinstance(text, str) and text.replace(".", "", 1).isdigit() and text.isascii() else None


def _body(question: Price, category: str, symbol: str, quote: _Quote) -> bytes:
    result = {
        "symbol": symbol,
        "base": question.base,
        "quote": question.quote,
        "category": category,
        "price": quote.price,
        "bid": quote.bid,
        "ask": quote.ask,
    }
    return orjson.dumps({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": quote.at_ms})

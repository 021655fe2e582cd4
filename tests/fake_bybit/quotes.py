"""What moves within the second: the order book, recent trades, price limits; and the `Quote` behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import candles, noise, symbols
from tests.fake_bybit.decimals import fixed, trimmed
from tests.fake_bybit.intervals import MINUTE_MS
from tests.fake_bybit.params import NOT_SUPPORTED_SYMBOLS, PARAMETER_ERROR, Query, Refusal, over_limit

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings
    from tests.fake_bybit.symbols import Instrument

# bybit.md 3.2: orderbook limit (highest, default) by category
BOOK_LIMITS: Final = {"spot": (1000, 1), "linear": (1000, 25), "inverse": (1000, 25), "option": (25, 1)}
TRADE_SPACING_MS: Final = 200


class Quote:
    """The prices of one instrument at one moment, in ticks of the order book."""

    def __init__(self, item: Instrument, seed: int, now_ms: int) -> None:
        series = candles.series_of(seed, "kline", item.category, item.symbol)
        if series is None:
            raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
        self.item, self.seed, self.now_ms, self.series = item, seed, now_ms, series
        self.last = candles.last_price_ticks(series, now_ms)
        self.bid = self.last - 1
        self.ask = self.last + 1

    def price(self, ticks: int) -> str:
        """Ticks as the exchange writes prices outside of candles: every decimal kept."""
        return fixed(ticks * self.item.tick_units, self.item.price_decimals)

    def size(self, level: int) -> str:
        """A resting size; it changes every 100 ms."""
        key = noise.key_of(self.seed, "book", self.item.category, self.item.symbol)
        bits = noise.mix(key ^ level, self.now_ms // candles.BUCKET_MS)
        return trimmed(1 + bits % self.item.minute_qty_units, self.item.qty_decimals)

    def finer(self, kind: candles.Kind) -> str:
        """The last mark or index price."""
        series = candles.series_of(self.seed, kind, self.item.category, self.item.symbol)
        ticks = self.last if series is None else candles.last_price_ticks(series, self.now_ms)
        return fixed(ticks, self.item.price_decimals)

    def ago(self, span_ms: int) -> int:
        """The price in ticks a while ago, or at the listing when that was later."""
        time_ms = max(self.now_ms - span_ms, self.item.listed_ms)
        return candles.price_at(self.series, time_ms // MINUTE_MS)


def orderbook_result(query: Query, seed: int, settings: Settings, now_us: int) -> dict[str, Any]:
    """The `result` of orderbook: asks rising, bids falling."""
    category = query.category(symbols.CATEGORIES)
    item = listed_instrument(category, query.symbol())
    levels = query.limit(*BOOK_LIMITS[category], over_limit(settings))
    now_ms = now_us // 1000
    quote = Quote(item, seed, now_ms)
    update = now_ms // candles.BUCKET_MS
    return {
        "s": item.symbol,
        "a": [[quote.price(quote.ask + level), quote.size(2 * level)] for level in range(levels)],
        "b": [
            [quote.price(quote.bid - level), quote.size(2 * level + 1)] for level in range(levels) if quote.bid > level
        ],
        "ts": now_ms,
        "u": update,
        "seq": update * 7,
        "cts": now_ms - now_ms % candles.BUCKET_MS,
    }


def trades_result(query: Query, seed: int, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of recent-trade, newest first; a trade once made never changes."""
    category = query.category(symbols.CATEGORIES)
    # bybit.md 3.2: spot 1..60, default 60; else 1..1000, default 500
    highest, default = (60, 60) if category == "spot" else (1000, 500)
    limit = query.limit(highest, default, over_limit(settings))
    name, base = query.text("symbol"), query.text("baseCoin")
    if category == "option" and name is None:
        found = [item for item in symbols.listed("option") if item.base == (base or "BTC")][:1]
    else:
        found = [listed_instrument(category, query.symbol())]
    rows: list[dict[str, Any]] = []
    for item in found:
        newest_ms = now_ms if item.ended_ms is None else min(now_ms, item.ended_ms - 1)
        slot = newest_ms // TRADE_SPACING_MS
        oldest = -(-item.listed_ms // TRADE_SPACING_MS)
        rows += [_trade(item, seed, number) for number in range(slot, max(slot - limit, oldest - 1), -1)]
    return {"category": category, "list": rows}


def price_limit_result(query: Query, seed: int, now_ms: int) -> dict[str, Any]:
    """The `result` of price-limit."""
    # bybit.md 3.2: default linear
    category = query.category(("linear", "inverse", "spot"), default="linear")
    item = listed_instrument(category, query.symbol())
    quote = Quote(item, seed, now_ms)
    return {
        "symbol": item.symbol,
        "buyLmt": quote.price(quote.last * 101 // 100),
        "sellLmt": quote.price(quote.last * 99 // 100),
        "ts": str(now_ms),
    }


def listed_instrument(category: str, name: str) -> Instrument:
    """The instrument of that name, or `Not supported symbols`."""
    item = symbols.find(category, name)
    if item is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    return item


def _trade(item: Instrument, seed: int, number: int) -> dict[str, Any]:
    time_ms = number * TRADE_SPACING_MS
    quote = Quote(item, seed, time_ms)
    bits = noise.mix(noise.key_of(seed, "trade", item.category, item.symbol), number)
    return {
        "execId": str(2_100_000_000_000_000_000 + number),
        "symbol": item.symbol,
        "price": quote.price(quote.last),
        "size": trimmed(1 + (bits >> 8) % max(1, item.minute_qty_units // 300), item.qty_decimals),
        "side": "Buy" if bits & 1 else "Sell",
        "time": str(time_ms),
        "isBlockTrade": False,
        "isRPITrade": False,
        "seq": str(number * 3),
    }

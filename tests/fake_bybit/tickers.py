"""`/v5/market/tickers`: one row per symbol, in the three shapes of contracts, spot and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fake_bybit import symbols
from tests.fake_bybit.decimals import fixed, rescaled, trimmed
from tests.fake_bybit.intervals import DAY_MS
from tests.fake_bybit.params import wrong
from tests.fake_bybit.periodic import HOUR_MS, funding_now, interest_units
from tests.fake_bybit.quotes import Quote, listed_instrument

if TYPE_CHECKING:
    from tests.fake_bybit.params import Query


def tickers_result(query: Query, seed: int, now_ms: int) -> dict[str, Any]:
    """The `result` of tickers: one symbol, or all that trade."""
    category = query.category(symbols.CATEGORIES)
    name, base = query.text("symbol"), query.text("baseCoin")
    # bybit.md 3.2: option needs symbol or baseCoin
    if category == "option" and name is None and base is None:
        raise wrong("baseCoin")
    if name is not None:
        found = [listed_instrument(category, name)]
    else:
        found = [item for item in symbols.listed(category) if item.is_trading(now_ms)]
    if category == "option" and base is not None:
        expiry = query.text("expDate")
        found = [item for item in found if item.base == base and expiry in {None, item.symbol.split("-")[1]}]
    write = {"spot": _spot_ticker, "option": _option_ticker}.get(category, _contract_ticker)
    return {"category": category, "list": [write(Quote(item, seed, now_ms)) for item in found]}


def _day(quote: Quote) -> tuple[int, int, int, int]:
    """High, low, volume units and average price of the last day, taken at its full hours."""
    item, hour_ms = quote.item, quote.now_ms - quote.now_ms % HOUR_MS
    corners = [quote.last, *(quote.ago(quote.now_ms - hour_ms + hours * HOUR_MS) for hours in range(24))]
    volume_units = item.minute_qty_units * 1440
    return max(corners), min(corners), volume_units, sum(corners) // len(corners)


def _day_turnover(quote: Quote, volume_units: int, ticks: int) -> str:
    item = quote.item
    price_units = ticks * item.tick_units
    if item.category == "inverse":
        return fixed(volume_units * 10 ** (4 + item.price_decimals) // max(1, price_units), 4)
    return fixed(rescaled(volume_units * price_units, item.qty_decimals + item.price_decimals, 4), 4)


def _change(quote: Quote, decimals: int) -> str:
    before = quote.ago(DAY_MS)
    return fixed((quote.last - before) * 10**decimals // before, decimals)


def _contract_ticker(quote: Quote) -> dict[str, Any]:
    item = quote.item
    high, low, volume, average = _day(quote)
    rate, next_funding_ms = funding_now(item, quote.seed, quote.now_ms)
    interest = interest_units(item, quote.seed, quote.now_ms)
    price_units = max(1, quote.last * item.tick_units)
    if item.category == "inverse":
        value = fixed(interest * 10**item.price_decimals // price_units // 10**6, 2)
    else:
        value = fixed(rescaled(interest * price_units, 8 + item.price_decimals, 2), 2)
    return {
        "symbol": item.symbol,
        "lastPrice": quote.price(quote.last),
        "indexPrice": quote.finer("index"),
        "markPrice": quote.finer("mark"),
        "prevPrice24h": quote.price(quote.ago(DAY_MS)),
        "price24hPcnt": _change(quote, 6),
        "highPrice24h": quote.price(high),
        "lowPrice24h": quote.price(low),
        "prevPrice1h": quote.price(quote.ago(HOUR_MS)),
        "openInterest": trimmed(rescaled(interest, 8, item.qty_decimals), item.qty_decimals),
        "openInterestValue": value,
        "turnover24h": _day_turnover(quote, volume, average),
        "volume24h": fixed(rescaled(volume, item.qty_decimals, 4), 4),
        "fundingRate": rate,
        "nextFundingTime": str(next_funding_ms),
        "predictedDeliveryPrice": "",
        "basisRate": "",
        "deliveryFeeRate": "",
        "deliveryTime": str(item.delivery_ms),
        "ask1Size": quote.size(0),
        "bid1Price": quote.price(quote.bid),
        "ask1Price": quote.price(quote.ask),
        "bid1Size": quote.size(1),
        "basis": "",
        "preOpenPrice": "",
        "preQty": "",
        "curPreListingPhase": "",
        "fundingIntervalHour": str(item.funding_minutes // 60) if item.funding_minutes else "",
        "basisRateYear": "",
        "fundingCap": "0.005",
    }


def _spot_ticker(quote: Quote) -> dict[str, Any]:
    high, low, volume, average = _day(quote)
    return {
        "symbol": quote.item.symbol,
        "bid1Price": quote.price(quote.bid),
        "bid1Size": quote.size(1),
        "ask1Price": quote.price(quote.ask),
        "ask1Size": quote.size(0),
        "lastPrice": quote.price(quote.last),
        "prevPrice24h": quote.price(quote.ago(DAY_MS)),
        "price24hPcnt": _change(quote, 4),
        "highPrice24h": quote.price(high),
        "lowPrice24h": quote.price(low),
        "turnover24h": _day_turnover(quote, volume, average),
        "volume24h": trimmed(volume, quote.item.qty_decimals),
        "usdIndexPrice": quote.price(quote.last),
    }


def _option_ticker(quote: Quote) -> dict[str, Any]:
    item = quote.item
    high, low, volume, average = _day(quote)
    turnover = _day_turnover(quote, volume, average)
    underlying = symbols.find("inverse", f"{item.base}USD")
    index = Quote(underlying, quote.seed, quote.now_ms).finer("index") if underlying else ""
    return {
        "symbol": item.symbol,
        "bid1Price": quote.price(quote.bid),
        "bid1Size": quote.size(1),
        "bid1Iv": "0.45",
        "ask1Price": quote.price(quote.ask),
        "ask1Size": quote.size(0),
        "ask1Iv": "0.55",
        "lastPrice": quote.price(quote.last),
        "highPrice24h": quote.price(high),
        "lowPrice24h": quote.price(low),
        "markPrice": quote.finer("mark"),
        "indexPrice": index,
        "markIv": "0.5",
        "underlyingPrice": index,
        "openInterest": trimmed(interest_units(item, quote.seed, quote.now_ms), 8),
        "turnover24h": turnover,
        "volume24h": trimmed(volume, item.qty_decimals),
        "totalVolume": "99",
        "totalTurnover": "1967653",
        "delta": "0.00000001",
        "gamma": "0.00000001",
        "vega": "0.00000004",
        "theta": "-0.00000152",
        "predictedDeliveryPrice": "0",
        "change24h": _change(quote, 8),
    }

"""`/v5/market/instruments-info` and `/v5/market/risk-limit`: the lists that come in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import symbols
from tests.fake_bybit.decimals import fixed
from tests.fake_bybit.params import (
    NOT_SUPPORTED_SYMBOLS,
    PARAMETER_ERROR,
    Query,
    Refusal,
    decoded_cursor,
    encoded_cursor,
    over_limit,
)

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings
    from tests.fake_bybit.symbols import Instrument

RISK_SYMBOLS_PER_PAGE: Final = 15
OPTION_DEFAULT_STATUSES: Final = ("PreLaunch", "Trading", "Delivering")


def instruments_result(query: Query, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of instruments-info."""
    category = query.category(symbols.CATEGORIES)
    found = _matching(category, query, now_ms)
    # bybit.md 3.2: spot has no pagination; limit and cursor mean nothing there
    if category == "spot":
        return {"category": category, "list": [_spot_row(item) for item in found]}
    # bybit.md 3.2: limit 1..1000, default 500; more than 500 linear symbols exist
    limit = query.limit(1000, 500, over_limit(settings))
    page, cursor = _page(found, query, limit, settings)
    if category == "option":
        rows = [_option_row(item, now_ms) for item in page]
        return {"category": category, "nextPageCursor": cursor, "list": rows}
    return {
        "category": category,
        "list": [_contract_row(item, now_ms) for item in page],
        "nextPageCursor": cursor,
    }


def risk_limit_result(query: Query, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of risk-limit."""
    category = query.category(("linear", "inverse"))
    name = query.text("symbol")
    if name is not None and symbols.find(category, name) is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    found = [item for item in symbols.listed(category) if item.is_trading(now_ms) and name in {None, item.symbol}]
    # bybit.md 3.2: linear 15 symbols a page
    limit = RISK_SYMBOLS_PER_PAGE if category == "linear" else len(found)
    page, cursor = _page(found, query, limit, settings)
    rows = [tier for item in page for tier in _tiers(item)]
    return {"category": category, "list": rows, "nextPageCursor": cursor}


def _matching(category: str, query: Query, now_ms: int) -> list[Instrument]:
    name, base, status = query.text("symbol"), query.text("baseCoin"), query.text("status")
    if name is not None:
        instrument = symbols.find(category, name)
        if instrument is None:
            raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
        pool = [instrument]
    else:
        pool = _pool(category, base)
    # bybit.md 3.2: by default only Trading (option: PreLaunch, Trading, Delivering)
    default = OPTION_DEFAULT_STATUSES if category == "option" else ("Trading",)
    wanted = default if status is None else (status,)
    # The symbolType of everything in the box is empty: asking for one finds nothing.
    if query.text("symbolType") is not None:
        return []
    return [item for item in pool if item.status(now_ms) in wanted]


def _pool(category: str, base: str | None) -> list[Instrument]:
    # D:market/instrument: option returns BTC by default; baseCoin joins linear and inverse; spot has no baseCoin
    if category == "option":
        return [item for item in symbols.listed("option") if item.base == (base or "BTC")]
    if base is None or category == "spot":
        return symbols.listed(category)
    both = symbols.listed("linear") + symbols.listed("inverse")
    return sorted((item for item in both if item.base == base), key=lambda item: item.symbol)


def _page(found: list[Instrument], query: Query, limit: int, settings: Settings) -> tuple[list[Instrument], str]:
    cursor = query.text("cursor")
    if cursor is not None:
        (last,) = decoded_cursor(cursor, settings, "last")
        found = [item for item in found if item.symbol > last]
    page = found[:limit]
    # bybit.md 3.2: nextPageCursor is "" on the last page
    if len(found) <= limit:
        return page, ""
    return page, encoded_cursor(first=page[0].symbol, last=page[-1].symbol)


def _contract_row(item: Instrument, now_ms: int) -> dict[str, Any]:
    tick = fixed(item.tick_units, item.price_decimals)
    step = fixed(1, item.qty_decimals)
    return {
        "symbol": item.symbol,
        "contractType": item.contract,
        "status": item.status(now_ms),
        "baseCoin": item.base,
        "quoteCoin": item.quote,
        "symbolType": "",
        "launchTime": str(item.listed_ms),
        "deliveryTime": str(item.delivery_ms),
        "deliveryFeeRate": "",
        "priceScale": str(item.price_decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {
            "minPrice": tick,
            "maxPrice": fixed(item.tick_units * item.anchor_ticks * 4, item.price_decimals),
            "tickSize": tick,
        },
        "lotSizeFilter": {
            "maxOrderQty": fixed(1190 * 10**item.qty_decimals, item.qty_decimals),
            "minOrderQty": step,
            "qtyStep": step,
            "postOnlyMaxOrderQty": fixed(1190 * 10**item.qty_decimals, item.qty_decimals),
            "maxMktOrderQty": fixed(500 * 10**item.qty_decimals, item.qty_decimals),
            "minNotionalValue": "5",
        },
        "unifiedMarginTrade": True,
        "fundingInterval": item.funding_minutes,
        "settleCoin": item.settle,
        "copyTrading": "none",
        "upperFundingRate": "0.00375",
        "lowerFundingRate": "-0.00375",
        "isPreListing": False,
        "preListingInfo": None,
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
        "displayName": "",
    }


def _spot_row(item: Instrument) -> dict[str, Any]:
    smallest = fixed(1, item.qty_decimals)
    return {
        "symbol": item.symbol,
        "baseCoin": item.base,
        "quoteCoin": item.quote,
        "innovation": "0",
        "symbolType": "",
        "status": "Trading",
        "marginTrading": "utaOnly",
        "stTag": "0",
        "lotSizeFilter": {
            "basePrecision": smallest,
            "quotePrecision": "0.00000001",
            "minOrderQty": smallest,
            "maxOrderQty": fixed(83 * 10**item.qty_decimals, item.qty_decimals),
            "minOrderAmt": "5",
            "maxOrderAmt": "8000000",
        },
        "priceFilter": {"tickSize": fixed(item.tick_units, item.price_decimals)},
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
    }


def _option_row(item: Instrument, now_ms: int) -> dict[str, Any]:
    tick = fixed(item.tick_units, item.price_decimals)
    return {
        "symbol": item.symbol,
        "status": item.status(now_ms),
        "baseCoin": item.base,
        "quoteCoin": item.quote,
        "settleCoin": item.settle,
        "optionsType": "Call" if item.symbol.endswith("-C") else "Put",
        "launchTime": str(item.listed_ms),
        "deliveryTime": str(item.delivery_ms),
        "deliveryFeeRate": "0.00015",
        "priceFilter": {"minPrice": tick, "maxPrice": "10000000", "tickSize": tick},
        "lotSizeFilter": {"maxOrderQty": "1500", "minOrderQty": "0.01", "qtyStep": "0.01"},
        "displayName": item.symbol,
    }


def _tiers(item: Instrument) -> list[dict[str, Any]]:
    return [
        {
            "id": tier,
            "symbol": item.symbol,
            "riskLimitValue": str(2_000_000 * tier),
            "maintenanceMargin": f"0.{5 * tier:03d}",
            "initialMargin": fixed(10 * tier, 3),
            "isLowestRisk": int(tier == 1),
            "maxLeverage": fixed(10_000 // tier, 2),
        }
        for tier in (1, 2, 3)
    ]

"""The pages that list orders and fills, newest first, with their cursors."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import symbols
from tests.fake_bybit.orders import decimal_text, order_row
from tests.fake_bybit.params import (
    Query,
    cursor_number,
    decoded_cursor,
    encoded_cursor,
    over_limit,
    wrong,
)

if TYPE_CHECKING:
    from tests.fake_bybit.accounts import Account, Fill
    from tests.fake_bybit.orders import Order
    from tests.fake_bybit.settings import Settings

CLOSED_KEPT: Final = 500


def realtime_result(account: Account, query: Query, settings: Settings) -> dict[str, Any]:
    """The `result` of order/realtime: open orders, or with openOnly=1 the recently closed ones."""
    category = query.category(symbols.CATEGORIES)
    named = any(query.text(name) for name in ("symbol", "baseCoin", "settleCoin", "orderId", "orderLinkId"))
    # bybit.md 5: after a lost answer an order is looked up by orderLinkId alone
    if category == "linear" and not named:
        raise wrong("symbol")
    closed = query.choice("openOnly", ("0", "1", "2"), default="0") != "0"
    found = [order for order in _orders(account, category, query) if order.is_open != closed]
    if closed:
        found = found[:CLOSED_KEPT]
    cursor = query.text("cursor")
    if cursor is not None:
        (last_id,) = decoded_cursor(cursor, settings, "page_args")
        last = account.orders.get(last_id)
        if last is None:
            raise wrong("cursor")
        found = [order for order in found if order.sequence < last.sequence]
    limit = query.limit(50, 20, over_limit(settings))
    page, more = found[:limit], len(found) > limit
    following = encoded_cursor(page_args=page[-1].order_id, symbol="6&") if more else ""
    return {"list": [order_row(order) for order in page], "nextPageCursor": following, "category": category}


def history_result(account: Account, query: Query, settings: Settings) -> dict[str, Any]:
    """The `result` of order/history: orders that are final."""
    category = query.category(symbols.CATEGORIES)
    found = [order for order in _orders(account, category, query) if not order.is_open]
    start_ms, end_ms = query.whole("startTime"), query.whole("endTime")
    found = [order for order in found if _within(order.created_ms, start_ms, end_ms)]
    cursor = query.text("cursor")
    if cursor is not None:
        (last,) = decoded_cursor(cursor, settings, "page_token")
        found = [order for order in found if order.sequence < cursor_number(last)]
    limit = query.limit(50, 20, over_limit(settings))
    page, more = found[:limit], len(found) > limit
    following = encoded_cursor(page_token=f"{page[-1].sequence}&") if more else ""
    return {"list": [order_row(order) for order in page], "nextPageCursor": following, "category": category}


def fills_result(account: Account, query: Query, settings: Settings) -> dict[str, Any]:
    """The `result` of execution/list."""
    category = query.category(symbols.CATEGORIES)
    start_ms, end_ms = query.whole("startTime"), query.whole("endTime")
    matching = {order.order_id for order in _orders(account, category, query)}
    found = [
        fill
        for fill in reversed(account.fills)
        if fill.order.order_id in matching and _within(fill.time_ms, start_ms, end_ms)
    ]
    cursor = query.text("cursor")
    if cursor is not None:
        # The recorded form is `132766%3A2%2C132766%3A2`: number, colon, side of the page, twice.
        (last,) = decoded_cursor(f"at={cursor}", settings, "at")
        found = [fill for fill in found if fill.sequence < cursor_number(last.partition(":")[0])]
    limit = query.limit(100, 50, over_limit(settings))
    page, more = found[:limit], len(found) > limit
    following = f"{page[-1].sequence}%3A2%2C{page[0].sequence}%3A2" if more else ""
    return {"nextPageCursor": following, "category": category, "list": [_fill_row(fill) for fill in page]}


def _orders(account: Account, category: str, query: Query) -> list[Order]:
    wanted = {name: query.text(name) for name in ("symbol", "baseCoin", "settleCoin", "orderId", "orderLinkId")}

    def fits(order: Order) -> bool:
        item = order.instrument
        facts = {
            "symbol": item.symbol,
            "baseCoin": item.base,
            "settleCoin": item.settle,
            "orderId": order.order_id,
            "orderLinkId": order.link_id,
        }
        return item.category == category and all(value in {None, facts[name]} for name, value in wanted.items())

    return [order for order in reversed(account.orders.values()) if fits(order)]


def _within(time_ms: int, start_ms: int | None, end_ms: int | None) -> bool:
    return (start_ms is None or time_ms >= start_ms) and (end_ms is None or time_ms <= end_ms)


def _fill_row(fill: Fill) -> dict[str, Any]:
    order = fill.order
    return {
        "symbol": order.instrument.symbol,
        "orderType": order.order_type,
        "underlyingPrice": "",
        "orderLinkId": order.link_id,
        "side": order.side,
        "indexPrice": "",
        "orderId": order.order_id,
        "stopOrderType": "UNKNOWN",
        "leavesQty": "0",
        "execTime": str(fill.time_ms),
        "feeCurrency": "",
        "isMaker": False,
        "execFee": fill.fee,
        "feeRate": "0.00055",
        "execId": fill.exec_id,
        "tradeIv": "",
        "blockTradeId": "",
        "markPrice": fill.price,
        "execPrice": fill.price,
        "markIv": "",
        "orderQty": order.qty,
        "orderPrice": order.price or fill.price,
        "execValue": decimal_text(Decimal(fill.price) * Decimal(fill.qty)),
        "execType": "Trade",
        "execQty": fill.qty,
        "closedSize": "",
        "extraFees": "",
        "seq": fill.sequence,
    }

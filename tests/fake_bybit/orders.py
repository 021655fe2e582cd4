"""One order: how a request becomes one, and how it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.fake_bybit import symbols
from tests.fake_bybit.decimals import fixed
from tests.fake_bybit.params import ILLEGAL_CATEGORY, NOT_SUPPORTED_SYMBOLS, PARAMETER_ERROR, Refusal, wrong

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings

Status = Literal["New", "Filled", "Cancelled"]

LINK_ID: Final = re.compile(r"[A-Za-z0-9_-]+")
# bybit.md 5: the observed cap is 45, the documented one 36
LINK_ID_HIGHEST_CHARS: Final = 45
LINK_ID_TOO_LONG: Final = "order link id is longer than 45"
INVALID_SPOT_SYMBOL: Final = 170121
ZERO: Final = Decimal(0)
# Beyond any real order, and far from where decimals lose digits.
HIGHEST_NUMBER: Final = Decimal(10**9)


@dataclass(slots=True)
class Order:
    """State of one order. `sequence` numbers all orders of the exchange, oldest first."""

    sequence: int
    order_id: str
    link_id: str
    instrument: symbols.Instrument
    side: str
    order_type: str
    qty: str
    price: str
    time_in_force: str
    reduce_only: bool
    position_idx: int
    created_ms: int
    updated_ms: int
    status: Status = "New"
    reject_reason: str = "EC_NoError"
    avg_price: str = "0"
    filled_qty: str = "0"
    fee: str = "0"

    @property
    def is_open(self) -> bool:
        """Whether it rests in the book."""
        return self.status == "New"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a create request asks for, checked."""

    instrument: symbols.Instrument
    side: str
    order_type: str
    qty: str
    price: str
    time_in_force: str
    reduce_only: bool
    position_idx: int
    link_id: str


def text_of(body: dict[str, Any], name: str) -> str:
    """A field of a body as text; null and absent are the same."""
    value = body.get(name)
    return "" if value is None else str(value)


def category_of(body: dict[str, Any]) -> str:
    """The category, or `Illegal category`."""
    category = text_of(body, "category")
    if category not in symbols.CATEGORIES:
        raise Refusal(PARAMETER_ERROR, ILLEGAL_CATEGORY)
    return category


def category_or_none(body: dict[str, Any]) -> str | None:
    """The category where it is a known one."""
    category = text_of(body, "category")
    return category if category in symbols.CATEGORIES else None


def instrument_of(category: str, symbol: str, now_ms: int) -> symbols.Instrument:
    """An instrument that takes orders now."""
    item = symbols.find(category, symbol)
    if item is None or not item.is_trading(now_ms):
        if category == "spot":
            raise Refusal(INVALID_SPOT_SYMBOL, "Invalid symbol.")
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    return item


def ticket_of(category: str, body: dict[str, Any], settings: Settings, now_ms: int) -> Ticket:
    """Check a create request (or one item of a batch)."""
    item = instrument_of(category, text_of(body, "symbol"), now_ms)
    side, order_type = text_of(body, "side"), text_of(body, "orderType")
    if side not in {"Buy", "Sell"}:
        raise Refusal(PARAMETER_ERROR, "Side invalid")
    if order_type not in {"Market", "Limit"}:
        raise Refusal(PARAMETER_ERROR, "OrderType invalid")
    qty = positive(text_of(body, "qty"), "Qty invalid")
    price = positive(text_of(body, "price"), "Price invalid") if order_type == "Limit" else ""
    default_force = "IOC" if order_type == "Market" else "GTC"
    time_in_force = text_of(body, "timeInForce") or default_force
    if time_in_force not in {"GTC", "IOC", "FOK", "PostOnly", "RPI"}:
        raise Refusal(PARAMETER_ERROR, "TimeInForce invalid")
    position_idx = text_of(body, "positionIdx") or "0"
    if position_idx not in {"0", "1", "2"}:
        raise wrong("positionIdx")
    return Ticket(
        instrument=item,
        side=side,
        order_type=order_type,
        qty=qty,
        price=price,
        time_in_force=time_in_force if order_type == "Limit" else "IOC",
        reduce_only=text_of(body, "reduceOnly") in {"True", "true"},
        position_idx=int(position_idx),
        link_id=_link_id(category, body, settings),
    )


def positive(text: str, refusal: str) -> str:
    """A decimal above zero, kept as it was written."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise Refusal(PARAMETER_ERROR, refusal) from None
    if not number.is_finite() or not 0 < number < HIGHEST_NUMBER or number != round(number, 18):
        raise Refusal(PARAMETER_ERROR, refusal)
    return text


def _link_id(category: str, body: dict[str, Any], settings: Settings) -> str:
    link_id = text_of(body, "orderLinkId")
    if not link_id:
        # bybit.md 5: orderLinkId is required for options
        if category == "option":
            raise Refusal(PARAMETER_ERROR, "orderLinkId is required")
        return ""
    if len(link_id) > getattr(settings, "link_id_max_chars", LINK_ID_HIGHEST_CHARS):
        # bybit.md 5: too long is 10001 with this text, whatever the cap in force
        raise Refusal(PARAMETER_ERROR, LINK_ID_TOO_LONG)
    # bybit.md 5: letters, digits, underscore and hyphen
    if LINK_ID.fullmatch(link_id) is None:
        raise wrong("orderLinkId")
    return link_id


def decimal_text(number: Decimal) -> str:
    """A decimal without exponent and without zeros at the end."""
    if number == number.to_integral_value():
        return str(int(number))
    return format(number.normalize(), "f")


def order_row(order: Order) -> dict[str, Any]:
    """An order as order/realtime and order/history show it."""
    item = order.instrument
    zero_price = fixed(0, item.price_decimals)
    left = Decimal(order.qty) - Decimal(order.filled_qty) if order.is_open else ZERO
    worth = left * Decimal(order.price) if order.is_open else ZERO
    done = Decimal(order.filled_qty)
    return {
        "orderId": order.order_id,
        "orderLinkId": order.link_id,
        "blockTradeId": "",
        "symbol": item.symbol,
        "price": order.price or "0",
        "qty": order.qty,
        "side": order.side,
        "isLeverage": "0" if item.category == "spot" else "",
        "positionIdx": order.position_idx,
        "orderStatus": order.status,
        "cancelType": "CancelByUser" if order.status == "Cancelled" else "UNKNOWN",
        "rejectReason": order.reject_reason,
        "avgPrice": order.avg_price,
        "leavesQty": decimal_text(left),
        "leavesValue": decimal_text(worth),
        "cumExecQty": order.filled_qty,
        "cumExecValue": decimal_text(done * Decimal(order.avg_price)),
        "cumExecFee": order.fee,
        "timeInForce": order.time_in_force,
        "orderType": order.order_type,
        "stopOrderType": "" if item.category == "spot" else "UNKNOWN",
        "orderIv": "",
        "triggerPrice": zero_price,
        "takeProfit": zero_price,
        "stopLoss": zero_price,
        "tpTriggerBy": "UNKNOWN",
        "slTriggerBy": "UNKNOWN",
        "triggerDirection": 0,
        "triggerBy": "UNKNOWN",
        "lastPriceOnCreated": zero_price,
        "reduceOnly": order.reduce_only,
        "closeOnTrigger": False,
        "smpType": "None",
        "smpGroup": 0,
        "smpOrderId": "",
        "tpslMode": "",
        "tpLimitPrice": "",
        "slLimitPrice": "",
        "placeType": "",
        "slippageToleranceType": "UNKNOWN",
        "slippageTolerance": "",
        "createdTime": str(order.created_ms),
        "updatedTime": str(order.updated_ms),
        "extraFees": "",
        "cumFeeDetail": {},
        "rpiTakerAccess": False,
        "rpiMatchedQty": "0",
    }

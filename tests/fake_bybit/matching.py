"""The matching engine, as small as it can be: a market order fills at once, a limit order fills at once or rests."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from tests.fake_bybit import noise, quotes
from tests.fake_bybit.accounts import Account, Fill
from tests.fake_bybit.orders import Order, Ticket, decimal_text
from tests.fake_bybit.params import PARAMETER_ERROR, Refusal

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings
    from tests.fake_bybit.symbols import Instrument

TAKER_FEE: Final = Decimal("0.00055")
# bybit.md 2.4 and 5: one orderLinkId, two codes
DUPLICATE_LINK_ID: Final = (110072, "OrderLinkedID is duplicate")
DUPLICATE_SPOT_LINK_ID: Final = (170141, "Duplicate clientOrderId.")
NOTHING_TO_REDUCE: Final = (110017, "current position is zero, cannot fix reduce-only order qty")
FIRST_SPOT_ID: Final = 1_900_000_000_000_000_000


class Engine:
    """Takes orders into accounts. Ids come from a counter, so one seed and one sequence give the same ids."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self._seed = seed
        self._settings = settings
        self._count = 0

    def place(self, account: Account, ticket: Ticket, now_ms: int) -> Order:
        """Accept an order; raises Refusal."""
        item = ticket.instrument
        self._check_link_id(account, ticket)
        self._check_position(account, ticket)
        self._count += 1
        order_id, link_id = self._ids(item, ticket.link_id)
        order = Order(
            sequence=self._count,
            order_id=order_id,
            link_id=link_id,
            instrument=item,
            side=ticket.side,
            order_type=ticket.order_type,
            qty=ticket.qty,
            price=ticket.price,
            time_in_force=ticket.time_in_force,
            reduce_only=ticket.reduce_only,
            position_idx=ticket.position_idx,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        account.orders[order_id] = order
        if link_id:
            account.links[link_id] = order
        self._settle(account, order, now_ms)
        return order

    def amend(self, account: Account, order: Order, qty: str, price: str, now_ms: int) -> None:
        """Change size or price of a resting order; a new price may cross the book."""
        order.qty, order.price, order.updated_ms = qty or order.qty, price or order.price, now_ms
        self._settle(account, order, now_ms)

    def cancel(self, order: Order, now_ms: int) -> None:
        """Take a resting order out of the book."""
        order.status, order.updated_ms = "Cancelled", now_ms

    def _check_link_id(self, account: Account, ticket: Ticket) -> None:
        earlier = account.links.get(ticket.link_id) if ticket.link_id else None
        if earlier is None:
            return
        # bybit.md Unknown 8: whether an orderLinkId is free again once its order is final
        if self._settings.link_id_reuse_after_final and not earlier.is_open:
            return
        # bybit.md 5: duplicate is 110072 for futures and options, 170141 for spot
        is_spot = ticket.instrument.category == "spot"
        raise Refusal(*(DUPLICATE_SPOT_LINK_ID if is_spot else DUPLICATE_LINK_ID))

    def _check_position(self, account: Account, ticket: Ticket) -> None:
        item = ticket.instrument
        if item.category in {"spot", "option"}:
            return
        if (ticket.position_idx != 0) != account.is_hedged(item):
            raise Refusal(PARAMETER_ERROR, "position idx not match position mode")
        if ticket.reduce_only:
            size = account.position(item, ticket.position_idx).size
            if size == 0 or (size > 0) == (ticket.side == "Buy"):
                raise Refusal(*NOTHING_TO_REDUCE)

    def _ids(self, item: Instrument, link_id: str) -> tuple[str, str]:
        if item.category == "spot":
            # Published spot answers carry long numbers, and a generated orderLinkId where none was sent.
            number = FIRST_SPOT_ID + 2 * self._count
            return str(number), link_id or str(number + 1)
        return self._uuid("order", self._count), link_id

    def _uuid(self, purpose: str, number: int) -> str:
        key = noise.key_of(self._seed, purpose)
        digits = f"{noise.mix(key, 2 * number):016x}{noise.mix(key, 2 * number + 1):016x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def _settle(self, account: Account, order: Order, now_ms: int) -> None:
        quote = quotes.Quote(order.instrument, self._seed, now_ms)
        best = Decimal(quote.price(quote.ask if order.side == "Buy" else quote.bid))
        if order.order_type == "Market":
            self._fill(account, order, best, now_ms)
            return
        limit = Decimal(order.price)
        crosses = limit >= best if order.side == "Buy" else limit <= best
        if crosses and order.time_in_force in {"PostOnly", "RPI"}:
            order.reject_reason = "EC_PostOnlyWillTakeLiquidity"
            self.cancel(order, now_ms)
        elif crosses:
            self._fill(account, order, best, now_ms)
        elif order.time_in_force in {"IOC", "FOK"}:
            self.cancel(order, now_ms)

    def _fill(self, account: Account, order: Order, price: Decimal, now_ms: int) -> None:
        qty, item = Decimal(order.qty), order.instrument
        value = qty / price if item.category == "inverse" else qty * price
        fee = decimal_text(round(value * TAKER_FEE, 8))
        order.status, order.filled_qty, order.fee = "Filled", order.qty, fee
        order.avg_price, order.updated_ms = decimal_text(price), now_ms
        signed = qty if order.side == "Buy" else -qty
        if item.category == "spot":
            account.coins[item.base] = account.coins.get(item.base, Decimal(0)) + signed
            account.coins[item.quote] = account.coins.get(item.quote, Decimal(0)) - signed * price
        else:
            account.position(item, order.position_idx).take(signed, price, now_ms)
        sequence = order.sequence
        account.fills.append(
            Fill(sequence, self._uuid("fill", sequence), order, decimal_text(price), order.qty, fee, now_ms)
        )

"""The private half of the exchange: orders, positions and accounts, kept per UID.

`Trading.arrivals` lists every order operation in the order in which it reached the exchange, refused ones included:
a test that asks whether a cancel ever overtook its create reads it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.fake_bybit import accounts, history, setters
from tests.fake_bybit.matching import Engine
from tests.fake_bybit.orders import category_of, category_or_none, positive, text_of, ticket_of
from tests.fake_bybit.params import (
    ILLEGAL_CATEGORY,
    PARAMETER_ERROR,
    Query,
    Refusal,
    wrong,
)
from tests.fake_bybit.reply import TOO_MANY_VISITS, Reply

if TYPE_CHECKING:
    from tests.fake_bybit.orders import Order
    from tests.fake_bybit.settings import Settings

Operation = Literal["create", "amend", "cancel", "cancel-all"]

SINGLE: Final[dict[str, Operation]] = {
    "/v5/order/create": "create",
    "/v5/order/amend": "amend",
    "/v5/order/cancel": "cancel",
}
BATCH: Final[dict[str, Operation]] = {
    "/v5/order/create-batch": "create",
    "/v5/order/amend-batch": "amend",
    "/v5/order/cancel-batch": "cancel",
}
# bybit.md 1.3: the batch pages say 20 linear/inverse/option, 10 spot; the rate page's 1 to 10 is older
BATCH_HIGHEST: Final = {"linear": 20, "inverse": 20, "option": 20, "spot": 10}


@dataclass(frozen=True, slots=True)
class OrderArrival:
    """One order operation as it reached the exchange. `ok` is whether it was accepted."""

    sequence: int
    now_us: int
    uid: str
    op: Operation
    category: str
    symbol: str
    order_id: str
    link_id: str
    ok: bool


def batch_size(path: str, body: dict[str, Any]) -> int:
    """How many orders a call carries: the items of a batch, 1 for everything else."""
    return len(_items(body)) if path in BATCH else 1


class Trading:
    """Answers private calls and keeps what they change."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self._seed = seed
        self._settings = settings
        self._engine = Engine(seed, settings)
        self._accounts: dict[str, accounts.Account] = {}
        self.arrivals: list[OrderArrival] = []

    def handle(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: dict[str, Any],
        uid: str,
        now_us: int,
        allowed: int | None = None,
    ) -> Reply | None:  # fmt: skip
        """The answer to one authenticated call, or None for a method and path that are not here.

        `allowed` is how many orders of a batch the account limiter lets through; None is all of them.
        """
        account = self._accounts.setdefault(uid, accounts.Account(uid))
        try:
            if method == "GET":
                return self._read(path, Query(query), account, now_us)
            if method == "POST":
                return self._write(path, body, account, now_us, allowed)
        except Refusal as refusal:
            return Reply(refusal.ret_code, refusal.ret_msg)
        return None

    def _read(self, path: str, query: Query, account: accounts.Account, now_us: int) -> Reply | None:
        settings, now_ms = self._settings, now_us // 1000
        match path:
            case "/v5/order/realtime":
                return Reply(result=history.realtime_result(account, query, settings))
            case "/v5/order/history":
                return Reply(result=history.history_result(account, query, settings))
            case "/v5/execution/list":
                return Reply(result=history.fills_result(account, query, settings))
            case "/v5/position/list":
                return Reply(result=accounts.positions_result(account, query, self._seed, settings, now_ms))
            case "/v5/account/wallet-balance":
                return Reply(result=accounts.wallet_result(account, query))
            case "/v5/account/info":
                return Reply(result=accounts.account_info())
            case "/v5/user/query-api":
                return Reply(ret_msg="", result=accounts.key_info(account))
            case _:
                return None

    def _write(
        self, path: str, body: dict[str, Any], account: accounts.Account, now_us: int, allowed: int | None
    ) -> Reply | None:
        if path in SINGLE:
            order = self._one(SINGLE[path], category_or_none(body), body, account, now_us)
            return Reply(result={"orderId": order.order_id, "orderLinkId": order.link_id})
        if path in BATCH:
            return self._batch(BATCH[path], body, account, now_us, allowed)
        match path:
            case "/v5/order/cancel-all":
                return Reply(result=self._cancel_all(body, account, now_us))
            case "/v5/position/set-leverage":
                return Reply(result=setters.set_leverage(body, account, now_us // 1000))
            case "/v5/position/switch-mode":
                return Reply(result=setters.switch_mode(body, account, now_us // 1000))
            case _:
                return None

    def _one(
        self, operation: Operation, category: str | None, body: dict[str, Any], account: accounts.Account, now_us: int
    ) -> Order:
        """Perform one operation and write down its arrival, refused or not."""
        try:
            order = self._perform(operation, category, body, account, now_us // 1000)
        except Refusal:
            self._arrived(operation, category or "", body, account, now_us)
            raise
        self._arrived(operation, category or "", body, account, now_us, order=order)
        return order

    def _perform(
        self, operation: Operation, category: str | None, body: dict[str, Any], account: accounts.Account, now_ms: int
    ) -> Order:
        if category is None:
            raise Refusal(PARAMETER_ERROR, ILLEGAL_CATEGORY)
        if operation == "create":
            return self._engine.place(account, ticket_of(category, body, self._settings, now_ms), now_ms)
        order = _resting(operation, category, body, account)
        if operation == "cancel":
            self._engine.cancel(order, now_ms)
            return order
        qty, price = text_of(body, "qty"), text_of(body, "price")
        if qty:
            positive(qty, "Qty invalid")
        if price:
            positive(price, "Price invalid")
        self._engine.amend(account, order, qty, price, now_ms)
        return order

    def _batch(
        self, operation: Operation, body: dict[str, Any], account: accounts.Account, now_us: int, allowed: int | None
    ) -> Reply:
        category = category_of(body)
        items = _items(body)
        if not items:
            raise wrong("request")
        if len(items) > BATCH_HIGHEST[category]:
            raise Refusal(PARAMETER_ERROR, f"The number of orders in a batch is limited to {BATCH_HIGHEST[category]}")
        rows: list[dict[str, Any]] = []
        outcomes: list[dict[str, Any]] = []
        for place, item in enumerate(items):
            # bybit.md 1.5: with 5 left, a batch of 8 places the first 5; the others fail one by one with 10006
            limited = allowed is not None and place >= allowed
            row, outcome = self._batch_item(operation, category, item, account, now_us, limited=limited)
            rows.append(row)
            outcomes.append(outcome)
        # bybit.md 1.5: outer retCode 0 with errors inside, retExtInfo.list parallel to result.list
        return Reply(result={"list": rows}, ext={"list": outcomes})

    def _batch_item(
        self,
        operation: Operation,
        category: str,
        item: dict[str, Any],
        account: accounts.Account,
        now_us: int,
        *,
        limited: bool,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        row = {"category": category, "symbol": text_of(item, "symbol"), "orderId": "", "orderLinkId": ""}
        if operation == "create":
            row["createAt"] = ""
        if limited:
            self._arrived(operation, category, item, account, now_us)
            return row, {"code": TOO_MANY_VISITS.ret_code, "msg": TOO_MANY_VISITS.ret_msg}
        try:
            order = self._one(operation, category, item, account, now_us)
        except Refusal as refusal:
            if operation != "create":
                # The recorded cancel-batch answer repeats the ids it was asked for.
                row |= {"orderId": text_of(item, "orderId"), "orderLinkId": text_of(item, "orderLinkId")}
            return row, {"code": refusal.ret_code, "msg": refusal.ret_msg}
        row |= {"symbol": order.instrument.symbol, "orderId": order.order_id, "orderLinkId": order.link_id}
        if operation == "create":
            row["createAt"] = str(order.created_ms)
        return row, {"code": 0, "msg": "OK"}

    def _cancel_all(self, body: dict[str, Any], account: accounts.Account, now_us: int) -> dict[str, Any]:
        category = category_of(body)
        scope = {name: text_of(body, name) for name in ("symbol", "baseCoin", "settleCoin")}
        if category in {"linear", "inverse"} and not any(scope.values()):
            raise wrong("symbol")
        cancelled: list[Order] = []
        for order in account.orders.values():
            item = order.instrument
            facts = {"symbol": item.symbol, "baseCoin": item.base, "settleCoin": item.settle}
            fits = all(not wanted or wanted == facts[name] for name, wanted in scope.items())
            if item.category == category and order.is_open and fits:
                self._engine.cancel(order, now_us // 1000)
                cancelled.append(order)
        self.arrivals.append(
            OrderArrival(
                len(self.arrivals) + 1, now_us, account.uid, "cancel-all", category, scope["symbol"], "", "", ok=True
            )
        )
        rows = [{"orderId": order.order_id, "orderLinkId": order.link_id} for order in cancelled]
        return {"list": rows, "success": "1"}

    def _arrived(
        self,
        operation: Operation,
        category: str,
        body: dict[str, Any],
        account: accounts.Account,
        now_us: int,
        *,
        order: Order | None = None,
    ) -> None:
        self.arrivals.append(
            OrderArrival(
                sequence=len(self.arrivals) + 1,
                now_us=now_us,
                uid=account.uid,
                op=operation,
                category=category,
                symbol=text_of(body, "symbol"),
                order_id=text_of(body, "orderId") if order is None else order.order_id,
                link_id=text_of(body, "orderLinkId") if order is None else order.link_id,
                ok=order is not None,
            )
        )


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    items = body.get("request")
    return [item if isinstance(item, dict) else {} for item in items] if isinstance(items, list) else []


def _resting(operation: Operation, category: str, body: dict[str, Any], account: accounts.Account) -> Order:
    order_id, link_id = text_of(body, "orderId"), text_of(body, "orderLinkId")
    if not order_id and not link_id:
        raise wrong("orderId")
    # With both given, orderId wins.
    order = account.orders.get(order_id) if order_id else account.links.get(link_id)
    known = order is not None and (order.instrument.category, order.instrument.symbol) == (
        category,
        text_of(body, "symbol"),
    )
    if order is None or not known or not order.is_open:
        # bybit.md 5: a second cancel gives 110001 or 170213, not found or completed
        if category == "spot":
            raise Refusal(170213, "Order does not exist.")
        late = "replace" if operation == "amend" else "cancel"
        raise Refusal(110001, f"order not exists or too late to {late}")
    return order

"""Orders of the fake exchange: ids, duplicates, batches, pages, and the record of arrivals."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.fake_bybit.settings import Settings
from tests.fake_bybit.symbols import utc_ms
from tests.fake_bybit.trading import Trading, batch_size

NOW_US = utc_ms(2026, 7, 28, 12, 34) * 1000
OPTION = "BTC-25DEC26-60000-C"
SYMBOLS = {"linear": "BTCUSDT", "inverse": "BTCUSD", "spot": "BTCUSDT", "option": OPTION}
UID = "1001"


class ShortLinks(Settings):
    """The documented cap instead of the observed one."""

    link_id_max_chars = 36


class Desk:
    """A client that speaks to the exchange without a wire, one millisecond per call."""

    def __init__(self, settings: Settings | None = None, seed: int = 7) -> None:
        self.trading = Trading(seed, settings or Settings())
        self.now_us = NOW_US

    def post(self, page: str, uid: str = UID, *, allowed: int | None = None, **body: Any) -> Any:
        self.now_us += 1000
        reply = self.trading.handle("POST", f"/v5/{page}", [], body, uid, self.now_us, allowed)
        assert reply is not None
        return reply

    def get(self, page: str, uid: str = UID, **query: Any) -> Any:
        self.now_us += 1000
        pairs = [(name, str(value)) for name, value in query.items()]
        reply = self.trading.handle("GET", f"/v5/{page}", pairs, {}, uid, self.now_us)
        assert reply is not None
        return reply

    def limit(self, category: str = "linear", uid: str = UID, **more: Any) -> Any:
        """A buy far below the market: it rests."""
        return self.post("order/create", uid, **resting(category, **more))

    def market(self, category: str = "linear", side: str = "Buy", **more: Any) -> Any:
        order = resting(category, side=side, orderType="Market", **more)
        return self.post("order/create", **order)

    def walk(self, page: str, **query: Any) -> list[list[Any]]:
        pages, cursor = [], ""
        for _ in range(200):
            result = self.get(page, **query, **({"cursor": unquote(cursor)} if cursor else {})).result
            pages.append(result["list"])
            cursor = result["nextPageCursor"]
            if not cursor:
                return pages
            assert "%" in cursor
            assert not {"=", "&", ","} & set(cursor)
        raise AssertionError("the cursor never ends")


def resting(category: str = "linear", **more: Any) -> dict[str, Any]:
    order: dict[str, Any] = {
        "category": category,
        "symbol": SYMBOLS[category],
        "side": "Buy",
        "orderType": "Limit",
        "qty": "0.01",
        "price": "10",
    }
    if category == "option":
        order["orderLinkId"] = f"option-{len(more)}"
    return order | more


@pytest.mark.parametrize("category", ["linear", "inverse", "spot", "option"])
def test_a_limit_order_rests_and_can_be_found_by_either_id(category: str) -> None:
    desk = Desk()
    made = desk.limit(category, orderLinkId="my-order_1").result
    assert list(made) == ["orderId", "orderLinkId"]
    for name in ("orderId", "orderLinkId"):
        (row,) = desk.get("order/realtime", category=category, **{name: made[name]}).result["list"]
        assert (row["orderId"], row["orderStatus"], row["price"]) == (made["orderId"], "New", "10")
    assert desk.get("order/history", category=category).result["list"] == []


def test_order_ids_are_the_same_on_every_run_and_shaped_like_their_category() -> None:
    one, two = Desk(), Desk()
    ids = [one.limit(category).result["orderId"] for category in ("linear", "spot", "linear")]
    assert ids == [two.limit(category).result["orderId"] for category in ("linear", "spot", "linear")]
    assert [len(part) for part in ids[0].split("-")] == [8, 4, 4, 4, 12]
    assert ids[1].isdigit()
    assert len(ids[1]) == 19
    assert len(set(ids)) == 3
    assert Desk(seed=8).limit().result["orderId"] != ids[0]


def test_spot_invents_an_order_link_id_and_contracts_do_not() -> None:
    desk = Desk()
    spot = desk.limit("spot").result
    assert int(spot["orderLinkId"]) == int(spot["orderId"]) + 1
    assert desk.limit("linear").result["orderLinkId"] == ""


@pytest.mark.parametrize(
    ("category", "code"), [("linear", 110072), ("inverse", 110072), ("option", 110072), ("spot", 170141)]
)
def test_a_link_id_is_used_once(category: str, code: int) -> None:
    """bybit.md 5: 110072 for futures and options, 170141 for spot."""
    desk = Desk()
    first = desk.limit(category, orderLinkId="one").result["orderId"]
    again = desk.limit(category, orderLinkId="one")
    assert (again.ret_code, again.result) == (code, {})
    assert [row["orderId"] for row in desk.walk("order/realtime", category=category, symbol=SYMBOLS[category])[0]] == [
        first
    ]
    assert desk.limit(category, "2002", orderLinkId="one").ret_code == 0, "another account is another book"


@pytest.mark.parametrize("reusable", [False, True])
def test_a_link_id_of_a_final_order_is_free_again_by_switch(reusable: bool) -> None:
    """bybit.md Unknown 8."""
    desk = Desk(Settings(link_id_reuse_after_final=reusable))
    desk.limit(orderLinkId="one")
    desk.post("order/cancel", category="linear", symbol="BTCUSDT", orderLinkId="one")
    assert desk.limit(orderLinkId="one").ret_code == (0 if reusable else 110072)


def test_link_ids_have_an_alphabet_and_a_length() -> None:
    """bybit.md 5: the observed cap is 45, the documented one 36, the text speaks of 45."""
    desk = Desk()
    assert desk.limit(orderLinkId="x" * 45).ret_code == 0
    long = desk.limit(orderLinkId="x" * 46)
    assert (long.ret_code, long.ret_msg) == (10001, "order link id is longer than 45")
    for odd in ("a b", "a.b", "ä", "a/b"):
        assert desk.limit(orderLinkId=odd).ret_code == 10001
    assert desk.limit("option", orderLinkId="").ret_code == 10001, "options need one"
    documented = Desk(ShortLinks())
    assert documented.limit(orderLinkId="x" * 36).ret_code == 0
    assert documented.limit(orderLinkId="x" * 37).ret_msg == "order link id is longer than 45"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"category": "futures"}, 10001),
        ({"symbol": "NOSUCH"}, 10001),
        ({"symbol": "OLDUSDT"}, 10001),
        ({"symbol": None}, 10001),
        ({"category": "spot", "symbol": "NOSUCH"}, 170121),
        ({"side": "buy"}, 10001),
        ({"orderType": "Stop"}, 10001),
        ({"qty": "0"}, 10001),
        ({"qty": "NaN"}, 10001),
        ({"qty": None}, 10001),
        ({"price": "-1"}, 10001),
        ({"price": ""}, 10001),
        ({"timeInForce": "FOREVER"}, 10001),
        ({"positionIdx": 1}, 10001),
        ({"reduceOnly": True}, 110017),
    ],
)
def test_a_wrong_order_is_refused_and_leaves_nothing(change: dict[str, Any], code: int) -> None:
    desk = Desk()
    refused = desk.post("order/create", **(resting() | change))
    assert (refused.ret_code, refused.result) == (code, {})
    assert desk.get("order/realtime", category="linear", settleCoin="USDT").result["list"] == []
    assert [arrival.ok for arrival in desk.trading.arrivals] == [False]


def test_a_market_order_fills_at_once() -> None:
    desk = Desk()
    order_id = desk.market(orderLinkId="m", qty="0.5").result["orderId"]
    assert desk.get("order/realtime", category="linear", orderLinkId="m").result["list"] == []
    (closed,) = desk.get("order/realtime", category="linear", orderLinkId="m", openOnly=1).result["list"]
    (row,) = desk.get("order/history", category="linear", orderId=order_id).result["list"]
    assert closed == row
    assert (row["orderStatus"], row["cumExecQty"], row["leavesQty"]) == ("Filled", "0.5", "0")
    (fill,) = desk.get("execution/list", category="linear", orderId=order_id).result["list"]
    assert (fill["execQty"], fill["execPrice"]) == ("0.5", row["avgPrice"])
    (position,) = desk.get("position/list", category="linear", symbol="BTCUSDT").result["list"]
    assert (position["side"], position["size"]) == ("Buy", "0.5")
    desk.market(side="Sell", qty="0.7")
    (position,) = desk.get("position/list", category="linear", settleCoin="USDT").result["list"]
    assert (position["side"], position["size"]) == ("Sell", "0.2")


@pytest.mark.parametrize(
    ("force", "price", "status"),
    [
        ("GTC", "999999", "Filled"),
        ("GTC", "10", "New"),
        ("IOC", "10", "Cancelled"),
        ("FOK", "10", "Cancelled"),
        ("IOC", "999999", "Filled"),
        ("PostOnly", "10", "New"),
        ("PostOnly", "999999", "Cancelled"),
    ],
)
def test_a_limit_order_fills_when_it_crosses(force: str, price: str, status: str) -> None:
    desk = Desk()
    order_id = desk.limit(timeInForce=force, price=price).result["orderId"]
    rows = [
        *desk.get("order/realtime", category="linear", orderId=order_id).result["list"],
        *desk.get("order/history", category="linear", orderId=order_id).result["list"],
    ]
    assert [row["orderStatus"] for row in rows] == [status]


@pytest.mark.parametrize(("category", "code"), [("linear", 110001), ("option", 110001), ("spot", 170213)])
def test_cancelling_is_final_and_the_second_time_an_error(category: str, code: int) -> None:
    desk = Desk()
    made = desk.limit(category, orderLinkId="c").result
    target: dict[str, Any] = {"category": category, "symbol": SYMBOLS[category]}
    assert desk.post("order/cancel", **target, orderId=made["orderId"], orderLinkId=None).result == made
    assert desk.post("order/cancel", **target, orderId=made["orderId"]).ret_code == code
    assert desk.post("order/amend", **target, orderLinkId="c", qty="2").ret_code == code
    assert desk.post("order/cancel", **target, orderLinkId="never").ret_code == code
    assert desk.post("order/cancel", **target).ret_code == 10001, "one of the ids is needed"


def test_an_order_belongs_to_its_account_category_and_symbol() -> None:
    desk = Desk()
    order_id = desk.limit().result["orderId"]
    strangers: list[tuple[str, dict[str, Any]]] = [
        ("2002", {"category": "linear", "symbol": "BTCUSDT"}),
        (UID, {"category": "linear", "symbol": "ETHUSDT"}),
        (UID, {"category": "spot", "symbol": "BTCUSDT"}),
    ]
    for uid, target in strangers:
        assert desk.post("order/cancel", uid, **target, orderId=order_id).ret_code in {110001, 170213}
    assert desk.get("order/realtime", "2002", category="linear", symbol="BTCUSDT").result["list"] == []


def test_amending_changes_a_resting_order_and_may_fill_it() -> None:
    desk = Desk()
    made = desk.limit(orderLinkId="a").result
    target: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT", "orderLinkId": "a"}
    assert desk.post("order/amend", **target, qty="0.25", price=None).result == made
    assert desk.post("order/amend", **target, qty="0.25").ret_code == 0, "the same values again are accepted"
    (row,) = desk.get("order/realtime", category="linear", symbol="BTCUSDT").result["list"]
    assert (row["qty"], row["price"]) == ("0.25", "10")
    assert desk.post("order/amend", **target, price="0").ret_code == 10001
    desk.post("order/amend", **target, price="999999")
    assert desk.get("order/history", category="linear").result["list"][0]["orderStatus"] == "Filled"


def test_cancel_all_takes_what_is_in_scope() -> None:
    desk = Desk()
    bitcoin = desk.limit().result
    ether = desk.limit(symbol="ETHUSDT").result
    usdc = desk.limit(symbol="BTCPERP").result
    spot = desk.limit("spot").result
    assert desk.post("order/cancel-all", category="linear").ret_code == 10001, "a scope is needed"
    gone = desk.post("order/cancel-all", category="linear", symbol=None, settleCoin="USDT").result
    assert gone == {"list": [bitcoin, ether], "success": "1"}
    assert desk.post("order/cancel-all", category="linear", baseCoin="BTC").result["list"] == [usdc]
    assert desk.post("order/cancel-all", category="spot").result["list"] == [spot]
    assert desk.post("order/cancel-all", category="spot").result["list"] == []


def batch(count: int, category: str = "linear", **more: Any) -> dict[str, Any]:
    items = [resting(category, orderLinkId=f"b{number}", **more) for number in range(count)]
    for item in items:
        del item["category"]
    return {"category": category, "request": items}


def test_a_batch_answers_item_by_item() -> None:
    """bybit.md 1.5: outer retCode 0, failures in retExtInfo.list parallel to result.list."""
    desk = Desk()
    body = batch(3)
    body["request"][1]["orderLinkId"] = "b0"
    reply = desk.post("order/create-batch", **body)
    assert reply.ret_code == 0
    assert [item["code"] for item in reply.ext["list"]] == [0, 110072, 0]
    assert list(reply.result["list"][0]) == ["category", "symbol", "orderId", "orderLinkId", "createAt"]
    assert [row["orderLinkId"] for row in reply.result["list"]] == ["b0", "", "b2"]
    changes = [{"symbol": "BTCUSDT", "orderLinkId": name, "qty": "0.5"} for name in ("b0", "nobody", "b2")]
    amended = desk.post("order/amend-batch", category="linear", request=changes)
    assert [item["code"] for item in amended.ext["list"]] == [0, 110001, 0]
    cancelled = desk.post("order/cancel-batch", category="linear", request=changes)
    assert [item["code"] for item in cancelled.ext["list"]] == [0, 110001, 0]
    # As recorded: the id that was asked for is repeated, the unknown one stays empty.
    assert cancelled.result["list"][1] == {
        "category": "linear",
        "symbol": "BTCUSDT",
        "orderId": "",
        "orderLinkId": "nobody",
    }


@given(count=st.integers(1, 20), allowed=st.none() | st.integers(0, 25))
def test_what_the_limiter_leaves_of_a_batch_is_placed_from_the_front(count: int, allowed: int | None) -> None:
    """bybit.md 1.5: with 5 left, a batch of 8 places the first 5; numbers 6 to 8 fail with 10006."""
    desk = Desk()
    reply = desk.post("order/create-batch", allowed=allowed, **batch(count))
    placed = count if allowed is None else min(count, allowed)
    assert reply.ret_code == 0
    assert [item["code"] for item in reply.ext["list"]] == [0] * placed + [10006] * (count - placed)
    assert all(row["orderId"] for row in reply.result["list"][:placed])
    assert all(row["orderId"] == row["orderLinkId"] == "" for row in reply.result["list"][placed:])
    assert [arrival.ok for arrival in desk.trading.arrivals] == [True] * placed + [False] * (count - placed)


@pytest.mark.parametrize(("category", "highest"), [("linear", 20), ("inverse", 20), ("option", 20), ("spot", 10)])
def test_a_batch_has_a_size(category: str, highest: int) -> None:
    desk = Desk()
    assert desk.post("order/create-batch", **batch(highest + 1, category)).ret_code == 10001
    assert desk.trading.arrivals == []
    fits = desk.post("order/create-batch", **batch(highest, category))
    assert {item["code"] for item in fits.ext["list"]} == {0}
    assert desk.post("order/create-batch", category=category, request=[]).ret_code == 10001
    assert desk.post("order/create-batch", category=category, request=None).ret_code == 10001


def test_the_batch_size_is_the_number_of_orders() -> None:
    assert batch_size("/v5/order/cancel-batch", batch(7)) == 7
    assert batch_size("/v5/order/create", resting()) == 1
    assert batch_size("/v5/order/create-batch", {"request": "?"}) == 0


@profile(max_examples=20)
@given(orders=st.integers(0, 25), limit=st.integers(1, 9))
def test_cursors_walk_orders_fills_and_positions_exactly_once(orders: int, limit: int) -> None:
    desk = Desk()
    open_ids = [desk.limit().result["orderId"] for _ in range(orders)]
    filled_ids = [desk.market(symbol=f"ALT{number:03d}USDT").result["orderId"] for number in range(orders)]

    def walked(page: str, name: str, **query: Any) -> list[str]:
        pages = desk.walk(page, category="linear", limit=limit, **query)
        assert all(len(rows) == limit for rows in pages[:-1])
        return [row[name] for rows in pages for row in rows]

    assert walked("order/realtime", "orderId", settleCoin="USDT") == open_ids[::-1]
    assert walked("order/history", "orderId") == filled_ids[::-1]
    assert walked("execution/list", "orderId") == filled_ids[::-1]
    held = walked("position/list", "symbol", settleCoin="USDT")
    assert held == [f"ALT{number:03d}USDT" for number in range(orders)]


def test_page_sizes_have_defaults() -> None:
    desk = Desk()
    for _ in range(60):
        desk.limit()
        desk.market()
    for page, size in (("order/realtime", 20), ("order/history", 20), ("execution/list", 50)):
        assert len(desk.get(page, category="linear", symbol="BTCUSDT").result["list"]) == size
    assert len(desk.get("order/history", category="linear", limit=51).result["list"]) == 50
    assert desk.get("order/realtime", category="linear").ret_code == 10001, "linear needs a scope"


def test_setters_that_change_nothing_are_refused() -> None:
    """bybit.md 5: 110043 and 110025, not 0."""
    desk = Desk()
    leverage: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT", "buyLeverage": "6", "sellLeverage": "6"}
    assert (
        desk.post("position/set-leverage", **leverage).ret_code,
        desk.post("position/set-leverage", **leverage).ret_code,
    ) == (0, 110043)
    assert (
        desk.post("position/set-leverage", **(leverage | {"buyLeverage": "6.00", "sellLeverage": "6.0"})).ret_code
        == 110043
    )
    assert desk.post("position/set-leverage", **(leverage | {"buyLeverage": "7"})).ret_code == 10001
    assert desk.post("position/set-leverage", **(leverage | {"category": "spot"})).ret_code == 10001
    (row,) = desk.get("position/list", category="linear", symbol="BTCUSDT").result["list"]
    assert (row["leverage"], row["size"], row["side"]) == ("6", "0", "")
    one_way: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT", "coin": None, "mode": 0}
    assert desk.post("position/switch-mode", **one_way).ret_code == 110025
    assert desk.post("position/switch-mode", **(one_way | {"mode": 3})).ret_code == 0
    assert desk.limit().ret_code == 10001, "hedge mode needs a side"
    assert desk.limit(positionIdx=1).ret_code == 0
    assert len(desk.get("position/list", category="linear", symbol="BTCUSDT").result["list"]) == 2
    assert desk.post("position/switch-mode", category="linear", coin="USDT", mode=3).ret_code == 0


def test_the_wallet_follows_spot_fills() -> None:
    desk = Desk()
    (before,) = desk.get("account/wallet-balance", accountType="UNIFIED", coin="BTC").result["list"][0]["coin"]
    desk.market("spot", qty="0.5")
    account = desk.get("account/wallet-balance", accountType="UNIFIED").result["list"][0]
    coins = {coin["coin"]: coin["walletBalance"] for coin in account["coin"]}
    assert (before["walletBalance"], coins["BTC"]) == ("10", "10.5")
    assert float(coins["USDT"]) < 1_000_000
    assert desk.get("account/wallet-balance").ret_code == 10001


def test_the_key_tells_its_account() -> None:
    """bybit.md 1.4: GET /v5/user/query-api gives userID."""
    desk = Desk()
    reply = desk.get("user/query-api", "2002")
    assert (reply.ret_msg, reply.result["userID"]) == ("", 2002)
    assert desk.get("account/info").result["dcpStatus"] == "OFF"


def test_arrivals_tell_the_order_of_operations() -> None:
    """Whether a cancel overtook its create is read here."""
    desk = Desk()
    target: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT", "orderLinkId": "x"}
    desk.post("order/cancel", **target)
    order_id = desk.limit(orderLinkId="x").result["orderId"]
    desk.post("order/cancel", "2002", **target)
    desk.post("order/cancel", **target)
    desk.post("order/cancel-all", category="linear", settleCoin="USDT")
    seen = [(each.sequence, each.uid, each.op, each.link_id, each.order_id, each.ok) for each in desk.trading.arrivals]
    assert seen == [
        (1, UID, "cancel", "x", "", False),
        (2, UID, "create", "x", order_id, True),
        (3, "2002", "cancel", "x", "", False),
        (4, UID, "cancel", "x", order_id, True),
        (5, UID, "cancel-all", "", "", True),
    ]
    assert [each.now_us for each in desk.trading.arrivals] == sorted(each.now_us for each in desk.trading.arrivals)


@pytest.mark.parametrize(
    ("method", "page"),
    [("GET", "order/create"), ("POST", "order/realtime"), ("PUT", "order/create"), ("POST", "order")],
)
def test_a_method_or_path_that_is_not_here_is_none(method: str, page: str) -> None:
    assert Desk().trading.handle(method, f"/v5/{page}", [], {}, UID, NOW_US) is None


words = st.sampled_from(
    [
        "",
        "linear",
        "spot",
        "option",
        "BTCUSDT",
        OPTION,
        "Buy",
        "Sell",
        "Limit",
        "Market",
        "x",
        "1",
        "0.5",
        "70000",
        "-1",
    ]
)
values = (
    words | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.lists(words, max_size=2)
)
fields = ["category", "symbol", "side", "orderType", "qty", "price", "orderId", "orderLinkId", "timeInForce", "mode"]
fields += ["positionIdx", "reduceOnly", "settleCoin", "coin", "buyLeverage", "sellLeverage"]
bodies = st.dictionaries(st.sampled_from(fields), values)
writes = ["order/create", "order/amend", "order/cancel", "order/cancel-all", "order/create-batch", "order/amend-batch"]
writes += ["order/cancel-batch", "position/set-leverage", "position/switch-mode"]
reads = ["order/realtime", "order/history", "execution/list", "position/list", "account/wallet-balance"]


@profile(max_examples=300)
@given(
    calls=st.lists(st.tuples(st.sampled_from(writes), bodies, st.lists(bodies | values, max_size=3)), max_size=6),
    query=st.dictionaries(st.sampled_from([*fields, "limit", "cursor", "openOnly", "startTime"]), words | st.text()),
    sound=st.booleans(),
)
def test_nonsense_is_refused_and_never_breaks_the_exchange(
    calls: list[tuple[str, dict[str, Any], list[Any]]], query: dict[str, str], sound: bool
) -> None:
    desk = Desk()
    for page, body, items in calls:
        shaped = resting() | body if sound else body
        assert desk.post(page, **shaped, request=items).ret_code >= 0
    for page in reads:
        assert desk.get(page, **query).ret_code >= 0

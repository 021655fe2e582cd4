"""pybit through the gateway: every call ends as it does without, and the exchange cannot tell the difference."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pybit.unified_trading import HTTP

from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET, Chain
from tests.clients.compare import REFUSED, end_of, sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR_MS = 3_600_000
FROM_MS = 1_760_000_400_000
LINEAR = {"category": "linear", "symbol": "BTCUSDT"}


@contextmanager
def session(base: str, *, secret: str = SECRET, **options: Any) -> Iterator[HTTP]:
    made = HTTP(api_key=KEY, api_secret=secret, recv_window=RECV_WINDOW_MS, **options)
    made.endpoint = base
    yield made
    made.client.close()


@dataclass(frozen=True)
class Pair:
    """The same client twice."""

    direct: HTTP
    through: HTTP


@pytest.fixture(scope="module")
def pair(chain: Chain) -> Iterator[Pair]:
    with session(chain.direct_url) as direct, session(chain.gateway_url) as through:
        yield Pair(direct, through)


def pages(read: Callable[..., dict[str, Any]], most: int, **question: Any) -> list[Any]:
    """Follow the cursor as pybit's users do: hand back what came, as it came."""
    found = []
    cursor = None
    for _ in range(most):
        page = read(**question, **({"cursor": cursor} if cursor else {}))
        found.append(page)
        cursor = page["result"]["nextPageCursor"]
        if not cursor:
            break
    return found


def pages_that_differ_in_one_parameter(client: HTTP) -> list[Any]:
    page = {**LINEAR, "interval": 120, "start": FROM_MS, "end": FROM_MS + 72 * HOUR_MS, "limit": 6}
    changes = [
        {},
        {"category": "spot"},
        {"symbol": "ETHUSDT"},
        {"interval": 240},
        {"start": FROM_MS + 70 * HOUR_MS},
        {"end": FROM_MS + 70 * HOUR_MS},
        {"limit": 5},
        {"start": None},
        {"end": None},
        {"limit": None},
    ]
    found = [client.get_kline(**(page | change)) for change in changes]
    found.append(client.get_mark_price_kline(**page))
    assert len({str(answer["result"]) for answer in found}) == len(found)
    return found


def limit_order(link_id: str, **changes: Any) -> dict[str, Any]:
    order = {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "1000.5"}
    return order | {"orderLinkId": link_id} | changes


def create_look_cancel(client: HTTP) -> list[Any]:
    created = client.place_order(category="linear", **limit_order("life-of-an-order"))
    order_id = created["result"]["orderId"]
    return [
        created,
        client.get_open_orders(**LINEAR, orderId=order_id),
        client.amend_order(**LINEAR, orderId=order_id, price=1001),
        client.cancel_order(**LINEAR, orderLinkId="life-of-an-order"),
        client.get_order_history(**LINEAR, orderId=order_id),
    ]


def orders_page_by_page(client: HTTP) -> list[Any]:
    made = [client.place_order(category="linear", **limit_order(f"page-{number}")) for number in range(5)]
    listed = pages(client.get_open_orders, 9, **LINEAR, limit=2)
    assert len(listed) == 3
    return [*made, *listed, client.cancel_all_orders(**LINEAR)]


def open_interest_page_by_page(client: HTTP) -> list[Any]:
    listed = pages(client.get_open_interest, 4, **LINEAR, intervalTime="1h", limit=3)
    assert len({page["result"]["list"][0]["timestamp"] for page in listed}) == 4
    assert "%" in listed[0]["result"]["nextPageCursor"]
    return listed


def batch(client: HTTP) -> list[Any]:
    orders = [limit_order(f"batch-{number}", price=1000 + number) for number in range(3)]
    placed = client.place_batch_order(category="linear", request=[*orders, limit_order("batch-bad", qty="-1")])
    cancels = [{"symbol": "BTCUSDT", "orderLinkId": f"batch-{number}"} for number in range(4)]
    return [placed, client.cancel_batch_order(category="linear", request=cancels)]


def market_order(client: HTTP) -> list[Any]:
    sold = {"category": "linear", "symbol": "ETHUSDT", "side": "Sell", "orderType": "Market", "qty": 1}
    return [
        client.place_order(**sold),
        client.get_positions(category="linear", settleCoin="USDT"),
        client.get_executions(category="linear", symbol="ETHUSDT"),
    ]


def same_link_id_twice(client: HTTP) -> None:
    client.place_order(category="linear", **limit_order("twice"))
    client.place_order(category="linear", **limit_order("twice"))


OPERATIONS: dict[str, Callable[[HTTP], Any]] = {
    "server time": lambda client: client.get_server_time(),
    "newest candles": lambda client: client.get_kline(**LINEAR, interval=1),
    "newest candles, limited": lambda client: client.get_kline(**LINEAR, interval=60, limit=3),
    "candles from a start": lambda client: client.get_kline(**LINEAR, interval=5, start=FROM_MS, limit=7),
    "candles to an end": lambda client: client.get_kline(**LINEAR, interval="D", end=FROM_MS, limit=7),
    "candles of a closed range": lambda client: client.get_kline(
        **LINEAR, interval=15, start=FROM_MS, end=FROM_MS + 6 * HOUR_MS
    ),
    "candles of a long closed range": lambda client: client.get_kline(
        **LINEAR, interval=1, start=FROM_MS, end=FROM_MS + 12 * HOUR_MS, limit=1000
    ),
    "candle pages that differ in one parameter": pages_that_differ_in_one_parameter,
    "candles of spot": lambda client: client.get_kline(category="spot", symbol="ETHUSDT", interval="W", limit=5),
    "candles without a category": lambda client: client.get_kline(symbol="ETHUSDT", interval="M", limit=5),
    "mark price candles": lambda client: client.get_mark_price_kline(**LINEAR, interval=60, limit=4),
    "index price candles": lambda client: client.get_index_price_kline(**LINEAR, interval=60, limit=4),
    "premium index candles": lambda client: client.get_premium_index_price_kline(**LINEAR, interval=60, limit=4),
    "one ticker": lambda client: client.get_tickers(**LINEAR),
    "all tickers": lambda client: client.get_tickers(category="spot"),
    "order book": lambda client: client.get_orderbook(**LINEAR, limit=50),
    "recent trades": lambda client: client.get_public_trade_history(**LINEAR, limit=20),
    "instruments, page by page": lambda client: pages(client.get_instruments_info, 3, category="linear", limit=250),
    "open interest, page by page": open_interest_page_by_page,
    "an order's life": create_look_cancel,
    "orders, page by page": orders_page_by_page,
    "a batch": batch,
    "a market order": market_order,
    "wallet, two coins": lambda client: client.get_wallet_balance(accountType="UNIFIED", coin="BTC,USDT"),
    "leverage": lambda client: client.set_leverage(**LINEAR, buyLeverage="5", sellLeverage="5"),
    "an unknown symbol": lambda client: client.get_kline(category="linear", symbol="NOSUCHUSDT", interval=1),
    "an unknown order": lambda client: client.cancel_order(**LINEAR, orderLinkId="never-placed"),
    "a link id used twice": same_link_id_twice,
    "a value that has to be quoted": lambda client: client.get_tickers(category="linear", symbol="BTC USDT|\u00e9"),
    "a path that is not there": lambda client: client._submit_request(
        "GET", f"{client.endpoint}/v5/no/such", {}, auth=True
    ),
}
ERRORS = {
    "an unknown symbol": 10001,
    "an unknown order": 110001,
    "a link id used twice": 110072,
    "a value that has to be quoted": 10001,
    "a path that is not there": 404,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_ends_as_it_does_without_the_gateway(name: str, chain: Chain, pair: Pair) -> None:
    """Value or exception, class and code, to the last digit; and what the exchange saw is the same, line for line."""
    call = OPERATIONS[name]
    chain.clock.stand()
    mark = chain.mark()
    direct = end_of(lambda: call(pair.direct))
    through = end_of(lambda: call(pair.through))
    assert through == direct
    assert direct.code == ERRORS.get(name)
    assert [sent(entry) for entry in mark.behind()] == [sent(entry) for entry in mark.direct()]
    assert not REFUSED & {entry.ret_code for entry in mark.behind()}


def test_a_wrong_secret_is_told_by_the_exchange(chain: Chain) -> None:
    """The exchange's own 10004 reaches pybit's own exception; the gateway does not judge signatures."""
    chain.clock.stand()
    mark = chain.mark()
    ends = []
    for base in (chain.direct_url, chain.gateway_url):
        with session(base, secret="wrong") as client:
            ends.append(end_of(lambda: client.place_order(category="linear", **limit_order("forged"))))
    direct, through = ends
    assert (through.error, through.code) == ("pybit.exceptions.InvalidRequestError", 10004)
    assert through == direct
    assert [entry.ret_code for entry in mark.behind()] == [10004]


@pytest.mark.parametrize("way", ["direct", "through"])
def test_an_order_created_through_the_gateway_is_the_order_the_exchange_sees(
    way: str, chain: Chain, pair: Pair
) -> None:
    """One call, one arrival, one order, every field as it was signed: the same promise with and without a gateway."""
    chain.clock.stand()
    mark = chain.mark()
    client, arrivals = (pair.direct, mark.direct) if way == "direct" else (pair.through, mark.behind)
    answer = client.place_order(category="linear", **limit_order("seen", qty="0.123", price="999.90"))
    (arrival,) = arrivals()
    assert (arrival.method, arrival.target, arrival.status, arrival.ret_code) == ("POST", "/v5/order/create", 200, 0)
    assert (arrival.operation, arrival.link_ids) == ("create", ["seen"])
    (shown,) = client.get_open_orders(**LINEAR, orderLinkId="seen")["result"]["list"]
    assert shown["orderId"] == answer["result"]["orderId"]
    assert (shown["qty"], shown["price"], shown["side"]) == ("0.123", "999.90", "Buy")


def test_candles_of_the_cache_are_the_candles_of_the_exchange(chain: Chain, pair: Pair) -> None:
    """Asked for again, a closed range is answered without the exchange, with the very same answer."""
    chain.clock.stand()
    mark = chain.mark()
    question = {**LINEAR, "interval": 30, "start": FROM_MS, "end": FROM_MS + 8 * HOUR_MS}
    first = pair.through.get_kline(**question)
    chain.clock.stand()
    second = pair.through.get_kline(**question)
    assert len(mark.behind()) == 1
    assert second == first
    assert second["result"] == pair.direct.get_kline(**question)["result"]


def test_the_headers_of_an_answer_reach_the_client(chain: Chain) -> None:
    """All that the exchange says, its limits included; the gateway adds a request id and nothing that could mislead."""
    chain.clock.stand()
    told = []
    for base in (chain.direct_url, chain.gateway_url):
        with session(base, return_response_headers=True) as client:
            _, _, headers = client.place_order(category="linear", **limit_order("headers"))
            told.append({name.lower(): value for name, value in headers.items()})
    direct, through = told
    assert through.pop("x-request-id")
    for headers in told:
        assert headers.pop("traceid")
        assert headers.pop("date")
    assert "x-bapi-limit-status" in through
    assert through == direct

"""What is asked of ccxt, once for its blocking and its asyncio client.

Each operation is a generator that yields calls and is sent what came of them: a driver awaits them or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias

from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET

Talk: TypeAlias = Generator[Any, Any, Any]

HOUR_MS: Final = 3_600_000
FROM_MS: Final = 1_760_000_400_000
SWAP: Final = "BTC/USDT:USDT"
RAW: Final = {"category": "linear", "symbol": "BTCUSDT"}


def settings(base: str, secret: str = SECRET) -> dict[str, Any]:
    """For the constructor. Currencies are left out, the fake exchange has no page of coins; ccxt's own pace is off."""
    return {
        "apiKey": KEY,
        "secret": secret,
        "options": {"recvWindow": RECV_WINDOW_MS},
        "enableRateLimit": False,
        "has": {"fetchCurrencies": False},
        "urls": {"api": dict.fromkeys(("public", "private", "spot", "futures", "v2"), base)},
    }


def asked(name: str, *arguments: Any) -> Callable[[Any], Talk]:
    """One call of one method."""

    def talk(exchange: Any) -> Talk:
        return (yield getattr(exchange, name)(*arguments))

    return talk


def order(exchange: Any, link_id: str, price: float = 1000.5) -> Any:
    return exchange.create_order(SWAP, "limit", "buy", 0.01, price, {"clientOrderId": link_id})


def life_of_an_order(exchange: Any) -> Talk:
    created = yield order(exchange, "life")
    shown = yield exchange.fetch_open_orders(SWAP)
    edited = yield exchange.edit_order(created["id"], SWAP, "limit", "buy", 0.02, 1001)
    cancelled = yield exchange.cancel_order(created["id"], SWAP)
    canceled_orders = yield exchange.fetch_canceled_orders(SWAP)
    assert shown
    assert canceled_orders
    return [created, shown, edited, cancelled, canceled_orders]


def cancelled_by_link_id(exchange: Any) -> Talk:
    yield order(exchange, "by-link-id")
    return (yield exchange.cancel_order(None, SWAP, {"orderLinkId": "by-link-id"}))


def batch(exchange: Any) -> Talk:
    wanted = [
        {"symbol": SWAP, "type": "limit", "side": "buy", "amount": 0.01, "price": 1000 + number}
        | {"params": {"clientOrderId": f"batch-{number}"}}
        for number in range(3)
    ]
    made = yield exchange.create_orders(wanted)
    cancelled = yield exchange.cancel_orders([each["id"] for each in made], SWAP)
    return [made, cancelled]


def orders_page_by_page(exchange: Any) -> Talk:
    """The cursor goes back as it came, percent-encoded, inside a signed query."""
    for number in range(5):
        yield order(exchange, f"page-{number}")
    found = []
    cursor: dict[str, str] = {}
    for _ in range(9):
        page = yield exchange.private_get_v5_order_realtime({**RAW, "limit": 2, **cursor})
        found.append(page)
        if not page["result"]["nextPageCursor"]:
            break
        cursor = {"cursor": page["result"]["nextPageCursor"]}
        assert "%3A" in cursor["cursor"] or "%3D" in cursor["cursor"]
    assert len(found) == 3
    yield exchange.cancel_all_orders(SWAP)
    return found


def open_interest_page_by_page(exchange: Any) -> Talk:
    options = {"paginate": True, "limit": 20, "maxEntriesPerRequest": 20, "paginationCalls": 3}
    rows = yield exchange.fetch_open_interest_history(SWAP, "1h", None, 60, options)
    assert len(rows) == 60
    return rows


def same_link_id_twice(exchange: Any) -> Talk:
    yield order(exchange, "twice")
    return (yield order(exchange, "twice"))


def market_order(exchange: Any) -> Talk:
    sold = yield exchange.create_order("ETH/USDT:USDT", "market", "sell", 1)
    positions = yield exchange.fetch_positions(["ETH/USDT:USDT"])
    trades = yield exchange.fetch_my_trades("ETH/USDT:USDT")
    assert trades
    return [sold, positions, trades]


OPERATIONS: Final[dict[str, Callable[[Any], Talk]]] = {
    "server time": asked("fetch_time"),
    "markets": asked("fetch_markets"),
    "newest candles": asked("fetch_ohlcv", SWAP, "1m"),
    "newest candles, limited": asked("fetch_ohlcv", SWAP, "1h", None, 3),
    "candles from a start": asked("fetch_ohlcv", SWAP, "5m", FROM_MS, 7),
    "candles to an end": asked("fetch_ohlcv", SWAP, "1d", None, 7, {"until": FROM_MS}),
    "candles of a closed range": asked("fetch_ohlcv", SWAP, "15m", FROM_MS, None, {"until": FROM_MS + 6 * HOUR_MS}),
    "candles of a long closed range": asked(
        "fetch_ohlcv", SWAP, "1m", FROM_MS, 1000, {"paginate": True, "until": FROM_MS + 40 * HOUR_MS}
    ),
    "candles of spot": asked("fetch_ohlcv", "ETH/USDT", "1w", None, 5),
    "mark price candles": asked("fetch_mark_ohlcv", SWAP, "1h", None, 4),
    "index price candles": asked("fetch_index_ohlcv", SWAP, "1h", None, 4),
    "premium index candles": asked("fetch_premium_index_ohlcv", SWAP, "1h", None, 4),
    "one ticker": asked("fetch_ticker", SWAP),
    "all tickers": asked("fetch_tickers"),
    "order book": asked("fetch_order_book", SWAP, 50),
    "recent trades": asked("fetch_trades", SWAP, None, 20),
    "funding": asked("fetch_funding_rate_history", SWAP, None, 10),
    "open interest, page by page": open_interest_page_by_page,
    "an order's life": life_of_an_order,
    "an order cancelled by its link id": cancelled_by_link_id,
    "orders, page by page": orders_page_by_page,
    "a batch": batch,
    "a market order": market_order,
    "balance": asked("fetch_balance"),
    "an unknown symbol": asked("public_get_v5_market_kline", {"category": "linear", "symbol": "NOSUCH", "interval": 1}),
    "an unknown order": asked("cancel_order", "11111111-1111-4111-a111-111111111111", SWAP),
    "a link id used twice": same_link_id_twice,
    "a path that is not there": asked("private_get_v5_asset_coin_query_info", {"coin": "BTC"}),
}

ERRORS: Final = {
    "an unknown symbol": "ccxt.base.errors.BadSymbol",
    "an unknown order": "ccxt.base.errors.OrderNotFound",
    "a link id used twice": "ccxt.base.errors.InvalidOrder",
}

"""The public pages beside candles: pages and cursors, defaults, shapes, the odd envelopes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.fake_bybit import symbols
from tests.fake_bybit.market import Market
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms

NOW_US = (utc_ms(2026, 7, 28, 12, 34) + 5_123) * 1000 + 456
HOUR_US = 3_600_000_000


class OnceEncodedOnly(Settings):
    """A cursor that was encoded a second time is refused."""

    cursor_encoded_twice = "error"


def ask(page: str, *, settings: Settings | None = None, now_us: int = NOW_US, **query: Any) -> Any:
    pairs = [(name, str(value)) for name, value in query.items()]
    reply = Market(7, settings or Settings()).handle(f"/v5/{page}", pairs, now_us)
    assert reply is not None
    return reply


def ok(page: str, **options: Any) -> Any:
    reply = ask(page, **options)
    assert reply.ret_code == 0, reply
    return reply.result


def walk(page: str, **query: Any) -> Iterable[list[Any]]:
    """Follow the cursors as a client does: sent back as received, decoded once by the server."""
    cursor = ""
    for _ in range(2000):
        result = ok(page, **query, **({"cursor": unquote(cursor)} if cursor else {}))
        yield result["list"]
        cursor = result["nextPageCursor"]
        if not cursor:
            return
        assert "%3D" in cursor, "cursors come already percent-encoded (bybit.md 2.1)"
        assert "=" not in cursor
    raise AssertionError("the cursor never ends")


def trading(category: str) -> list[str]:
    return sorted(item.symbol for item in symbols.listed(category) if item.is_trading(NOW_US // 1000))


@pytest.mark.parametrize("category", ["linear", "inverse"])
@profile(max_examples=15)
@given(limit=st.integers(1, 1000))
def test_the_cursor_walks_every_instrument_exactly_once(category: str, limit: int) -> None:
    limit = max(limit, 25)
    pages = list(walk("market/instruments-info", category=category, limit=limit))
    assert [row["symbol"] for page in pages for row in page] == trading(category)
    assert all(len(page) == limit for page in pages[:-1])


def test_five_hundred_instruments_are_not_all_of_linear() -> None:
    """bybit.md 3.2: default 500; more than 500 linear symbols, so a cursor is needed."""
    first = ok("market/instruments-info", category="linear")
    assert len(first["list"]) == 500
    assert first["nextPageCursor"]
    everything = ok("market/instruments-info", category="linear", limit=1000)
    assert len(everything["list"]) > 500
    assert everything["nextPageCursor"] == ""
    assert len(ok("market/instruments-info", category="linear", limit=5000)["list"]) == len(everything["list"])


def test_a_cursor_encoded_twice_is_taken_or_refused() -> None:
    """Not documented, so a switch; a torn or foreign cursor is an error either way."""
    cursor = ok("market/instruments-info", category="linear", limit=10)["nextPageCursor"]
    plain = ok("market/instruments-info", category="linear", limit=10, cursor=unquote(cursor))
    assert ok("market/instruments-info", category="linear", limit=10, cursor=cursor) == plain
    refused = ask("market/instruments-info", settings=OnceEncodedOnly(), category="linear", cursor=cursor)
    assert refused.ret_code == 10001
    assert ask("market/instruments-info", category="linear", cursor="first=ALT000USDT").ret_code == 10001


def test_spot_instruments_have_no_pages() -> None:
    """bybit.md 3.2: spot has no pagination."""
    result = ok("market/instruments-info", category="spot", limit=1, cursor="whatever")
    assert [row["symbol"] for row in result["list"]] == trading("spot")
    assert "nextPageCursor" not in result


def test_instruments_are_filtered_by_status_symbol_and_coin() -> None:
    assert "OLDUSDT" not in trading("linear")
    closed = ok("market/instruments-info", category="linear", status="Closed")
    assert [row["symbol"] for row in closed["list"]] == ["OLDUSDT"]
    one = ok("market/instruments-info", category="linear", symbol="BTCUSDT")
    assert [row["symbol"] for row in one["list"]] == ["BTCUSDT"]
    # D:market/instrument: baseCoin finds linear and inverse together
    both = ok("market/instruments-info", category="linear", baseCoin="BTC")
    assert [row["symbol"] for row in both["list"]] == ["BTCPERP", "BTCUSD", "BTCUSDT", "BTCUSDZ26"]
    options = ok("market/instruments-info", category="option")
    assert {row["baseCoin"] for row in options["list"]} == {"BTC"}
    assert ask("market/instruments-info", category="linear", symbol="NOSUCH").ret_msg == "Not supported symbols"
    assert ask("market/instruments-info").ret_msg == "Illegal category"


def test_a_listing_appears_and_a_delisting_disappears() -> None:
    def names(now_ms: int) -> set[str]:
        result = ok("market/instruments-info", category="linear", limit=1000, now_us=now_ms * 1000)
        return {row["symbol"] for row in result["list"]}

    assert "NEWUSDT" not in names(NEWUSDT_LISTED_MS - 1)
    assert "NEWUSDT" in names(NEWUSDT_LISTED_MS)
    assert "OLDUSDT" in names(OLDUSDT_DELISTED_MS - 1)
    assert "OLDUSDT" not in names(OLDUSDT_DELISTED_MS)


def test_risk_limits_come_fifteen_symbols_a_page() -> None:
    """bybit.md 3.2: linear 15 symbols a page."""
    pages = [[row["symbol"] for row in page] for page in walk("market/risk-limit", category="linear")]
    assert all(len(set(page)) == 15 for page in pages[:-1])
    assert [name for page in pages for name in dict.fromkeys(page)] == trading("linear")
    assert len(ok("market/risk-limit", category="linear", symbol="BTCUSDT")["list"]) == 3


@pytest.mark.parametrize(("interval", "step_ms"), [("5min", 300_000), ("1h", 3_600_000), ("1d", 86_400_000)])
def test_the_open_interest_cursor_walks_every_row_exactly_once(interval: str, step_ms: int) -> None:
    end = NOW_US // 1000
    start = end - 333 * step_ms
    query = {"category": "linear", "symbol": "BTCUSDT", "intervalTime": interval, "startTime": start, "endTime": end}
    pages = list(walk("market/open-interest", limit=50, **query))
    times = [int(row["timestamp"]) for page in pages for row in page]
    newest = end - end % step_ms
    assert times == list(range(newest, start - 1, -step_ms))
    assert [len(page) for page in pages[:-1]] == [50] * (len(pages) - 1)


def test_the_open_interest_cursor_has_the_documented_form() -> None:
    result = ok("market/open-interest", category="inverse", symbol="BTCUSD", intervalTime="1d", limit=5)
    last_second = int(result["list"][-1]["timestamp"]) // 1000
    assert result["nextPageCursor"].startswith("lastid%3D")
    assert result["nextPageCursor"].endswith(f"%26lasttime%3D{last_second}")
    assert quote(unquote(result["nextPageCursor"]), safe="") == result["nextPageCursor"]
    assert len(ok("market/open-interest", category="linear", symbol="BTCUSDT", intervalTime="1h")["list"]) == 50
    assert ask("market/open-interest", category="linear", symbol="BTCUSDT", intervalTime="2h").ret_code == 10001


def test_funding_refuses_a_start_without_an_end() -> None:
    """bybit.md 3.2: startTime alone is an error; end alone or neither gives 200 rows."""
    query: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT"}
    assert ask("market/funding/history", startTime=utc_ms(2026, 1, 1), **query).ret_code == 10001
    assert len(ok("market/funding/history", **query)["list"]) == 200
    end = utc_ms(2026, 5, 1)
    rows = ok("market/funding/history", endTime=end, **query)["list"]
    assert (len(rows), rows[0]["fundingRateTimestamp"]) == (200, str(end))
    both = ok("market/funding/history", startTime=end - 16 * 3_600_000, endTime=end, **query)["list"]
    assert [int(row["fundingRateTimestamp"]) for row in both] == [end, end - 8 * 3_600_000, end - 16 * 3_600_000]


@pytest.mark.parametrize(
    ("category", "symbol", "default", "highest"),
    [
        ("spot", "BTCUSDT", 1, 1000),
        ("linear", "BTCUSDT", 25, 1000),
        ("inverse", "BTCUSD", 25, 1000),
        ("option", "BTC-25DEC26-60000-C", 1, 25),
    ],
)
def test_order_books_have_their_categorys_depth_and_never_cross(
    category: str, symbol: str, default: int, highest: int
) -> None:
    """bybit.md 3.2: orderbook limits."""
    assert len(ok("market/orderbook", category=category, symbol=symbol)["a"]) == default
    book = ok("market/orderbook", category=category, symbol=symbol, limit=highest + 1)
    asks = [float(price) for price, _ in book["a"]]
    bids = [float(price) for price, _ in book["b"]]
    assert len(asks) == len(bids) == highest
    assert asks == sorted(asks)
    assert bids == sorted(bids, reverse=True)
    assert bids[0] < asks[0]
    assert list(book) == ["s", "a", "b", "ts", "u", "seq", "cts"]
    assert all(isinstance(book[name], int) for name in ("ts", "u", "seq", "cts"))


@pytest.mark.parametrize(("category", "default", "highest"), [("spot", 60, 60), ("linear", 500, 1000)])
def test_recent_trades_are_newest_first_and_never_change(category: str, default: int, highest: int) -> None:
    """bybit.md 3.2: spot 1..60, default 60; else 1..1000, default 500."""
    query = {"category": category, "symbol": "BTCUSDT"}
    rows = ok("market/recent-trade", **query)["list"]
    assert len(rows) == default
    assert len(ok("market/recent-trade", limit=5000, **query)["list"]) == highest
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
    later = ok("market/recent-trade", now_us=NOW_US + 2_000_000, **query)["list"]
    assert [row for row in later if row in rows] == rows[: default - 10]


def test_the_ticker_shows_what_candles_show() -> None:
    for category, symbol in (("linear", "BTCUSDT"), ("spot", "BTCUSDT"), ("inverse", "BTCUSD")):
        (row,) = ok("market/tickers", category=category, symbol=symbol)["list"]
        candle = ok("market/kline", category=category, symbol=symbol, interval=1, limit=1)["list"][0]
        assert float(row["lastPrice"]) == float(candle[4])
        assert float(row["bid1Price"]) < float(row["lastPrice"]) < float(row["ask1Price"])
        assert float(row["lowPrice24h"]) <= float(row["lastPrice"]) <= float(row["highPrice24h"])
    everything = ok("market/tickers", category="linear")["list"]
    assert [row["symbol"] for row in everything] == trading("linear")


def test_option_tickers_need_a_symbol_or_a_coin() -> None:
    """bybit.md 3.2."""
    assert ask("market/tickers", category="option").ret_code == 10001
    rows = ok("market/tickers", category="option", baseCoin="ETH", expDate="25DEC26")["list"]
    assert rows
    assert all(row["symbol"].startswith("ETH-25DEC26-") for row in rows)


def test_price_limit_succeeds_with_an_empty_message() -> None:
    """bybit.md 2.3: price-limit really gives ""."""
    reply = ask("market/price-limit", symbol="BTCUSDT")
    assert (reply.ret_code, reply.ret_msg) == (0, "")
    assert list(reply.result) == ["symbol", "buyLmt", "sellLmt", "ts"]
    assert ask("system/status").ret_msg == ""


def test_historical_volatility_has_an_array_and_no_envelope() -> None:
    """bybit.md 2.3: category beside retCode, no retExtInfo, no time."""
    reply = ask("market/historical-volatility", category="option")
    assert not reply.envelope
    assert list(reply.result) == ["retCode", "retMsg", "category", "result"]
    assert isinstance(reply.result["result"][0]["period"], int)
    end = utc_ms(2026, 7, 1)
    day = ok("market/historical-volatility", category="option", period=30, startTime=end - 86_400_000, endTime=end)
    assert len(day["result"]) == 25
    too_wide = {"startTime": end - 31 * 86_400_000, "endTime": end}
    refusals: list[dict[str, Any]] = [{"startTime": end}, too_wide, {"period": 8}]
    for wrong in refusals:
        refused = ask("market/historical-volatility", category="option", **wrong)
        assert (refused.ret_code, refused.envelope, refused.result) == (10001, True, {})
    assert ask("market/historical-volatility", category="linear").ret_msg == "Illegal category"


def test_time_is_told_in_strings() -> None:
    assert ok("market/time") == {"timeSecond": str(NOW_US // 1_000_000), "timeNano": str(NOW_US * 1000)}


def test_a_path_that_is_not_here_is_none() -> None:
    market = Market(7, Settings())
    assert market.handle("/v5/market/klines", [], NOW_US) is None
    assert market.handle("/v5/order/realtime", [], NOW_US) is None


def test_answers_depend_on_seed_and_now_only() -> None:
    query = [("category", "linear"), ("symbol", "BTCUSDT")]
    one, two = Market(7, Settings()), Market(7, Settings())
    for page in ("tickers", "orderbook", "recent-trade"):
        before = one.handle(f"/v5/market/{page}", query, NOW_US)
        one.handle(f"/v5/market/{page}", query, NOW_US + HOUR_US)
        assert before == two.handle(f"/v5/market/{page}", query, NOW_US)
        assert before != Market(8, Settings()).handle(f"/v5/market/{page}", query, NOW_US)


words = st.sampled_from(
    ["", "linear", "spot", "inverse", "option", "BTCUSDT", "BTCUSD", "GAPUSDT", "1", "M", "1h", "0", "-7", "9" * 30]
)
names = ["category", "symbol", "interval", "start", "end", "limit", "cursor", "baseCoin", "intervalTime", "period"]
names += ["startTime", "endTime", "status", "expDate"]
pages = [
    "kline",
    "mark-price-kline",
    "index-price-kline",
    "premium-index-price-kline",
    "instruments-info",
    "risk-limit",
]
pages += ["tickers", "orderbook", "recent-trade", "price-limit", "funding/history", "open-interest"]
pages += ["historical-volatility"]


@profile(max_examples=300)
@given(
    page=st.sampled_from(pages),
    query=st.dictionaries(st.sampled_from(names), words | st.text() | st.integers(0, 10**18).map(str)),
    now_ms=st.integers(0, utc_ms(2030, 1, 1)),
)
def test_any_query_is_answered(page: str, query: dict[str, Any], now_ms: int) -> None:
    """At any time: before every listing and after every end too."""
    reply = ask(f"market/{page}", now_us=now_ms * 1000, **query)
    assert reply.ret_code in {0, 10001}
    sound: dict[str, Any] = {"category": "linear", "symbol": "BTCUSDT", "interval": "5", "intervalTime": "5min"} | query
    assert ask(f"market/{page}", now_us=now_ms * 1000, **sound).ret_code in {0, 10001}

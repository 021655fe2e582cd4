"""What is cached, under which key, for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import caching, candles
from policies.caching import CandleLifetimes, CandleQuery
from policies.routing import Access, Route

KLINE = Route("kline", "market", Access.PUBLIC, "GET", "/v5/market/kline", candles=True)
MARK = Route("mark-price-kline", "market", Access.PUBLIC, "GET", "/v5/market/mark-price-kline", candles=True)
TICKERS = Route("tickers", "market", Access.PUBLIC, "GET", "/v5/market/tickers")

S = 1_000_000
LIFETIMES = CandleLifetimes(open_us=2 * S, closed_us=604_800 * S, settle_us=5 * S)
MINUTE = 60_000
NOON_MS = 1_772_712_000_000  # 2026-03-05 12:00 UTC


def query(text: str) -> CandleQuery:
    understood = caching.understand(KLINE, "GET", text)
    assert understood is not None
    return understood


@pytest.mark.parametrize(
    "text",
    [
        "category=linear&symbol=BTCUSDT&interval=1",
        "symbol=BTCUSDT&interval=D",
        "category=inverse&symbol=BTCUSDH26&interval=M&limit=1000",
        "category=option&symbol=BTC-26SEP25-140000-C&interval=60",
        "category=spot&symbol=BTCUSDT&interval=1&start=0&end=1772712000000&limit=1",
        "limit=5&interval=W&symbol=1000PEPEUSDT&category=linear",
    ],
)
def test_plain_candle_requests_are_understood(text: str) -> None:
    assert caching.understand(KLINE, "GET", text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "symbol=BTCUSDT",  # no interval
        "interval=1",  # no symbol
        "symbol=BTCUSDT&interval=1h",  # no interval of the exchange
        "symbol=BTCUSDT&interval=480",
        "symbol=btcusdt&interval=1",  # the exchange knows capitals only
        "symbol=BTC%55SDT&interval=1",  # escapes are forwarded, not interpreted
        "symbol=BTCUSDT&interval=1&category=",  # empty
        "symbol=BTCUSDT&interval=1&category=margin",
        "symbol=BTCUSDT&interval=1&symbol=ETHUSDT",  # doubled
        "symbol=BTCUSDT&interval=1&startTime=5",  # unknown: the exchange ignores it, the cache must not
        "symbol=BTCUSDT&interval=1&_=123",
        "symbol=BTCUSDT&interval=1&limit=0",
        "symbol=BTCUSDT&interval=1&limit=1001",
        "symbol=BTCUSDT&interval=1&limit=007",
        "symbol=BTCUSDT&interval=1&limit=+7",
        "symbol=BTCUSDT&interval=1&limit=1e2",
        "symbol=BTCUSDT&interval=1&limit=٣",
        "symbol=BTCUSDT&interval=1&start=5&end=4",
        "symbol=BTCUSDT&interval=1&start=-5",
        "symbol=BTCUSDT&interval=1&end=99999999999999",
        "symbol=BTCUSDT&interval=1&",
        "&symbol=BTCUSDT&interval=1",
        "symbol=BTCUSDT&interval=1&limit",
        "symbol=BTC:USDT&interval=1",
        "symbol=../../x&interval=1",
        "symbol=BTCUSDT&interval=1&limit=5;start=1",
    ],
)
def test_odd_requests_pass_by_the_cache(text: str) -> None:
    assert caching.understand(KLINE, "GET", text) is None


def test_only_gets_of_candle_routes_are_cached() -> None:
    plain = "symbol=BTCUSDT&interval=1"

    assert caching.understand(TICKERS, "GET", plain) is None
    assert caching.understand(KLINE, "POST", plain) is None
    assert caching.understand(KLINE, "HEAD", plain) is None


@given(order=st.permutations(["category=linear", "symbol=BTCUSDT", "interval=15", "start=900000", "limit=7"]))
def test_the_order_of_parameters_does_not_matter(order: list[str]) -> None:
    key = query("&".join(order)).key()

    assert key == "bybit:klines:linear:BTCUSDT:15:kline:900000:-:7"


def test_whatever_may_change_the_answer_is_in_the_key() -> None:
    """Two requests share a key only if the exchange must answer them alike."""
    base = "symbol=BTCUSDT&interval=1"
    variations = ["", "&category=linear", "&category=spot", "&start=1", "&end=1", "&limit=1", "&limit=200"]
    keys = {query(base + variation).key() for variation in variations}
    keys.add(query("symbol=ETHUSDT&interval=1").key())
    keys.add(query("symbol=BTCUSDT&interval=3").key())
    mark = caching.understand(MARK, "GET", base)
    assert mark is not None
    keys.add(mark.key())

    assert len(keys) == len(variations) + 3


@pytest.mark.parametrize(
    ("text", "rows", "now_ms", "expected_us"),
    [
        pytest.param("", [NOON_MS], NOON_MS + 1_000, 2 * S, id="latest: the short time"),
        pytest.param("", [NOON_MS], NOON_MS + 59_500, S // 2, id="latest: never past the end of the candle"),
        pytest.param("", [NOON_MS - MINUTE], NOON_MS + 1_000, 2 * S, id="latest without an open row: not final"),
        pytest.param(f"&end={NOON_MS}", [NOON_MS], NOON_MS + 30_000, 2 * S, id="end inside the open candle"),
        pytest.param(f"&end={NOON_MS - 1}", [NOON_MS - MINUTE], NOON_MS + 4_999, 2 * S, id="ended, not settled"),
        pytest.param(f"&end={NOON_MS - 1}", [NOON_MS - MINUTE], NOON_MS + 5_000, 604_800 * S, id="settled"),
        pytest.param(f"&end={NOON_MS - 1}", [], NOON_MS + 5_000, 60 * S, id="settled and empty"),
        pytest.param(f"&end={NOON_MS + 10 * MINUTE}", [NOON_MS], NOON_MS + 1_000, 2 * S, id="end in the future"),
        pytest.param("&start=0", [NOON_MS], NOON_MS + 1_000, 2 * S, id="start alone, page not full: may grow"),
        pytest.param("&start=0&limit=2", [120_000, 60_000], NOON_MS, 604_800 * S, id="start alone, page full and old"),
        pytest.param(f"&start=0&limit=1&end={NOON_MS}", [NOON_MS], NOON_MS + 1_000, 2 * S, id="both: the end decides"),
    ],
)
def test_lifetimes(text: str, rows: list[int], now_ms: int, expected_us: int) -> None:
    asked = query(f"category=linear&symbol=BTCUSDT&interval=1{text}")

    assert caching.life(asked, rows, LIFETIMES, now_ms * 1000).fresh_us == expected_us


@given(
    interval=st.sampled_from(sorted(candles.INTERVALS)),
    now_ms=st.integers(NOON_MS, NOON_MS + 10**10),
    end_back_ms=st.integers(-(10**9), 10**9),
    given_end=st.booleans(),
)
def test_nothing_that_can_change_lives_past_a_boundary(
    interval: str, now_ms: int, end_back_ms: int, *, given_end: bool
) -> None:
    """An answer kept across the end of a candle is one whose newest possible candle has ended and settled."""
    end_ms = now_ms - end_back_ms if given_end else None
    asked = CandleQuery("kline", "linear", "BTCUSDT", interval, None, end_ms, None)
    life_us = caching.life(asked, [], LIFETIMES, now_ms * 1000).fresh_us
    boundary_ms = candles.end_of(interval, candles.open_of(interval, now_ms))
    if now_ms * 1000 + life_us > boundary_ms * 1000:
        assert end_ms is not None
        assert candles.end_of(interval, candles.open_of(interval, end_ms)) + 5_000 <= now_ms

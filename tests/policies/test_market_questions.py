"""Questions to the convenience API: what is understood, and what is told about the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.candle_formats import Format
from policies.market_questions import (
    BadQuestion,
    Batch,
    History,
    Latest,
    Order,
    Price,
    about_candles,
    about_many,
    about_price,
    markets_of,
)
from policies.segments import Series

BTC = Series("kline", "linear", "BTCUSDT", "15")


def test_without_a_start_the_newest_candles_are_asked_for() -> None:
    assert about_candles("BTCUSDT", "interval=15", None) == Latest(BTC, 200, None, Order.OLDEST_FIRST, Format.JSON)


def test_with_a_start_it_is_a_history() -> None:
    query = "interval=15&start=1700000000005&end=1700000000005&order=desc&format=csv"
    asked = about_candles("BTCUSDT", query, "application/json")
    assert asked == History(BTC, 1_700_000_000_005, 1_700_000_000_005, Order.NEWEST_FIRST, Format.CSV)


def test_names_are_taken_in_either_case_and_with_escapes() -> None:
    asked = about_candles("%62tcusdt", "interval=%4D&kind=mark-price-kline&category=inverse&limit=7", None)
    assert asked.series == Series("mark-price-kline", "inverse", "BTCUSDT", "M")


@pytest.mark.parametrize(
    ("segment", "query", "told"),
    [
        ("BTCUSDT", "", "interval: expected one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M"),
        (
            "BTCUSDT",
            "interval=1h",
            "interval: expected one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M, got '1h'",
        ),
        ("BTC/USDT", "interval=1", "symbol: expected a name such as BTCUSDT, got 'BTC/USDT'"),
        ("%ff", "interval=1", "symbol: expected a name such as BTCUSDT, got '\\ufffd'"),
        ("BTCUSDT", "interval=1&interval=5", "interval: expected once, it is there twice"),
        (
            "BTCUSDT",
            "interval=1&startTime=5",
            "'startTime': no such parameter, expected interval, limit, category, kind, start, end, order, format",
        ),
        ("BTCUSDT", "interval=1&limit=0", "limit: expected a number from 1 to 100000, got '0'"),
        ("BTCUSDT", "interval=1&limit=100001", "limit: expected a number from 1 to 100000, got '100001'"),
        ("BTCUSDT", "interval=1&limit=-1", "limit: expected a number from 1 to 100000, got '-1'"),
        ("BTCUSDT", "interval=1&limit=", "limit: expected a number from 1 to 100000, got ''"),
        ("BTCUSDT", "interval=1&limit=\u0663", "limit: expected a number from 1 to 100000, got '\\u0663'"),
        (
            "BTCUSDT",
            "interval=1&start=2026-01-01",
            "start: expected an instant in epoch milliseconds, got '2026-01-01'",
        ),
        (
            "BTCUSDT",
            "interval=1&start=1700000000006&end=1700000000005",
            "end: expected an instant no earlier than start, 1700000000006, got 1700000000005",
        ),
        (
            "BTCUSDT",
            "interval=1&start=1735689600",
            "start: expected epoch milliseconds, not seconds, got 1735689600, which lies in 1970",
        ),
        (
            "BTCUSDT",
            "interval=1&start=1700000000006&limit=5",
            "limit: it counts back from the newest; with start all candles from there on are given",
        ),
        (
            "BTCUSDT",
            "interval=1&category=margin",
            "category: expected one of linear, spot, inverse for kline, got 'margin'",
        ),
        (
            "BTCUSDT",
            "interval=1&kind=premium-index-price-kline&category=spot",
            "category: expected one of linear for premium-index-price-kline, got 'spot'",
        ),
        ("BTCUSDT", "interval=1&format=xml", "format: expected one of json, ndjson, csv, got 'xml'"),
        ("BTCUSDT", "interval=1&order=up", "order: expected one of asc, desc, got 'up'"),
    ],
)
def test_a_mistake_is_told_by_the_name_of_its_parameter(segment: str, query: str, told: str) -> None:
    with pytest.raises(BadQuestion) as caught:
        about_candles(segment, query, None)
    assert str(caught.value) == told


@given(st.text(max_size=200), st.text(max_size=200))
def test_whatever_is_asked_is_understood_or_told(segment: str, query: str) -> None:
    """And what is told can be written as JSON."""
    for ask in (lambda: about_candles(segment, query, None), lambda: about_price(segment, query)):
        told = ""
        try:
            ask()
        except BadQuestion as error:
            told = str(error)
        assert told.isascii()
        assert len(told) < 1000


def test_a_batch_keeps_the_order_of_its_symbols_and_answers_each_once() -> None:
    asked = about_many("symbols=ethusdt,BTCUSDT,ETHUSDT&interval=15&limit=3", "application/x-ndjson")
    eth = BTC._replace(symbol="ETHUSDT")
    assert asked == Batch((eth, BTC), 3, Order.OLDEST_FIRST, Format.NDJSON)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("interval=1", "symbols: expected names with commas between, such as BTCUSDT,ETHUSDT"),
        ("symbols=&interval=1", "symbols: expected a name such as BTCUSDT, got ''"),
        ("symbols=BTCUSDT,&interval=1", "symbols: expected a name such as BTCUSDT, got ''"),
        ("symbols=BTCUSDT&interval=1&limit=1001", "limit: expected a number from 1 to 1000, got '1001'"),
        (
            "symbols=BTC-25SEP26-60000-C&interval=1&limit=501&category=option&kind=mark-price-kline",
            "limit: expected a number from 1 to 500, got '501'",
        ),
        ("symbols=BTCUSDT&interval=1&format=csv", "format: expected one of json, ndjson, got 'csv'"),
        (
            "symbols=BTCUSDT&interval=1&start=1",
            "'start': no such parameter, expected symbols, interval, limit, category, kind, order, format",
        ),
        (f"interval=1&symbols={','.join(f'A{n}' for n in range(201))}", "symbols: expected at most 200, got 201"),
    ],
)
def test_a_mistake_in_a_batch_is_told(query: str, told: str) -> None:
    with pytest.raises(BadQuestion) as caught:
        about_many(query, None)
    assert str(caught.value) == told


def test_a_pair_is_looked_for_in_spot_then_linear_then_inverse() -> None:
    asked = about_price("eth-USDT", "")
    assert asked == Price("ETH", "USDT", None)
    assert markets_of(asked) == (("spot", "ETHUSDT"), ("linear", "ETHUSDT"), ("inverse", "ETHUSDT"))


def test_perpetuals_that_settle_in_usdc_are_found_by_their_pair() -> None:
    assert markets_of(about_price("btc-usdc", ""))[-1] == ("linear", "BTCPERP")
    assert markets_of(about_price("btc-usdc", "category=linear")) == (("linear", "BTCUSDC"), ("linear", "BTCPERP"))
    assert markets_of(about_price("btc-usdc", "category=spot")) == (("spot", "BTCUSDC"),)


@pytest.mark.parametrize(
    ("segment", "query", "told"),
    [
        ("ethusdt", "", "pair: expected base and quote such as btc-usdt, got 'ETHUSDT'"),
        ("eth-usdt-perp", "", "pair: expected base and quote such as btc-usdt, got 'ETH-USDT-PERP'"),
        ("eth-usdt", "category=option", "category: expected one of spot, linear, inverse, got 'option'"),
        ("eth-usdt", "fast=1", "'fast': no such parameter, expected category"),
    ],
)
def test_a_mistake_about_a_price_is_told(segment: str, query: str, told: str) -> None:
    with pytest.raises(BadQuestion) as caught:
        about_price(segment, query)
    assert str(caught.value) == told

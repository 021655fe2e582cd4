"""Which targets may be forwarded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import target


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/v5/market/time",
        "/v5/order/realtime?cursor=a%3A1%2C2&x=%zz",
        "/v5/market/kline?symbol=[]{}|^\"`<>'",
        "//v5/market/time",
        "///v5/order/create?x=1",
        "//v3/public/time",
        "/v5//market//time",
        "/a@b/c?d=e@f:9",
        "/v5/x?next=https://example.org/",
        "/%2e%2e/%5c",
        "/v5/../v5/market/time",
    ],
)
def test_what_is_forwarded(text: str) -> None:
    assert target.refusal("GET", text) is None


@pytest.mark.parametrize(
    ("method", "text", "word"),
    [
        ("GET", "http://evil.example/v5/market/time", "absolute-form"),
        ("GET", "HTTPS://api.bybit.com/v5/market/time", "absolute-form"),
        ("CONNECT", "api.bybit.com:443", "CONNECT"),
        ("OPTIONS", "*", "names no resource"),
        ("GET", "", "must begin with /"),
        ("GET", "@evil.example/v5", "must begin with /"),
        ("GET", ":80@evil.example/", "must begin with /"),
        ("GET", "?x=1", "must begin with /"),
        ("GET", "//evil.example/v5", "another host"),
        ("GET", "//evil.example", "another host"),
        ("GET", "///evil.example/v5", "another host"),
        ("GET", "//v5.evil.example/", "another host"),
        ("GET", "//v5@evil.example/", "another host"),
        ("GET", "//user@evil.example/", "another host"),
        ("GET", "/\\evil.example/v5", "backslash"),
        ("GET", "/v5\\market", "backslash"),
        ("GET", "/v5/market/time#x", "fragment"),
        ("GET", "/v5/a b", "blank"),
        ("GET", "/v5/a\tb", "U+0009"),
        ("GET", "/v5/a\x00", "U+0000"),
        ("GET", "/v5/a\x7f", "U+007F"),
        ("GET", "/v5/ä", "U+00E4"),
    ],
)
def test_what_is_refused_says_why(method: str, text: str, word: str) -> None:
    refusal = target.refusal(method, text)

    assert refusal is not None
    assert word in refusal


@pytest.mark.parametrize(
    ("text", "path", "query"),
    [
        ("/v5/market/kline?symbol=BTCUSDT", "/v5/market/kline", "symbol=BTCUSDT"),
        ("//v5/market/kline?a=?&b", "/v5/market/kline", "a=?&b"),
        ("/v5/market/kline", "/v5/market/kline", ""),
        ("/v5/market/kline?", "/v5/market/kline", ""),
    ],
)
def test_path_and_query(text: str, path: str, query: str) -> None:
    assert target.split(text) == (path, query)


@given(st.text(max_size=40))
def test_whatever_is_forwarded_stays_behind_the_upstream(text: str) -> None:
    """Behind any base URL, an accepted target is a path: it starts with / and holds nothing that ends a line."""
    if target.refusal("GET", text) is None:
        assert text.startswith("/")
        assert text.isascii()
        assert text.isprintable()

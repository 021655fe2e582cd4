"""A ban as clients see it: Bybit's own 403 at first, the gateway's from then on, and one error for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ccxt
import pytest
from pybit.exceptions import FailedRequestError
from pybit.unified_trading import HTTP

from tests.clients import ccxt_operations as operations
from tests.conversation import now_us
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url

WORDS: list[str | None] = []
"""What `X-Gateway` of each answer said."""


def by_pybit(base: str) -> Any:
    session = HTTP()
    session.endpoint = base
    session.client.hooks["response"].append(lambda answer, *_, **__: WORDS.append(answer.headers.get("X-Gateway")))
    session.get_tickers(category="linear", symbol="BTCUSDT")


def by_ccxt(base: str) -> Any:
    client = ccxt.bybit(operations.settings(base))
    try:
        client.public_get_v5_market_tickers({"category": "linear", "symbol": "BTCUSDT"})
    finally:
        WORDS.append((client.last_response_headers or {}).get("X-Gateway"))


@pytest.mark.parametrize(
    ("ask", "error"),
    [(by_pybit, FailedRequestError), (by_ccxt, ccxt.RateLimitExceeded)],
    ids=["pybit", "ccxt"],
)
async def test_a_ban_is_the_same_error_whoever_tells_of_it(ask: Callable[[str], Any], error: type[Exception]) -> None:
    """At once, and not after ten minutes of waiting inside the call."""
    WORDS.clear()
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        exchange.books.ip.ban("127.0.0.1", now_us())
        for _ in range(2):
            with pytest.raises(error, match=r"ip rate limit|access too frequent"):
                async with asyncio.timeout(60):
                    await asyncio.to_thread(ask, url(app))

    assert WORDS == [None, "banned"]

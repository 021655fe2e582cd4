"""Whoever asks for whatever: the number of time series stays what it is."""

from __future__ import annotations

import re
from typing import Any, Final

import aiohttp
from yarl import URL

from proxy.app import App
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.signing import signed

MANY: Final = 500
FIRST: Final = 20
"""Requests of each kind until every series that belongs to the kind stands."""
GENEROUS: Final = [
    {"name": "bybit-ip", "quota": "100000/5s", "window": "held", "when_full": "wait", "refuse_with": "bybit"},
    {"name": "per-ip", "partition": ["ip"], "quota": "100000/5s", "counts": "requests"},
    {"name": "per-key", "partition": ["api_key"], "quota": "100000/5s", "counts": "requests"},
]


def requests(number: int) -> list[tuple[str, str, dict[str, str], bytes]]:
    """One request of each kind, in which everything that a client may choose has this number in it."""
    me = {
        "User-Agent": f"bot/{number}",
        "X-Forwarded-For": f"203.0.113.{number % 250}",
        "Referer": f"ref-{number}",
        "traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01",
        "Cookie": f"id={number}",
    }
    key = f"key{number:015}"
    body = b'{"category":"linear","symbol":"S%dUSDT","side":"Buy","orderType":"Market","qty":"1"}' % number
    kline = f"/v5/market/kline?category=linear&symbol=S{number}USDT&interval=1&limit=3"
    account = f"category=linear&symbol=S{number}USDT"
    return [
        ("GET", kline, me, b""),
        ("GET", kline, me, b""),
        ("GET", f"/v5/market/tickers?category=linear&symbol=S{number}USDT", me, b""),
        ("GET", f"/v5/market/instruments-info?category=linear&symbol=S{number}USDT", me, b""),
        ("GET", f"/v5/no/such-{number}", me, b""),
        ("GET", f"/files/{number}/index.html?x={number}", me, b""),
        (f"M{number}", "/v5/market/time", me, b""),
        ("GET", f"/v5/market/time?{number}#x", me, b""),
        ("GET", f"/v5/order/realtime?{account}", me | signed(account, key=key), b""),
        ("POST", "/v5/order/create", me | signed(body, key=key), body),
        ("GET", f"/api/v1/marketdata/klines/S{number}USDT?interval=1&limit=2", me, b""),
        ("GET", f"/api/v1/marketdata/klines?symbols=S{number}USDT&interval=1&limit=2", me, b""),
        ("GET", f"/api/v1/prices/s{number}-usdt", me, b""),
        ("GET", f"/gateway/no-such-{number}", me, b""),
        ("GET", "/v5/market/time", me | {"X-Gateway-Max-Wait": f"{number}x"}, b""),
        ("GET", "/v5/market/time", me | {"X-Gateway-Token": f"token-{number}"}, b""),
    ]


async def ask(session: aiohttp.ClientSession, app: App, numbers: range) -> None:
    for number in numbers:
        for method, target, headers, body in requests(number):
            async with session.request(
                method, URL(url(app, target), encoded=True), headers=headers, data=body or None
            ) as answer:
                await answer.read()


async def series(session: aiohttp.ClientSession, app: App) -> set[str]:
    async with session.get(url(app, "/metrics")) as answer:
        text = await answer.text()
    return {re.sub(r" \S+$", "", line) for line in text.splitlines() if line and not line.startswith("#")}


async def test_five_hundred_symbols_paths_keys_and_agents_add_no_time_series() -> None:
    identity = [{"name": "bot-a", "token": "a-token-of-a-bot-that-is-long-enough", "tier": "PREMIUM"}]
    overrides: dict[str, Any] = {"limits": GENEROUS, "pacing__enabled": "false", "identity__tokens": identity}
    async with (
        FakeBybit(settings=Settings(ip_limit=1_000_000)) as exchange,
        gateway(exchange.url, **overrides) as app,
        aiohttp.ClientSession() as session,
    ):
        await ask(session, app, range(FIRST))
        before = await series(session, app)
        await ask(session, app, range(FIRST, FIRST + MANY))
        after = await series(session, app)

    assert len(before) > 200
    assert not [line for line in after if re.search(r"key0|S\d+USDT|bot/|203\.0|such-|ref-|token-", line)]
    assert after - before == set()

"""ccxt reads recorded answers through the gateway as it reads them directly.

data/ccxt_cases.json: 33 answers with what ccxt makes of them and 15 calls with the body that they send, from ccxt's
own static tests (MIT).
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ccxt.async_support as ccxt

from tests.clients import ccxt_operations as operations
from tests.clients.stub import setting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients.stub import Setting

CASES: Final = json.loads((Path(__file__).parent / "data" / "ccxt_cases.json").read_text())
INSTRUMENTS: Final = "/v5/market/instruments-info?category="
PAGES: Final = {
    "spot": ("spot",),
    "linear": ("linear&limit=1000",),
    "inverse": ("inverse&limit=1000",),
    "option": ("option&baseCoin=BTC",),
}


def envelope(result: Any) -> bytes:
    return json.dumps({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": 1}).encode()


@asynccontextmanager
async def client(base: str, its: Setting, now_ms: int) -> AsyncIterator[Any]:
    """A client that knows the recorded instruments. Its clock stands, or what it stamps would differ."""
    options = operations.settings(base)
    options["options"] |= {"enableUnifiedAccount": True, "enableUnifiedMargin": False, "unifiedMarginStatus": 4}
    async with ccxt.bybit(options) as exchange:
        exchange.milliseconds = lambda: now_ms
        its.upstream.body = envelope({"list": [], "nextPageCursor": ""})
        its.upstream.bodies = {
            INSTRUMENTS + page: envelope({"category": category, "list": CASES["instruments"][category]})
            for category, pages in PAGES.items()
            for page in pages
        }
        await exchange.load_markets()
        yield exchange


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Setting, Any, Any]]:
    now_ms = ccxt.bybit.milliseconds()
    async with (
        setting() as its,
        client(its.direct_url, its, now_ms) as direct,
        client(its.gateway_url, its, now_ms) as through,
    ):
        yield its, direct, through


def holds(parsed: Any, expected: Any) -> bool:
    """Whether everything expected is there. ccxt has more fields in newer versions, and a number that was text."""
    if isinstance(expected, dict):
        return all(name in parsed and holds(parsed[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(parsed) == len(expected) and all(map(holds, parsed, expected))
    return bool(parsed == expected) or str(parsed) == str(expected)


async def test_a_recorded_answer_is_read_the_same() -> None:
    """33 answers, each as ccxt's own tests expect it to be read, and the same through the gateway."""
    async with both() as (its, direct, through):
        for case in CASES["response_cases"]:
            name = direct.un_camel_case(case["method"])
            its.upstream.body = case["http"].encode()
            directly = await getattr(direct, name)(*case["input"])
            assert await getattr(through, name)(*case["input"]) == directly, case["desc"]
            assert holds(directly, case["expect"]), case["desc"]
    assert len(CASES["response_cases"]) == 33


async def test_a_recorded_call_sends_the_same_bytes() -> None:
    """15 orders, each with the body that ccxt's own tests expect, and the same bytes behind the gateway."""
    async with both() as (its, direct, through):
        its.upstream.body = envelope({"orderId": "1", "orderLinkId": "2"})
        for case in CASES["request_cases"]:
            name = direct.un_camel_case(case["method"])
            await getattr(direct, name)(*case["input"])
            await getattr(through, name)(*case["input"])
            sent, forwarded = its.upstream.seen[-2:]
            assert forwarded[:3] == sent[:3], case["desc"]
            assert (forwarded.method, forwarded.target) == ("POST", case["path"]), case["desc"]
            assert json.loads(forwarded.body) == json.loads(case["body"]), case["desc"]
    assert len(CASES["request_cases"]) == 15

"""ccxt's asyncio client through the gateway. It sends target bytes as it signed them, and several requests at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ccxt.async_support as ccxt
import pytest
import pytest_asyncio

from tests.clients import ccxt_operations as operations
from tests.clients.chain import SECRET
from tests.clients.compare import REFUSED, end_of_async, in_any_order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients.ccxt_operations import Talk
    from tests.clients.chain import Chain

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Pair:
    """The same client twice."""

    direct: Any
    through: Any


@asynccontextmanager
async def client(base: str, secret: str = SECRET) -> AsyncIterator[Any]:
    made = ccxt.bybit(operations.settings(base, secret))
    try:
        yield made
    finally:
        await made.close()


async def answer(talk: Talk) -> Any:
    """Drive an operation: every call is awaited when it is yielded."""
    try:
        pending = next(talk)
        while True:
            pending = talk.send(await pending)
    except StopIteration as end:
        return end.value


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(chain: Chain) -> AsyncIterator[Pair]:
    chain.clock.stand()
    async with client(chain.direct_url) as direct, client(chain.gateway_url) as through:
        await direct.load_markets()
        await through.load_markets()
        yield Pair(direct, through)


async def test_the_markets_are_the_same(pair: Pair) -> None:
    """What ccxt derives from hundreds of instruments, asked for all at once, does not depend on the way they came."""
    assert len(pair.through.markets) > 600
    assert pair.through.markets == pair.direct.markets


@pytest.mark.parametrize("name", operations.OPERATIONS)
async def test_a_call_ends_as_it_does_without_the_gateway(name: str, chain: Chain, pair: Pair) -> None:
    """Value or exception and its class, to the last digit; and what the exchange saw is the same, line for line."""
    operation = operations.OPERATIONS[name]
    chain.clock.stand()
    mark = chain.mark()
    direct = await end_of_async(lambda: answer(operation(pair.direct)))
    through = await end_of_async(lambda: answer(operation(pair.through)))
    assert direct.error == operations.ERRORS.get(name, "")
    assert through == direct
    assert in_any_order(mark.behind()) == in_any_order(mark.direct())
    assert not REFUSED & {entry.ret_code for entry in mark.behind()}


async def test_escapes_that_a_library_would_write_anew_arrive_as_signed(chain: Chain, pair: Pair) -> None:
    """%2C, lower-case escapes, needless escapes and characters that need none: all are under the signature."""
    chain.clock.stand()
    queries = [
        {"accountType": "UNIFIED", "coin": "BTC%2CUSDT"},
        {"accountType": "UNIFIED", "coin": "BTC%2cUSDT"},
        {"accountType": "UNIFIED", "coin": "%42TC,USDT"},
        {"accountType": "UNIFIED", "coin": "BTC", "note": "a/b:c@d!$'()*;e|f{g}[h]^"},
        {"accountType": "UNIFIED", "coin": "BTC", "note": "100%", "plus": "a+b", "tilde": "~-._"},
    ]
    mark = chain.mark()
    for query in queries:
        # B023: both are called before the loop goes on, so they see the query of this round.
        direct = await end_of_async(lambda: pair.direct.private_get_v5_account_wallet_balance(query))  # noqa: B023
        through = await end_of_async(lambda: pair.through.private_get_v5_account_wallet_balance(query))  # noqa: B023
        assert direct.error == ""
        assert through == direct
    assert in_any_order(mark.behind()) == in_any_order(mark.direct())
    assert {entry.ret_code for entry in mark.behind()} == {0}


async def test_calls_at_once_are_answered_each_with_its_own(chain: Chain, pair: Pair) -> None:
    """Forty signed calls on shared connections: no answer reaches the wrong caller."""
    chain.clock.stand()
    names = [f"at-once-{number}" for number in range(40)]
    made = await asyncio.gather(*(operations.order(pair.through, name) for name in names))
    assert [each["clientOrderId"] for each in made] == names
    shown = await asyncio.gather(
        *(pair.through.fetch_open_orders(operations.SWAP, params={"orderLinkId": name}) for name in names)
    )
    assert [[each["clientOrderId"] for each in rows] for rows in shown] == [[name] for name in names]
    await pair.through.cancel_all_orders(operations.SWAP)


async def test_a_wrong_secret_is_told_by_the_exchange(chain: Chain) -> None:
    """The exchange's own 10004 becomes ccxt's AuthenticationError; the gateway does not judge signatures."""
    chain.clock.stand()
    ends = []
    for base in (chain.direct_url, chain.gateway_url):
        async with client(base, secret="wrong") as stranger:
            ends.append(await end_of_async(stranger.private_get_v5_account_info))
    direct, through = ends
    assert through.error == "ccxt.base.errors.AuthenticationError"
    assert '"retCode":10004' in through.message
    assert through == direct

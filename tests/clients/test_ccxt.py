"""ccxt's blocking client through the gateway: every call ends as it does without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ccxt
import pytest

from tests.clients import ccxt_operations as operations
from tests.clients.chain import SECRET
from tests.clients.compare import REFUSED, end_of, in_any_order

if TYPE_CHECKING:
    from tests.clients.ccxt_operations import Talk
    from tests.clients.chain import Chain


@dataclass(frozen=True)
class Pair:
    """The same client twice."""

    direct: Any
    through: Any


def client(base: str, markets: Any = None, secret: str = SECRET) -> Any:
    made = ccxt.bybit(operations.settings(base, secret))
    if markets is not None:
        made.set_markets(markets)
    return made


def answer(talk: Talk) -> Any:
    """Drive an operation: every call has ended when it is yielded."""
    try:
        result = next(talk)
        while True:
            result = talk.send(result)
    except StopIteration as end:
        return end.value


@pytest.fixture(scope="module")
def pair(chain: Chain) -> Pair:
    chain.clock.stand()
    made = Pair(client(chain.direct_url), client(chain.gateway_url))
    made.direct.load_markets()
    made.through.load_markets()
    return made


def test_the_markets_are_the_same(pair: Pair) -> None:
    """What ccxt derives from hundreds of instruments does not depend on the way they came."""
    assert len(pair.through.markets) > 600
    assert pair.through.markets == pair.direct.markets
    assert pair.through.currencies == pair.direct.currencies


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_a_call_ends_as_it_does_without_the_gateway(name: str, chain: Chain, pair: Pair) -> None:
    """Value or exception and its class, to the last digit; and what the exchange saw is the same, line for line."""
    operation = operations.OPERATIONS[name]
    chain.clock.stand()
    mark = chain.mark()
    direct = end_of(lambda: answer(operation(pair.direct)))
    through = end_of(lambda: answer(operation(pair.through)))
    assert direct.error == operations.ERRORS.get(name, "")
    assert through == direct
    assert in_any_order(mark.behind()) == in_any_order(mark.direct())
    assert not REFUSED & {entry.ret_code for entry in mark.behind()}


def test_a_wrong_secret_is_told_by_the_exchange(chain: Chain, pair: Pair) -> None:
    """The exchange's own 10004 becomes ccxt's AuthenticationError; the gateway does not judge signatures."""
    chain.clock.stand()
    mark = chain.mark()
    direct, through = (
        end_of(client(base, pair.direct.markets, secret="wrong").fetch_balance)
        for base in (chain.direct_url, chain.gateway_url)
    )
    assert through.error == "ccxt.base.errors.AuthenticationError"
    assert '"retCode":10004' in through.message
    assert through == direct
    assert {entry.ret_code for entry in mark.behind()} == {10004}


def test_candles_of_the_cache_are_the_candles_of_the_exchange(chain: Chain, pair: Pair) -> None:
    """Asked for again, a closed range is answered without the exchange, with the same candles."""
    question = ("ETH/USDT:USDT", "30m", operations.FROM_MS, 16, {"until": operations.FROM_MS + 8 * operations.HOUR_MS})
    mark = chain.mark()
    first = pair.through.fetch_ohlcv(*question)
    second = pair.through.fetch_ohlcv(*question)
    assert len(mark.behind()) == 1
    assert second == first == pair.direct.fetch_ohlcv(*question)

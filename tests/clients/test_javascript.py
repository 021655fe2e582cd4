"""bybit-api and ccxt for JavaScript through the gateway: every call ends as it does without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients import chain as chains
from tests.clients.compare import REFUSED, comparable, in_any_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.compare import Sent
    from tests.clients.javascript import Node

pytestmark = pytest.mark.timeout(300)  # the first test may install the JavaScript clients

ASKED_AGAIN = "interval=30&"
"""The page of candles that both programs ask for three times."""


@dataclass(frozen=True)
class Heard:
    """One program's conversation with the exchange and with the gateway."""

    program: str
    direct: dict[str, Any]
    through: dict[str, Any]
    sent_directly: list[Sent]
    sent_behind: list[Sent]
    refused: list[int | None]


@pytest.fixture(scope="module", params=["bybit_api.mjs", "ccxt.mjs"])
def heard(request: pytest.FixtureRequest, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    with chains.running(tmp_path_factory.mktemp("chain")) as chain:
        chain.clock.stand()
        mark = chain.mark()
        direct = node.converse(request.param, chain.direct_url)
        through = node.converse(request.param, chain.gateway_url)
        yield Heard(
            request.param,
            direct,
            through,
            in_any_order(mark.direct()),
            in_any_order(mark.behind()),
            [entry.ret_code for entry in mark.behind() if entry.ret_code in REFUSED],
        )


def test_calls_end_as_they_do_without_the_gateway(heard: Heard) -> None:
    """Value or exception, class and code, to the last digit."""
    assert list(heard.through) == list(heard.direct)
    for name, direct in heard.direct.items():
        assert comparable(heard.through[name]) == comparable(direct), name


def test_the_exchange_cannot_tell_the_difference(heard: Heard) -> None:
    """Targets, header lines and bodies of all requests are the same; only what the cache answers does not arrive."""
    directly = [each for each in heard.sent_directly if ASKED_AGAIN not in each.target]
    behind = [each for each in heard.sent_behind if ASKED_AGAIN not in each.target]
    assert behind == directly
    assert len(heard.sent_directly) == len(directly) + 3
    assert len(heard.sent_behind) == len(behind) + 1


def test_failures_are_the_clients_own(heard: Heard) -> None:
    """What the exchange says becomes what the client's users know: an answer with a code, or ccxt's classes."""
    names = ("an unknown symbol", "an unknown order", "a wrong secret")
    if heard.program == "ccxt.mjs":
        classes = [heard.through[name]["error"]["class"] for name in names]
        assert classes == ["BadSymbol", "OrderNotFound", "AuthenticationError"]
    else:
        codes = [heard.through[name]["value"]["retCode"] for name in names]
        assert codes == [10001, 110001, 10004]
        assert heard.through["a path that is not there"]["error"]["code"] == 404
    failed = {name for name, end in heard.through.items() if "error" in end}
    assert failed <= {*names, "a path that is not there"}


def test_every_signature_but_the_wrong_one_is_accepted(heard: Heard) -> None:
    """Neither the signed bytes nor the clock are spoilt on the way: no 10002, no 10003, one 10004."""
    assert heard.refused == [10004]

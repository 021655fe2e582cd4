"""The gateway of its own: the exchange's limits hold, clients' do not, and nobody else comes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from multidict import CIMultiDict

from policies.admission import Counts
from proxy.app import describer_of
from proxy.clock import system_clock
from proxy.config import Config, load
from proxy.download.alone import alone, own_gateway
from proxy.download.asking import RunEnded
from proxy.store.state_file import StateFile, in_use
from tests.download.program import ROOT
from tests.gateway_fixture import ROUTES

PATHS = ["kline", "mark-price-kline", "index-price-kline", "premium-index-price-kline", "time"]


def config(**environment: str) -> Config:
    return load(ROOT / "config.yaml", environment, ROUTES)


@pytest.mark.parametrize("path", PATHS)
def test_what_clients_may_ask_is_no_limit_for_it_and_what_the_exchange_counts_is(path: str) -> None:
    tier = {"default_tier": "FREE"}
    given = config(GATEWAY__IDENTITY=json.dumps(tier))
    target = f"/v5/market/{path}"

    def charged(made: Config) -> list[str]:
        asked = describer_of(made, ROUTES, system_clock()).describe("GET", target, "127.0.0.1", CIMultiDict())
        return [charge.quota.name for charge in asked.claim.charges]

    assert len(charged(given)) > 1
    assert charged(alone(given, ROUTES)) == []
    for counts in Counts:  # all of them are still there: their windows go to the next gateway
        assert alone(given, ROUTES).quotas(counts) == given.quotas(counts)


def test_it_listens_on_this_machine_only_and_keeps_nothing_that_is_asked_once() -> None:
    made = alone(config(GATEWAY__ADMIN__PORT="9000", GATEWAY__LISTEN__HOST="0.0.0.0"), ROUTES)
    assert (made.listen.host, made.listen.port, made.admin.port) == ("127.0.0.1", 0, None)
    assert not made.cache.enabled
    assert not made.candles.enabled

    archived = config(GATEWAY__ARCHIVE__URL="postgresql://user:pass@localhost/db")
    assert alone(archived, ROUTES).candles.enabled  # what is archived passes through the candle store
    assert not alone(archived, ROUTES).candles.boundary.enabled


async def test_a_state_file_that_another_holds_is_noticed_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert in_use(str(path), ("default", ""), {}) is None
    assert not path.exists()
    held = StateFile.open(path)
    assert in_use(str(path), ("default", ""), {}) == path
    with pytest.raises(RunEnded, match="--gateway URL"):
        async with own_gateway(config(GATEWAY__STORE__STATE_FILE=str(path)), ROUTES):
            pytest.fail("it has begun")
    held.finish(b'{"bybit_gateway_state":1}')
    assert in_use(str(path), ("default", ""), {}) is None
    assert path.read_bytes() == b'{"bybit_gateway_state":1}'

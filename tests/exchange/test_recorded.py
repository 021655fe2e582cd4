"""The fake's answers have the shape of recorded ones: Bybit's documentation and Bybit.Net's test data (MIT).

data/recorded.json holds answers as recorded; `query` and `body` are what this exchange is asked instead, since
it lists other symbols and knows no order of 2022.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.exchange.help import ask, ask_signed, post_signed

if TYPE_CHECKING:
    from tests.fake_bybit import FakeBybit

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "recorded.json").read_text())

NOT_OFFERED = {
    "/v5/market/insurance": "no insurance pools",
    "/v5/market/account-ratio": "no positions of others to count",
    "/v5/market/delivery-price": "nothing is ever delivered",
    "/v5/market/adlAlert": "no auto-deleveraging",
    "/v5/asset/transfer/query-account-coins-balance": "one wallet per account, no transfers",
    "/v5/user/query-sub-members": "no sub-accounts",
}

# Keys that two recordings of Bybit's own disagree on, or that this account has no use for.
LEFT_OUT = {
    # its example of order history has these five, its example of open orders has not
    "/v5/order/realtime": {
        "extraFees",
        "rpiMatchedQty",
        "rpiTakerAccess",
        "slippageTolerance",
        "slippageToleranceType",
    },
    # permission groups of products that the fake does not offer
    "/v5/user/query-api": {
        "BitCard",
        "ByXPost",
        "FiatBitPay",
        "FiatConvertBroker",
        "FiatGlobalPay",
        "FiatP2P",
    },
}
COIN_MAPS = {"cumFeeDetail"}  # keyed by coin: the keys are data


def differences(recorded: Any, fake: Any, where: str, left_out: set[str]) -> list[str]:
    """Where the two differ in keys or types. An empty list or a null tells nothing about what it could hold."""
    if recorded is None or fake is None or where.rpartition(".")[2] in COIN_MAPS:
        return []
    if type(recorded) is not type(fake):
        return [f"{where}: recorded {type(recorded).__name__}, fake {type(fake).__name__}"]
    if isinstance(recorded, dict):
        found = [f"{where}.{key}: only recorded" for key in sorted(recorded.keys() - fake.keys() - left_out)]
        found += [f"{where}.{key}: only in the fake" for key in sorted(fake.keys() - recorded.keys() - left_out)]
        for key in recorded.keys() & fake.keys():
            found += differences(recorded[key], fake[key], f"{where}.{key}", left_out)
        return found
    if isinstance(recorded, list) and recorded and fake:
        # only rows have columns: ["1670608800000", "17071", ...] inside a list of such
        if where.endswith("[0]") and isinstance(recorded[0], str) and len(recorded) != len(fake):
            return [f"{where}: recorded {len(recorded)} columns, fake {len(fake)}"]
        return differences(recorded[0], fake[0], f"{where}[0]", left_out)
    return []


async def _stock(exchange: FakeBybit) -> None:
    """Orders for the answers to be about: two resting, one filled, one at spot."""
    rest = {"side": "Buy", "orderType": "Limit", "qty": "0.02", "price": "10000", "symbol": "BTCUSDT"}
    for category, link_id in (("linear", "resting-1"), ("linear", "resting-2"), ("spot", "spot-1")):
        made = {**rest, "category": category, "orderLinkId": link_id}
        assert (await post_signed(exchange, "/v5/order/create", made)).ret_code == 0
    bought = {**rest, "category": "linear", "orderType": "Market", "orderLinkId": "filled-1"}
    assert (await post_signed(exchange, "/v5/order/create", bought)).ret_code == 0


@pytest.mark.parametrize("case", CASES, ids=[case["src"].partition(":")[2] for case in CASES])
async def test_the_fake_answers_in_the_recorded_shape(exchange: FakeBybit, case: dict[str, Any]) -> None:
    path, recorded = case["path"], case["response"]
    await _stock(exchange)
    if "body" in case:
        seen = await post_signed(exchange, path, case["body"])
    elif case["auth"]:
        seen = await ask_signed(exchange, path, case["query"])
    else:
        seen = await ask(exchange, "GET", f"{path}?{case['query']}" if case["query"] else path)
    if path in NOT_OFFERED:
        assert seen.status == 404
        pytest.skip(f"not offered: {NOT_OFFERED[path]}")
    assert seen.status == 200
    fake = seen.json()
    assert fake["retCode"] == 0, fake["retMsg"]
    # Some pages of the documentation leave the envelope's last two fields away; volatility really has none.
    always = set() if path.endswith("historical-volatility") else {"retExtInfo", "time"}
    assert set(fake) == set(recorded) | always
    found = differences(recorded["result"], fake["result"], "result", LEFT_OUT.get(path, set()))
    found += differences(recorded.get("retExtInfo", {}), fake.get("retExtInfo", {}), "retExtInfo", set())
    if case["src"].startswith("Bybit.Net:"):  # older recordings: fields were added since
        found = [each for each in found if not each.endswith("only in the fake")]
    assert not found, "\n" + "\n".join(found)


def test_every_difference_is_noticed() -> None:
    recorded = {"a": [{"x": "1"}], "b": 1, "rows": [["1", "2"]], "gone": 1}
    fake = {"a": [{"x": 1, "y": 2}], "b": "1", "rows": [["1"]], "new": 1}
    assert set(differences(recorded, fake, "r", set())) == {
        "r.gone: only recorded",
        "r.new: only in the fake",
        "r.a[0].y: only in the fake",
        "r.a[0].x: recorded str, fake int",
        "r.b: recorded int, fake str",
        "r.rows[0]: recorded 2 columns, fake 1",
    }
    assert differences(recorded, recorded, "r", set()) == []

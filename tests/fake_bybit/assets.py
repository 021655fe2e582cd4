"""Two private pages that client libraries fetch before anything else: coins and fee rates.

ccxt with keys asks for the coins while it loads its markets, and gives up on a 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fake_bybit.reply import Reply

if TYPE_CHECKING:
    from tests.fake_bybit.call import Query

# coin: chain, its long name, decimals
_COINS = {
    "BTC": (("BTC", "BTC", "8"),),
    "ETH": (("ETH", "Ethereum", "8"), ("ARBI", "Arbitrum One", "8")),
    "USDT": (("ETH", "ERC20", "6"), ("TRX", "TRC20", "6")),
    "USDC": (("ETH", "Ethereum", "6"),),
    "MNT": (("ETH", "Ethereum", "8"), ("MANTLE", "Mantle Network", "8")),
}
_FEES = {"linear": ("0.00055", "0.0002"), "inverse": ("0.00055", "0.0002"), "option": ("0.0003", "0.0002")}
_SPOT_FEES = ("0.001", "0.001")


def handle(method: str, path: str, query: Query) -> Reply | None:
    """Answer, or None for a path that is not here."""
    asked = dict(query)
    if (method, path) == ("GET", "/v5/asset/coin/query-info"):
        coins = [asked["coin"]] if asked.get("coin") else list(_COINS)
        return Reply(ret_msg="", result={"rows": [_coin(name) for name in coins if name in _COINS]})
    if (method, path) == ("GET", "/v5/account/fee-rate"):
        return _fee_rates(asked.get("category", ""), asked.get("symbol"))
    return None


def _coin(name: str) -> dict[str, Any]:
    return {"name": name, "coin": name, "remainAmount": "10000000", "chains": [_chain(*it) for it in _COINS[name]]}


def _chain(chain: str, kind: str, accuracy: str) -> dict[str, str]:
    return {
        "chainType": kind,
        "confirmation": "6",
        "withdrawFee": "3",
        "depositMin": "0",
        "withdrawMin": "3",
        "chain": chain,
        "chainDeposit": "1",
        "chainWithdraw": "1",
        "minAccuracy": accuracy,
        "withdrawPercentageFee": "0",
        "contractAddress": "",
        "safeConfirmNumber": "65",
        "withdrawMax": "10000000",
    }


def _fee_rates(category: str, symbol: str | None) -> Reply:
    if category not in ("spot", *_FEES):
        return Reply(10001, "Illegal category")  # bybit.md 3.1
    taker, maker = _FEES.get(category, _SPOT_FEES)
    names = [symbol] if symbol else ["BTCUSDT", "ETHUSDT"]
    return Reply(result={"list": [{"symbol": name, "takerFeeRate": taker, "makerFeeRate": maker} for name in names]})

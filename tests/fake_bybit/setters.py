"""The calls that change how an account trades. A call that would change nothing is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from tests.fake_bybit import accounts, symbols
from tests.fake_bybit.orders import category_or_none, instrument_of, positive, text_of
from tests.fake_bybit.params import ILLEGAL_CATEGORY, NOT_SUPPORTED_SYMBOLS, PARAMETER_ERROR, Refusal, wrong

# bybit.md 5: no-op setters answer errors, not 0
LEVERAGE_NOT_MODIFIED: Final = (110043, "leverage not modified")
MODE_NOT_MODIFIED: Final = (110025, "Position mode is not modified")
ONE_WAY, HEDGE = "0", "3"


def set_leverage(body: dict[str, Any], account: accounts.Account, now_ms: int) -> dict[str, Any]:
    """Answer position/set-leverage; the unchanged value is refused."""
    category = category_or_none(body)
    if category not in {"linear", "inverse"}:
        raise Refusal(PARAMETER_ERROR, ILLEGAL_CATEGORY)
    item = instrument_of(category, text_of(body, "symbol"), now_ms)
    buy = positive(text_of(body, "buyLeverage"), "buy leverage invalid")
    sell = positive(text_of(body, "sellLeverage"), "sell leverage invalid")
    if max(Decimal(buy), Decimal(sell)) > 100 or min(Decimal(buy), Decimal(sell)) < 1:
        raise Refusal(PARAMETER_ERROR, "leverage invalid")
    if Decimal(buy) != Decimal(sell) and not account.is_hedged(item):
        raise Refusal(PARAMETER_ERROR, "buy leverage and sell leverage must be equal")
    key = (category, item.symbol)
    before = account.leverage.get(key, (accounts.DEFAULT_LEVERAGE, accounts.DEFAULT_LEVERAGE))
    if (Decimal(before[0]), Decimal(before[1])) == (Decimal(buy), Decimal(sell)):
        raise Refusal(*LEVERAGE_NOT_MODIFIED)
    account.leverage[key] = (buy, sell)
    return {}


def switch_mode(body: dict[str, Any], account: accounts.Account, now_ms: int) -> dict[str, Any]:
    """Answer position/switch-mode, for one symbol or for all of a coin; the unchanged mode is refused."""
    category = category_or_none(body)
    if category not in {"linear", "inverse"}:
        raise Refusal(PARAMETER_ERROR, ILLEGAL_CATEGORY)
    mode, symbol, coin = text_of(body, "mode"), text_of(body, "symbol"), text_of(body, "coin")
    if mode not in {ONE_WAY, HEDGE}:
        raise wrong("mode")
    if symbol:
        names = {(category, instrument_of(category, symbol, now_ms).symbol)}
    elif coin:
        names = {(category, item.symbol) for item in symbols.listed(category) if item.settle == coin}
    else:
        raise wrong("symbol")
    if not names:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    changed = names - account.hedged if mode == HEDGE else names & account.hedged
    if not changed:
        raise Refusal(*MODE_NOT_MODIFIED)
    account.hedged ^= changed
    return {}

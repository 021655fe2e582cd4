"""The account limits of a default account, by endpoint: the table of bybit.md 1.3.

Columns of the trading table: inverse, linear, option, spot, each per second; `Y` means VIP levels raise it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

SECOND_US = 1_000_000
MINUTE_US = 60_000_000

# bybit.md 1.3, Trade and Position
_BY_CATEGORY = """
POST /v5/order/create 10 10 10 20 Y
POST /v5/order/amend 10 10 10 10 Y
POST /v5/order/cancel 10 10 10 20 Y
POST /v5/order/cancel-all 10 10 1 20 Y
POST /v5/order/create-batch 10 10 10 20 Y
POST /v5/order/amend-batch 10 10 10 20 Y
POST /v5/order/cancel-batch 10 10 10 20 Y
POST /v5/order/disconnected-cancel-all 5 5 5 5 N
POST /v5/order/pre-check 10 10 10 20 Y
GET /v5/order/realtime 50 50 50 50 N
GET /v5/order/history 50 50 50 50 N
GET /v5/execution/list 50 50 50 50 N
GET /v5/order/spot-borrow-check - - - 50 N
POST /v5/fcombobot/getlimit 10 10 - - N
POST /v5/fcombobot/create 10 10 - - N
POST /v5/fcombobot/close 10 10 - - N
POST /v5/fcombobot/detail 10 10 - - N
POST /v5/fgridbot/validate 10 10 - - N
POST /v5/fgridbot/create 10 10 - - N
POST /v5/fgridbot/close 10 10 - - N
POST /v5/fgridbot/detail 10 10 - - N
POST /v5/fmartingalebot/getlimit 10 10 - - N
POST /v5/fmartingalebot/create 100 100 - - N
POST /v5/fmartingalebot/close 10 10 - - N
POST /v5/fmartingalebot/detail 10 10 - - N
POST /v5/grid/validate-input - - - 100 N
POST /v5/grid/create-grid - - - 3 N
POST /v5/grid/close-grid - - - 3 N
POST /v5/grid/query-grid-detail - - - 10 N
POST /v5/dca/create-bot - - - 3 N
POST /v5/dca/close-bot - - - 3 N
POST /v5/strategy/create 100 100 - 100 N
GET /v5/strategy/list 200 200 - 200 N
GET /v5/strategy/order-list 200 200 - 200 N
POST /v5/strategy/stop 100 100 - 100 N
GET /v5/position/list 50 50 50 - N
GET /v5/position/closed-pnl 50 50 - - N
GET /v5/position/get-closed-positions - - 50 - N
GET /v5/position/move-history 10 10 10 10 N
POST /v5/position/set-leverage 10 10 - - N
POST /v5/position/switch-mode - 10 - - N
POST /v5/position/trading-stop 10 10 10 - N
POST /v5/position/set-auto-add-margin - 10 - - N
POST /v5/position/add-margin 10 10 - - N
POST /v5/position/confirm-pending-mmr 10 10 - - N
POST /v5/position/move-positions 10 10 10 10 N
"""

# bybit.md 1.3, Account, Asset, User, then the rows it gives in words
_FLAT = """
GET /v5/account/wallet-balance 50/s
GET /v5/account/withdrawal 50/s
GET /v5/account/borrow-history 50/s
GET /v5/account/borrow 1/s
GET /v5/account/repay 1/s
GET /v5/account/no-convert-repay 1/s
GET /v5/account/collateral-info 50/s
GET /v5/asset/coin-greeks 50/s
GET /v5/account/transaction-log 25/s
GET /v5/account/fee-rate 5/s
GET /v5/account/info 50/s
GET /v5/account/instruments-info 10/s
GET /v5/account/pay-info 50/s
GET /v5/account/query-dcp-info 5/s
GET /v5/account/smp-group 5/s
GET /v5/account/trade-info-for-analysis 50/s
GET /v5/account/user-setting-config 50/s
POST /v5/account/mmp-modify 5/s
POST /v5/account/mmp-reset 5/s
POST /v5/account/quick-repayment 1/s
POST /v5/account/set-collateral-switch-batch 5/s
POST /v5/account/set-limit-px-action 10/s
POST /v5/account/set-margin-mode 5/s
POST /v5/account/upgrade-to-uta 1/s
GET /v5/asset/transfer/query-asset-info 60/min
GET /v5/asset/transfer/query-transfer-coin-list 60/min
GET /v5/asset/transfer/query-inter-transfer-list 60/min
GET /v5/asset/transfer/query-sub-member-list 60/min
GET /v5/asset/transfer/query-universal-transfer-list 5/s
GET /v5/asset/transfer/query-account-coins-balance 5/s
GET /v5/asset/transfer/query-account-coin-balance 450/s
GET /v5/asset/asset-overview 50/s
GET /v5/asset/withdraw/withdrawable-amount 300/s
GET /v5/asset/deposit/query-record 100/min
GET /v5/asset/deposit/query-sub-member-record 300/min
GET /v5/asset/deposit/query-address 300/min
GET /v5/asset/deposit/query-sub-member-address 300/min
GET /v5/asset/withdraw/query-record 300/min
GET /v5/asset/coin/query-info 5/s
GET /v5/asset/exchange/order-record 600/min
GET /v5/asset/exchange/query-coin-list 30/s
GET /v5/asset/covert/small-balance-history 5/s
GET /v5/asset/covert/small-balance-list 10/s
GET /v5/asset/delivery-record 50/s
GET /v5/asset/deposit/query-internal-record 300/s
GET /v5/fiat/balance-query 1000/s
GET /v5/fiat/query-coin-list 1000/s
GET /v5/fiat/trade-query 1000/s
GET /v5/fiat/query-trade-history 1000/s
GET /v5/asset/fundinghistory 30/s
GET /v5/asset/portfolio-margin 50/s
GET /v5/asset/settlement-record 50/s
GET /v5/asset/total-members-assets 50/s
GET /v5/asset/withdraw/vasp/list 1/s
GET /v5/asset/withdraw/query-address 300/s
POST /v5/asset/transfer/inter-transfer 60/min
POST /v5/asset/transfer/save-transfer-sub-member 20/s
POST /v5/asset/transfer/universal-transfer 5/s
POST /v5/asset/withdraw/create 5/s
POST /v5/asset/withdraw/cancel 60/min
POST /v5/asset/exchange/quote-apply 20/s
POST /v5/asset/exchange/convert-execute 20/s
POST /v5/asset/covert/small-balance-execute 5/s
POST /v5/asset/covert/get-quote 5/s
POST /v5/asset/deposit/deposit-to-account 300/s
POST /v5/fiat/trade-execute 100/s
POST /v5/fiat/quote-apply 1000/s
GET /v5/asset/exchange/convert-result-query 50/s
GET /v5/asset/exchange/query-convert-history 50/s
GET /v5/fiat/reference-price 1000/s
POST /v5/user/create-sub-member 1/s
POST /v5/user/create-sub-api 1/s
POST /v5/user/frozen-sub-member 5/s
POST /v5/user/update-api 5/s
POST /v5/user/update-sub-api 5/s
POST /v5/user/delete-api 5/s
POST /v5/user/delete-sub-api 5/s
GET /v5/user/query-sub-members 10/s
GET /v5/user/query-api 10/s
GET /v5/user/aff-customer-info 10/s
POST /v5/user/agreement 20/s
GET /v5/user/submembers 5/s
GET /v5/user/escrow_sub_members 5/s
GET /v5/user/sub-apikeys 10/s
GET /v5/user/get-member-type 10/s
POST /v5/user/del-submember 5/s
GET /v5/user/invitation/referrals 10/s
POST /v5/spot-margin-trade/switch-mode 5/s
POST /v5/spot-margin-trade/set-leverage 5/s
POST /v5/spot-margin-trade/set-auto-repay-mode 5/s
GET /v5/spot-margin-trade/state 50/s
GET /v5/spot-margin-trade/max-borrowable 50/s
GET /v5/spot-margin-trade/coinstate 50/s
GET /v5/spot-margin-trade/repayment-available-amount 50/s
GET /v5/spot-margin-trade/get-auto-repay-mode 50/s
GET /v5/spread/order/realtime 50/s
GET /v5/spread/order/history 50/s
GET /v5/spread/execution/list 50/s
GET /v5/spread/max-qty 50/s
POST /v5/spread/order/create 20/s
POST /v5/spread/order/amend 20/s
POST /v5/spread/order/cancel 20/s
POST /v5/spread/order/cancel-all 5/s
POST /v5/apilimit/set 50/s
GET /v5/apilimit/query 50/s
GET /v5/apilimit/query-all 50/s
GET /v5/apilimit/query-cap 50/s
"""

# bybit.md 1.6: futures, option, spot; only for the rows marked Y
_VIP = {"vip1": (20, 20, 25), "vip2": (40, 40, 30), "vip3": (60, 60, 40)}
_VIP_COLUMN = {"inverse": 0, "linear": 0, "option": 1, "spot": 2}
_CATEGORIES = ("inverse", "linear", "option", "spot")


class Limit(NamedTuple):
    """`number` requests (or orders) in `window_us`. `split` says whether each category has its own."""

    number: int
    window_us: int
    split: bool


@cache
def find_limit(method: str, path: str, category: str, level: str = "default") -> Limit | None:
    """The table's limit, or None where the table has no row.

    A category the table does not know (or none) counts as linear: the handler will refuse it anyway.
    """
    if (row := _by_category().get((method, path))) is not None:
        name = category if category in _CATEGORIES else "linear"
        number = row[0].get(name)
        if number is None:
            return None
        if row[1] and level in _VIP and number > 1:  # the 1/s of option cancel-all has no VIP figure
            number = _VIP[level][_VIP_COLUMN[name]]
        return Limit(number, SECOND_US, split=True)
    return _flat().get((method, path))


def listed() -> set[tuple[str, str]]:
    """Every method and path the table has."""
    return set(_by_category()) | set(_flat())


@cache
def _by_category() -> dict[tuple[str, str], tuple[dict[str, int], bool]]:
    table: dict[tuple[str, str], tuple[dict[str, int], bool]] = {}
    for line in _BY_CATEGORY.split("\n")[1:-1]:
        method, path, *cells, upgradable = line.split()
        numbers = {name: int(cell) for name, cell in zip(_CATEGORIES, cells, strict=True) if cell != "-"}
        table[method, path] = (numbers, upgradable == "Y")
    return table


@cache
def _flat() -> dict[tuple[str, str], Limit]:
    table: dict[tuple[str, str], Limit] = {}
    for line in _FLAT.split("\n")[1:-1]:
        method, path, rate = line.split()
        number, unit = rate.split("/")
        table[method, path] = Limit(int(number), MINUTE_US if unit == "min" else SECOND_US, split=False)
    return table

"""One account: its orders, fills, positions and coins, kept per UID, and the pages that show what is not an order."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import quotes, symbols
from tests.fake_bybit.decimals import fixed
from tests.fake_bybit.orders import ZERO, decimal_text
from tests.fake_bybit.params import (
    NOT_SUPPORTED_SYMBOLS,
    PARAMETER_ERROR,
    Query,
    Refusal,
    cursor_number,
    decoded_cursor,
    encoded_cursor,
    over_limit,
    wrong,
)

if TYPE_CHECKING:
    from tests.fake_bybit.orders import Order
    from tests.fake_bybit.settings import Settings

OPENING_COINS: Final = {"BTC": Decimal(10), "ETH": Decimal(100), "USDC": Decimal(100_000), "USDT": Decimal(1_000_000)}
DEFAULT_LEVERAGE: Final = "10"


@dataclass(slots=True)
class Position:
    """A position of one symbol (and side, in hedge mode). A short has a negative size."""

    instrument: symbols.Instrument
    position_idx: int
    size: Decimal = ZERO
    avg_price: Decimal = ZERO
    created_ms: int = 0
    updated_ms: int = 0

    def take(self, change: Decimal, price: Decimal, now_ms: int) -> None:
        """Apply a fill: the average price moves while the position grows, and restarts when it turns over."""
        after = self.size + change
        if self.size == 0 or self.size * change > 0:
            self.avg_price = (self.avg_price * abs(self.size) + price * abs(change)) / abs(after)
        elif self.size * after < 0:
            self.avg_price = price
        elif after == 0:
            self.avg_price = ZERO
        self.created_ms = self.created_ms or now_ms
        self.size, self.updated_ms = after, now_ms


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution."""

    sequence: int
    exec_id: str
    order: Order
    price: str
    qty: str
    fee: str
    time_ms: int


@dataclass(slots=True)
class Account:
    """Everything one UID owns."""

    uid: str
    orders: dict[str, Order] = field(default_factory=dict)
    links: dict[str, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    positions: dict[tuple[str, str, int], Position] = field(default_factory=dict)
    leverage: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    hedged: set[tuple[str, str]] = field(default_factory=set)
    coins: dict[str, Decimal] = field(default_factory=lambda: dict(OPENING_COINS))

    def position(self, item: symbols.Instrument, position_idx: int) -> Position:
        """The position, empty when there is none yet."""
        key = (item.category, item.symbol, position_idx)
        return self.positions.setdefault(key, Position(item, position_idx))

    def is_hedged(self, item: symbols.Instrument) -> bool:
        """Whether both sides of this symbol are held apart."""
        return (item.category, item.symbol) in self.hedged


def wallet_result(account: Account, query: Query) -> dict[str, Any]:
    """The `result` of wallet-balance."""
    if query.text("accountType") != "UNIFIED":
        raise Refusal(PARAMETER_ERROR, "accountType only support UNIFIED.")
    asked = query.text("coin")
    names = sorted(account.coins) if asked is None else asked.split(",")
    total = decimal_text(account.coins.get("USDT", ZERO))
    return {
        "list": [
            {
                "totalEquity": total,
                "accountIMRate": "0",
                "accountIMRateByMp": "0",
                "totalMarginBalance": total,
                "totalInitialMargin": "0",
                "totalInitialMarginByMp": "0",
                "accountType": "UNIFIED",
                "totalAvailableBalance": total,
                "accountMMRate": "0",
                "accountMMRateByMp": "0",
                "totalPerpUPL": "0",
                "totalWalletBalance": total,
                "accountLTV": "0",
                "totalMaintenanceMargin": "0",
                "totalMaintenanceMarginByMp": "0",
                "coin": [_coin_row(name, account.coins.get(name, ZERO)) for name in names],
            }
        ]
    }


def positions_result(account: Account, query: Query, seed: int, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The `result` of position/list."""
    category = query.category(("linear", "inverse", "option"))
    name, settle = query.text("symbol"), query.text("settleCoin")
    if category == "linear" and name is None and settle is None:
        raise wrong("symbol")
    limit = query.limit(200, 20, over_limit(settings))
    if name is not None:
        found = _positions_of(account, category, name)
    else:
        found = [each for each in account.positions.values() if each.instrument.category == category and each.size]
        found = [each for each in found if settle in {None, each.instrument.settle}]
    found.sort(key=lambda each: (each.instrument.symbol, each.position_idx))
    cursor = query.text("cursor")
    if cursor is not None:
        symbol, index = decoded_cursor(cursor, settings, "symbol", "idx")
        last = (symbol, cursor_number(index))
        found = [each for each in found if (each.instrument.symbol, each.position_idx) > last]
    page = found[:limit]
    following = ""
    if len(found) > limit:
        following = encoded_cursor(symbol=page[-1].instrument.symbol, idx=page[-1].position_idx)
    rows = [_position_row(account, each, seed, now_ms) for each in page]
    return {"list": rows, "nextPageCursor": following, "category": category}


def account_info() -> dict[str, Any]:
    """The `result` of account/info."""
    return {
        "marginMode": "REGULAR_MARGIN",
        "updatedTime": "1697078946000",
        "unifiedMarginStatus": 5,
        "dcpStatus": "OFF",
        "timeWindow": 10,
        "smpGroup": 0,
        "isMasterTrader": False,
        "spotHedgingStatus": "OFF",
    }


def key_info(account: Account) -> dict[str, Any]:
    """The `result` of user/query-api; the key itself is masked, as in published answers."""
    return {
        "id": "13770661",
        "note": "readwrite api key",
        "apiKey": "XXXXXX",
        "readOnly": 0,
        "secret": "",
        "permissions": {
            "ContractTrade": ["Order", "Position"],
            "Spot": ["SpotTrade"],
            "Wallet": ["AccountTransfer", "SubMemberTransfer"],
            "Options": ["OptionsTrade"],
            "Derivatives": ["DerivativesTrade"],
            "CopyTrading": [],
            "BlockTrade": [],
            "Exchange": ["ExchangeHistory"],
            "NFT": [],
            "Affiliate": [],
            "Earn": [],
        },
        "ips": ["*"],
        "type": 1,
        "deadlineDay": 66,
        "expiredAt": "2030-12-22T07:20:25Z",
        "createdAt": "2022-10-16T02:24:40Z",
        "unified": 0,
        "uta": 1,
        # bybit.md 1.4: userID tells which keys share a budget
        "userID": int(account.uid) if account.uid.isdigit() else 0,
        "inviterID": 0,
        "vipLevel": "No VIP",
        "mktMakerLevel": "0",
        "affiliateID": 0,
        "rsaPublicKey": "",
        "isMaster": True,
        "parentUid": "0",
        "kycLevel": "LEVEL_DEFAULT",
        "kycRegion": "",
        "userIDInt64": "0",
        "inviterIDInt64": "0",
        "affiliateIDInt64": "0",
    }


def _positions_of(account: Account, category: str, symbol: str) -> list[Position]:
    item = symbols.find(category, symbol)
    if item is None:
        raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
    # A symbol asked for by name is shown even when nothing is held.
    indices = (1, 2) if account.is_hedged(item) else (0,)
    return [account.position(item, index) for index in indices]


def _coin_row(name: str, amount: Decimal) -> dict[str, Any]:
    text = decimal_text(amount)
    return {
        "availableToBorrow": "",
        "bonus": "0",
        "accruedInterest": "0",
        "availableToWithdraw": text,
        "totalOrderIM": "0",
        "equity": text,
        "totalPositionMM": "0",
        "usdValue": text,
        "spotHedgingQty": "0",
        "unrealisedPnl": "0",
        "collateralSwitch": True,
        "borrowAmount": "0",
        "totalPositionIM": "0",
        "walletBalance": text,
        "cumRealisedPnl": "0",
        "locked": "0",
        "marginCollateral": True,
        "coin": name,
        "spotBorrow": "0",
    }


def _position_row(account: Account, position: Position, seed: int, now_ms: int) -> dict[str, Any]:
    item = position.instrument
    size, zero_price = abs(position.size), fixed(0, item.price_decimals)
    side = "" if size == 0 else "Buy" if position.size > 0 else "Sell"
    mark = quotes.Quote(item, seed, now_ms).finer("mark")
    if size == 0:
        value, gain = ZERO, ZERO
    elif item.category == "inverse":
        value = size / position.avg_price
        gain = position.size / position.avg_price - position.size / Decimal(mark)
    else:
        value = size * position.avg_price
        gain = position.size * (Decimal(mark) - position.avg_price)
    leverage, _ = account.leverage.get((item.category, item.symbol), (DEFAULT_LEVERAGE, DEFAULT_LEVERAGE))
    return {
        "positionIdx": position.position_idx,
        "riskId": 1,
        "riskLimitValue": "2000000",
        "symbol": item.symbol,
        "side": side,
        "size": decimal_text(size),
        "avgPrice": decimal_text(round(position.avg_price, 8)),
        "positionValue": decimal_text(round(value, 8)),
        "tradeMode": 0,
        "positionStatus": "Normal",
        "autoAddMargin": 0,
        "adlRankIndicator": 2 if size else 0,
        "leverage": leverage,
        "breakEvenPrice": decimal_text(round(position.avg_price, 8)) if size else "",
        "positionBalance": "0",
        "markPrice": mark,
        "liqPrice": "",
        "bustPrice": zero_price,
        "positionMM": "0",
        "positionMMByMp": "0",
        "positionIM": "0",
        "positionIMByMp": "0",
        "tpslMode": "Full",
        "takeProfit": zero_price,
        "stopLoss": zero_price,
        "trailingStop": zero_price,
        "unrealisedPnl": decimal_text(round(gain, 8)),
        "curRealisedPnl": "0",
        "cumRealisedPnl": "0",
        "seq": position.updated_ms * 7,
        "isReduceOnly": False,
        "mmrSysUpdateTime": "",
        "leverageSysUpdatedTime": "",
        "sessionAvgPrice": "",
        "createdTime": str(position.created_ms),
        "updatedTime": str(position.updated_ms),
    }

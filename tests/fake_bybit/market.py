"""The public half of the exchange: every `/v5/market/*` page of the box, `/v5/system/status` beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.fake_bybit import instruments, klines, periodic, quotes, tickers
from tests.fake_bybit.params import Query, Refusal
from tests.fake_bybit.reply import Reply

if TYPE_CHECKING:
    from tests.fake_bybit.settings import Settings

MAINTENANCE: Final = {
    "id": "4d95b2a0-587f-11f0-bcc9-56f28c94d6ea",
    "title": "planned maintenance",
    "state": "completed",
    "begin": "1751596902000",
    "end": "1751597011000",
    "href": "",
    "serviceTypes": [2, 3, 4, 5],
    "product": [1, 2],
    "uidSuffix": [],
    "maintainType": 1,
    "env": 1,
}


class Market:
    """Answers public GETs. Holds no state: an answer depends on seed, settings, query and now only."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self._seed = seed
        self._settings = settings

    def handle(self, path: str, query: list[tuple[str, str]], now_us: int) -> Reply | None:
        """The answer to one GET, or None for a path that is not here. `query` is decoded once, in wire order."""
        try:
            return self._answer(path, Query(query), now_us)
        except Refusal as refusal:
            # bybit.md 3.1: an error is HTTP 200 with an empty result
            return Reply(refusal.ret_code, refusal.ret_msg)

    def _answer(self, path: str, query: Query, now_us: int) -> Reply | None:
        seed, settings, now_ms = self._seed, self._settings, now_us // 1000
        if path in klines.PAGES:
            return Reply(result=klines.kline_result(path, query, seed, settings, now_ms))
        match path:
            case "/v5/market/time":
                return Reply(result=_time(now_us))
            case "/v5/market/instruments-info":
                return Reply(result=instruments.instruments_result(query, settings, now_ms))
            case "/v5/market/risk-limit":
                return Reply(result=instruments.risk_limit_result(query, settings, now_ms))
            case "/v5/market/tickers":
                return Reply(result=tickers.tickers_result(query, seed, now_ms))
            case "/v5/market/orderbook":
                return Reply(result=quotes.orderbook_result(query, seed, settings, now_us))
            case "/v5/market/recent-trade":
                return Reply(result=quotes.trades_result(query, seed, settings, now_ms))
            case "/v5/market/price-limit":
                # bybit.md 2.3: success with an empty retMsg
                return Reply(ret_msg="", result=quotes.price_limit_result(query, seed, now_ms))
            case "/v5/market/funding/history":
                return Reply(result=periodic.funding_result(query, seed, settings, now_ms))
            case "/v5/market/open-interest":
                return Reply(result=periodic.open_interest_result(query, seed, settings, now_ms))
            case "/v5/market/historical-volatility":
                # bybit.md 2.3: `category` beside retCode, an array as result, no retExtInfo, no time
                return Reply(result=periodic.volatility_answer(query, seed, now_ms), envelope=False)
            case "/v5/system/status":
                return Reply(ret_msg="", result={"list": [MAINTENANCE]})
            case _:
                return None


def _time(now_us: int) -> dict[str, Any]:
    # bybit.md 3.2: strings
    return {"timeSecond": str(now_us // 1_000_000), "timeNano": str(now_us * 1000)}

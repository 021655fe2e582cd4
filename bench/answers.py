"""The two answers that the stand-in for the exchange gives, in the exchange's shape and size."""

from __future__ import annotations

import json
from typing import Final

_MINUTE_MS: Final = 60_000
_ROWS: Final = 200
_START_MS: Final = 1_700_000_040_000
_END_MS: Final = _START_MS + (_ROWS - 1) * _MINUTE_MS

KLINE_PATH: Final = "/v5/market/kline"
KLINE_TARGET: Final = (
    f"{KLINE_PATH}?category=linear&symbol=BTCUSDT&interval=1&start={_START_MS}&end={_END_MS}&limit={_ROWS}"
)
"""A closed range in the past: its answer is final, so the gateway keeps it for days."""
TICKERS_PATH: Final = "/v5/market/tickers"
TICKERS_TARGET: Final = f"{TICKERS_PATH}?category=linear&symbol=BTCUSDT"
"""Never cached: every request goes to the upstream."""

HEADERS: Final = {
    "Ret_code": "0",
    "Traceid": "6d1b3f6c2b7a4d0f9c58e0a1b2c3d4e5",
    "Timenow": "1700012000123",
    "X-Bapi-Limit": "600",
    "X-Bapi-Limit-Status": "599",
    "X-Bapi-Limit-Reset-Timestamp": "1700012005123",
    "Cache-Control": "no-store",
    "X-Cache": "Miss from cloudfront",
    "Via": "1.1 edge.cloudfront.net (CloudFront)",
}


def kline() -> bytes:
    """200 one-minute candles, newest first, about 16 KB."""
    return _envelope({"symbol": "BTCUSDT", "category": "linear", "list": [_candle(n) for n in reversed(range(_ROWS))]})


def _candle(number: int) -> list[str]:
    base = 36_500 + number * 7 % 113
    prices = (base + 0.1, base + 21.4, base - 17.6, base + 3.5)
    volume = 100 + number * 31 % 97 + 0.123
    return [
        str(_START_MS + number * _MINUTE_MS),
        *(f"{price:.2f}" for price in prices),
        f"{volume:.3f}",
        f"{volume * base:.4f}",
    ]


def tickers() -> bytes:
    """One linear ticker, about 1 KB."""
    ticker = {
        "symbol": "BTCUSDT",
        "lastPrice": "36541.20",
        "indexPrice": "36555.47",
        "markPrice": "36540.68",
        "prevPrice24h": "37012.90",
        "price24hPcnt": "-0.012744",
        "highPrice24h": "37417.70",
        "lowPrice24h": "36223.10",
        "prevPrice1h": "36498.00",
        "openInterest": "52941.112",
        "openInterestValue": "1934504248.72",
        "turnover24h": "5321907741.8274",
        "volume24h": "144518.2670",
        "fundingRate": "0.0001",
        "nextFundingTime": "1700035200000",
        "predictedDeliveryPrice": "",
        "basisRate": "",
        "deliveryFeeRate": "",
        "deliveryTime": "0",
        "ask1Size": "4.612",
        "bid1Price": "36541.10",
        "ask1Price": "36541.20",
        "bid1Size": "9.027",
        "basis": "",
        "preOpenPrice": "",
        "preQty": "",
        "curPreListingPhase": "",
        "fundingIntervalHour": "8",
        "fundingCap": "0.00375",
        "basisRateYear": "",
    }
    return _envelope({"category": "linear", "list": [ticker]})


def _envelope(result: dict[str, object]) -> bytes:
    answer = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": 1_700_012_000_123}
    return json.dumps(answer, separators=(",", ":")).encode()

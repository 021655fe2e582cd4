"""ccxt: every kind of API gets the gateway's address."""

import os

import ccxt

base = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
exchange = ccxt.bybit(
    {
        # "apiKey": ..., "secret": ... as ever
        "urls": {"api": dict.fromkeys(("public", "private", "spot", "futures", "v2"), base)},
    }
)

print(exchange.fetch_ohlcv("BTC/USDT:USDT", "1h", limit=1)[0])

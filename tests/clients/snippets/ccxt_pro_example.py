"""ccxt.pro: as ccxt, and the addresses of the streams below `ws`."""

import asyncio
import os

import ccxt.pro

base = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
stream = base.replace("http", "ws", 1) + "/v5"


async def main() -> None:
    async with ccxt.pro.bybit(
        {
            # "apiKey": ..., "secret": ... as ever
            "urls": {
                "api": {
                    **dict.fromkeys(("public", "private", "spot", "futures", "v2"), base),
                    "ws": {
                        "public": {kind: f"{stream}/public/{kind}" for kind in ("spot", "linear", "inverse", "option")},
                        "private": {
                            "spot": {"unified": f"{stream}/private"},
                            "contract": f"{stream}/private",
                            "trade": f"{stream}/trade",
                        },
                    },
                }
            },
        }
    ) as exchange:
        candles = await exchange.watch_ohlcv("BTC/USDT:USDT", "1h")
        print(candles[0][:2])


asyncio.run(main())

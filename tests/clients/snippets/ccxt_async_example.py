"""ccxt with asyncio: the same setting as without."""

import asyncio
import os

import ccxt.async_support as ccxt

base = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")


async def main() -> None:
    async with ccxt.bybit(
        {
            # "apiKey": ..., "secret": ... as ever
            "urls": {"api": dict.fromkeys(("public", "private", "spot", "futures", "v2"), base)},
        }
    ) as exchange:
        print((await exchange.fetch_ohlcv("BTC/USDT:USDT", "1h", limit=1))[0])


asyncio.run(main())

"""pybit: set the endpoint after construction, without a slash at its end."""

import os

from pybit.unified_trading import HTTP

session = HTTP()  # api_key=..., api_secret=... as ever
session.endpoint = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")

answer = session.get_kline(category="linear", symbol="BTCUSDT", interval="60", limit=1)
print(answer["result"]["list"][0])

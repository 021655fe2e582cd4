"""pybit: the addresses of its streams are names of a module, to be set before a WebSocket is made."""

import os
import queue

from pybit import unified_trading

base = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080").replace("http", "ws", 1)
unified_trading.PUBLIC_WSS = f"{base}/v5/public/{{CHANNEL_TYPE}}"  # the braces are pybit's: linear, spot, ...
unified_trading.PRIVATE_WSS = f"{base}/v5/private"

heard: queue.Queue[dict] = queue.Queue()
socket = unified_trading.WebSocket(testnet=False, channel_type="linear")
socket.kline_stream(interval=60, symbol="BTCUSDT", callback=heard.put)

candle = heard.get(timeout=30)["data"][0]
socket.exit()
print([candle["start"], candle["open"]])

"""Where secrets are planted: a configuration, requests, and what the exchange does with them (see hidden.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from tests.hidden import HIDDEN
from tests.integration.test_process import free_port
from tests.recorder import Answer, Seen
from tests.redis_servers import RedisServer

KEY, SIGN, TOKEN = HIDDEN["API key"], HIDDEN["signature"], HIDDEN["admin.token"]
ADMIN = f"Authorization: Bearer {TOKEN}"
SIGNED = (f"X-BAPI-API-KEY: {KEY}", f"X-BAPI-SIGN: {SIGN}")


def sections(redis: RedisServer, exchange: str) -> dict[str, Any]:
    """A configuration that holds a secret wherever one can stand."""
    return {
        "upstream": {"url": exchange, "timeouts": {"connect": "500ms", "read": "300ms", "total": "1s"}},
        "listen": {"host": "127.0.0.1", "port": 0, "trusted_proxies": ["127.0.0.1"]},
        "admin": {"token": TOKEN},
        "store": {"url": redis.url},
        "cache": {"l2": {"url": redis.url, "secret": HIDDEN["cache.l2.secret"]}, "lock": "always"},
        "archive": {"url": f"postgresql://somebody:{HIDDEN['archive.url']}@127.0.0.1:{free_port()}/candles"},
        "identity": {
            "hash_key": HIDDEN["identity.hash_key"],
            "accounts": {"main": [HIDDEN["account"]]},
            "tokens": [{"name": "team", "token": HIDDEN["X-Gateway-Token"]}],
            "jwt": {"algorithms": ["HS256"], "secret": HIDDEN["jwt.secret"] * 2},
        },
        "limits": [
            {"name": "per-key", "quota": "200/60s", "partition": ["api_key"], "counts": "requests"},
            {"name": "few", "match": {"endpoint": "account-wallet-balance"}, "quota": "1/60s", "partition": ["client"]},
            {"name": "bybit-ip", "quota": "600/500ms", "partition": ["egress"], "counts": "upstream", "window": "held"},
        ],
        "retry": {"attempts": 2},
        "queue": {"max_wait": "1s"},
        "breaker": {"enabled": False},
        "log": {"level": "debug", "slow": "1ms"},
    }


def asked() -> Iterator[bytes]:
    """Requests with a secret wherever a client can put one, good ones and such as no client should send."""
    symbol, path = HIDDEN["symbol"].upper(), HIDDEN["path"]
    body = json.dumps({"apiKey": HIDDEN["body"], "secret": HIDDEN["body"], "symbol": "BTCUSDT", "side": "Buy"})
    query = f"api_key={HIDDEN['query']}&sign={HIDDEN['query signature']}&timestamp=1790000000000"
    jwt = f"eyJhbGciOiJIUzI1NiJ9.{HIDDEN['JWT']}.{HIDDEN['JWT signature']}"
    kline = "/v5/market/kline?category=linear&interval=1"
    yield request("GET", "/v5/account/info", *SIGNED)
    yield request("GET", "/v5/account/info", *SIGNED, "X-BAPI-TIMESTAMP: 1790000000000")
    yield request("GET", "/v5/account/wallet-balance?accountType=UNIFIED", *SIGNED)
    yield request("GET", "/v5/account/wallet-balance?accountType=UNIFIED", *SIGNED)
    yield request("GET", "/v5/account/info", f"X-BAPI-API-KEY: {HIDDEN['account']}", f"X-BAPI-SIGN: {SIGN}")
    yield request("POST", "/v5/order/create", *SIGNED, "Content-Type: application/json", body=body)
    yield request("POST", f"/v5/order/create?{query}", body=f"{query}&password={HIDDEN['body']}")
    yield request("GET", f"/v5/account/info?{query}")
    yield request("GET", f"{kline}&symbol=BTCUSDT&{query}")
    yield request("GET", f"{kline}&symbol={symbol}")
    yield request("GET", f"{kline}&symbol=BTCUSDT&limit={HIDDEN['number']}")
    yield request("GET", f"/v5/{path}/x")
    yield request("GET", f"/v5/market/{path}?token={HIDDEN['query']}#{path}")
    yield request("DELETE", f"//{path}@elsewhere/v5")
    yield request("GET", f"http://user:{HIDDEN['userinfo']}@elsewhere/v5/market/time")
    yield request("CONNECT", f"{path}:443")
    yield request(path, "/v5/market/time")
    yield request("GET", "/v5/market/time", f"X-Gateway-Token: {HIDDEN['X-Gateway-Token']}")
    yield request("GET", "/v5/market/time", f"X-Gateway-Token: {HIDDEN['a token that is not known']}")
    for scheme in ("Bearer", "Basic", "Digest"):
        yield request("GET", "/v5/market/time", f"Authorization: {scheme} {jwt}")
    odd = [
        f"{name}: {HIDDEN[name]}"
        for name in ("Cookie", "User-Agent", "Referer", "X-Request-Id", "Origin", "Forwarded", "X-Forwarded-For")
    ]
    yield request("GET", f"{kline}&symbol=ETHUSDT", *odd, f"traceparent: 00-{HIDDEN['traceparent']}-01")
    yield request("GET", "/v5/market/time", f"{HIDDEN['the name of a header']}: 1", f"If-None-Match: {HIDDEN['tag']}")
    yield request("GET", f"{kline}&symbol=ETHUSDT", f"Cache-Control: max-age={HIDDEN['Cache-Control']}")
    yield request("GET", "/v5/market/time", "Upgrade: websocket", f"Sec-WebSocket-Key: {HIDDEN['websocket']}")
    handshake = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    yield request("GET", "/v5/private", *handshake, key, f"Sec-WebSocket-Protocol: {HIDDEN['websocket']}")
    yield request("GET", "/v5/market/time", f"Content-Encoding: {HIDDEN['coding']}", f"Accept: {HIDDEN['Accept']}")
    line = HIDDEN["malformed"]
    yield f"{line}\r\n\r\n".encode()
    yield f"GET /v5 {line} HTTP/1.1\r\n\r\n".encode()
    yield f"GET /v5 HTTP/1.1\r\n{line}\r\n\r\n".encode()
    yield f"GET /v5 HTTP/1.1\r\nHost: me\r\nX-{line}\x00: {line}\r\n\r\n".encode()
    yield f"GET /v5 HTTP/{line}\r\nHost: me\r\n\r\n".encode()
    yield request("GET", "/v5/market/time", f"X: {line * 1_000}")
    yield request("GET", f"/v5/{line * 1_000}")
    yield request("POST", "/v5/order/create", f"Content-Length: {line}")
    yield f"POST /v5/order/create HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n{line}\r\n".encode()
    for page in ("marketdata/klines/", "prices/", ""):
        yield request("GET", f"/api/v1/{page}{path}?interval={path}&{query}", *SIGNED)
    yield request("GET", f"/api/v1/marketdata/klines?symbols={symbol}&interval=1")
    yield request("GET", f"/api/v1/marketdata/klines/{symbol}?interval=1&limit=5")
    for page in ("limits", "log", "trading", path):
        yield request("GET", f"/gateway/{page}?token={path}", f"Authorization: Bearer {HIDDEN['a guess']}")
        yield request("POST", f"/gateway/{page}", ADMIN, body=json.dumps({"level": path, "mode": path}))


def request(method: str, target: str, *lines: str, body: str = "") -> bytes:
    named = ["Host: me", *lines, *([f"Content-Length: {len(body)}"] if body else [])]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *named, "", body]).encode()


def echoing(status: str, code: int, before: str = "error sign!") -> Answer:
    """An exchange that says again what it was told, as it does in its errors."""

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        again = f"origin_string[1790000000000{KEY}5000{seen.head.decode('latin-1')}{seen.body.decode()}]"
        body = json.dumps({"retCode": code, "retMsg": f"{before} {again}", "result": {}}).encode()
        lines = [f"X-Echo: {KEY}", f"Set-Cookie: a={KEY}", f"Traceid: {KEY}", f"X-Request-Id: {KEY}"]
        writer.write("\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]).encode())
        writer.write(body)

    return answer


def saying(data: str) -> Answer:
    """And no more."""

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data.encode())
        await writer.drain()
        writer.close()

    return answer


async def silence(_: Seen, writer: asyncio.StreamWriter) -> None:
    """Nothing, until the gateway hangs up."""
    await writer.wait_closed()


FAILURES: list[Answer] = [
    echoing("200 OK", 10004),
    echoing(f"500 {KEY}", 0),
    saying(f"{KEY} {SIGN}\r\n\r\n"),
    saying(f"HTTP/1.1 200 OK\r\nContent-Length: 999\r\nX: {KEY}\r\n\r\n{KEY}"),
    saying(f"HTTP/1.1 200 OK\r\n{KEY}\r\nContent-Encoding: {KEY}\r\n\r\n{KEY}"),
    saying(""),
    silence,
    echoing("200 OK", 10006),
    echoing(f"403 {KEY}", 0, before="access too frequent"),
]
"""The last of them is a ban."""

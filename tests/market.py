"""Asking the convenience API, and asking the exchange for the same by hand."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import aiohttp

from proxy.app import App
from tests.raw_http import RawAnswer, exchange_bytes

KLINES = "/api/v1/marketdata/klines"
Rows = list[list[str]]


def get(target: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: me", *lines, "", ""]).encode()


async def ask(app: App, target: str, *lines: str, method: str = "GET", version: str = "1.1") -> RawAnswer:
    return await exchange_bytes(app.port, get(target, *lines, method=method, version=version), seconds=60)


async def candles(app: App, symbol: str, query: str) -> Rows:
    """In whatever format they come."""
    answer = await ask(app, f"{KLINES}/{symbol}?{query}")
    assert (answer.status, answer.complete) == (200, True), answer.body[:300]
    return rows_of(answer)


def rows_of(answer: RawAnswer) -> Rows:
    kind = (answer.get("Content-Type") or "").partition(";")[0]
    text = answer.body.decode()
    if kind == "application/json":
        listed: Rows = json.loads(text)["result"]["list"]
        return listed
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in text.splitlines()]
    assert kind == "text/csv"
    return list(csv.reader(io.StringIO(text)))[1:]


def error_of(answer: RawAnswer) -> tuple[int, int, str, str]:
    """Status, retCode, reason and text. The envelope is whole."""
    body: dict[str, Any] = json.loads(answer.body)
    assert (body["result"], body["retExtInfo"]) == ({}, {})
    assert isinstance(body["time"], int)
    assert answer.get("X-Gateway") == body["error"]
    assert answer.get("X-Request-Id")
    return answer.status, body["retCode"], body["error"], body["retMsg"]


async def by_hand(
    url: str,
    symbol: str,
    interval: str,
    *,
    category: str = "linear",
    kind: str = "kline",
    start_ms: int = 0,
    end_ms: int | None = None,
    limit: int = 10**9,
) -> Rows:
    """Oldest first, page by page back from the newest, as a client of the exchange would."""
    rows: Rows = []
    target = f"{url}/v5/market/{kind}?category={category}&symbol={symbol}&interval={interval}&limit=1000"
    async with aiohttp.ClientSession() as session:
        while len(rows) < limit:
            until = "" if end_ms is None else f"&end={end_ms}"
            async with session.get(target + until) as answer:
                page: Rows = (await answer.json())["result"]["list"]
            rows += page
            if not page or int(page[-1][0]) < start_ms:
                break
            end_ms = int(page[-1][0]) - 1
    return [row for row in rows[:limit] if int(row[0]) >= start_ms][::-1]

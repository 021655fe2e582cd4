"""A stand-in for an exchange that is far away: candles of any symbol, whichever time is asked for, after a pause.

    python -m bench.slow_exchange PORT MILLISECONDS

`/arrivals` tells when it was asked for candles: epoch microseconds, oldest first, and forgets them.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import lru_cache

_SYMBOL = re.compile(rb"[?&]symbol=([A-Z0-9]+)")
_ASKED = {name: re.compile(rb"[?&]%b=([0-9]+)" % name) for name in (b"interval", b"start", b"end", b"limit")}


class _Exchange:
    def __init__(self, away_s: float) -> None:
        self._away_s = away_s
        self._arrivals: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                body = await self._answer(target)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.writelines((head, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, target: bytes) -> bytes:
        if target == b"/arrivals":
            told, self._arrivals = json.dumps(self._arrivals).encode(), []
            return told
        await asyncio.sleep(self._away_s / 2)
        now_us = time.time_ns() // 1000
        symbol = _SYMBOL.search(target)
        if symbol is None:  # it may want to know the time
            return b'{"retCode":0,"retMsg":"OK","result":{},"retExtInfo":{},"time":%d}' % (now_us // 1000)
        self._arrivals.append(now_us)
        await asyncio.sleep(self._away_s / 2)
        rows = b",".join(_rows(target, now_us // 1000))
        return (
            b'{"retCode":0,"retMsg":"OK","result":{"symbol":"%b","category":"linear","list":[%b]},"retExtInfo":{},'
            b'"time":%d}' % (symbol[1], rows, now_us // 1000)
        )


def _rows(target: bytes, now_ms: int) -> list[bytes]:
    """Newest first; both ends belong to what is asked."""
    asked = {name: int(found[1]) for name, pattern in _ASKED.items() if (found := pattern.search(target))}
    step_ms = asked.get(b"interval", 1) * 60_000
    newest = min(asked.get(b"end", now_ms), now_ms) // step_ms
    oldest = max(-(-asked.get(b"start", 0) // step_ms), newest - asked.get(b"limit", 200) + 1)
    return [_row(number, step_ms) for number in range(newest, oldest - 1, -1)]


@lru_cache(maxsize=4096)
def _row(number: int, step_ms: int) -> bytes:
    base = 36_500 + number * 7 % 113
    return b'["%d","%d.1","%d.4","%d.6","%d.5","%d.123","%d.4567"]' % (
        *(number * step_ms, base, base + 21, base - 17, base + 3),
        *(100 + number * 31 % 97, 4_000_000 + number % 9973),
    )


async def _main(port: int, away_ms: int) -> None:
    server = await asyncio.start_server(_Exchange(away_ms / 1000).serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))

"""A stand-in for an exchange that is far away: the newest candles of any symbol, after a pause. Nothing else.

`python -m bench.slow_exchange PORT MILLISECONDS`
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

_STEP_MS = 15 * 60_000
_SYMBOL = re.compile(rb"[?&]symbol=([A-Z0-9]+)")
_LIMIT = re.compile(rb"[?&]limit=([0-9]+)")


class _Exchange:
    def __init__(self, away_s: float) -> None:
        self._away_s = away_s
        self._open_ms = 0
        self._rows: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                await asyncio.sleep(self._away_s)
                body = self._answer(target)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.writelines((head, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, target: bytes) -> bytes:
        now_ms = time.time_ns() // 1_000_000
        symbol, limit = _SYMBOL.search(target), _LIMIT.search(target)
        if symbol is None:
            return b'{"retCode":10001,"retMsg":"Not supported symbols","result":{},"retExtInfo":{},"time":%d}' % now_ms
        return (
            b'{"retCode":0,"retMsg":"OK","result":{"symbol":"%b","category":"linear","list":[%b]},"retExtInfo":{},'
            b'"time":%d}'
            % (symbol[1], b",".join(self._candles(now_ms)[: 200 if limit is None else int(limit[1])]), now_ms)
        )

    def _candles(self, now_ms: int) -> list[bytes]:
        open_ms = now_ms - now_ms % _STEP_MS
        if open_ms != self._open_ms:
            self._open_ms = open_ms
            self._rows = [_row(open_ms - number * _STEP_MS, number) for number in range(1000)]
        return self._rows


def _row(open_ms: int, number: int) -> bytes:
    base = 36_500 + number * 7 % 113
    return b'["%d","%d.1","%d.4","%d.6","%d.5","%d.123","%d.4567"]' % (
        *(open_ms, base, base + 21, base - 17, base + 3),
        *(100 + number * 31 % 97, 4_000_000 + number * 997),
    )


async def _main(port: int, away_ms: int) -> None:
    server = await asyncio.start_server(_Exchange(away_ms / 1000).serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))

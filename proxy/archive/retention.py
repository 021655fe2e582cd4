"""Deletes candles that have become too old, now and then, a little at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from proxy.archive.line import Lost
from proxy.archive.writer import Connect
from proxy.clock import Sleep

_FIRST_S: Final = 60.0
_EVERY_S: Final = 3_600.0
_AT_MOST: Final = 5_000
_BREATH_S: Final = 0.05


class Retention:
    """`oldest_ms` gives the instant before which candles are not kept. Of several gateways one deletes at a time."""

    def __init__(
        self, connect: Connect, oldest_ms: Callable[[], int], sleep: Sleep, *, at_most: int = _AT_MOST
    ) -> None:
        self._connect = connect
        self._oldest_ms = oldest_ms
        self._sleep = sleep
        self._at_most = at_most
        self._log = structlog.get_logger()

    async def run(self) -> None:
        await self._sleep(_FIRST_S)
        while True:
            try:
                deleted = await self.trim()
            except Lost as lost:
                self._log.warning("archive_not_trimmed", reason=lost.reason)
            else:
                if deleted:
                    self._log.info("archive_trimmed", rows=deleted)
            await self._sleep(_EVERY_S)

    async def trim(self) -> int:
        """Delete all that is too old now; the answer is how many candles that were. Raises Lost."""
        before_ms, deleted = self._oldest_ms(), 0
        line = await self._connect()
        try:
            series = await line.next_series(None) if await line.alone() else None
            while series is not None:
                while (count := await line.forget(series, before_ms, self._at_most)) == self._at_most:
                    deleted += count
                    await self._sleep(_BREATH_S)
                deleted += count
                series = await line.next_series(series)
        except BaseException:
            line.drop()
            raise
        await line.close()
        return deleted

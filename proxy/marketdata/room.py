"""How many rows may be held for clients at one time: what is collected or fetched ahead must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from policies import bybit
from proxy.errors import Unanswered

ROWS: Final = 400_000
"""About 50 MB."""
_WAIT_US: Final = 1_000_000


class Room:
    def __init__(self, rows: int = ROWS) -> None:
        self._left = rows

    @contextmanager
    def holding(self, rows: int) -> Iterator[None]:
        """Raises Unanswered where there is no room for so many."""
        if rows > self._left:
            detail = "too many candles are being read at this time: ask for fewer, or a little later"
            raise Unanswered(429, "too-much-at-once", detail, code=bybit.TOO_MANY_VISITS, wait_us=_WAIT_US)
        self._left -= rows
        try:
            yield
        finally:
            self._left += rows

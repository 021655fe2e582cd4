"""How late everything came because the machine did other things: what a bound on real time may be exceeded by."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_STEP_S: Final = 0.01
_USUAL_S: Final = 0.1
"""So late a timer may come where much is done at once; that is no standstill."""


class Slowness:
    """Of what runs on this loop; grows while `watch` runs."""

    def __init__(self) -> None:
        self._late_s = 0.0
        self._due_s = time.monotonic()

    @property
    def us(self) -> int:
        """All the time that was lost, what is being lost at this moment included."""
        return round((self._late_s + max(0.0, time.monotonic() - self._due_s)) * 1e6)

    async def watch(self) -> None:
        while True:
            self._due_s = time.monotonic() + _STEP_S
            await asyncio.sleep(_STEP_S)  # real time is what this is about
            late_s = time.monotonic() - self._due_s
            self._late_s += late_s if late_s > _USUAL_S else 0.0

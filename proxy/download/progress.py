"""Tells the person who waits how far it has got: one line that changes on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import asyncio
from typing import Final, TextIO

from policies.quantities import duration_text
from proxy.clock import Clock, Sleep

_TERMINAL_S: Final = 0.2
_ELSEWHERE_S: Final = 10.0
_LONG_WAIT_US: Final = 3_000_000
_BAR: Final = 24


class Progress:
    """Counts, and shows them on `stream`; results go to `out`. `quiet`: nothing but what say() says of mistakes."""

    def __init__(self, stream: TextIO, out: TextIO, clock: Clock, *, quiet: bool, sleep: Sleep = asyncio.sleep) -> None:
        self.blocks = 0
        """To be asked for, as far as that is known."""
        self.done = 0
        """Of these, how many are done; `fetched`: those for which something came."""
        self.fetched = 0
        self.rows = 0
        self._stream = stream
        self._out = out
        self._clock = clock
        self._sleep = sleep
        self._quiet = quiet
        self._terminal = stream.isatty()
        self._began_us = clock()
        self._waits = ("", 0)
        self._shown = False

    @property
    def elapsed_us(self) -> int:
        return self._clock() - self._began_us

    def begin(self) -> None:
        """Time counts from here."""
        self._began_us = self._clock()

    def say(self, text: str, *, always: bool = False) -> None:
        """A line of its own, above what changes."""
        if self._quiet and not always:
            return
        self._clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def tell(self, text: str) -> None:
        """What has become of something."""
        if not self._quiet:
            self._clear()
            self._stream.flush()
            self._out.write(f"{text}\n")
            self._out.flush()

    def waits(self, reason: str, wait_us: int) -> None:
        """Nothing is asked, or some of it not, for so long."""
        known, until_us = self._waits
        now_us = self._clock()
        if wait_us >= _LONG_WAIT_US and (now_us >= until_us or reason != known):
            self.say(f"waiting for {duration_text(_whole(wait_us))}: {reason}")
        self._waits = reason, max(until_us, now_us + wait_us)

    async def run(self) -> None:
        """Show it until cancelled."""
        while not self._quiet:
            await self._sleep(_TERMINAL_S if self._terminal else _ELSEWHERE_S)
            if self._terminal:
                self._stream.write(f"\r\x1b[2K{self.line()}")
                self._shown = True
            else:
                self._stream.write(f"{self.line()}\n")
            self._stream.flush()

    def close(self) -> None:
        self._clear()

    def line(self) -> str:
        """How far, how fast, how long still."""
        share = min(1.0, self.done / self.blocks) if self.blocks else 0.0
        seconds = max(self.elapsed_us, 1) / 1e6
        full = int(share * _BAR)
        bar = f"[{'#' * full}{'.' * (_BAR - full)}] " if self._terminal else ""
        left = self.blocks - self.done
        eta = duration_text(_whole(int(left / self.done * self.elapsed_us))) if self.done and left > 0 else "-"
        reason, until_us = self._waits
        waits = f"  waiting: {reason}" if self._clock() < until_us else ""
        return (
            f"{bar}{share:4.0%}  {self.rows:,} candles  {self.done:,}/{self.blocks:,} blocks  "
            f"{self.fetched / seconds:.1f}/s  ETA {eta}{waits}"
        )

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._shown = False


def _whole(wait_us: int) -> int:
    return max(1, -(-wait_us // 1_000_000)) * 1_000_000

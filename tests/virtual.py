"""A loop whose time passes only when there is nothing left to do: an hour of waiting costs no waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_US = 1_800_000_000_000_000
"""What the virtual clock shows at the beginning: a Friday in 2027, not on the boundary of any window."""


class _JumpingSelector(selectors.SelectSelector):
    """Where a real selector would sleep until the next timer, this one moves the loop's clock there."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and no timer is set: this would hang for ever")
        if timeout > 0:
            self.loop.passed += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.passed = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.passed

    def clock_us(self) -> int:
        """The Clock that goes with this loop."""
        return EPOCH_US + round(self.passed * 1e6)


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function on a fresh virtual loop, to which it is introduced."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

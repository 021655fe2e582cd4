"""Bounded polling of other processes."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis.exceptions import RedisError


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float = 15.0) -> None:
    """Ask until it holds. A Redis that does not answer, or refuses, is one for which it does not hold yet."""
    ends = time.monotonic() + seconds
    last: RedisError | None = None
    while time.monotonic() < ends:
        try:
            if holds():
                return
        except RedisError as error:
            last = error
        time.sleep(0.02)  # noqa: TID251  # another process sets no Event
    raise AssertionError(f"not within {seconds:g} s: {what} (last error: {last!r})")

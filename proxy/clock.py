"""The one clock: epoch microseconds that never run backwards.

A signature's deadline is wall time, a window needs a clock without steps. This is the wall clock as it stood when the
process began, carried on by the monotonic one: slewed as NTP slews, deaf to its steps. Everything that needs the time
is handed a Clock, so that tests and simulations can hand it another one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
Sleep = Callable[[float], Awaitable[None]]


def system_clock() -> Clock:
    """A clock that starts at the wall time of this call."""
    monotonic_ns = time.monotonic_ns
    offset_ns = time.time_ns() - monotonic_ns()

    def now_us() -> int:
        return (monotonic_ns() + offset_ns) // 1000

    return now_us


def shown(instant_us: int | None) -> str | None:
    """For people: ISO 8601 in UTC, to the millisecond."""
    if instant_us is None:
        return None
    seconds, left_us = divmod(instant_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=left_us).isoformat(timespec="milliseconds")

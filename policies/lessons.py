"""From an answer to what is learned of it (pacing.py)."""

from __future__ import annotations

from typing import Final

from policies import bybit
from policies.admission import Quota
from policies.bybit import LimitHeaders
from policies.descriptor import Descriptor
from policies.pacing import Lesson

_SECOND_US: Final = 1_000_000
_OTHER_UNIT: Final = 10
"""A header that says so many times less than what is published for a minute speaks of seconds."""


def refused_of(descriptor: Descriptor, ret_code: int | None, text: bytes, *, batch: bool) -> int:
    """How much of what a request asked for was refused as too many. A batch may be refused in part."""
    if ret_code == bybit.TOO_MANY_VISITS:
        return descriptor.cost
    if batch and ret_code == bybit.OK:
        return min(descriptor.cost, bybit.refused_inside(text))
    return 0


def lesson_of(
    quota: Quota, told: LimitHeaders | None, *, stamp_ms: int | None, sent_us: int, refused: int, chance: int
) -> Lesson:
    """`stamp_ms`: the exchange's clock in the answer, by its body or its own header."""
    if told is None or _speaks_of_another_unit(quota, told):
        return Lesson(sent_us, refused=refused, chance=chance)
    if stamp_ms is None and told.remaining != 0:
        stamp_ms = told.reset_ms  # not exceeded: this is about the exchange's present
    reset_us = None
    if told.remaining == 0 and told.reset_ms is not None and stamp_ms is not None and told.reset_ms > stamp_ms:
        reset_us = (told.reset_ms - stamp_ms) * 1_000
    return Lesson(sent_us, told.limit, told.remaining, stamp_ms, refused, reset_us, chance)


def _speaks_of_another_unit(quota: Quota, told: LimitHeaders) -> bool:
    return quota.window_us > _SECOND_US and told.limit * _OTHER_UNIT < quota.limit

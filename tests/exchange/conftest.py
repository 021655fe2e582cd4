"""An exchange on a standing clock, afresh for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.exchange.help import Clock
from tests.fake_bybit import FakeBybit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def exchange(clock: Clock) -> AsyncIterator[FakeBybit]:
    async with FakeBybit(clock=clock, sleep=clock.sleep) as running:
        yield running

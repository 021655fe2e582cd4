"""Who waits for another's fetch waits for no longer than he has said."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from tests.cached import CLOSED, INFO, ask, candles, envelope, raw
from tests.caches_together import Gate
from tests.conversation import until
from tests.gateway_fixture import gateway
from tests.recorder import answering, recorder

SLOW: Final[list[dict[str, Any]]] = [{"name": "slow", "quota": "1/6s", "when_full": "wait", "counts": "upstream"}]
KINDS: Final = pytest.mark.parametrize("asked", [CLOSED, INFO], ids=["candles", "a rule's"])


@KINDS
async def test_who_has_little_time_does_not_wait_for_anothers_turn(asked: str) -> None:
    """The budget is used up for six seconds. The one who asked first waits for it; who said half a second is told in
    time that it is too late for him."""
    async with recorder(answering(raw(envelope({})))) as upstream, gateway(upstream.url, limits=SLOW) as app:
        await ask(app, "/v5/market/time")
        first = asyncio.gather(ask(app, asked))
        await until(lambda: app.limiter.waiting == 1, "the first")
        second = await ask(app, asked, "X-Gateway-Max-Wait: 200ms")

        assert (second.status, second.get("X-Gateway")) == (429, "deadline")
        assert not first.done()
        assert len(upstream.seen) == 1
        first.cancel()


async def test_what_is_on_its_way_already_is_waited_for() -> None:
    """It will not come sooner for being sent twice."""
    gate = Gate(raw(candles()))
    async with recorder(gate) as upstream, gateway(upstream.url) as app:
        first = asyncio.gather(ask(app, CLOSED))
        await until(lambda: upstream.seen, "the fetch")
        others = asyncio.gather(*(ask(app, CLOSED, f"X-Gateway-Max-Wait: {wait}") for wait in ("1ms", "20ms", "0s")))
        await until(lambda: app.metrics.collapsed.labels("kline")._value.get() == 3, "the others")
        await asyncio.sleep(0.05)  # longer than they would wait for their turn
        gate.open.set()

        assert {each.status for each in await others} == {200}
        assert (await first)[0].body == candles()
        assert len(upstream.seen) == 1

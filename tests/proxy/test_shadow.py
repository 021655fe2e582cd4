"""What is put together here is what the exchange says: asked again, compared, counted; `different` stays 0."""

from __future__ import annotations

import itertools
import random
from typing import Any, Final

import pytest

from policies.history import History
from tests.by_hand import KLINE, Desk, desk, opens, target, was_hit
from tests.conversation import TICKERS
from tests.fake_bybit import Settings
from tests.hand_clock import until
from tests.proxy.test_log import Captured, captured

__all__ = ["captured"]

RESULTS: Final = ("same", "different", "not-compared")
PATHS: Final = (KLINE, *(f"/v5/market/{name}-price-kline" for name in ("mark", "index", "premium-index")))
PAST: Final[dict[str, Any]] = {"limit": 3, "end": 1_790_598_599_999}
"""Three minutes that had ended long before the tests' clock begins."""


def compared(here: Desk) -> list[int]:
    return [here.counted("gateway_shadow_comparisons_total", result=result) for result in RESULTS]


@pytest.mark.parametrize("seed", [1, 2])
async def test_all_answers_are_the_exchanges_own(seed: int) -> None:
    """Every answer is compared: all paths, gaps, a listing, a delisting, weeks and months, while candles end."""
    draw = random.Random(seed)
    async with desk(exchange=Settings(kline_gap_fill=False), candles__shadow=100) as here:
        for _ in range(400):
            told = await here.client.get(_drawn(draw, here.now_ms))
            assert told.status == 200
            if draw.random() < 0.5:
                await here.settled()
            await here.clock.leap(draw.choice([0.1, 0.7, 3, 20, 61]))  # those that were not waited for come later
            await here.settled()
        same, different, not_compared = compared(here)
        revised = sum(here.counted("gateway_candles_revised_total", endpoint=path[11:]) for path in PATHS)

    assert same > 120
    assert (different, not_compared, revised) == (0, 0, 0)


async def test_a_row_that_the_exchange_changes_late_is_noticed(captured: Captured) -> None:
    """It is final here five seconds after its end, and at this exchange it changes for twenty. The log tells which
    answer it was, and nothing of who had asked."""
    async with desk(exchange=Settings(kline_settle_ms=20_000), candles__shadow=100) as here:
        await here.to_the_next()
        await here.clock.leap(5.5)
        await here.ask(limit=5)
        await here.clock.leap(20)
        past = {"start": here.minute_ms - 180_000, "end": here.minute_ms - 1}
        headers = {"Cookie": "session=planted-cookie", "User-Agent": "planted-agent", "Referer": "planted-referer"}
        told = await here.client.send("GET", target("BTCUSDT", **past), headers=headers)
        await here.settled()
        page = (await here.client.get("/metrics")).body

        assert (was_hit(told), len(opens(told)), compared(here)) == (True, 3, [0, 1, 0])
        last = here.exchange.record.entries[-1]
        assert (last.target, here.asked()) == (target("BTCUSDT", **past), 2)
        assert b"planted" not in b"".join(part for pair in last.raw_headers for part in pair)
    (event,) = (event for event in captured.events() if event["event"] == "candles_differ")
    asked = target("BTCUSDT", **past).partition("?")[2]
    assert (event["level"], event["endpoint"], event["query"]) == ("error", "kline", asked)
    assert b"planted" not in b"".join(captured.written)
    assert b"planted" not in page


@pytest.mark.parametrize("change", ["text", "missing", "added"])
async def test_any_difference_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is otherwise, one too few, one too many."""
    async with desk(candles__shadow=100) as here:
        await here.ask(limit=20)
        series = next(iter(here.app.caches.candles._known))
        history = here.app.caches.candles.known(series)
        assert history is not None
        _spoil(history, change)
        await here.clock.leap(3)
        told = await here.ask(start=here.minute_ms - 600_000, end=here.minute_ms - 60_001)
        await here.settled()

        assert (was_hit(told), compared(here)) == (True, [0, 1, 0])


async def test_it_is_off_by_default() -> None:
    async with desk() as here:
        for _ in range(3):
            await here.ask(**PAST)
            await here.ask(**{**PAST, "limit": 2})
        await here.settled()

        assert (here.asked(), compared(here)) == (1, [0, 0, 0])


async def test_so_many_percent_are_compared() -> None:
    async with desk(candles__shadow=25) as here:
        here.app.caches.shadow._chance = itertools.cycle(range(100)).__next__
        await here.ask(**PAST)
        for number in range(100):  # each once: a request that was answered before is not put together again
            await here.ask(limit=1 + number % 2, end=PAST["end"] - number)
            await here.settled()
            await here.clock.leap(0.1)

        assert compared(here) == [25, 0, 0]


async def test_nothing_is_compared_above_half_of_the_budget() -> None:
    limits = [{"name": "bybit-ip", "quota": "10/5s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}]
    async with desk(candles__shadow=100, limits=limits) as here:
        await here.ask(**PAST)
        for _ in range(4):
            await here.client.get(TICKERS)
        await here.ask(**{**PAST, "limit": 2})
        await here.settled()
        assert (here.asked(), compared(here)) == (1, [0, 0, 0])
        await here.clock.leap(6)
        await here.ask(**{**PAST, "limit": 1})
        await here.settled()

        assert (here.asked(), compared(here)) == (2, [1, 0, 0])


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"kind": "ret_code", "ret_code": 10016}, id="error"),
        pytest.param({"kind": "reset_before"}, id="reset"),
        pytest.param({"kind": "ban"}, id="ban"),
    ],
)
async def test_what_cannot_be_compared_is_counted_and_harms_nobody(fault: dict[str, Any]) -> None:
    async with desk(candles__shadow=100, retry__enabled="false", pacing__ban="10m") as here:
        await here.ask(**PAST)
        here.exchange.faults.add({**fault, "count": 1})
        told = await here.ask(**{**PAST, "limit": 2})
        await until(lambda: sum(compared(here)) == 1)

        assert (told.status, len(opens(told)), was_hit(told)) == (200, 2, True)
        assert compared(here) == [0, 0, 1]


async def test_a_reload_switches_it_on_and_off() -> None:
    async with desk() as here:
        await here.ask(**PAST)
        config = here.app.caches._config
        for percent, limit in ((100, 2), (0, 1)):
            candles = config.candles.model_copy(update={"shadow": percent})
            here.app.apply(config.model_copy(update={"candles": candles}))
            await here.ask(**{**PAST, "limit": limit})
            await here.settled()

        assert compared(here) == [1, 0, 0]


def _drawn(draw: random.Random, now_ms: int) -> str:
    path = draw.choice(PATHS)
    traded = path == KLINE
    category = draw.choice(["linear", "spot", "inverse"] if traded else ["linear"])
    symbols = ["BTCUSD"] if category == "inverse" else ["BTCUSDT", "GAPUSDT", "NEWUSDT", "OLDUSDT"]
    interval = draw.choice(["1", "1", "5", "60", "D", "W", "M"])
    given: dict[str, Any] = {}
    if draw.random() < 0.8:
        given["limit"] = draw.choice([1, 2, 50, 200, 1000])
    shape = draw.choice(["latest", "latest", "end", "range", "start"])
    step_ms = {"1": 60_000, "5": 300_000, "60": 3_600_000}.get(interval, 86_400_000)
    at_ms = now_ms - draw.randrange(400) * step_ms
    if shape in {"end", "range"}:
        given["end"] = at_ms
    if shape in {"start", "range"}:
        given["start"] = (at_ms - draw.randrange(300) * step_ms) // step_ms * step_ms
    return target(draw.choice(symbols), interval, path=path, category=category, **given)


def _spoil(history: History, change: str) -> None:
    """As if it had been learned wrongly."""
    number, segment = max(history.segments.items())
    rows = segment.rows()
    if change == "text":
        rows.texts[5] = rows.texts[5].replace(b'"]', b'1"]')
    elif change == "missing":
        del rows.opens[5], rows.texts[5]
    else:
        rows.opens.insert(6, rows.opens[5] - 30_000)
        rows.texts.insert(6, rows.texts[5].replace(b"%d" % rows.opens[5], b"%d" % rows.opens[6]))
    history.segments[number] = type(segment).of(rows, segment.joint, segment.stored_us)

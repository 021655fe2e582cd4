"""Pages put together from any knowledge are what the exchange answers, and cost one request at most."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import candles
from policies.caching import CandleQuery
from policies.segments import SLOTS, Series, open_of_slot, slot_of
from tests.gateway_fixture import DEEP
from tests.policies.small_exchange import Keeper, Market

START_MS = 1_790_000_000_000
LENGTHS = {"W": 7 * candles.DAY_MS, "M": 30 * candles.DAY_MS} | candles.FIXED_MS
DEPTHS = {"W": 1_100, "M": 300}


@dataclass(frozen=True)
class Situation:
    market: Market
    series: Series
    now_ms: int


@dataclass(frozen=True)
class Step:
    what: str
    after_ms: int
    took_ms: int
    query: CandleQuery
    other: bool


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """All intervals; a border of segments within sight or not; listed lately or long ago, delisted or not."""
    interval = draw(st.sampled_from(["1", "1", "3", "15", "60", "240", "D", "W", "M"]))
    current = slot_of(interval, START_MS) + draw(st.integers(0, 2_000 if interval not in "WM" else 5))
    if interval not in "WM" and draw(st.booleans()):
        current -= current % 1000 - draw(st.integers(0, 60))
    listed = current - draw(st.sampled_from([2, 30, 300, 1_200, DEPTHS.get(interval, 2_500)]))
    span = range(listed, current + 400)
    some = st.frozensets(st.sampled_from(span), max_size=12)
    missing = draw(st.one_of(st.just(frozenset[int]()), some, st.builds(_thinned, st.just(span), st.integers(2, 9))))
    from_to = draw(st.tuples(st.integers(current - 90, current), st.integers(0, 120)))
    missing |= draw(st.sampled_from([frozenset(), frozenset(range(from_to[0], sum(from_to)))]))
    market = Market(
        interval,
        listed,
        draw(st.sampled_from([None, None, None, current + 2, current - 1, (listed + current) // 2])),
        missing,
        draw(st.dictionaries(st.integers(current - 3, current + 30), st.integers(1, 40_000), max_size=12)),
    )
    now_ms = open_of_slot(interval, current) + draw(st.sampled_from([0, 10, 3_000, 4_999, 5_000, 20_000, 59_999]))
    category = draw(st.sampled_from(["linear", "spot"]))
    return Situation(market, Series("kline", category, "BTCUSDT", interval), now_ms)


def _thinned(span: range, every: int) -> frozenset[int]:
    """A quiet market: of so many candles only one."""
    return frozenset(slot for slot in span if slot % every)


@st.composite
def steps(draw: st.DrawFn, situation: Situation) -> list[Step]:
    """Answers that come, requests, memory that is taken away, segments from another gateway; time goes on."""
    series, now_ms, length_ms = situation.series, situation.now_ms, LENGTHS[situation.series.interval]
    current, listed = slot_of(series.interval, now_ms), situation.market.listed
    made: list[Step] = []
    queries: list[CandleQuery] = []
    moves = [0, 1, 10, 500, 1_000, 2_500, 7_000, 30_000, length_ms // 3, length_ms, 3 * length_ms, 70 * length_ms]
    for _ in range(draw(st.integers(1, 40))):
        after_ms, took_ms = draw(st.sampled_from(moves)), draw(st.sampled_from([0, 2, 100, 900]))
        now_ms += after_ms
        if queries and draw(st.booleans()):
            query = draw(st.sampled_from(queries))
        else:
            query = draw(_queries(series, now_ms, current - listed))
            queries.append(query)
        what = draw(st.sampled_from(["ask", "ask", "ask", "learn", "forget", "share"]))
        made.append(Step(what, after_ms, took_ms, query, draw(st.booleans())))
    return made


@st.composite
def _queries(draw: st.DrawFn, series: Series, now_ms: int, depth: int) -> CandleQuery:
    """All four shapes, most of them near the present or the beginning; limits that end a page about now."""
    interval = series.interval
    slots = st.sampled_from([-3, -1, 0, 0, 1, 2, 5, 40, 60, depth, depth + 3]) | st.integers(-3, depth + 10)
    about = st.builds(
        lambda slot, off_ms: max(0, open_of_slot(interval, slot_of(interval, now_ms) - slot) + off_ms),
        slots,
        st.sampled_from([0, 0, 0, -1, 17_000]),
    )
    start, end = draw(st.none() | about), draw(st.none() | about)
    if start is not None and end is not None:
        start, end = min(start, end), max(start, end)
    limit = draw(st.none() | st.sampled_from([1, 2, 3, 5, 50, 200, 500, 999, 1000]) | st.integers(1, 1000))
    if start is not None and draw(st.booleans()):
        to_now = slot_of(interval, now_ms) - slot_of(interval, start)
        limit = min(1000, max(1, to_now + draw(st.integers(-2, 3))))
    return CandleQuery(*series, start, end, limit)


@given(st.data())
def test_any_knowledge_makes_the_exchanges_own_answers_for_one_request_each(data: st.DataObject) -> None:
    """Whatever was learned, in whatever order, and forgotten: a page is what the exchange says, the request that is
    needed completes it, and nothing unfinished is taken for final."""
    situation = data.draw(situations())
    market, series, now_ms = situation.market, situation.series, situation.now_ms
    keepers = Keeper(series, market), Keeper(series, market)
    for step in data.draw(steps(situation)):
        now_ms += step.after_ms
        keeper, other = keepers if not step.other else keepers[::-1]
        match step.what:
            case "ask":
                keeper.answer(step.query, now_ms, step.took_ms)
                now_ms += step.took_ms
            case "learn":  # an answer that was long on its way, others have overtaken it
                keeper.learn(step.query, now_ms - step.took_ms, now_ms)
            case "forget":
                for number in list(keeper.history.segments)[:1]:
                    keeper.history.forget(number)
            case _:
                for number, segment in other.history.segments.items():
                    keeper.history.restore(number, segment, other.history.covered_in(number))
        for each in keepers:
            each.audit(now_ms)


@pytest.mark.parametrize("seed", range(2_000 if DEEP else 200))
def test_long_lives_of_a_series(seed: int) -> None:
    """The same with sixty requests each, drawn at random: what only many answers bring about."""
    rnd = random.Random(seed)
    interval = rnd.choice(["1", "1", "1", "3", "15", "60", "240", "D", "W", "M"])
    length_ms, current = LENGTHS[interval], slot_of(interval, START_MS) + rnd.randrange(3)
    if interval not in "WM" and rnd.random() < 0.5:
        current -= current % SLOTS - rnd.randrange(60)
    depth = min(rnd.choice([3, 30, 300, 1_200, 2_500]), DEPTHS.get(interval, 2_500))
    span, sparse = range(current - depth, current + 400), rnd.choice([0, 0, 0.03, 0.3, 0.9])
    late = {slot: rnd.randrange(40_000) for slot in span if rnd.random() < 0.3} if rnd.random() < 0.5 else {}
    ended = rnd.choice([None, None, None, current - rnd.randrange(depth), current + 5])
    missing = frozenset(slot for slot in span if rnd.random() < sparse)
    series = Series("kline", rnd.choice(["linear", "spot"]), "BTCUSDT", interval)
    keeper = Keeper(series, Market(interval, span[0], ended, missing, late))
    moves = [0, 1, 10, 100, 999, 1000, 2500, 7000, 30_000, length_ms // 3, length_ms, 3 * length_ms]
    now_ms, queries, answered = open_of_slot(interval, current) + rnd.choice([0, 3_000, 5_000]), [], 0
    for _ in range(60):
        now_ms += rnd.choice(moves)
        if not queries or rnd.random() < 0.6:
            queries.append(_random_query(rnd, series, now_ms, depth))
        took_ms = rnd.choice([0, 0, 2, 100, 900])
        answered += keeper.answer(rnd.choice(queries[-5:]), now_ms, took_ms) is not None
        now_ms += took_ms
    keeper.audit(now_ms)
    assert answered > 20


def _random_query(rnd: random.Random, series: Series, now_ms: int, depth: int) -> CandleQuery:
    interval, reach = series.interval, rnd.choice([3, 50, 1500, depth + 10])

    def instant() -> int:
        opens = open_of_slot(interval, slot_of(interval, now_ms) - rnd.randrange(-3, reach))
        return max(0, opens + (rnd.choice([-1, 17_000]) if rnd.random() < 0.2 else 0))

    shape = rnd.randrange(4)
    start = instant() if shape in {1, 2} else None
    end = instant() if shape in {1, 3} else None
    if start is not None and end is not None:
        start, end = min(start, end), max(start, end)
    limit = rnd.choice([None, 1, 2, 3, 5, 50, 200, 500, 999, 1000, rnd.randrange(1, 1001)])
    if start is not None and rnd.random() < 0.5:
        limit = min(1000, max(1, slot_of(interval, now_ms) - slot_of(interval, start) + rnd.randrange(-2, 3)))
    return CandleQuery(*series, start, end, limit)

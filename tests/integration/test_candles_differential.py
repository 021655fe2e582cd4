"""The candle store through real sockets, against the exchange's own answers: byte by byte, whatever is asked for, while
time goes on, answers are late or missing, and gateways share what they know."""

from __future__ import annotations

import asyncio
import itertools
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import aiohttp
import pytest

from policies import candles as calendar
from policies.segments import segment_of
from proxy.app import App
from tests.conversation import Told
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import DEEP, gateway, url
from tests.hand_clock import HandClock, until
from tests.integration.candle_oracle import SERIES, Oracle, histories, random_target, remembered_rows
from tests.redis_servers import needs_redis, redis_server

START_US: Final = 1_790_598_856_789_500
"""A Monday in September 2026, 12:34:16."""
CONNECTIONS: Final = 8
PATIENCE_S: Final = 30
FOR_EVER_MS: Final = 1 << 60
FETCHES: Final = ("fetch ", "send ", "revalidate", "boundary-refresh")
EXCHANGE: Final[dict[str, Any]] = {
    "kline_gap_fill": False,
    "kline_settle_ms": 3_000,
    "kline_unaligned_start": "ceil",
    "kline_absent_category_echo": "empty",
    "ip_limit": 1_000_000,
}
"""Where the documents are silent, the exchange does what the gateway does not expect."""


@dataclass
class Scene:
    """An exchange and some gateways, by one clock."""

    clock: HandClock
    exchange: FakeBybit
    oracle: Oracle
    apps: list[App]
    session: aiohttp.ClientSession
    rounds: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])

    @property
    def now_ms(self) -> int:
        return self.clock.now_us // 1000

    async def get(self, app: App, target: str) -> Told:
        asked_us = self.clock()
        async with self.session.get(url(app, target)) as answer:
            body = await answer.read()
            return Told(answer.status, answer.headers, body, asked_us, self.clock())

    async def judged(self, app: App, targets: Iterable[str]) -> None:
        for target in targets:
            self.oracle.judge(target, await self.get(app, target), self.longest_flight_ms)

    def longest_flight_ms(self, given_ms: int) -> int:
        """How long an answer of that instant was on its way at most: a round waits for all that was sent in it."""
        began_ms, ended_ms = self.rounds[bisect_right(self.rounds, given_ms, key=itemgetter(0)) - 1]
        return min(ended_ms, self.now_ms) - began_ms

    async def round(self, targets: Iterable[str], rnd: random.Random) -> None:
        """All at the same moment, or a little one after the other. Time goes on by small steps until nothing is
        under way any more: it is the test's own time that this takes."""
        self.rounds.append((self.now_ms, FOR_EVER_MS))
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            waiting: set[asyncio.Task[None]] = set()
            for target in targets:
                waiting.add(group.create_task(self.judged(rnd.choice(self.apps), [target])))
                if rnd.random() < 0.1:
                    await self.clock.leap(rnd.choice([0.001, 0.3, 1.1]))
            for turn in itertools.count(1):
                await asyncio.sleep(0.001)  # sockets take the time they take
                waiting = {task for task in waiting if not task.done()}
                if not waiting and not any(map(under_way, self.apps)):
                    break
                await self.clock.leap(rnd.choice([0.0005, 0.01, 0.03]) * turn)
        self.rounds[-1] = (self.rounds[-1][0], self.now_ms)

    def audit(self) -> int:
        return sum(self.oracle.audit(app, self.now_ms) for app in self.apps)


def under_way(app: App) -> bool:
    """Something is fetched, perhaps for nobody in particular."""
    return any(task.get_name().startswith(FETCHES) for task in app.tasks._tasks)


@asynccontextmanager
async def scene(*gateways: dict[str, Any], **exchange: Any) -> AsyncIterator[Scene]:
    """`gateways`: the configuration of each."""
    clock = HandClock(START_US)
    settings = Settings(**EXCHANGE, **exchange)
    with remembered_rows():
        async with (
            FakeBybit(clock=clock, sleep=clock.sleep, settings=settings) as box,
            _gateways(box, clock, list(gateways)) as apps,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            yield Scene(clock, box, Oracle(box), apps, session)


@asynccontextmanager
async def _gateways(box: FakeBybit, clock: HandClock, configured: list[dict[str, Any]]) -> AsyncIterator[list[App]]:
    if not configured:
        yield []
        return
    usual = {"limits": [], "breaker__enabled": "false"}
    async with (
        gateway(box.url, clock=clock, sleep=clock.sleep, **usual, **configured[0]) as app,
        _gateways(box, clock, configured[1:]) as others,
    ):
        yield [app, *others]


def next_instant(rnd: random.Random, now_us: int) -> int:
    """A little later, or at the end of a candle, or right before it: of a minute mostly, sometimes of a month."""
    if rnd.random() < 0.5:
        return now_us + rnd.choice([0, 1_000, 100_000, 900_000, 2_500_000, 6_000_000])
    interval = rnd.choices(["1", "3", "15", "60", "240", "D", "W", "M"], [30, 10, 10, 10, 5, 2, 1, 1])[0]
    ends_ms = calendar.end_of(interval, calendar.open_of(interval, now_us // 1000))
    return max(now_us, ends_ms * 1000 + rnd.choice([-300_000, -1_500, 500, 40_500, 3_000_500, 5_000_500, 7_000_500]))


async def live(here: Scene, rnd: random.Random, rounds: int) -> None:
    """A few series are asked for again and again, by some at the same moment, by others while answers are on their
    way; others now and then."""
    favourites: list[str] = []
    for _ in range(rounds):
        await here.clock.leap((next_instant(rnd, here.clock.now_us) - here.clock.now_us) / 1e6)
        while len(favourites) < 20:
            favourites.append(random_target(rnd, rnd.choice(SERIES), here.now_ms))
        favourites[rnd.randrange(20)] = random_target(rnd, rnd.choice(SERIES[:8]), here.now_ms)
        targets = [
            rnd.choice(favourites[-6:] if rnd.random() < 0.5 else favourites) for _ in range(rnd.randrange(1, 9))
        ]
        if rnd.random() < 0.3:
            targets += targets  # the same from somebody else
        await here.round(targets, rnd)


@pytest.mark.usefixtures("warnings_only")
async def test_ten_thousand_ranges_of_a_warm_store_are_the_exchanges_own_answers() -> None:
    """All four paths, aligned or not, with gaps, late listings, weeks and months; and hardly any of them is asked for
    upstream."""
    rnd = random.Random(1)
    async with scene({}) as here:
        warming = [random_target(rnd, series, here.now_ms) for series in SERIES for _ in range(50)]
        await here.judged(here.apps[0], warming)
        asked = here.exchange.stats.requests
        targets = [random_target(rnd, rnd.choice(SERIES), here.now_ms) for _ in range(10_000)]
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(here.judged(here.apps[0], targets[number::CONNECTIONS]))

        assert here.oracle.verdicts == {"fresh": 10_000 + len(warming)}
        assert here.exchange.stats.requests - asked < 3_000
        assert here.audit() > 20_000


JITTER: Final = [{"kind": "jitter", "leg": leg, "delay_us": 300_000} for leg in ("request", "response")]
LATE: Final = [
    {"kind": "delay", "leg": "response", "delay_us": 7_000_000, "probability": 0.02},
    {"kind": "delay", "leg": "request", "delay_us": 7_000_000, "probability": 0.01},
]
"""Longer on its way than a candle takes to settle."""
TROUBLE: Final = [
    {"kind": "status", "status": 503, "probability": 0.04},
    {"kind": "ret_code", "ret_code": 10016, "probability": 0.04},
    {"kind": "reset_after", "probability": 0.03},
    {"kind": "truncate", "probability": 0.03},
]
SEEDS: Final = range(12 if DEEP else 1)
ROUNDS: Final = 1_500 if DEEP else 240


def weather(here: Scene, *rules: dict[str, Any]) -> None:
    for rule in rules:
        here.exchange.faults.add(dict(rule))


@pytest.mark.usefixtures("warnings_only")
@pytest.mark.parametrize("seed", SEEDS)
async def test_as_time_goes_on_every_answer_is_one_that_the_exchange_has_just_given(seed: int) -> None:
    """Over many ends of candles: a moment old at most, never of the candle before, and nothing unfinished is kept."""
    async with scene({}) as here:
        await live(here, random.Random(f"time{seed}"), ROUNDS)

        assert here.oracle.verdicts["refused"] == 0
        assert here.oracle.verdicts["aged"] > 10
        assert here.audit() > 3_000


@pytest.mark.usefixtures("warnings_only")
@pytest.mark.parametrize("seed", SEEDS)
async def test_answers_that_are_late_are_told_from_those_that_are_new(seed: int) -> None:
    async with scene({}) as here:
        weather(here, *JITTER, *LATE)
        await live(here, random.Random(f"late{seed}"), ROUNDS)

        assert here.oracle.verdicts["refused"] == 0
        assert here.audit() > 3_000


@pytest.mark.usefixtures("warnings_only")
@pytest.mark.parametrize("seed", SEEDS)
async def test_an_exchange_in_trouble_spoils_nothing_that_is_kept(seed: int) -> None:
    """What is given then is as old as it may be on an error; what is given afterwards is right."""
    async with scene({"retry__enabled": "false"}) as here:
        rnd = random.Random(f"trouble{seed}")
        for _ in range(4):
            weather(here, *JITTER, *TROUBLE)
            await live(here, rnd, ROUNDS // 4)
            here.exchange.faults.clear()
            refused = here.oracle.verdicts["refused"]
            await live(here, rnd, 5)
            assert here.oracle.verdicts["refused"] == refused

        assert here.oracle.verdicts["refused"] < here.oracle.verdicts.total() // 4
        assert here.oracle.verdicts["stale"] > 0
        assert here.audit() > 3_000


@needs_redis
@pytest.mark.usefixtures("warnings_only")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lock", ["auto", "always"])
async def test_two_gateways_that_share_a_redis_give_the_exchanges_own_answers(lock: str, seed: int) -> None:
    """In jitter and trouble, over many ends of candles; and what lies in Redis in the end is final, too."""
    with redis_server() as redis:
        shared = {
            "cache__l2__url": redis.url,
            "cache__l2__timeout": "1s",
            "cache__lock": lock,
            "retry__backoff": "1ms",
        }
        async with scene(shared, shared, {**shared, "candles__max_bytes": "256MiB"}) as here:
            cold = here.apps.pop()
            weather(here, *JITTER, *LATE, *TROUBLE)
            await live(here, random.Random(f"{lock}{seed}"), ROUNDS)
            assert here.audit() > 3_000
            kept = 0
            # Redis is given up for a while where the machine lets it not answer in time.
            for again in range(MOST_TIMES):
                await here.clock.walk(40 if again else 20)  # segments are written some seconds after they were learned
                if (kept := await restored(cold, here)) > LEAST_KEPT:
                    break
                await live(here, random.Random(f"{lock}{seed}{again}"), ROUNDS)

            assert here.oracle.verdicts["refused"] < here.oracle.verdicts.total() // 4
            assert kept > LEAST_KEPT


MOST_TIMES, LEAST_KEPT = 4, 200


async def restored(cold: App, here: Scene) -> int:
    """A gateway that has seen nothing takes all segments over that lie in Redis: how many rows, every one of which is
    final."""
    two = cold.caches.two
    assert two is not None
    await until(lambda: all(app.caches.two.l2.status().queued == 0 for app in here.apps))
    for series in SERIES:
        newest = segment_of(series.interval, here.now_ms)
        for number in range(newest, newest - 9, -1):
            await two._restore_segment(series, number, again=True)
    return sum(map(here.oracle.audit_history, histories(cold)))

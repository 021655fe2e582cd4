"""A fleet of bots before one gateway, hours of it in seconds: the clock is the test's, sockets and answers are real.

Bots as freqtrade is one: each wakes up a second after the end of a candle of its shortest timeframe, and asks for the
newest candles of all pairs and timeframes that have ended, once. Answers are looked at: a stale one is a mistake.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import aiohttp

from policies import candles as calendar
from proxy.app import App
from tests.conversation import arrivals
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway, url
from tests.hand_clock import START_US, HandClock, until

_STEP_US: Final = 50_000
_WAKE_MS: Final = 1_000
"""freqtrade's own offset: "to ensure a new candle is available from the exchange"."""
_KLINE: Final = "/v5/market/kline"
_LIMITS: Final = (1000, 200, 500, 1000, 300, 1000, 720, 999, 400, 1000)


class Ask(NamedTuple):
    at_us: int
    bot: int
    symbol: str
    interval: str
    limit: int

    @property
    def target(self) -> str:
        return f"{_KLINE}?category=linear&symbol={self.symbol}&interval={self.interval}&limit={self.limit}"


class Fleet(NamedTuple):
    """`apart_ms`: how long a bot lets pass between two of its requests. `own_order`: each bot has its pairs in another
    order; else all go down the same list."""

    bots: int = 10
    pairs: int = 40
    intervals: tuple[str, ...] = ("5", "15", "60")
    hours: int = 2
    apart_ms: int = 10
    own_order: bool = False
    seed: int = 1

    def asks(self, begin_us: int = START_US) -> list[Ask]:
        """Everything that is asked for, in the order of time: all of it at the start, then what has ended."""
        draw = random.Random(self.seed)
        symbols = [f"ALT{number:03d}USDT" for number in range(self.pairs)]
        orders = [draw.sample(symbols, self.pairs) if self.own_order else symbols for _ in range(self.bots)]
        base_us = int(self.intervals[0]) * calendar.MINUTE_MS * 1000
        first_us = begin_us - begin_us % base_us + base_us
        found: list[Ask] = []
        for bot in range(self.bots):
            found += self._round(bot, begin_us + bot * 2_000_000, orders[bot], self.intervals)
            for end_us in range(first_us, begin_us + self.hours * 3_600_000_000, base_us):
                ended = [each for each in self.intervals if not end_us % (int(each) * calendar.MINUTE_MS * 1000)]
                woken_us = end_us + (_WAKE_MS + draw.randrange(400)) * 1000
                found += self._round(bot, woken_us, orders[bot], ended)
        return sorted(found)

    def _round(self, bot: int, at_us: int, symbols: list[str], intervals: list[str] | tuple[str, ...]) -> Iterator[Ask]:
        wanted = [(symbol, interval) for interval in intervals for symbol in symbols]
        for number, (symbol, interval) in enumerate(wanted):
            yield Ask(at_us + number * self.apart_ms * 1000, bot, symbol, interval, _LIMITS[bot % len(_LIMITS)])


@dataclass
class Played:
    """What came of it."""

    asked: int
    """Requests of the bots: what the exchange would have had to answer without a gateway."""
    upstream: int
    at_start: int
    """Of both, while all bots were starting."""
    upstream_at_start: int
    wrong: list[str]
    """Answers that were not the newest candles, and as many as were asked for."""

    @property
    def saved(self) -> float:
        """The part of the requests that the exchange did not see."""
        return 1 - self.upstream / self.asked


async def play(fleet: Fleet, *, stream: bool = False) -> Played:
    """Against the exchange in a box. `stream`: with candles.stream."""
    clock = HandClock()
    settings = Settings(record_size=1_000_000)
    overrides = {"candles__stream": str(stream).lower(), "listen__trusted_proxies": '["127.0.0.1"]'}
    async with (
        FakeBybit(clock=clock, sleep=clock.sleep, settings=settings) as box,
        gateway(box.url, clock=clock, sleep=clock.sleep, upstream__stream_url=box.stream_url, **overrides) as app,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session,
    ):
        wrong: list[str] = []

        async def one(ask: Ask) -> None:
            # Each bot has an address of its own, and with it its own part of the gateway's limits.
            headers = {"X-Forwarded-For": f"10.0.0.{ask.bot}", "Accept-Encoding": "identity"}
            async with session.get(url(app, ask.target), headers=headers) as answer:
                body = await answer.read()
            if (found := _mistake(ask, answer.status, body, clock.now_us)) is not None:
                wrong.append(found)

        async def caught_up() -> None:
            if stream:
                await _heard(app, box, clock)

        async def step(seconds: float) -> None:
            until_us = clock.now_us + round(seconds * 1e6)
            while clock.now_us < until_us:  # who sleeps wakes up in time, and may sleep again
                left_s = (until_us - clock.now_us) / 1e6
                await clock.leap(min(left_s, max(clock.due_s or left_s, 0.001)))
            if stream:
                await _heard(app, box, clock)

        asks = fleet.asks()
        start_us = asks[0].at_us + 60_000_000
        starting = [ask for ask in asks if ask.at_us < start_us]
        await _go_through(starting, one, app, clock, step)
        upstream_at_start = len(arrivals(box, _KLINE))
        await _go_through(asks[len(starting) :], one, app, clock, step)
        return Played(len(asks), len(arrivals(box, _KLINE)), len(starting), upstream_at_start, wrong)


async def _go_through(
    asks: list[Ask],
    one: Callable[[Ask], Coroutine[Any, Any, None]],
    app: App,
    clock: HandClock,
    step: Callable[[float], Awaitable[None]],
) -> None:
    """Everything at its time, in steps of 50 ms; quiet stretches at once, but what follows upon the end of a minute is
    walked through: that is when the gateway acts by itself."""
    under_way: set[asyncio.Task[None]] = set()

    def nothing_moves() -> bool:
        """But the clock: all is answered, or waits for its turn."""
        return not any(not task.done() for task in under_way) or app.limiter.waiting > 0

    async with asyncio.TaskGroup() as group:
        for at_us, together in itertools.groupby(asks, key=lambda ask: ask.at_us // _STEP_US * _STEP_US):
            while (left_us := at_us - clock.now_us) > 0:
                past_us = clock.now_us % 60_000_000
                walks = past_us < 1_100_000 or app.limiter.waiting
                await step(min(left_us, _STEP_US if walks else 60_000_000 - past_us) / 1e6)
            under_way = {task for task in under_way if not task.done()}
            under_way |= {group.create_task(one(ask)) for ask in together}
            await until(nothing_moves)
        while any(not task.done() for task in under_way):
            await step(_STEP_US / 1e6)
            await until(nothing_moves)


async def _heard(app: App, box: FakeBybit, clock: HandClock) -> None:
    """What the exchange has to push by now is pushed and heard: streams run while nobody asks."""
    book = box.streams.book.of("linear")
    messages = app.metrics.stream_messages
    results = ("open", "closed", "jump", "late", "repeated", "contradicted")

    def pushed() -> bool:
        topics = [topic for each in box.streams.connections for topic in each.topics.values() if topic is not None]
        due = any(topic._due_us <= clock.now_us or topic._end_ms * 1000 <= clock.now_us for topic in topics)
        return not due and sum(messages.value("public-linear", each) for each in results) == book.pushes

    await until(pushed)


def _mistake(ask: Ask, status: int, body: bytes, now_us: int) -> str | None:
    newest = b'"list":[["%d",' % calendar.open_of(ask.interval, now_us // 1000)
    if status != 200 or newest not in body[:200]:
        return f"{ask.target}: {status} {body[:120]!r}"
    rows = body.count(b'"],["') + 1
    return None if rows == ask.limit else f"{ask.target}: {rows} rows"

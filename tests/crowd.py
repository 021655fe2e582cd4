"""Clients that never have enough, the answers they got, and what the exchange saw of a ban meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from proxy.app import App
from tests.conversation import CREATE, TICKERS, TIME, Client, Told, new
from tests.fake_bybit import Entry, FakeBybit, Settings

LIMIT, WINDOW_S = 120, 1.0
"""The rate of the real limit in a shorter window: the same happens sooner."""
LIMITS: Final = [
    {"name": "bybit-ip", "quota": f"{LIMIT}/1s", "window": "held", "when_full": "wait", "refuse_with": "bybit"}
]
BREATH_S = 0.05
"""What a client waits after an answer that is not the exchange's: sixty that do not would measure themselves."""
LATE_US = 200_000
"""What may still arrive after a ban has begun: it was on its way."""

Ask = Callable[[Client, int], Coroutine[Any, Any, Told]]


def exchange_settings(ban_us: int, **more: Any) -> Settings:
    return Settings(ip_limit=LIMIT, ip_window_us=int(WINDOW_S * 1e6), ip_ban_us=ban_us, **more)


async def market(client: Client, _: int) -> Told:
    return await client.get(TICKERS)


async def mixed(client: Client, number: int) -> Told:
    """Every third is an order. Nobody asks for the time: that is what the gateway asks itself."""
    if number % 3:
        return await client.get(TICKERS)
    return await client.post(
        CREATE, **new(f"order-{next(_NUMBERS)}", "ETHUSDT"), key="other-key", secret="other-secret"
    )


_NUMBERS = itertools.count()


class Crowd:
    """`told`: every answer, in the order of their coming."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def since(self, instant_us: int) -> list[Told]:
        """Answers to what was asked after that."""
        return [told for told in self.told if told.asked_us > instant_us]

    def waiting_at(self, instant_us: int) -> list[Told]:
        """Answers to what had been asked by then, and was answered later."""
        return [told for told in self.told if told.asked_us <= instant_us < told.told_us]

    async def client(self, client: Client, number: int, ask: Ask) -> None:
        while True:
            try:
                told = await ask(client, number)
            except aiohttp.ClientError:
                await asyncio.sleep(BREATH_S)  # that gateway has been stopped
                continue
            self.told.append(told)
            if told.gateway is not None or told.status != 200:
                await asyncio.sleep(BREATH_S)


@asynccontextmanager
async def crowd(
    session: aiohttp.ClientSession, apps: Sequence[App], *, clients: int = 60, ask: Ask = mixed
) -> AsyncIterator[Crowd]:
    """They ask the gateways in turn, from now until the end of the block."""
    people = Crowd()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(people.client(Client(session, apps[number % len(apps)]), number // len(apps), ask))
            for number in range(clients)
        ]
        try:
            yield people
        finally:
            for task in tasks:
                task.cancel()


class Seen:
    """A ban as the exchange saw it: from its first 403 until the next answer that was none."""

    def __init__(self, exchange: FakeBybit) -> None:
        entries = list(exchange.record.entries)
        first = next(entry for entry in entries if entry.status == 403)
        rest = [entry for entry in entries if entry.sequence > first.sequence]
        self.began_us = first.time_us
        self.late = [entry for entry in rest if entry.time_us > self.began_us + LATE_US]
        """All that arrived when it no longer could have been on its way."""
        after = itertools.dropwhile(lambda entry: entry.status == 403, self.late)
        self.lifting = next(after, None)
        """The question whose answer lifted it."""

    @property
    def in_vain(self) -> list[Entry]:
        """What was told, late, that the ban goes on."""
        return list(itertools.takewhile(lambda entry: entry.status == 403, self.late))

    @property
    def before_the_answer(self) -> list[Entry]:
        """What arrived with the question, before it was known that the ban is over."""
        if self.lifting is None:
            return self.late
        return [entry for entry in self.late if entry.time_us <= self.lifting.time_us]


def asked_once(seen: Seen, after_us: int) -> None:
    """Nothing came late but one question, which came when the ban should be over."""
    assert seen.lifting is not None, f"nobody asked: {[entry.target for entry in seen.late]}"
    assert [entry.target for entry in seen.before_the_answer] == [TIME]
    assert seen.lifting.time_us - seen.began_us >= after_us


def questions(exchange: FakeBybit) -> list[Entry]:
    return [entry for entry in exchange.record.entries if entry.target == TIME]

"""What a reload must not do to a window: forget what counts, give room twice, or fail a request under load."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Charge, Quota, WindowKind
from policies.window import CompletionLog, SendLog
from proxy.store import Reservation
from proxy.store.memory import MemoryStore
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import url
from tests.proxy.test_reload import POLL_S, File, file, reload, reloads, running, sent, until

__all__ = ["file"]


@pytest.mark.parametrize("other", [WindowKind.SENT, WindowKind.SLOTTED])
async def test_what_was_taken_before_a_reload_is_ended_where_it_was_taken(other: WindowKind) -> None:
    """A rule that becomes held while requests are out must not be given more room by their answers."""
    now = 1_000_000_000
    store = MemoryStore(lambda: now)
    held = Quota("a", 4, 1_000_000, (), window=WindowKind.HELD)
    before = Quota("a", 4, 1_000_000, (), window=other)

    async def reserve(name: str, quota: Quota) -> bool:
        return type(await store.reserve(Reservation(name, (Charge(quota, ("a",), 1),)))).__name__ == "Admitted"

    assert await reserve("1", before)
    assert await reserve("2", before)
    store.adopt([held])
    for name in ("1", "2"):
        await store.complete(Reservation(name, (Charge(before, ("a",), 1),)))

    assert [await reserve(name, held) for name in "3456"] == [True, True, False, False]


async def test_a_limit_that_comes_back_finds_all_that_counts() -> None:
    """Down and up again within a window: the exchange has not forgotten either."""
    now = 1_000_000_000
    store = MemoryStore(lambda: now)
    wide = Quota("a", 200, 5_000_000, (), window=WindowKind.HELD)
    narrow = Quota("a", 10, 5_000_000, (), window=WindowKind.HELD)
    for number in range(200):
        reservation = Reservation(str(number), (Charge(wide, ("a",), 1),))
        await store.reserve(reservation)
        await store.complete(reservation)
    store.adopt([narrow])
    assert (await store.usage())[0].used == 200
    store.adopt([wide])

    assert (await store.usage())[0].used == 200


@given(
    held=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1, 7, 40, 90]), st.none() | st.tuples(st.integers(1, 90), st.integers(1, 100))),
        max_size=400,
    ),
)
def test_however_often_a_rule_changes_nothing_that_counts_is_forgotten(
    held: bool, steps: list[tuple[int, tuple[int, int] | None]]
) -> None:
    """Beside a list that remembers everything: the same decisions, whatever limit and length come and go."""
    window = (CompletionLog if held else SendLog)(90, 100)
    limit, length, now, sent = 90, 100, 10**6, []
    for step, quota in steps:
        now += step
        if quota is not None:
            limit, length = quota
            window.resize(limit, length)
        room = sum(1 for instant in sent if instant > now - length) < limit
        assert (window.wait_us(1, now) == 0) is room
        if room:
            window.take(1, now)
            window.complete(1, now)
            sent.append(now)


async def test_reload_under_load_fails_nothing_and_breaches_nothing(file: File) -> None:
    """Twenty clients, twenty reloads between two configurations: no request fails, no window forgets.

    The exchange bans above the looser of the two. While the stricter one has been in force for a window, what was
    begun under it must keep to it as well.
    """
    limits = {"loose": 60, "strict": 20}

    def write(name: str) -> None:
        tickers = {"name": "tickers", "match": {"endpoint": "tickers"}, "quota": "30/500ms"}
        file.write(sent(f"{limits[name]}/500ms"), *([tickers] if name == "loose" else []), queue={"max_wait": "8s"})

    write("loose")
    settings = Settings(ip_limit=limits["loose"], ip_window_us=500_000)
    answers: dict[int, int] = {}
    async with FakeBybit(settings=settings) as exchange, running(exchange.url, file.path, POLL_S) as app:
        done = asyncio.Event()

        async def client(number: int, session: aiohttp.ClientSession) -> None:
            target = ("/v5/market/time", "/v5/market/tickers?category=linear&symbol=BTCUSDT")[number % 2]
            while not done.is_set():
                async with session.get(url(app, target)) as answer:
                    await answer.read()
                    answers[answer.status] = answers.get(answer.status, 0) + 1

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(client(number, session))
            for number in range(20):
                # Mostly faster than a window passes, so that every window spans a change; sometimes slower.
                await asyncio.sleep(1.3 if number % 5 == 4 else 0.15)
                applied = reloads(app, "applied")
                write("strict" if number % 2 == 0 else "loose")
                await until(lambda before=applied: reloads(app, "applied") == before + 1)
            done.set()

        print(answers, exchange.books.ip.max_in_window())
        assert set(answers) == {200}
        assert answers[200] == exchange.stats.requests
        assert exchange.books.ip.breaches == 0
        assert exchange.books.ip.max_in_window() <= limits["loose"]
        assert reloads(app, "applied") == 20


async def test_after_a_reload_to_a_stricter_rule_no_window_exceeds_it(file: File) -> None:
    file.write(sent("50/400ms"), queue={"max_wait": "8s"})
    async with FakeBybit() as exchange, running(exchange.url, file.path) as app:
        done = asyncio.Event()

        async def client(session: aiohttp.ClientSession) -> None:
            while not done.is_set():
                async with session.get(url(app, "/v5/market/time")) as answer:
                    assert answer.status == 200
                    await answer.read()

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client(session))
            await asyncio.sleep(0.6)
            file.write(sent("10/400ms"), queue={"max_wait": "8s"})
            await reload(app)
            reloaded_us = app.clock()
            await asyncio.sleep(2)
            done.set()

        arrivals = [entry.time_us for entry in exchange.record.entries]
        late = [instant for instant in arrivals if instant > reloaded_us + 100_000]
        assert len(late) >= 20
        worst = max(sum(1 for other in arrivals if instant - 400_000 < other <= instant) for instant in late)
        assert worst <= 10

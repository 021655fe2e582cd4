"""The limiter on a virtual clock: three ends of waiting, nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
from typing import Self

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission import Charge, Quota, Refused, RefuseWith, WhenFull, Why, WindowKind
from policies.priority import Priority
from proxy.limiter import Claim, Limiter, Permit, QueueBounds
from proxy.store.memory import MemoryStore
from proxy.tasks import TaskOwner
from tests.virtual import VirtualLoop, run_virtually

SECOND_US = 1_000_000


class Bench:
    """A limiter with its dispatcher, on a virtual loop."""

    def __init__(self, loop: VirtualLoop, *, max_waiting: int = 1_000, max_wait_us: int = 3_600 * SECOND_US) -> None:
        self.tasks = TaskOwner()
        self.store = MemoryStore(loop.clock_us)
        self.limiter = Limiter(
            self.store, loop.clock_us, self.tasks, QueueBounds(max_waiting, max_waiting, max_wait_us)
        )

    async def __aenter__(self) -> Self:
        self.tasks.spawn(self.limiter.run(), "dispatcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.close()

    async def used(self, name: str) -> int:
        return sum(usage.used for usage in await self.store.usage() if usage.charge_key[0] == name)


def charge(name: str, limit: int, window_us: int, *, cost: int = 1, **fields: object) -> Charge:
    quota = Quota(name, limit, window_us, ("egress",), **fields)
    return Charge(quota, (name, "e"), cost)


def test_who_finds_room_does_not_wait() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            for _ in range(5):
                permit = await bench.limiter.acquire(Claim((charge("q", 5, SECOND_US),)))
                assert isinstance(permit, Permit)
                assert permit.waited_us == 0
            assert loop.passed == 0

    run_virtually(main)


def test_waiting_ends_at_the_exact_instant_and_in_order() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            admitted: list[tuple[int, int]] = []

            async def ask(number: int) -> None:
                permit = await bench.limiter.acquire(Claim((charge("q", 2, SECOND_US),)))
                assert isinstance(permit, Permit)
                admitted.append((number, round(loop.passed * 1e6)))

            async with asyncio.TaskGroup() as group:
                for number in range(6):
                    group.create_task(ask(number))

            assert [number for number, _ in admitted] == list(range(6))
            assert [at // SECOND_US for _, at in admitted] == [0, 0, 1, 1, 2, 2]
            assert all(at % SECOND_US < 100 for _, at in admitted)

    run_virtually(main)


def test_a_rule_that_refuses_answers_at_once_with_the_wait() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            strict = charge("q", 1, SECOND_US, when_full=WhenFull.REFUSE, refuse_with=RefuseWith.HTTP)
            assert isinstance(await bench.limiter.acquire(Claim((strict,))), Permit)

            answer = await bench.limiter.acquire(Claim((strict,)))

            assert answer == Refused(Why.FULL, strict, SECOND_US)
            assert loop.passed == 0

    run_virtually(main)


def test_who_cannot_make_his_deadline_hears_it_at_once() -> None:
    """Not after having waited in vain: the client can sign again now."""

    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            slow = charge("q", 1, 10 * SECOND_US)
            await bench.limiter.acquire(Claim((slow,)))

            answer = await bench.limiter.acquire(Claim((slow,), deadline_us=loop.clock_us() + 5 * SECOND_US))

            assert isinstance(answer, Refused)
            assert answer.why is Why.DEADLINE
            assert loop.passed == 0

    run_virtually(main)


def test_a_deadline_that_passes_while_waiting_ends_the_wait() -> None:
    """A reply that never comes must not hold up others beyond their time."""

    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            held = charge("q", 1, SECOND_US, window=WindowKind.HELD)
            await bench.limiter.acquire(Claim((held,)))

            answer = await bench.limiter.acquire(Claim((held,), deadline_us=loop.clock_us() + 3 * SECOND_US))

            assert isinstance(answer, Refused)
            assert answer.why is Why.DEADLINE
            assert 3 <= loop.passed < 3.001
            assert bench.limiter.waiting == 0

    run_virtually(main)


def test_the_queue_is_bounded() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop, max_waiting=2) as bench:
            one = charge("q", 1, SECOND_US)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(bench.limiter.acquire(Claim((one,)))) for _ in range(5)]
            answers = [task.result() for task in tasks]

            assert [isinstance(answer, Permit) for answer in answers] == [True, True, True, False, False]
            assert {answer.why for answer in answers if isinstance(answer, Refused)} == {Why.QUEUE}

    run_virtually(main)


def test_a_client_that_hangs_up_gives_its_place_to_the_next() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            one = charge("q", 1, SECOND_US)
            await bench.limiter.acquire(Claim((one,)))
            owner = TaskOwner()
            first = owner.spawn(bench.limiter.acquire(Claim((one,))), "first")
            second = owner.spawn(bench.limiter.acquire(Claim((one,))), "second")
            await asyncio.sleep(0.5)
            first.cancel()
            permit = await second

            assert isinstance(permit, Permit)
            assert loop.passed < 1.01
            assert bench.limiter.waiting == 0

    run_virtually(main)


def test_a_permit_handed_to_somebody_who_has_just_left_is_given_back() -> None:
    """Granted and cancelled in the same instant: the held place must not be lost."""

    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            held = charge("q", 1, SECOND_US, window=WindowKind.HELD)
            permit = await bench.limiter.acquire(Claim((held,)))
            assert isinstance(permit, Permit)
            owner = TaskOwner()
            task = owner.spawn(bench.limiter.acquire(Claim((held,))), "waiter")
            await asyncio.sleep(0.1)
            await permit.refund()
            # The dispatcher serves the waiter in this turn of the loop; the client leaves before it wakes.
            while bench.limiter.waiting:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.1)

            assert task.cancelled()
            assert await bench.used("q") == 0

    run_virtually(main)


def test_a_full_quota_of_one_endpoint_does_not_hold_up_another() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            shared = charge("ip", 100, SECOND_US)
            kline, tickers = charge("kline", 1, 60 * SECOND_US), charge("tickers", 5, SECOND_US)
            await bench.limiter.acquire(Claim((shared, kline)))
            owner = TaskOwner()
            waiting = owner.spawn(bench.limiter.acquire(Claim((shared, kline))), "kline")
            await asyncio.sleep(0.01)

            assert isinstance(await bench.limiter.acquire(Claim((shared, tickers))), Permit)
            assert loop.passed < 0.02
            waiting.cancel()

    run_virtually(main)


def test_an_instant_that_passes_between_two_looks_is_not_missed() -> None:
    """A real clock moves on between any two readings; whoever is due in between must not wait for the next deadline."""

    async def main(loop: VirtualLoop) -> None:
        readings = 0

        def restless_us() -> int:
            nonlocal readings
            readings += 1
            return loop.clock_us() + readings

        tasks = TaskOwner()
        bounds = QueueBounds(1_000, 1_000, 3_600 * SECOND_US)
        limiter = Limiter(MemoryStore(restless_us), restless_us, tasks, bounds)
        tasks.spawn(limiter.run(), "dispatcher")
        spaced = charge("ip", 100, SECOND_US, window=WindowKind.HELD, spaces=True)

        async def ask() -> None:
            permit = await limiter.acquire(Claim((spaced,), Priority.HISTORY))
            assert isinstance(permit, Permit)
            await permit.complete()

        async with asyncio.TaskGroup() as group:
            for _ in range(900):
                group.create_task(ask())
        await tasks.close()
        assert loop.passed < 11

    run_virtually(main)


def test_a_completion_wakes_those_who_wait_for_nothing_else() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Bench(loop) as bench:
            held = charge("q", 1, SECOND_US, window=WindowKind.HELD)
            first = await bench.limiter.acquire(Claim((held,)))
            assert isinstance(first, Permit)
            owner = TaskOwner()
            second = owner.spawn(bench.limiter.acquire(Claim((held,))), "second")
            await asyncio.sleep(7)
            await first.complete()
            await first.complete()  # a second end changes nothing

            assert isinstance(await second, Permit)
            assert 8 <= loop.passed < 8.001

    run_virtually(main)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=settings.default.max_examples // 10 if settings.default else 6)
def test_held_permits_never_exceed_the_limit_whatever_clients_do(seed: int) -> None:
    """Clients that come, wait, leave and fail at random; every permit ends once; at the end nothing is held."""

    async def main(loop: VirtualLoop) -> None:
        dice = random.Random(seed)
        limit = 7
        async with Bench(loop) as bench:
            busy = 0

            async def client() -> None:
                nonlocal busy
                charges = (
                    charge("ip", limit, SECOND_US, window=WindowKind.HELD, spaces=True),
                    charge(dice.choice("ab"), 4, SECOND_US // 2, window=WindowKind.HELD),
                )
                await asyncio.sleep(dice.random() * 20)
                try:
                    async with asyncio.timeout(dice.random() * 5):
                        permit = await bench.limiter.acquire(
                            Claim(charges, dice.choice(list(Priority)), dice.choice("xyz"))
                        )
                except TimeoutError:
                    return
                assert isinstance(permit, Permit)
                busy += 1
                assert busy <= limit
                await asyncio.sleep(dice.random() * 0.2)
                busy -= 1
                await (permit.complete() if dice.random() < 0.7 else permit.refund())
                if dice.random() < 0.1:  # a second end, as a careless caller might write it
                    await (permit.complete() if dice.random() < 0.5 else permit.refund())

            async with asyncio.TaskGroup() as group:
                for _ in range(300):
                    group.create_task(client())
            await asyncio.sleep(2)

            assert bench.limiter.waiting == 0
            assert await bench.store.usage() == []
            assert not bench.store._taken

    run_virtually(main)


@given(
    limit=st.integers(1, 30),
    window_ms=st.integers(50, 3_000),
    one_way_ms=st.floats(0.1, 80),
    spread_ms=st.floats(0, 40),
    seed=st.integers(0, 2**32),
)
def test_the_exchange_never_counts_more_than_its_limit(
    limit: int, window_ms: int, one_way_ms: float, spread_ms: float, seed: int
) -> None:
    """Saturated, over any network: in every window of the exchange at most `limit` requests arrive."""

    async def main(loop: VirtualLoop) -> None:
        dice = random.Random(seed)
        held = charge("ip", limit, window_ms * 1000, window=WindowKind.HELD)
        arrivals: list[float] = []

        def leg() -> float:
            spike = dice.random() * 0.2 if dice.random() < 0.01 else 0.0
            return (one_way_ms + dice.expovariate(1) * spread_ms) / 1000 + spike

        async def client(bench: Bench) -> None:
            while loop.passed < 20 * window_ms / 1000:
                permit = await bench.limiter.acquire(Claim((held,)))
                assert isinstance(permit, Permit)
                await asyncio.sleep(leg())
                arrivals.append(loop.passed)
                await asyncio.sleep(leg())
                await permit.complete()

        async with Bench(loop) as bench, asyncio.TaskGroup() as group:
            for _ in range(limit + 5):
                group.create_task(client(bench))
        arrivals.sort()
        window = window_ms / 1000
        assert all(later - earlier > window - 1e-6 for earlier, later in zip(arrivals, arrivals[limit:], strict=False))

    run_virtually(main)

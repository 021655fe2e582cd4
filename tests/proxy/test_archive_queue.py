"""What waits for the archive is bounded, keeps its order, and goes in batches: when there are enough, or in time."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from proxy.archive.waiting import Offer, Waiting
from tests.archive_bench import SERIES
from tests.virtual import VirtualLoop, run_virtually


def offer(count: int, mark: int = 0, *, revised: bool = False) -> Offer:
    return Offer(SERIES, (b"%d" % mark,) * count, None, revised)


def test_a_batch_goes_when_there_is_enough_or_after_the_flush() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[float, int]]:
        waiting, taken = Waiting(100, 10), []

        async def take() -> None:
            while batch := await waiting.batch(1.0):
                taken.append((loop.time(), sum(each.weight for each in batch)))
                waiting.done(batch)

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            await asyncio.sleep(5)
            waiting.put(offer(3))
            await asyncio.sleep(0.4)
            waiting.put(offer(4))
            await asyncio.sleep(10)  # 7 rows went one second after the first of them
            waiting.put(offer(4))
            await asyncio.sleep(0.25)
            waiting.put(offer(7))  # enough
            await asyncio.sleep(10)
            waiting.put(offer(25))
            waiting.put(offer(2))
            await asyncio.sleep(0.5)
            waiting.put(offer(0))
            waiting.close()  # what there is goes at once
        return taken

    assert run_virtually(main) == [(6.0, 7), (15.65, 11), (25.65, 25), (26.15, 3)]


def test_nothing_is_taken_in_after_the_end() -> None:
    async def main(_: VirtualLoop) -> None:
        waiting = Waiting(100, 10)
        waiting.close()
        assert not waiting.put(offer(1))
        assert await waiting.batch(1.0) == []

    run_virtually(main)


@given(st.lists(st.one_of(st.tuples(st.integers(0, 30), st.booleans()), st.none()), max_size=60))
def test_offers_wait_in_order_within_the_bound_and_are_taken_once(steps: list[tuple[int, bool] | None]) -> None:
    """A revision is the last of its batch. A step is an offer of so many rows, or that a batch is written."""

    async def main(_: VirtualLoop) -> None:
        waiting, accepted, written = Waiting(100, 20), [], []
        for number, step in enumerate(steps):
            if step is not None:
                made = offer(step[0], number, revised=step[1])
                room = waiting.rows + made.weight <= 100
                assert waiting.put(made) is room
                accepted += [made] if room else []
            elif waiting.rows:
                batch = await waiting.batch(0.0)
                assert not any(each.revised for each in batch[:-1])
                assert sum(each.weight for each in batch[:-1]) < 20
                written += batch
                waiting.done(batch)
            assert waiting.rows == sum(each.weight for each in accepted) - sum(each.weight for each in written) <= 100
        waiting.close()
        while batch := await waiting.batch(0.0):
            written += batch
        assert written == accepted

    run_virtually(main)

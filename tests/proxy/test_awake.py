"""Time in which the process stood still is no time that a Redis has let pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.awake import Within
from tests.virtual import VirtualLoop, run_virtually

SECONDS = 0.05


def waited(happens: Callable[[VirtualLoop, asyncio.Future[str]], None]) -> tuple[str, float]:
    """What became of somebody who waits for an answer, and when. `happens` plans for what goes on meanwhile."""

    async def main(loop: VirtualLoop) -> tuple[str, float]:
        answer: asyncio.Future[str] = loop.create_future()
        happens(loop, answer)
        try:
            async with Within(SECONDS):
                return await answer, loop.passed
        except TimeoutError:
            return "timed out", loop.passed

    return run_virtually(main)


def stands_still(loop: VirtualLoop, seconds: float, *then: Callable[[], object]) -> None:
    """All at once it is later. What has come meanwhile is found only after the timers that are due."""
    loop.passed += seconds
    for each in then:
        loop.call_soon(loop.call_soon, each)


def test_an_answer_that_comes_in_time_is_taken_at_once() -> None:
    assert waited(lambda loop, answer: void(loop.call_later(0.04, answer.set_result, "PONG"))) == ("PONG", 0.04)


def test_silence_ends_after_the_time_that_was_said() -> None:
    what, when = waited(lambda _loop, _answer: None)
    assert (what, when) == ("timed out", pytest.approx(SECONDS))


@pytest.mark.parametrize("still_s", [0.05, 0.1, 30.0])
def test_an_answer_that_came_while_everything_stood_still_is_taken(still_s: float) -> None:
    def throttled(loop: VirtualLoop, answer: asyncio.Future[str]) -> None:
        loop.call_later(0.02, stands_still, loop, still_s, lambda: answer.set_result("PONG"))

    what, when = waited(throttled)
    assert (what, when) == ("PONG", pytest.approx(0.02 + still_s))


@pytest.mark.parametrize(("still_s", "over_s"), [(0.08, 0.02 + 0.08 + 0.05), (0.06, 0.02 + 0.06 + 0.03), (9.0, 9.07)])
def test_silence_after_that_ends_too(still_s: float, over_s: float) -> None:
    """After as much again as the loop was late, and after `seconds` at most."""
    what, when = waited(lambda loop, _answer: void(loop.call_later(0.02, stands_still, loop, still_s)))
    assert (what, when) == ("timed out", pytest.approx(over_s))


def test_what_goes_wrong_within_is_raised_as_it_is() -> None:
    async def main(_: VirtualLoop) -> None:
        async with Within(SECONDS):
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run_virtually(main)


def test_who_is_cancelled_meanwhile_is_cancelled() -> None:
    async def main(loop: VirtualLoop) -> bool:
        async def waits() -> None:
            async with Within(SECONDS):
                await loop.create_future()

        task = loop.create_task(waits())
        loop.call_later(0.01, task.cancel)
        await asyncio.wait({task})
        return task.cancelled()

    assert run_virtually(main)


def void(_: object) -> None:
    """A plan for later needs no handle here."""

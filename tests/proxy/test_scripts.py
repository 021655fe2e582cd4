"""The scripts in Redis decide what the Python windows decide, to the microsecond, on 20,000 random sequences."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from policies.admission import Admitted, Charge, Counts, Quota, WhenFull, WindowKind
from policies.pacing import LearnedWindow, Lesson
from proxy.metrics import Metrics
from proxy.store import Reservation
from proxy.store.memory import MemoryStore
from proxy.store.remote import (
    END,
    END_ALL,
    LEARN,
    RESERVE,
    RESERVE_ALL,
    RESERVE_LEARNED,
    USAGE,
    Ending,
    RemoteWindows,
)
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis

SEQUENCES = 20_000
TOGETHER = 100
STEPS = 10
EPOCH_US = 1_800_000_000_000_000


@dataclass
class Sequence:
    """One course of events, told to both sides."""

    dice: random.Random
    number: int
    now_us: int = EPOCH_US
    out: list[Reservation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quotas = [quota(self.dice, place) for place in range(self.dice.randint(1, 4))]
        self.python = MemoryStore(lambda: self.now_us)
        self.remote = RemoteWindows(
            None,  # type: ignore[arg-type]  # it only words the calls here
            egress=f"s{self.number}",
            replica="r",
            lease_us=10**9,
            timeout_us=50_000,
            connect_s=0.05,
            clock=lambda: self.now_us,
            metrics=METRICS,
            fixed=lambda: self.now_us,
        )
        self.count = 0

    def charges(self) -> tuple[Charge, ...]:
        return tuple(
            Charge(quota, (quota.name, "x|y"), self.dice.randint(1, min(3, quota.burst or quota.limit)))
            for quota in self.quotas
        )


METRICS = Metrics()


def quota(dice: random.Random, place: int) -> Quota:
    kind = dice.choice(list(WindowKind))
    limit = dice.choice([1, 2, 3, 5, 7, 10, 12])
    return Quota(
        f"q{place}",
        limit,
        dice.choice([1_000, 12_345, 1_000_000, 59_999_999]),
        ("egress",),
        counts=dice.choice(list(Counts)),
        window=kind,
        when_full=dice.choice(list(WhenFull)),
        shadow=dice.random() < 0.2,
        burst=dice.randint(1, limit) if kind is WindowKind.BUCKET else 0,
        floor=dice.choice([1, 1, 2]),
        ceiling=dice.choice([None, None, 6, 9]),
    )


@pytest.fixture(scope="module")
def redis() -> Any:
    with redis_server() as server:
        yield server


@pytest.mark.parametrize("half", [0, 1])
def test_lua_and_python_agree(redis: RedisServer, half: int) -> None:
    async def main() -> None:
        with redis.client(seconds=20) as client:
            for script in (RESERVE, RESERVE_LEARNED, RESERVE_ALL, END, END_ALL, USAGE, LEARN):
                client.script_load(script.text)
            for first in range(half * SEQUENCES // 2, (half + 1) * SEQUENCES // 2, TOGETHER):
                sequences = [Sequence(random.Random(first + n), first + n) for n in range(TOGETHER)]
                with client.pipeline(transaction=False) as pipe:
                    for sequence in sequences:  # a store that has long been there holds nobody up
                        pipe.hset(sequence.remote.state, "boot", 1)
                    pipe.execute()
                for _ in range(STEPS):
                    await step(client, sequences)
                client.flushall()

    asyncio.run(main())


async def step(client: Any, sequences: list[Sequence]) -> None:
    expected: list[tuple[Sequence, Any]] = []
    with client.pipeline(transaction=False) as pipe:
        for sequence in sequences:
            dice = sequence.dice
            sequence.now_us += dice.choice([0, 1, dice.randint(0, 2_000), dice.randint(0, 2_000_000)])
            if sequence.out and dice.random() < 0.45:
                reservation = sequence.out.pop(dice.randrange(len(sequence.out)))
                completed = dice.random() < 0.7
                lesson = a_lesson(dice, sequence.now_us) if completed and dice.random() < 0.8 else None
                if completed:
                    await sequence.python.complete(reservation, lesson)
                else:
                    await sequence.python.refund(reservation)
                pipe.execute_command(*end_words(sequence.remote, Ending(reservation, completed)))
                expected.append((sequence, None))
                for charge in reservation.charges:
                    if lesson is not None and charge.quota.window is WindowKind.LEARNED:
                        pipe.execute_command(*learn_words(sequence.remote, reservation.id, charge, lesson))
                        expected.append((sequence, None))
            else:
                sequence.count += 1
                reservation = Reservation(f"n{sequence.count}", sequence.charges())
                admission = await sequence.python.reserve(reservation)
                if isinstance(admission, Admitted):
                    taken = tuple(charge for charge in reservation.charges if charge not in admission.over)
                    sequence.out.append(Reservation(reservation.id, taken))
                pipe.execute_command(*reserve_words(sequence.remote, reservation))
                expected.append((sequence, (reservation, admission)))
        answers = pipe.execute()
    for (sequence, wanted), answer in zip(expected, answers, strict=True):
        if wanted is not None:
            agree(sequence, *wanted, answer)
    await usages_agree(client, sequences)


def reserve_words(remote: RemoteWindows, reservation: Reservation) -> tuple[Any, ...]:
    return remote._reservation(reservation, ask=True, lease=True, orphaned=None).words()


def a_lesson(dice: random.Random, now_us: int) -> Lesson:
    """Answers that agree with nothing: both sides must make the same of them."""
    limit = dice.choice([None, 0, 1, 3, 8, 12, 20])
    return Lesson(
        now_us - dice.choice([0, 500, 20_000, 900_000, 4_000_000]),
        limit,
        None if limit is None or dice.random() < 0.1 else dice.randint(0, limit),
        None if dice.random() < 0.1 else EPOCH_US // 1000 + dice.choice([-70_000, -3, 0, 0, 1, 2, 5_000]),
        dice.choice([0, 0, 0, 1, 2, 3]),
        dice.choice([None, None, 0, 7, 40_000, 10**9]),
        dice.randrange(1_000_000),
    )


def learn_words(remote: RemoteWindows, number: str, charge: Charge, lesson: Lesson) -> tuple[Any, ...]:
    return remote._lesson(number, charge, lesson, 1).words()


def end_words(remote: RemoteWindows, ending: Ending) -> tuple[Any, ...]:
    return remote._endings([ending]).words()


def agree(sequence: Sequence, reservation: Reservation, admission: Any, answer: list[Any]) -> None:
    charges = reservation.charges
    told = (sequence.number, sequence.now_us, reservation, admission, answer)
    if isinstance(admission, Admitted):
        assert answer[0] == 0, told
        assert answer[2] == sum(1 << charges.index(charge) for charge in admission.over), told
        assert answer[3] == sum(1 << charges.index(charge) for charge in admission.near), told
        return
    assert answer[0] == 1, told
    assert charges[answer[3] - 1] is admission.binding, told
    assert bool(answer[4]) == admission.in_flight, told
    if not admission.in_flight:
        assert int(answer[2]) == admission.wait_us, told


async def usages_agree(client: Any, sequences: list[Sequence]) -> None:
    rows = []
    with client.pipeline(transaction=False) as pipe:
        for sequence in sequences:
            # Not by usage(): that forgets idle windows, and with them what a late refund gives back to.
            usages = [
                (key, kept.window.used(sequence.now_us), kept.window.wait_us(1, sequence.now_us), learned(kept.window))
                for key, kept in sequence.python._windows.items()
            ]
            rows.append((sequence, usages))
            charges = [Charge(kept.quota, key, 1) for key, kept in sequence.python._windows.items()]
            pipe.execute_command(*sequence.remote._usages(charges).words())
        answers = pipe.execute()
    for (sequence, usages), answer in zip(rows, answers, strict=True):
        for at, row in zip(range(0, len(answer), 8), usages, strict=True):
            used, _, wait, flying, limit, by_exchange, others, blocked = answer[at : at + 8]
            told = (sequence.number, sequence.now_us, row, answer[at : at + 8])
            assert used == row[1], told
            assert (-1 if flying else int(wait)) == row[2], told
            if row[3] is not None:
                assert (limit, bool(by_exchange), others, int(blocked)) == row[3](sequence.now_us), told


def learned(window: Any) -> Any:
    return window.learned if isinstance(window, LearnedWindow) else None

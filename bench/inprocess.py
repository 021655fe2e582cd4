"""What admission costs without a socket: the policies alone, the store, and the whole check of a client's request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from bench.answers import KLINE_TARGET
from bench.report import Report, Row
from policies.admission import Admitted, Charge, Quota, WindowKind, admit
from policies.window import CompletionLog
from proxy.app import App
from proxy.clock import Clock
from proxy.config import Config, load_routes
from proxy.store import Reservation
from proxy.store.memory import MemoryStore

_RULES: Final = (1, 3, 4)
_BATCH: Final = 2_000
"""Calls between two looks at the clock, so that looking costs nothing."""
_STEP_US: Final = 100
_LIMIT: Final = 100_000
_WINDOW_US: Final = 5_000_000
_MANY: Final = "100000000/5s"


def measure(report: Report, rounds: int, seconds: float) -> None:
    """Every figure once per round, in turn."""
    asyncio.run(_measure(report, rounds, seconds / 4))


async def _measure(report: Report, rounds: int, seconds: float) -> None:
    subjects: list[tuple[str, str, str, Callable[[], Awaitable[None]]]] = []
    subjects.append(("admission", "windows alone: wait + take + complete, 3 completion logs", "ns", _windows()))
    for rules in _RULES:
        label = f"{rules} rule{'s' if rules > 1 else ''}"
        subjects.append(("admission", f"policies: admit + complete, {label}", "ns", _pure(rules)))
    for rules in _RULES:
        label = f"{rules} rule{'s' if rules > 1 else ''}"
        subjects.append(("admission", f"memory store: reserve + complete, {label}", "ns", _stored(rules)))
    subjects.append(("limits", "client-side check: describe, charges, acquire, complete", "us", _checked()))
    values: dict[str, list[float]] = {what: [] for _, what, _, _ in subjects}
    for number in range(rounds + 1):
        for _, what, unit, batch in subjects:
            cost_ns = await _cost_ns(batch, seconds)
            if number > 0:  # the first round warms up
                values[what].append(cost_ns / 1000 if unit == "us" else cost_ns)
    report.rows += [Row(group, what, unit, tuple(values[what])) for group, what, unit, _ in subjects]


async def _cost_ns(batch: Callable[[], Awaitable[None]], seconds: float) -> float:
    """The median batch: what else runs on the machine only ever makes a batch slower."""
    costs: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter_ns()
        await batch()
        costs.append((time.perf_counter_ns() - began) / _BATCH)
    costs.sort()
    return costs[len(costs) // 2]


def _charges(rules: int) -> tuple[Charge, ...]:
    """Like the shipped rules: one held until the reply, the others counted when sent."""
    kinds = [WindowKind.HELD, *[WindowKind.SENT] * (rules - 1)]
    quotas = [Quota(f"rule-{n}", _LIMIT, _WINDOW_US, ("egress",), window=kind) for n, kind in enumerate(kinds)]
    return tuple(Charge(quota, (quota.name, "default"), 1) for quota in quotas)


def _ticking() -> Clock:
    """A clock that moves on by 0.1 ms each time it is read, so that windows fill and slide as under load."""
    instants: Iterator[int] = iter(range(1_700_000_000_000_000, 1 << 62, _STEP_US))
    return instants.__next__


def _windows() -> Callable[[], Awaitable[None]]:
    """Three windows of one request, without what is around them."""
    one, two, three = (CompletionLog(limit, _WINDOW_US) for limit in (60_000, 80_000, 100_000))
    clock = _ticking()

    async def batch() -> None:
        for _ in range(_BATCH):
            now_us = clock()
            if one.wait_us(1, now_us) or two.wait_us(1, now_us) or three.wait_us(1, now_us):
                raise AssertionError("the windows are never full here")
            one.take(1, now_us)
            two.take(1, now_us)
            three.take(1, now_us)
            one.complete(1, now_us)
            two.complete(1, now_us)
            three.complete(1, now_us)

    return batch


def _pure(rules: int) -> Callable[[], Awaitable[None]]:
    states = [(charge, charge.quota.new_window()) for charge in _charges(rules)]
    clock = _ticking()

    async def batch() -> None:
        for _ in range(_BATCH):
            admission = admit(states, clock())
            assert isinstance(admission, Admitted)
            now_us = clock()
            for charge, window in states:
                window.complete(charge.cost, now_us)

    return batch


def _stored(rules: int) -> Callable[[], Awaitable[None]]:
    store = MemoryStore(_ticking())
    reservation = Reservation("one", _charges(rules))

    async def batch() -> None:
        for _ in range(_BATCH):
            admission = await store.reserve(reservation)
            assert isinstance(admission, Admitted)
            await store.complete(reservation)

    return batch


class _Request(NamedTuple):
    """As much of a request as the check looks at."""

    method: str
    raw_path: str
    remote: str
    headers: CIMultiDictProxy[str]


def _checked() -> Callable[[], Awaitable[None]]:
    """The gateway's own steps before it looks into the cache, with a quota per client that never binds."""
    rule = {"name": "per-ip", "partition": ["ip"], "quota": _MANY, "counts": "requests"}
    routes = load_routes()
    app = App(Config.model_validate({"limits": [rule]}), routes)
    headers = CIMultiDict({"Host": "127.0.0.1", "Accept": "*/*", "User-Agent": "bench"})
    request = _Request("GET", KLINE_TARGET, "127.0.0.1", CIMultiDictProxy(headers))

    door = app.door
    describe = app.gateway.describer.describe  # the steps, without the server

    async def batch() -> None:
        for _ in range(_BATCH):
            asked = describe(request.method, request.raw_path, request.remote, request.headers)
            assert door.spend_now(asked.claim) is not None

    return batch

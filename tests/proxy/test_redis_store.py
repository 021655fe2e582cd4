"""The shared store keeps the contract of all stores, on one Redis, under sentinels and in a cluster; and what else it
promises: calls that come twice or too late, leases that end by themselves, no key of a client in it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis.stateful import run_state_machine_as_test

from policies.admission import Admitted, Charge, Counts, Quota, WindowKind
from policies.sharing import Standing
from proxy.config_store import StoreSection
from proxy.metrics import Metrics
from proxy.store import Reservation
from proxy.store.client import closed, connected
from proxy.store.local import LocalShare
from proxy.store.members import Members
from proxy.store.neighbours import LOST_AFTER_US
from proxy.store.remote import Banned, Ending, Granted, Holding, RemoteWindows, Void
from proxy.store.shared import SharedStore
from proxy.tasks import TaskOwner
from tests.redis_servers import needs_redis, redis_cluster, redis_server, sentinel_trio
from tests.store_contract import HELD, SENT, TRIAL, StoreContract

pytestmark = needs_redis
T = TypeVar("T")
EGRESSES = itertools.count()
SERVERS: dict[str, Callable[[], Any]] = {"redis": redis_server, "sentinel": sentinel_trio, "cluster": redis_cluster}
LEASE_US = 60_000_000
EXACT = Quota("exact", 100, 1_000_000, ("egress",), window=WindowKind.HELD)


class Bench:
    """One store, one loop, and a clock that stands still until somebody moves it."""

    def __init__(self, url: str) -> None:
        self.now_us = 1_000_000
        self.runner = asyncio.Runner()
        self.tasks = TaskOwner()
        self.client = self.run(self._connected(url))
        self._links: list[RemoteWindows] = []

    async def _connected(self, url: str) -> Any:
        return connected(StoreSection(url=url, timeout="1s"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def command(self, *words: Any) -> Any:
        async def said() -> Any:
            return await self.client.execute_command(*words)

        return self.run(said())

    def clock(self) -> int:
        return self.now_us

    def remote(self, *, replica: str = "r1", egress: str | None = None, fixed: bool = True) -> RemoteWindows:
        """A fresh budget, in a store that has long been there. The one before it is no longer served."""
        self.run(self.tasks.close())
        remote = RemoteWindows(
            self.client,
            egress=egress or f"e{next(EGRESSES)}",
            replica=replica,
            lease_us=LEASE_US,
            timeout_us=1_000_000,
            connect_s=1.0,
            clock=self.clock,
            metrics=Metrics(),
            fixed=self.clock if fixed else None,
        )
        self.run(self._seasoned(remote))
        return remote

    async def _seasoned(self, remote: RemoteWindows) -> None:
        remote.start(self.tasks)
        await remote.reserve(Reservation("first", ()), ended_by_reply=False)  # the server learns the scripts
        await self.client.execute_command("HSET", remote.state, "boot", -(10**9))

    def close(self) -> None:
        self.run(self.tasks.close())
        self.run(closed(self.client))
        self.runner.close()


@pytest.fixture
def own() -> Iterator[Bench]:
    """A Redis that nobody else uses."""
    with redis_server() as server:
        bench = Bench(server.url)
        yield bench
        bench.close()


@pytest.fixture(scope="module", params=SERVERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[request.param]())
        bench = Bench(server.url)
        stack.callback(bench.close)
        yield bench


class Steady(SharedStore):
    """Nothing runs beside it: what has ended is told to the store at once."""

    async def complete(self, reservation: Reservation) -> None:
        await super().complete(reservation)
        await self._endings.flush()

    async def refund(self, reservation: Reservation) -> None:
        await super().refund(reservation)
        await self._endings.flush()


def steady(bench: Bench, remote: RemoteWindows | None = None, rules: tuple[Quota, ...] = (HELD, SENT, TRIAL)) -> Steady:
    remote = remote or bench.remote()
    members = Members(remote, replicas=1, towards=("127.0.0.1", 1), keyed_by="", clock=bench.clock)
    standing = Standing(1, LOST_AFTER_US, bench.now_us)
    standing.found([], bench.now_us)
    store = Steady(remote, LocalShare(bench.clock, "divided"), standing, members, bench.clock)
    store.adopt(rules)
    return store


class RedisContract(StoreContract):
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        super().__init__()

    @property
    def now_us(self) -> int:
        return self.bench.now_us

    @now_us.setter
    def now_us(self, value: int) -> None:
        self.bench.now_us = value

    def new_store(self) -> Steady:
        return steady(self.bench)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.bench.run(work)


def test_it_keeps_the_contract_of_all_stores(bench: Bench) -> None:
    run_state_machine_as_test(lambda: RedisContract(bench))


def exact(number: str, cost: int = 1) -> Reservation:
    return Reservation(number, (Charge(EXACT, ("exact", "e"), cost),))


def used(bench: Bench, remote: RemoteWindows) -> int:
    return bench.run(remote.usage([Charge(EXACT, ("exact", "e"), 1)]))[0].used


def test_a_call_that_comes_twice_takes_once(bench: Bench) -> None:
    """Its answer was lost: whoever asks again under the same name is told yes, and nothing more is taken."""
    remote = bench.remote()

    assert isinstance(bench.run(remote.reserve(exact("a", 5))), Granted)
    assert isinstance(bench.run(remote.reserve(exact("a", 5))), Granted)

    assert used(bench, remote) == 5


def test_a_reservation_that_nobody_ends_ends_by_itself(bench: Bench) -> None:
    """Its gateway has died. It counts until the end of its lease and one window more."""
    remote = bench.remote()
    bench.run(remote.reserve(exact("a", 98)))
    bench.now_us += LEASE_US + EXACT.window_us - 1
    assert used(bench, remote) == 98
    bench.now_us += 1
    assert used(bench, remote) == 0


def test_ending_ends_once(bench: Bench) -> None:
    remote = bench.remote()
    bench.run(remote.reserve(exact("a", 3)))
    bench.run(remote.end([Ending(exact("a", 3), completed=True)]))
    bench.now_us += 500_000
    bench.run(remote.end([Ending(exact("a", 3), completed=True), Ending(exact("a", 3), completed=False)]))
    assert used(bench, remote) == 3
    bench.now_us += 500_000
    assert used(bench, remote) == 0


def test_a_fiftieth_is_set_aside_of_what_the_exchange_counts(bench: Bench) -> None:
    remote = bench.remote()
    assert isinstance(bench.run(remote.reserve(exact("a", 98))), Granted)
    assert not isinstance(bench.run(remote.reserve(exact("b"))), Granted)


def test_a_store_that_has_lost_its_memory_holds_for_one_window(bench: Bench) -> None:
    remote = bench.remote()
    bench.command("DEL", remote.state)
    answer = bench.run(remote.reserve(exact("a")))
    assert answer == Holding(EXACT.window_us)
    bench.now_us += EXACT.window_us - 1
    assert bench.run(remote.reserve(exact("a"))) == Holding(1)
    bench.now_us += 1
    assert isinstance(bench.run(remote.reserve(exact("a"))), Granted)


def test_a_server_that_has_forgotten_the_scripts_is_not_believed(bench: Bench) -> None:
    """It was restarted, or another took its place: its windows may lack what was sent lately."""
    remote = bench.remote()

    async def restarted() -> None:
        if hasattr(bench.client, "get_primaries"):
            await bench.client.execute_command("SCRIPT FLUSH", target_nodes="primaries")
        else:
            await bench.client.script_flush()

    assert isinstance(bench.run(remote.reserve(exact("a"))), Granted)
    bench.run(restarted())
    assert bench.run(remote.reserve(exact("b"))) == Holding(EXACT.window_us)


def test_what_is_sent_meanwhile_is_written_down_though_nothing_is_granted(bench: Bench) -> None:
    remote = bench.remote()
    bench.command("DEL", remote.state)
    assert bench.run(remote.record(exact("a", 7)))
    assert used(bench, remote) == 7


def test_a_ban_stops_what_is_sent_upstream_and_nothing_else(bench: Bench) -> None:
    remote = bench.remote()
    bench.run(remote.ban(600_000_000))
    bench.run(remote.ban(1_000_000))  # a shorter one ends nothing

    assert bench.run(remote.reserve(exact("a"))) == Banned(600_000_000)
    own = Quota("own", 5, 1_000_000, ("ip",), counts=Counts.REQUESTS)
    assert isinstance(bench.run(remote.reserve(Reservation("b", (Charge(own, ("own", "ip"), 1),)))), Granted)


def test_a_call_that_comes_too_late_does_nothing(own: Bench) -> None:
    """The store was frozen while its caller gave up: what it then finds in its buffers must not count."""
    remote = own.remote(fixed=False)
    assert isinstance(own.run(remote.reserve(exact("a"))), Granted)
    own.now_us -= 3_000_000  # as if that much time had passed over there, and nobody had told us
    assert isinstance(own.run(remote.reserve(exact("b"))), Void)
    assert used(own, remote) == 1


def test_a_clock_that_leaps_ahead_is_not_believed(own: Bench) -> None:
    """The windows of the store have let go of what still counts at the exchange: nothing is granted for a window."""
    remote = own.remote(fixed=False)
    store = steady(own, remote, (EXACT,))
    assert isinstance(own.run(store.reserve(exact("a"))), Admitted)
    remote.offset_us -= 2_000_000  # as if the clock over there had gone on so much further than ours
    answer = own.run(store.reserve(exact("b")))

    assert store.status()["mode"] == "holding"
    assert isinstance(answer, Admitted), "of what was set aside"
    assert own.run(remote.usage([Charge(EXACT, ("exact", "e"), 1)]))[0].used == 1


def test_a_rule_of_the_exchange_that_a_reload_brings_begins_as_full_as_it_may_be(own: Bench) -> None:
    """What was sent under another name is in none of its windows."""
    store = steady(own, rules=(EXACT,))
    renamed = replace(EXACT, name="renamed")
    store.adopt([renamed])
    charge = Charge(renamed, ("renamed", "e"), 1)
    admitted = [
        isinstance(own.run(store.reserve(Reservation(f"n{number}", (charge,)))), Admitted) for number in range(5)
    ]
    own.now_us += EXACT.window_us
    later = isinstance(own.run(store.reserve(Reservation("later", (charge._replace(cost=50),)))), Admitted)

    assert sum(admitted) <= 2, "what was set aside"
    assert later


def test_an_answer_that_was_held_up_is_no_leap(own: Bench) -> None:
    """Whatever kept us, the clock over there is where it was."""
    remote = own.remote(fixed=False)
    for late_us in (0, 400_000, 0, 5_000_000, 0):
        own.now_us += late_us
        remote._heard(own.now_us + remote.offset_us - late_us)
        own.now_us -= late_us
    assert not remote.stepped


def test_nothing_is_evicted_before_it_has_counted(own: Bench) -> None:
    """Every key but those that tell of lost memory ends by itself."""
    store = steady(own)
    charges = tuple(Charge(quota, (quota.name, "e"), 1) for quota in (HELD, SENT, TRIAL))
    assert isinstance(own.run(store.reserve(Reservation("a", charges))), Admitted)
    lasting = {key for key in own.command("KEYS", "*") if own.command("TTL", key) < 0}
    assert {key.rsplit(b":", 1)[1] for key in lasting} <= {b"state", b"flying", b"replicas", b"about", b"windows"}


def test_all_keys_of_an_egress_are_in_one_slot(own: Bench) -> None:
    store = steady(own)
    odd = Charge(SENT, ("sent", "a{b}c", "d|e"), 1)
    own.run(store.reserve(Reservation("a", (odd,))))
    tags = {key.split(b"{", 1)[1].split(b"}", 1)[0] for key in own.command("KEYS", "*")}
    assert len(tags) == 1


def test_what_has_ended_while_others_were_entered_again_is_not_entered(own: Bench) -> None:
    """Its answer came in between; the heartbeat that enters them goes on."""
    store = steady(own, rules=(EXACT,))
    assert isinstance(own.run(store.reserve(exact("a"))), Admitted)
    own.run(store.complete(exact("a")))
    own.run(store._record("a"))
    assert used(own, store._remote) == 1

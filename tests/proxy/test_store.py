"""The memory store keeps the contract of all stores, and forgets who has gone."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace

from policies.admission import Admitted, Charge, Quota, WindowKind
from proxy.store.memory import MemoryStore
from tests.store_contract import StoreContract


class MemoryContract(StoreContract):
    def new_store(self) -> MemoryStore:
        return MemoryStore(lambda: self.now_us)


TestMemoryStore = MemoryContract.TestCase

PER_IP = Quota("per-ip", 300, 5_000_000, ("ip",))
PER_HOUR = Quota("per-hour", 1_000, 3_600_000_000, ("ip",), window=WindowKind.SLOTTED)


def charges(number: int) -> tuple[Charge, ...]:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return tuple(Charge(quota, (quota.name, address), 1) for quota in (PER_IP, PER_HOUR))


def test_a_hundred_thousand_addresses_fit_in_a_hundred_megabytes_and_are_forgotten() -> None:
    """Each with a short and a long window; once idle, those that come after them sweep them out."""
    now_us = 10**15

    async def main() -> None:
        nonlocal now_us
        store = MemoryStore(lambda: now_us)
        tracemalloc.start()
        for number in range(100_000):
            await store.spend(charges(number))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"{held / 1e6:.0f} MB for 100,000 addresses")
        assert held < 100_000_000
        assert len(store._windows) == 200_000

        now_us += 2 * 3_600_000_000
        for number in range(100_000, 220_000):
            await store.spend(charges(number))
            now_us += 60_000
        assert len(store._windows) < 250_000
        now_us += 2 * 3_600_000_000
        assert await store.usage() == []
        assert len(store._windows) == 0

    asyncio.run(main())


def test_a_rule_of_the_exchange_that_a_reload_brings_begins_as_full_as_it_may_be() -> None:
    """What was sent under another name is in none of its windows; a new number for an old name changes nothing else."""
    now_us = 10**15
    exact = Quota("exact", 100, 5_000_000, ("egress",), window=WindowKind.HELD)

    def admitted(store: MemoryStore, quota: Quota, wanted: int) -> int:
        charge = Charge(quota, (quota.name, "e"), 1)
        return sum(isinstance(store.spend_now((charge,)), Admitted) for _ in range(wanted))

    store = MemoryStore(lambda: now_us)
    store.adopt([exact])
    store.adopt([replace(exact, limit=90)])
    assert admitted(store, exact, 100) == 90
    renamed = replace(exact, name="renamed")
    store.adopt([renamed])
    assert admitted(store, renamed, 10) == 2
    now_us += 5_000_000
    assert admitted(store, renamed, 100) == 98, "two are still on their way"

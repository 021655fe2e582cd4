"""What every store must do, whatever stands behind it. A store's own tests inherit this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.admission import Admitted, Charge, Deferred, Quota, WindowKind
from proxy.store import Reservation, Store

T = TypeVar("T")

HELD = Quota("held", 4, 1_000, ("egress",), window=WindowKind.HELD)
SENT = Quota("sent", 6, 2_000, ("egress",), window=WindowKind.SENT)
TRIAL = Quota("trial", 2, 1_000, ("egress",), window=WindowKind.SENT, shadow=True)


class StoreContract(RuleBasedStateMachine):
    """All or none, idempotent by id, the exact wait, each reservation ended once: against a model that keeps a list."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 1_000_000
        self.store = self.new_store()
        self.number = 0
        self.out: dict[str, tuple[Reservation, bool]] = {}
        self.ended: list[Reservation] = []
        self.held: list[int] = []
        self.sent: list[int] = []

    def new_store(self) -> Store:
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def occupied(self, at_us: int) -> tuple[int, int]:
        flying = sum(reservation.charges[0].cost for reservation, _ in self.out.values())
        return flying + sum(when > at_us - 1_000 for when in self.held), sum(when > at_us - 2_000 for when in self.sent)

    @rule(cost=st.integers(1, 3))
    def reserve(self, cost: int) -> None:
        self.number += 1
        charges = tuple(Charge(quota, (quota.name, "e"), cost) for quota in (HELD, SENT, TRIAL) if cost <= quota.limit)
        reservation = Reservation(f"r{self.number}", charges)
        held, sent = self.occupied(self.now_us)
        fits = held + cost <= HELD.limit and sent + cost <= SENT.limit
        answer = self.run(self.store.reserve(reservation))
        assert isinstance(answer, Admitted) == fits
        if fits:
            self.out[reservation.id] = (reservation, True)
            self.sent += [self.now_us] * cost
        else:
            assert isinstance(answer, Deferred)
            if not answer.in_flight:
                later = self.now_us + answer.wait_us
                held, sent = self.occupied(later)
                assert held + cost <= HELD.limit
                assert sent + cost <= SENT.limit

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        """A call that is repeated because its answer was lost takes nothing more."""
        reservation, _ = self.out[data.draw(st.sampled_from(sorted(self.out)))]
        before = {usage.charge_key: usage.used for usage in self.run(self.store.usage())}
        assert isinstance(self.run(self.store.reserve(reservation)), Admitted)
        assert {usage.charge_key: usage.used for usage in self.run(self.store.usage())} == before

    @precondition(lambda self: self.out)
    @rule(data=st.data(), sent=st.booleans())
    def end(self, data: st.DataObject, *, sent: bool) -> None:
        reservation, _ = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        if sent:
            self.run(self.store.complete(reservation))
            self.held += [self.now_us] * reservation.charges[0].cost
        else:
            self.run(self.store.refund(reservation))
        self.ended.append(reservation)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), sent=st.booleans())
    def end_again(self, data: st.DataObject, *, sent: bool) -> None:
        """Ended once is ended: nothing is completed or given back a second time."""
        reservation = data.draw(st.sampled_from(self.ended))
        self.run(self.store.complete(reservation) if sent else self.store.refund(reservation))

    @rule(step=st.integers(0, 1_500))
    def pass_time(self, step: int) -> None:
        self.now_us += step

    @invariant()
    def counts_what_is_there(self) -> None:
        used = {usage.charge_key[0]: usage.used for usage in self.run(self.store.usage())}
        held, sent = self.occupied(self.now_us)
        assert used.get("held", 0) == held
        assert used.get("sent", 0) == sent
        assert held <= HELD.limit
        assert sent <= SENT.limit

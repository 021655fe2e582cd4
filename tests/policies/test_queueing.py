"""The waiting room: order, parking, leaving."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.admission import Charge, Quota
from policies.queueing import UNTIL_COMPLETION, Ticket, WaitingRoom

FAR = 10**9


def charges(*names: str) -> tuple[Charge, ...]:
    return tuple(Charge(Quota(name, 1, 1_000, ()), (name,), 1) for name in names)


def test_first_come_first_served_in_a_lane() -> None:
    room = WaitingRoom()
    tickets = [room.enter(charges("ip"), FAR) for _ in range(3)]

    served = []
    while (ticket := room.next(0)) is not None:
        room.served(ticket)
        served.append(ticket)

    assert served == tickets
    assert len(room) == 0


def test_a_full_quota_holds_up_its_own_lane_only() -> None:
    """Somebody who waits for klines is no obstacle to somebody who asks for tickers."""
    room = WaitingRoom()
    kline = room.enter(charges("ip", "kline"), FAR)
    room.park(kline, kline.charges[1], 500)
    tickers = room.enter(charges("ip", "tickers"), FAR)

    assert room.next(0) is tickers
    room.served(tickers)
    assert room.next(499) is None
    assert room.next_instant() == 500
    assert room.next(500) is kline


def test_a_shared_quota_holds_up_every_lane_without_being_asked_for_each() -> None:
    """One denial by the shared window parks all who spend it; the eldest of all lanes goes first afterwards."""
    room = WaitingRoom()
    eldest = room.enter(charges("ip", "kline"), FAR)
    younger = room.enter(charges("ip", "tickers"), FAR)
    room.park(eldest, eldest.charges[0], 500)

    assert room.next(0) is None
    assert room.next(500) is eldest
    room.served(eldest)
    assert room.next(500) is younger


def test_nobody_overtakes_those_who_wait_for_the_same_quota() -> None:
    room = WaitingRoom()
    assert not room.must_queue(charges("ip", "kline"))
    waiting = room.enter(charges("ip", "kline"), FAR)
    room.park(waiting, waiting.charges[1], 500)
    assert room.next(0) is None

    assert room.must_queue(charges("ip", "kline"))
    assert not room.must_queue(charges("ip", "tickers"))

    room.park(waiting, waiting.charges[0], 500)
    assert room.must_queue(charges("ip", "tickers"))


def test_who_leaves_makes_way_at_once() -> None:
    room = WaitingRoom()
    first, second = room.enter(charges("ip"), FAR), room.enter(charges("ip"), FAR)

    room.leave(first)
    room.leave(first)

    assert len(room) == 1
    assert room.next(0) is second


def test_a_wait_for_a_completion_ends_with_the_completion() -> None:
    room = WaitingRoom()
    ticket = room.enter(charges("ip"), FAR)
    room.park(ticket, ticket.charges[0], UNTIL_COMPLETION)
    assert room.next(FAR - 1) is None

    assert not room.completed(charges("other"))
    assert room.completed(charges("ip"))

    assert room.next(0) is ticket


def test_a_refund_may_end_a_wait_early() -> None:
    room = WaitingRoom()
    ticket = room.enter(charges("ip"), FAR)
    room.park(ticket, ticket.charges[0], 500)

    assert room.refunded(charges("ip"))

    assert room.next(0) is ticket


def test_deadlines_are_kept_wherever_one_stands_in_the_lane() -> None:
    room = WaitingRoom()
    patient = room.enter(charges("ip"), FAR)
    hasty = room.enter(charges("ip"), 100)
    room.park(patient, patient.charges[0], 500)

    assert room.next_instant() == 101
    assert room.expired(100) == []
    assert room.expired(101) == [hasty]
    assert room.next_instant() == 500
    assert len(room) == 1


class Room(RuleBasedStateMachine):
    """Whatever happens: nobody is lost, nobody is served twice, everybody unparked is served in order of arrival."""

    LANES = (("ip", "a"), ("ip", "b"), ("ip",), ("a",))

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom()
        self.now = 0
        self.waiting: list[Ticket] = []
        self.blocked: dict[str, int] = {}

    def is_blocked(self, ticket: Ticket) -> bool:
        return any(
            until == UNTIL_COMPLETION or until > self.now
            for charge in ticket.charges
            if (until := self.blocked.get(charge.key[0])) is not None
        )

    @rule(lane=st.sampled_from(LANES), patience=st.integers(0, 3_000))
    def enter(self, lane: tuple[str, ...], patience: int) -> None:
        self.waiting.append(self.room.enter(charges(*lane), self.now + patience))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.room.leave(ticket)

    @rule(data=st.data(), served=st.booleans(), wait=st.integers(1, 2_000))
    def serve_or_park(self, data: st.DataObject, *, served: bool, wait: int) -> None:
        ticket = self.room.next(self.now)
        free = [each for each in self.waiting if not self.is_blocked(each)]
        assert ticket is (min(free, key=lambda each: each.sequence) if free else None)
        if ticket is None:
            return
        if served:
            self.room.served(ticket)
            self.waiting.remove(ticket)
        else:
            charge = data.draw(st.sampled_from(ticket.charges))
            until = data.draw(st.sampled_from([self.now + wait, UNTIL_COMPLETION]))
            self.blocked[charge.key[0]] = until
            self.room.park(ticket, charge, until)

    @rule(name=st.sampled_from(("ip", "a", "b")))
    def complete(self, name: str) -> None:
        self.room.completed(charges(name))
        if self.blocked.get(name) == UNTIL_COMPLETION:
            del self.blocked[name]

    @rule(name=st.sampled_from(("ip", "a", "b")))
    def refund(self, name: str) -> None:
        self.room.refunded(charges(name))
        self.blocked.pop(name, None)

    @rule(step=st.integers(0, 2_500))
    def pass_time(self, step: int) -> None:
        self.now += step
        late = self.room.expired(self.now)
        assert {id(t) for t in late} == {id(t) for t in self.waiting if t.deadline_us < self.now}
        self.waiting = [each for each in self.waiting if each not in late]

    @invariant()
    def everybody_is_counted(self) -> None:
        assert len(self.room) == len(self.waiting)

    @invariant()
    def nobody_sleeps_for_ever(self) -> None:
        """While somebody is held up by a clock, there is an instant at which to look again."""
        if self.waiting:
            instant = self.room.next_instant()
            assert instant is not None


TestRoom = Room.TestCase

"""The waiting room: classes, fairness, deadlines, parking, leaving."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.admission import Charge, Quota
from policies.lines import Ticket
from policies.priority import Priority
from policies.queueing import SPACED, UNTIL_COMPLETION, WaitingRoom

FAR = 10**9
SHARED = Quota("ip", 100, 1_000, (), spaces=True)


def charges(*names: str, cost: int = 1) -> tuple[Charge, ...]:
    return tuple(Charge(SHARED if name == "ip" else Quota(name, 1, 1_000, ()), (name,), cost) for name in names)


def enter(
    room: WaitingRoom,
    *names: str,
    due: int = FAR,
    priority: Priority = Priority.ACCOUNT,
    client: str = "me",
    cost: int = 1,
) -> Ticket:
    return room.enter(charges(*names, cost=cost), due, priority, client)


def serve_all(room: WaitingRoom, now: int = 0, most: int = 10_000) -> list[Ticket]:
    served = []
    while len(served) < most and (ticket := room.next(now)) is not None:
        room.served(ticket)
        served.append(ticket)
    return served


def test_first_come_first_served_of_one_client_and_deadline() -> None:
    room = WaitingRoom()
    tickets = [enter(room, "ip") for _ in range(3)]

    assert serve_all(room) == tickets
    assert len(room) == 0


def test_the_more_urgent_class_goes_first() -> None:
    room = WaitingRoom()
    entered = {priority: enter(room, "ip", priority=priority) for priority in reversed(Priority)}

    assert serve_all(room) == [entered[priority] for priority in Priority]


def test_within_a_client_the_nearest_deadline_goes_first() -> None:
    room = WaitingRoom()
    late, soon, middle = (enter(room, "ip", due=due) for due in (300, 100, 200))

    assert serve_all(room) == [soon, middle, late]


def test_nearest_deadlines_are_found_across_lanes() -> None:
    room = WaitingRoom()
    late = enter(room, "ip", "a", due=300)
    soon = enter(room, "ip", "b", due=100)

    assert serve_all(room) == [soon, late]


def test_clients_take_turns_however_many_requests_each_has() -> None:
    """A greedy client does not keep a light one waiting."""
    room = WaitingRoom()
    for _ in range(100):
        enter(room, "ip", client="greedy")
    for name in ("x", "y", "z"):
        enter(room, "ip", client=name)

    first = [ticket.client for ticket in serve_all(room, most=4)]

    assert sorted(first) == ["greedy", "x", "y", "z"]


def test_turns_are_counted_by_cost() -> None:
    """Over time every client gets the same number of permits, whether in large requests or in small ones."""
    room = WaitingRoom()
    for _ in range(200):
        enter(room, "ip", client="large", cost=5)
        enter(room, "ip", client="small")

    spent: Counter[str] = Counter()
    for ticket in serve_all(room, most=120):
        spent[ticket.client] += ticket.cost

    assert abs(spent["large"] - spent["small"]) <= 5


def test_the_lowest_classes_do_not_starve() -> None:
    """While orders alone could take everything, history still gets its certain share."""
    room = WaitingRoom()
    for _ in range(1_000):
        enter(room, "ip", priority=Priority.ORDER)
    for _ in range(100):
        enter(room, "ip", priority=Priority.HISTORY)

    served = Counter(ticket.priority for ticket in serve_all(room, most=400))

    assert 18 <= served[Priority.HISTORY] <= 22


def test_a_full_quota_holds_up_its_own_lane_only() -> None:
    """Somebody who waits for klines is no obstacle to somebody who asks for tickers."""
    room = WaitingRoom()
    kline = enter(room, "ip", "kline")
    tickers = enter(room, "ip", "tickers", client="you")
    room.park(kline, kline.charges[1], 500)

    assert room.next(0) is tickers
    room.served(tickers)
    assert room.next(499) is None
    assert room.next_instant(0) == 500
    assert room.next(500) is kline


def test_a_shared_quota_holds_up_every_lane_without_being_asked_for_each() -> None:
    room = WaitingRoom()
    for number in range(50):
        enter(room, "ip", f"lane{number}", client=f"client{number}")
    first = room.next(0)
    assert first is not None
    room.park(first, first.charges[0], 500)

    assert room.next(0) is None
    assert room.next_instant(0) == 500
    assert not room._parked
    assert len(serve_all(room, 500)) == 50


def test_nobody_overtakes_those_who_wait_for_the_same_quota() -> None:
    room = WaitingRoom()
    assert not room.must_queue(charges("ip", "kline"), Priority.ORDER, 0)
    waiting = enter(room, "ip", "kline")
    enter(room, "ip", "other", client="you")
    room.park(waiting, waiting.charges[1], 500)
    serve_all(room)

    assert room.must_queue(charges("ip", "kline"), Priority.CANCEL, 0)
    assert not room.must_queue(charges("ip", "tickers"), Priority.ACCOUNT, 0)


def test_an_urgent_request_need_not_queue_behind_less_urgent_ones() -> None:
    room = WaitingRoom()
    enter(room, "ip", priority=Priority.HISTORY)

    assert not room.must_queue(charges("ip"), Priority.ORDER, 0)
    assert room.must_queue(charges("ip"), Priority.HISTORY, 0)


def test_spaced_classes_wait_for_their_instant_and_the_others_do_not() -> None:
    room = WaitingRoom()
    history = enter(room, "ip", priority=Priority.HISTORY)
    room.space(0, 200)

    assert room.next(199) is None
    assert room.next_instant(0) == 200
    assert room.must_queue(charges("ip"), Priority.LIVE, 199)
    assert not room.must_queue(charges("other"), Priority.LIVE, 199)
    order = enter(room, "ip", priority=Priority.ORDER)
    assert room.next(199) is order
    room.served(order)
    assert room.next(200) is history


def test_who_leaves_makes_way_at_once() -> None:
    room = WaitingRoom()
    first, second = enter(room, "ip"), enter(room, "ip")

    room.leave(first)
    room.leave(first)

    assert len(room) == 1
    assert room.next(0) is second


def test_a_wait_for_a_completion_ends_with_the_completion() -> None:
    room = WaitingRoom()
    ticket = enter(room, "ip")
    room.park(ticket, ticket.charges[0], UNTIL_COMPLETION)
    assert room.next(FAR - 1) is None

    assert not room.completed(charges("other"))
    assert room.completed(charges("ip"))

    assert room.next(0) is ticket


def test_a_refund_may_end_a_wait_early() -> None:
    room = WaitingRoom()
    ticket = enter(room, "ip")
    room.park(ticket, ticket.charges[0], 500)

    assert room.refunded(charges("ip"))

    assert room.next(0) is ticket


def test_deadlines_are_kept_wherever_one_stands() -> None:
    room = WaitingRoom()
    patient = enter(room, "ip")
    hasty = enter(room, "ip", due=100)
    room.park(patient, patient.charges[0], 500)

    assert room.next_instant(0) == 101
    assert room.expired(100) == []
    assert room.expired(101) == [hasty]
    assert room.next_instant(0) == 500
    assert len(room) == 1


@pytest.mark.parametrize(
    ("priority", "client", "expected"),
    [
        (Priority.CANCEL, "new", 0),  # nobody is more urgent
        (Priority.ORDER, "new", 0),  # the first of the class
        (Priority.HISTORY, "greedy", 10 * 50),  # behind his own, and as many of the other's as there are
        (Priority.HISTORY, "new", 0),  # his turn comes within one round
    ],
)
def test_what_is_foreseen_is_never_too_much(priority: Priority, client: str, expected: int) -> None:
    room = WaitingRoom()
    for _ in range(40):
        enter(room, "ip", priority=Priority.HISTORY, client="greedy")
    for _ in range(10):
        enter(room, "ip", priority=Priority.HISTORY, client="other")

    assert room.foreseen_us(charges("ip"), FAR, priority, client) == expected


def test_many_urgent_requests_do_not_shut_the_door_on_a_class_with_a_certain_share() -> None:
    room = WaitingRoom()
    for _ in range(2_000):
        enter(room, "ip", priority=Priority.LIVE, client="busy")

    assert room.foreseen_us(charges("ip"), FAR, Priority.HISTORY, "quiet") <= 20 * 10


class Room(RuleBasedStateMachine):
    """Whatever happens: nobody is lost, nobody is served twice, the right class and deadline are chosen."""

    LANES = (("ip", "a"), ("ip", "b"), ("ip",), ("a",))

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom()
        self.now = 0
        self.waiting: list[Ticket] = []
        self.blocked: dict[str, int] = {}
        self.spaced_until = 0

    def is_free(self, ticket: Ticket) -> bool:
        if ticket.priority >= SPACED and self.now < self.spaced_until:
            return False
        return not any(
            until == UNTIL_COMPLETION or until > self.now
            for charge in ticket.charges
            if (until := self.blocked.get(charge.key[0])) is not None
        )

    @rule(
        lane=st.sampled_from(LANES),
        patience=st.integers(0, 3_000),
        priority=st.sampled_from(Priority),
        client=st.sampled_from("xyz"),
        cost=st.integers(1, 3),
    )
    def enter(self, lane: tuple[str, ...], patience: int, priority: Priority, client: str, cost: int) -> None:
        due = self.now + patience
        self.waiting.append(enter(self.room, *lane, due=due, priority=priority, client=client, cost=cost))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.room.leave(ticket)

    @rule(data=st.data(), served=st.booleans(), wait=st.integers(1, 2_000))
    def serve_or_park(self, data: st.DataObject, *, served: bool, wait: int) -> None:
        ticket = self.room.next(self.now)
        free = [each for each in self.waiting if self.is_free(each)]
        assert (ticket is None) == (not free)
        if ticket is None:
            return
        assert ticket in free
        owed = {priority for priority, debt in self.room._owed.items() if debt >= 1.0}
        assert ticket.priority == min(each.priority for each in free) or ticket.priority in owed
        siblings = [each for each in free if (each.client, each.priority) == (ticket.client, ticket.priority)]
        assert ticket is min(siblings, key=lambda each: (each.deadline_us, each.sequence))
        if served:
            self.room.served(ticket)
            self.waiting.remove(ticket)
        else:
            charge = data.draw(st.sampled_from(ticket.charges))
            until = data.draw(st.sampled_from([self.now + wait, UNTIL_COMPLETION]))
            self.blocked[charge.key[0]] = until
            self.room.park(ticket, charge, until)

    @rule(wait=st.integers(1, 500))
    def space(self, wait: int) -> None:
        self.room.space(self.now, wait)
        late = self.now - self.spaced_until
        self.spaced_until = (self.spaced_until if 0 <= late <= 50_000 else self.now) + wait

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
        for priority in Priority:
            assert self.room.waiting(priority) == sum(1 for each in self.waiting if each.priority == priority)

    @invariant()
    def nobody_sleeps_for_ever(self) -> None:
        """While somebody waits, there is an instant at which to look again."""
        assert (self.room.next_instant(self.now) is None) == (not self.waiting)


TestRoom = Room.TestCase

"""Whose turn is it, when a quota is full?

A waiting request belongs to a *priority* class and to a client, and stands in the *lane* of those that spend the same
windows. The next permit goes to the highest class that waits, within it to the clients in turn (deficit round robin, by
cost), and within a client to the request whose deadline is nearest. The lowest classes have a small share of the
permits for certain, so that none of them starves.

A lane whose window is full is parked until an instant that is known exactly, and costs nothing until then. A window
that every lane spends is not asked about for each of them. The waiting room decides order only: it knows nothing of
futures, sockets or clocks.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from policies.admission import Charge
from policies.lines import Key, Lane, LaneState, Line, Ticket, Turn, lane_of
from policies.priority import Priority

UNTIL_COMPLETION: Final = -1

SPACED: Final = Priority.ACCOUNT
"""From this class downwards requests are spaced out (policies/spacing.py), so that the others find room at once."""

CERTAIN_SHARE: Final = {Priority.ACCOUNT: 0.05, Priority.LIVE: 0.10, Priority.HISTORY: 0.05}
"""What a class gets of all permits while it waits, however much stands above it."""

_MOST_OWED: Final = 5.0
"""A class that could not go for a while does not then go for as long at the cost of the others."""
_CATCH_UP_US: Final = 50_000
"""Lateness beyond this is not the timer's: nobody was waiting."""


class WaitingRoom:
    """All waiting requests."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, LaneState] = {}
        self._rounds: dict[Priority, OrderedDict[str, Turn]] = {priority: OrderedDict() for priority in Priority}
        self._owed: dict[Priority, float] = dict.fromkeys(CERTAIN_SHARE, 0.0)
        self._parked: list[tuple[int, int, Lane]] = []
        self._deadlines: list[tuple[int, int, Ticket]] = []
        self._blocked: dict[Key, int] = {}
        self._spenders: Counter[Key] = Counter()
        """How many lanes spend a window."""
        self._of_class: Counter[Priority] = Counter()
        self._of_client: Counter[str] = Counter()
        self._spaced_until_us = 0
        self._sequence = 0

    def __len__(self) -> int:
        return self._of_class.total()

    @property
    def empty(self) -> bool:
        return not self._lanes

    def waiting(self, priority: Priority) -> int:
        return self._of_class[priority]

    def waiting_on(self, key: Key) -> int:
        """How many of those who wait spend this window."""
        return sum(line.size for lane, state in self._lanes.items() if key in lane for line in state.lines.values())

    def of_client(self, client: str) -> int:
        return self._of_client[client]

    def must_queue(self, charges: tuple[Charge, ...], priority: Priority, now_us: int) -> bool:
        """Somebody waits for a window that this request spends too, and it may not overtake him.

        It may when it is more urgent and there is room. Requests of a class that is spaced out wait for their instant.
        """
        if priority >= SPACED and now_us < self._spaced_until_us and any(charge.quota.spaces for charge in charges):
            return True
        if not any(charge.key in self._spenders for charge in charges):
            return False
        if any(charge.key in self._blocked for charge in charges):
            return True
        return any(self._rounds[each] for each in Priority if each <= priority)

    def foreseen_us(self, charges: tuple[Charge, ...], deadline_us: int, priority: Priority, client: str) -> int:
        """About how long a newcomer will wait for those who go before him, at the rate of the windows he spends.

        In the windows that everybody shares these are the more urgent ones, and of his class his share of the round;
        in the others, those of his own in the same lane whose deadline is nearer. A held window gives a little less
        than its limit: two in a hundred are added for the round trips.
        """
        shared = [charge.quota.window_us * 51 // (50 * charge.quota.limit) for charge in charges if charge.quota.spaces]
        own = [charge.quota.window_us // charge.quota.limit for charge in charges if not charge.quota.spaces]
        foreseen = 0
        if shared:
            urgent = sum(self._of_class[each] for each in Priority if each < priority)
            mine = self._nearer(priority, client, deadline_us)
            before = min(self._of_class[priority], mine * len(self._rounds[priority]))
            # However many are more urgent, a class with a certain share gets on by that.
            share = CERTAIN_SHARE.get(priority)
            permits = urgent + before if share is None else min(urgent + before, int((before + 1) / share))
            foreseen = permits * max(shared)
        if own:
            foreseen = max(foreseen, self._nearer(priority, client, deadline_us, lane_of(charges)) * max(own))
        return foreseen

    def _nearer(self, priority: Priority, client: str, deadline_us: int, only: Lane | None = None) -> int:
        """How many of a client's requests of a class have a nearer deadline."""
        lanes = self._lanes.values() if only is None else filter(None, [self._lanes.get(only)])
        lines = (state.lines.get((priority, client)) for state in lanes)
        return sum(
            1
            for line in lines
            if line is not None
            for due, _, ticket in line.heap
            if due <= deadline_us and not ticket.gone
        )

    def enter(self, charges: tuple[Charge, ...], deadline_us: int, priority: Priority, client: str) -> Ticket:
        self._sequence += 1
        lane = lane_of(charges)
        cost = max(charge.cost for charge in charges)
        ticket = Ticket(self._sequence, charges, deadline_us, priority, client, lane, cost)
        state = self._lanes.get(lane)
        if state is None:
            state = self._lanes[lane] = LaneState()
            self._spenders.update(lane)
        line = state.lines.get((priority, client))
        if line is None:
            line = state.lines[priority, client] = Line(lane, priority, client)
            if state.parked_until_us is None:
                self._make_ready(line)
        heapq.heappush(line.heap, (deadline_us, ticket.sequence, ticket))
        line.size += 1
        heapq.heappush(self._deadlines, (deadline_us, ticket.sequence, ticket))
        self._of_class[priority] += 1
        self._of_client[client] += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has gone, by itself or because it is too late for it. Its place closes up behind it."""
        if ticket.gone:
            return
        ticket.gone = True
        self._of_class[ticket.priority] -= 1
        self._of_client[ticket.client] -= 1
        if not self._of_client[ticket.client]:
            del self._of_client[ticket.client]
        state = self._lanes[ticket.lane]
        line = state.lines[ticket.priority, ticket.client]
        line.size -= 1
        if line.size:
            return
        del state.lines[ticket.priority, ticket.client]
        self._make_unready(line)
        if not state.lines:
            del self._lanes[ticket.lane]
            self._spenders.subtract(ticket.lane)
            for key in ticket.lane:
                if not self._spenders[key]:
                    del self._spenders[key]

    def expired(self, now_us: int) -> list[Ticket]:
        """Take out everybody whose deadline has passed."""
        late = []
        while self._deadlines and self._deadlines[0][0] < now_us:
            ticket = heapq.heappop(self._deadlines)[2]
            if not ticket.gone:
                self.leave(ticket)
                late.append(ticket)
        return late

    def next(self, now_us: int) -> Ticket | None:
        """The request whose turn it is, None when every lane is parked or empty. It stays until served or gone."""
        self._unpark(now_us)
        if self._all_blocked(now_us):
            return None
        for priority in self._order():
            if priority >= SPACED and now_us < self._spaced_until_us:
                continue
            ticket = self._next_of(priority, now_us)
            if ticket is not None:
                return ticket
        return None

    def served(self, ticket: Ticket) -> None:
        """It was admitted: its client has had its turn."""
        turn = self._rounds[ticket.priority].get(ticket.client)
        if turn is not None:
            turn.deficit -= ticket.cost
            turn.credited = False
            self._rounds[ticket.priority].move_to_end(ticket.client)
        self.granted(ticket.priority)
        self.leave(ticket)

    def granted(self, to: Priority) -> None:
        """A permit was given, to one who waited or to one who found room at once: the others are owed their share."""
        for priority, share in CERTAIN_SHARE.items():
            if priority == to:
                self._owed[priority] = max(0.0, self._owed[priority] - 1.0)
            elif self._of_class[priority]:
                self._owed[priority] = min(_MOST_OWED, self._owed[priority] + share)

    def park(self, ticket: Ticket, binding: Charge, until_us: int) -> None:
        """Its lane, and every other that spends the binding window, waits until the instant or UNTIL_COMPLETION."""
        self._blocked[binding.key] = until_us
        if self._spenders[binding.key] < len(self._lanes):
            self._park(ticket.lane, binding.key, until_us)

    def space(self, now_us: int, gap_us: int) -> None:
        """One of the spaced classes has gone: the next may go `gap_us` after the instant that was due for this one.

        Not after the instant at which it really went: timers are late by up to a millisecond, which would add up.
        """
        late_us = now_us - self._spaced_until_us
        due_us = self._spaced_until_us if 0 <= late_us <= _CATCH_UP_US else now_us
        self._spaced_until_us = due_us + gap_us

    def binding(self, ticket: Ticket, now_us: int) -> tuple[Charge, int]:
        """What a request has been waiting for, and for how much longer (a window's length if nobody can know)."""
        for charge in ticket.charges:
            until_us = self._blocked.get(charge.key)
            if until_us is not None and until_us > now_us:
                return charge, until_us - now_us
        return ticket.charges[0], ticket.charges[0].quota.window_us

    def completed(self, charges: tuple[Charge, ...]) -> bool:
        """A reply has come: may this end a wait that only a completion can end?"""
        woken = False
        for charge in charges:
            if self._blocked.get(charge.key) == UNTIL_COMPLETION:
                del self._blocked[charge.key]
                woken = True
        if woken:
            self._release(lambda state: state.parked_until_us == UNTIL_COMPLETION)
        return woken and bool(self._lanes)

    def refunded(self, charges: tuple[Charge, ...]) -> bool:
        """A reservation was given back: there may be room before the instant that was foreseen."""
        keys = {charge.key for charge in charges}
        blocked = keys & self._blocked.keys()
        for key in blocked:
            del self._blocked[key]
        self._release(lambda state: state.blocked_by in keys)
        return bool(blocked) and bool(self._lanes)

    def reconsider(self) -> None:
        """The rules have changed: nothing that was foreseen holds any more."""
        self._blocked.clear()
        self._spaced_until_us = 0
        self._release(lambda _: True)

    def next_instant(self, now_us: int) -> int | None:
        """When to look again: the earliest end of a parking, a spacing or a deadline."""
        while self._deadlines and self._deadlines[0][2].gone:
            heapq.heappop(self._deadlines)
        if not self._lanes:
            return None
        while self._parked and not self._is_parked(self._parked[0]):
            heapq.heappop(self._parked)
        instants = [self._deadlines[0][0] + 1]
        if self._parked:
            instants.append(self._parked[0][0])
        instants += [until for key, until in self._blocked.items() if until > now_us and key in self._spenders]
        if self._spaced_until_us > now_us:
            instants.append(self._spaced_until_us)
        return min(instants)

    def _order(self) -> list[Priority]:
        """Classes to ask, those first that are owed a permit."""
        owed = [priority for priority, debt in self._owed.items() if debt >= 1.0 and self._rounds[priority]]
        return [*owed, *(priority for priority in Priority if self._rounds[priority])]

    def _next_of(self, priority: Priority, now_us: int) -> Ticket | None:
        """Deficit round robin: a client whose turn it is may spend one more than last time; dear requests save up."""
        clients = self._rounds[priority]
        while clients:
            client, turn = next(iter(clients.items()))
            line = min(turn.lines.values(), key=_urgency)
            blocked_by = self._blocking(line.lane, now_us)
            if blocked_by is not None:
                self._park(line.lane, blocked_by, self._blocked[blocked_by])
                continue
            ticket = line.head()
            if not turn.credited:
                turn.credited = True
                turn.deficit += 1
            if turn.deficit >= ticket.cost:
                return ticket
            turn.credited = False
            clients.move_to_end(client)
        return None

    def _all_blocked(self, now_us: int) -> bool:
        """A full window that every lane spends: nobody needs to be asked."""
        return any(
            self._spenders[key] == len(self._lanes) and self._is_blocked(key, now_us) for key in list(self._blocked)
        )

    def _blocking(self, lane: Lane, now_us: int) -> Key | None:
        for key in lane:
            if key in self._blocked and self._is_blocked(key, now_us):
                return key
        return None

    def _is_blocked(self, key: Key, now_us: int) -> bool:
        until_us = self._blocked[key]
        if until_us == UNTIL_COMPLETION or until_us > now_us:
            return True
        del self._blocked[key]
        return False

    def _park(self, lane: Lane, binding: Key, until_us: int) -> None:
        state = self._lanes[lane]
        state.parked_until_us, state.blocked_by = until_us, binding
        for line in state.lines.values():
            self._make_unready(line)
        if until_us != UNTIL_COMPLETION:
            self._sequence += 1
            heapq.heappush(self._parked, (until_us, self._sequence, lane))

    def _unpark(self, now_us: int) -> None:
        while self._parked and self._parked[0][0] <= now_us:
            entry = heapq.heappop(self._parked)
            if self._is_parked(entry):
                self._resume(self._lanes[entry[2]])

    def _is_parked(self, entry: tuple[int, int, Lane]) -> bool:
        state = self._lanes.get(entry[2])
        return state is not None and state.parked_until_us == entry[0]

    def _release(self, chosen: Callable[[LaneState], bool]) -> None:
        for state in self._lanes.values():
            if state.parked_until_us is not None and chosen(state):
                self._resume(state)

    def _resume(self, state: LaneState) -> None:
        state.parked_until_us = state.blocked_by = None
        for line in state.lines.values():
            self._make_ready(line)

    def _make_ready(self, line: Line) -> None:
        turn = self._rounds[line.priority].get(line.client)
        if turn is None:
            turn = self._rounds[line.priority][line.client] = Turn()
        turn.lines[line.lane] = line

    def _make_unready(self, line: Line) -> None:
        clients = self._rounds[line.priority]
        turn = clients.get(line.client)
        if turn is None:
            return
        turn.lines.pop(line.lane, None)
        if not turn.lines:
            del clients[line.client]


def _urgency(line: Line) -> tuple[int, int]:
    head = line.head()
    return head.deadline_us, head.sequence

"""Whose turn is it, when a quota is full?

Requests that meet the same quotas stand in one *lane*, in the order of their arrival. A lane whose quota is full is
parked until an instant that is known exactly, and costs nothing until then; the others go on. Among lanes that are not
parked, the one whose first request has waited longest comes first. The waiting room decides order only: it knows
nothing of futures, sockets or clocks.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from policies.admission import Charge

Lane = tuple[tuple[str, ...], ...]
"""The keys of the windows that a request spends."""

UNTIL_COMPLETION: Final = -1


def lane_of(charges: tuple[Charge, ...]) -> Lane:
    return tuple(charge.key for charge in charges)


@dataclass(slots=True, eq=False)
class Ticket:
    """A waiting request. `deadline_us` is the last instant at which it is still worth sending."""

    sequence: int
    charges: tuple[Charge, ...]
    deadline_us: int
    gone: bool = False


@dataclass(slots=True, eq=False)
class _Line:
    lane: Lane
    tickets: deque[Ticket] = field(default_factory=deque)
    parked_until_us: int | None = None
    blocked_by: tuple[str, ...] | None = None


class WaitingRoom:
    """All waiting requests. Every operation is O(log n) or cheaper, whatever the number of parked lanes."""

    def __init__(self) -> None:
        self._lines: dict[Lane, _Line] = {}
        self._ready: list[tuple[int, Lane]] = []
        self._parked: list[tuple[int, int, Lane]] = []
        self._deadlines: list[tuple[int, int, Ticket]] = []
        self._blocked: dict[tuple[str, ...], int] = {}
        self._waiting = 0
        self._sequence = 0

    def __len__(self) -> int:
        return self._waiting

    def ahead(self, charges: tuple[Charge, ...]) -> int:
        """How many stand in the same lane already."""
        line = self._lines.get(lane_of(charges))
        return 0 if line is None else len(line.tickets)

    def must_queue(self, charges: tuple[Charge, ...]) -> bool:
        """Somebody waits for a quota that this request spends too, or for nothing but his turn: do not overtake him."""
        if not self._waiting or not charges:
            return False
        if self._ready or lane_of(charges) in self._lines:
            return True
        return any(charge.key in self._blocked for charge in charges)

    def enter(self, charges: tuple[Charge, ...], deadline_us: int) -> Ticket:
        self._sequence += 1
        ticket = Ticket(self._sequence, charges, deadline_us)
        lane = lane_of(charges)
        line = self._lines.get(lane)
        if line is None:
            line = self._lines[lane] = _Line(lane)
            heapq.heappush(self._ready, (ticket.sequence, lane))
        line.tickets.append(ticket)
        heapq.heappush(self._deadlines, (deadline_us, ticket.sequence, ticket))
        self._waiting += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has gone, by itself or because it is too late for it. Its place closes up behind it."""
        if ticket.gone:
            return
        ticket.gone = True
        self._waiting -= 1
        self._close_up(self._lines[lane_of(ticket.charges)])

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
        while self._ready:
            sequence, lane = self._ready[0]
            line = self._lines.get(lane)
            if line is None or line.parked_until_us is not None or line.tickets[0].sequence != sequence:
                heapq.heappop(self._ready)  # written for a head that has been served or has gone since
                continue
            binding = self._blocking(lane, now_us)
            if binding is not None:
                self._park(line, binding, self._blocked[binding])
                continue
            return line.tickets[0]
        return None

    def served(self, ticket: Ticket) -> None:
        """It was admitted: the next of its lane moves up, behind lanes whose first has waited longer."""
        self.leave(ticket)

    def park(self, ticket: Ticket, binding: Charge, until_us: int) -> None:
        """Its lane, and every other that spends the binding window, waits until the instant or UNTIL_COMPLETION."""
        self._blocked[binding.key] = until_us
        self._park(self._lines[lane_of(ticket.charges)], binding.key, until_us)

    def binding(self, ticket: Ticket, now_us: int) -> tuple[Charge, int]:
        """What a request has been waiting for, and for how much longer (a window's length if nobody can know)."""
        for charge in ticket.charges:
            until_us = self._blocked.get(charge.key)
            if until_us is not None and until_us > now_us:
                return charge, until_us - now_us
        return ticket.charges[0], ticket.charges[0].quota.window_us

    def completed(self, charges: tuple[Charge, ...]) -> bool:
        """A reply has come, or a reservation was given back: may this end a wait that only a completion can end?"""
        woken = False
        for charge in charges:
            if self._blocked.get(charge.key) == UNTIL_COMPLETION:
                del self._blocked[charge.key]
                woken = True
        return woken and self._release(lambda line: line.parked_until_us == UNTIL_COMPLETION)

    def refunded(self, charges: tuple[Charge, ...]) -> bool:
        """A reservation was given back: there may be room before the instant that was foreseen."""
        keys = {charge.key for charge in charges}
        for key in keys:
            self._blocked.pop(key, None)
        return self._release(lambda line: line.blocked_by in keys)

    def next_instant(self) -> int | None:
        """When to look again: the earliest end of a parking or deadline."""
        while self._deadlines and self._deadlines[0][2].gone:
            heapq.heappop(self._deadlines)
        while self._parked and not self._is_parked(self._parked[0]):
            heapq.heappop(self._parked)
        instants = []
        if self._parked:
            instants.append(self._parked[0][0])
        if self._deadlines:
            instants.append(self._deadlines[0][0] + 1)
        return min(instants) if instants else None

    def _blocking(self, lane: Lane, now_us: int) -> tuple[str, ...] | None:
        for key in lane:
            until_us = self._blocked.get(key)
            if until_us is None:
                continue
            if until_us == UNTIL_COMPLETION or until_us > now_us:
                return key
            del self._blocked[key]
        return None

    def _park(self, line: _Line, binding: tuple[str, ...], until_us: int) -> None:
        line.parked_until_us, line.blocked_by = until_us, binding
        if until_us != UNTIL_COMPLETION:
            heapq.heappush(self._parked, (until_us, line.tickets[0].sequence, line.lane))

    def _unpark(self, now_us: int) -> None:
        while self._parked and self._parked[0][0] <= now_us:
            entry = heapq.heappop(self._parked)
            if self._is_parked(entry):
                self._make_ready(self._lines[entry[2]])

    def _is_parked(self, entry: tuple[int, int, Lane]) -> bool:
        line = self._lines.get(entry[2])
        return line is not None and line.parked_until_us == entry[0]

    def _release(self, chosen: Callable[[_Line], bool]) -> bool:
        lines = [line for line in self._lines.values() if line.parked_until_us is not None and chosen(line)]
        for line in lines:
            self._make_ready(line)
        return bool(lines)

    def _make_ready(self, line: _Line) -> None:
        line.parked_until_us = line.blocked_by = None
        heapq.heappush(self._ready, (line.tickets[0].sequence, line.lane))

    def _close_up(self, line: _Line) -> None:
        head = line.tickets[0]
        while line.tickets and line.tickets[0].gone:
            line.tickets.popleft()
        if not line.tickets:
            del self._lines[line.lane]
        elif line.tickets[0] is not head and line.parked_until_us is None:
            heapq.heappush(self._ready, (line.tickets[0].sequence, line.lane))

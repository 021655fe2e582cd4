"""What stands in the waiting room: tickets, in lines, in lanes; and the clients' turns."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from policies.admission import Charge
from policies.priority import Priority

Key = tuple[str, ...]
Lane = tuple[Key, ...]
"""The keys of the windows that a request spends."""


def lane_of(charges: tuple[Charge, ...]) -> Lane:
    return tuple(charge.key for charge in charges)


@dataclass(slots=True, eq=False)
class Ticket:
    """A waiting request. `deadline_us` is the last instant at which it is still worth sending."""

    sequence: int
    charges: tuple[Charge, ...]
    deadline_us: int
    priority: Priority
    client: str
    lane: Lane
    cost: int
    gone: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """The requests of one client, class and lane, the nearest deadline first."""

    lane: Lane
    priority: Priority
    client: str
    heap: list[tuple[int, int, Ticket]] = field(default_factory=list)
    size: int = 0

    def head(self) -> Ticket:
        while self.heap[0][2].gone:
            heapq.heappop(self.heap)
        return self.heap[0][2]


@dataclass(slots=True, eq=False)
class LaneState:
    lines: dict[tuple[Priority, str], Line] = field(default_factory=dict)
    parked_until_us: int | None = None
    blocked_by: Key | None = None


@dataclass(slots=True, eq=False)
class Turn:
    """A client in the round of its class: what it may still spend in this turn, and its lines that are not parked."""

    deficit: int = 0
    credited: bool = False
    lines: dict[Lane, Line] = field(default_factory=dict)

"""Sliding windows that are exact at the exchange, whatever the network does.

Theory. Let request i leave us at s_i and be answered at r_i. The exchange counted it at some instant
a_i that we cannot see, but s_i <= a_i <= r_i. Take any window (x - W, x] of the exchange, and in it the
request j that left last. Every other request i of that window satisfies s_i <= s_j and
r_i >= a_i > x - W >= a_j - W >= s_j - W. So at the instant s_j, request i was either still in flight or had been
completed for less than W. If j was admitted only because

    in flight + completed within the last W  <  limit,

then the exchange's window never holds more than `limit`. No clock is shared, no jitter is bounded, no margin is
guessed. The price: in saturation the rate is limit / (W + round trip).

"Is there room?" then means "is the (limit - in flight)-th newest completion older than W?": one look into a ring,
no counting, and the same number is the exact wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

IN_FLIGHT: Final = -1
"""A wait that no clock can end: only a completion makes room."""

_SMALLEST_RING: Final = 4
_UNBOUNDED: Final = 1 << 62


class Window(Protocol):
    """What admission asks of any kind of window. `cost` is at least 1, times are microseconds."""

    window_us: int

    @property
    def limit(self) -> int: ...

    def wait_us(self, cost: int, now_us: int) -> int:
        """0: room now. Positive: room after that long if nothing else is taken. IN_FLIGHT: after a completion."""
        ...

    def take(self, cost: int, now_us: int) -> None: ...

    def complete(self, cost: int, now_us: int) -> None: ...

    def refund(self, cost: int) -> None: ...

    def used(self, now_us: int) -> int: ...

    def idle(self, now_us: int) -> bool: ...

    def snapshot(self, now_us: int) -> list[int]:
        """All that still counts, as of this instant: what is in flight counts as completed now."""
        ...

    def restore(self, state: Sequence[int], at_us: int) -> None:
        """Go on, in a new window of the same quota, as the one that was so at an instant of our clock."""
        ...


class _Stamps:
    """A ring of instants in ascending order that grows on demand and never beyond `limit`."""

    __slots__ = ("_limit", "count", "next", "ring")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.ring = [0] * max(1, min(limit, _SMALLEST_RING))
        self.next = 0
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def newest(self, rank: int) -> int:
        """The rank-th newest instant; rank counts from 1 and is at most len(self)."""
        return self.ring[self.next - rank]  # a negative index wraps by itself

    def push(self, stamp_us: int, expired_before_us: int) -> None:
        """Append an instant; instants up to `expired_before_us` may be overwritten instead of growing."""
        ring, place = self.ring, self.next
        if self.count < len(ring):
            self.count += 1
        elif len(ring) < self._limit and ring[place] > expired_before_us:
            self._grow()
            ring, place = self.ring, self.next
            self.count += 1
        ring[place] = stamp_us
        place += 1
        self.next = place if place < len(ring) else 0

    def younger_than(self, instant_us: int) -> int:
        """How many instants lie after `instant_us`: a binary search over the ring."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high + 1) // 2
            if self.newest(middle) > instant_us:
                low = middle
            else:
                high = middle - 1
        return low

    def oldest_first(self) -> list[int]:
        return [self.newest(rank) for rank in range(self.count, 0, -1)]

    def ages(self, now_us: int, window_us: int) -> list[int]:
        """Of the instants within the window, the oldest first."""
        counting = self.younger_than(now_us - window_us)
        return [now_us - self.newest(rank) for rank in range(counting, 0, -1)]

    def refill(self, ages: Sequence[int], at_us: int) -> None:
        """Hold these, however many there are: a limit may have been lowered while they counted."""
        self._limit = max(self._limit, len(ages))
        self.ring = [at_us - age for age in ages] or self.ring
        self.count = len(ages)
        self.next = 0

    def resize(self, limit: int) -> None:
        """Hold `limit` instants, and never fewer than before: a limit that comes back must find what counts for it."""
        self._limit = max(self._limit, limit)

    def _grow(self) -> None:
        instants = self.oldest_first()
        self.ring = instants + [0] * (min(self._limit, 2 * len(instants)) - len(instants))
        self.next = len(instants)


class CompletionLog:
    """`window: held`. A request occupies the window from take() until window_us after complete().

    Use it for limits that somebody else counts (see the theory above). Instants given to complete() must not
    decrease. A request whose fate is unknown is completed late, by the caller, because it may still arrive.
    """

    __slots__ = (
        "_born_us",
        "_born_with",
        "_history_us",
        "_in_flight",
        "_longest_us",
        "_stamps",
        "limit",
        "window_us",
    )

    def __init__(self, limit: int, window_us: int, *, history_us: int = 0) -> None:
        """`history_us`: completions are remembered for that much longer than they count, for since()."""
        self.limit = limit
        self.window_us = window_us
        self._history_us = history_us
        self._longest_us = window_us + history_us
        self._in_flight = 0
        # What is remembered beyond what counts is bounded by what was sent, and by nothing else.
        self._stamps = _Stamps(limit if history_us == 0 else _UNBOUNDED)
        self._born_with = 0
        """Requests that nobody remembers, all completed at `_born_us` at the latest: before any other."""
        self._born_us = 0

    def begin_with(self, count: int, at_us: int) -> None:
        """A new window holds so many from the start, as if completed at that instant. They cost no memory."""
        self._born_with, self._born_us = count, at_us

    def wait_us(self, cost: int, now_us: int) -> int:
        rank = self.limit - self._in_flight - cost + 1
        if rank <= 0:
            return IN_FLIGHT
        stamps = self._stamps
        if rank > stamps.count:
            return self._wait_for_born(rank - stamps.count, now_us) if self._born_with else 0
        # Calls of len(), newest() and max() would make half of the cost here; this is asked for every request.
        wait = stamps.ring[stamps.next - rank] + self.window_us - now_us
        return wait if wait > 0 else 0  # noqa: FURB136

    def take(self, cost: int, now_us: int) -> None:  # noqa: ARG002  # the instant matters to SendLog only
        self._in_flight += cost

    def complete(self, cost: int, now_us: int) -> None:
        self._in_flight -= cost
        for _ in range(cost):
            self._stamps.push(now_us, now_us - self._longest_us)

    def refund(self, cost: int) -> None:
        """The request is known not to have been sent: it never occupied the window."""
        self._in_flight -= cost

    def used(self, now_us: int) -> int:
        return self._in_flight + self._stamps.younger_than(now_us - self.window_us) + self._born(now_us)

    def idle(self, now_us: int) -> bool:
        """Nothing in it: a caller may forget this window without forgetting a request."""
        return self.used(now_us) == 0

    def snapshot(self, now_us: int) -> list[int]:
        born = [now_us - self._born_us] * self._born(now_us)
        return born + self._stamps.ages(now_us, self.window_us) + [0] * self._in_flight

    def restore(self, state: Sequence[int], at_us: int) -> None:
        self._stamps.refill(state, at_us)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def since(self, instant_us: int) -> int:
        """What is in flight, and what was completed after an instant that lies no further back than the history."""
        return self._in_flight + self._stamps.younger_than(instant_us)

    def expires_in_us(self, rank: int, now_us: int) -> int:
        """Time until the rank-th oldest completion that still counts stops counting; rank counts from 1."""
        counting = self._stamps.younger_than(now_us - self.window_us)
        return self._stamps.newest(counting - rank + 1) + self.window_us - now_us

    def resize(self, limit: int, window_us: int) -> None:
        """Change the quota at run time. Nothing that counts is forgotten."""
        self._stamps.resize(limit)
        self.limit, self.window_us = limit, window_us
        self._longest_us = max(self._longest_us, window_us + self._history_us)

    def _born(self, now_us: int) -> int:
        return self._born_with if self._born_us > now_us - self.window_us else 0

    def _wait_for_born(self, rank: int, now_us: int) -> int:
        return max(0, self._born_us + self.window_us - now_us) if rank <= self._born_with else 0


class SendLog:
    """`window: sent`. A request occupies the window for window_us from take() on.

    Use it for limits that we count ourselves: exact at our own door, not at somebody else's.
    """

    __slots__ = ("_longest_us", "_stamps", "limit", "window_us")

    def __init__(self, limit: int, window_us: int) -> None:
        self.limit = limit
        self.window_us = self._longest_us = window_us
        self._stamps = _Stamps(limit)

    def wait_us(self, cost: int, now_us: int) -> int:
        rank = self.limit - cost + 1
        stamps = self._stamps
        if rank > stamps.count:
            return 0
        wait = stamps.ring[stamps.next - rank] + self.window_us - now_us
        return wait if wait > 0 else 0  # noqa: FURB136  # as above

    def take(self, cost: int, now_us: int) -> None:
        for _ in range(cost):
            self._stamps.push(now_us, now_us - self._longest_us)

    def complete(self, cost: int, now_us: int) -> None:
        """Nothing to do: the window was occupied when the request was taken."""

    def refund(self, cost: int) -> None:
        """Keep the charge: an instant inside the ring cannot be told apart, and over-counting is safe."""

    def used(self, now_us: int) -> int:
        return self._stamps.younger_than(now_us - self.window_us)

    def idle(self, now_us: int) -> bool:
        return self.used(now_us) == 0

    def snapshot(self, now_us: int) -> list[int]:
        return self._stamps.ages(now_us, self.window_us)

    def restore(self, state: Sequence[int], at_us: int) -> None:
        self._stamps.refill(state, at_us)

    def resize(self, limit: int, window_us: int) -> None:
        """As CompletionLog.resize."""
        self._stamps.resize(limit)
        self.limit, self.window_us = limit, window_us
        self._longest_us = max(self._longest_us, window_us)

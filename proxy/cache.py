"""Answers that may be given again: bounded memory, the oldest unused first to go, and one fetch for many askers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from proxy.coding import accepted
from proxy.tasks import TaskOwner

T = TypeVar("T")

_OVERHEAD_BYTES: Final = 600
"""What an entry costs beside its bytes: the objects that hold it (measured with sys.getsizeof)."""


class Variant(NamedTuple):
    """A body with the head that describes it: status line and header lines, without the ending blank line."""

    head: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer in every coding that we have of it."""

    key: str
    plain: Variant
    coded: Variant | None
    """What the exchange sent, when it sent it compressed."""
    coding: str
    rows: int
    stored_us: int
    expires_us: int

    @property
    def size_bytes(self) -> int:
        variants = (self.plain,) if self.coded is None else (self.plain, self.coded)
        return sum(len(v.head) + len(v.body) for v in variants) + len(self.key) + _OVERHEAD_BYTES

    def variant(self, accept_encoding: str | None) -> Variant:
        """The one to send: compressed only to a client that says it takes it."""
        if self.coded is not None and accept_encoding is not None and accepted(accept_encoding, self.coding):
            return self.coded
        return self.plain


class L1:
    """The level in this process: at most `max_bytes`, least recently used first to go."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, now_us: int) -> Entry | None:
        """The entry while it is fresh. One that has expired stays for stale(), until its room is needed."""
        entry = self._entries.get(key)
        if entry is None or entry.expires_us <= now_us:
            return None
        self._entries.move_to_end(key)
        return entry

    def stale(self, key: str) -> Entry | None:
        """The entry, however old: for when nothing newer is to be had."""
        return self._entries.get(key)

    def put(self, entry: Entry) -> None:
        if entry.key in self._entries:
            self._drop(entry.key)
        if entry.size_bytes > self._max_bytes:
            return
        self._entries[entry.key] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def resize(self, max_bytes: int) -> None:
        """Hold at most so much from now on."""
        self._max_bytes = max_bytes
        while self.size_bytes > max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        self.size_bytes -= self._entries.pop(key).size_bytes


class Flights:
    """One fetch for all who ask for the same thing at the same time.

    The fetch is a task of its own, so whoever began it may hang up without harm to the others; it ends early only when
    nobody waits for it any more.
    """

    def __init__(self, tasks: TaskOwner) -> None:
        self._tasks = tasks
        self._flights: dict[str, _Flight[Any]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def join(self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the running fetch of `key`, or of one begun now. What it raises reaches all who wait."""
        flight = self._flights.get(key)
        if flight is None:
            task = self._tasks.spawn(fetch(), f"fetch {key}", reported=False)
            flight = self._flights[key] = _Flight(task)
            task.add_done_callback(lambda _: self._end(key, task))
        flight.waiting += 1
        try:
            result: T = await asyncio.shield(flight.task)
            return result
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                self._end(key, flight.task)
                flight.task.cancel()

    def _end(self, key: str, task: asyncio.Task[Any]) -> None:
        """Forget this fetch, and not one that has begun since under the same key."""
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0

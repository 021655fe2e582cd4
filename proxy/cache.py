"""Answers that may be given again: bounded memory, the oldest unused first to go, and one fetch for many askers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from policies.caching import Life
from proxy import coding
from proxy.steps import Steps
from proxy.tasks import TaskOwner

T = TypeVar("T")

_OVERHEAD_BYTES: Final = 600
"""What an entry costs beside its bytes: the objects that hold it (measured with sys.getsizeof)."""


class Variant(NamedTuple):
    """A body with the head that describes it: status line and header lines, without the ending blank line."""

    head: bytes
    body: bytes


_LEAST_BYTES: Final = 1024
"""A shorter body is not worth compressing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer in every coding that we have of it. Instants are of our own clock."""

    key: str
    lines: bytes
    """Status line and header lines, without those that a coding changes."""
    body: bytes
    rows: int
    stored_us: int
    expires_us: int
    revalidate_us: int
    """Until then it may be given while a newer one is fetched,"""
    error_us: int
    """and until then while none can be fetched."""
    tag: str = ""
    """Its entity tag, which stands in `lines` too; empty when it has none."""
    made: dict[str, Variant] = field(default_factory=dict)
    """What has been sent of it, by coding; filled by L1."""

    @classmethod
    def of(
        cls,
        key: str,
        lines: bytes,
        body: bytes,
        rows: int,
        now_us: int,
        life: Life,
        tag: str = "",
        *,
        stored_us: int | None = None,
    ) -> Entry:
        """With a life from now on. `stored_us`: when what it is made of was stored; None: now."""
        if tag:
            lines += f"ETag: {tag}\r\n".encode()
        fresh_us, revalidate_us, error_us = now_us + life.fresh_us, now_us + life.revalidate_us, now_us + life.error_us
        stored_us = now_us if stored_us is None else stored_us
        return cls(key, lines, body, rows, stored_us, fresh_us, revalidate_us, error_us, tag)

    @property
    def size_bytes(self) -> int:
        made = sum(len(each.head) + len(each.body) for name, each in self.made.items() if name)
        return len(self.lines) + len(self.body) + made + len(self.key) + _OVERHEAD_BYTES

    @property
    def plain(self) -> Variant:
        """In no coding."""
        variant = self.made.get("")
        if variant is None:
            variant = self.made[""] = Variant(self.lines + b"Content-Length: %d\r\n" % len(self.body), self.body)
        return variant

    def coded(self, name: str, body: bytes) -> Variant:
        """In this coding from now on, too."""
        head = b"%bContent-Encoding: %b\r\nContent-Length: %d\r\n" % (self.lines, name.encode(), len(body))
        variant = self.made[name] = Variant(head, body)
        return variant


class L1:
    """The level in this process: at most `max_bytes`, least recently used first to go.

    `compresses`: whether clients that take gzip or zstd get it, where the exchange's own coding does not suit them.
    """

    def __init__(self, max_bytes: int, *, compresses: bool = False) -> None:
        self._max_bytes = max_bytes
        self.compresses = compresses
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
        self._make_room()

    def variant(self, entry: Entry, accept_encoding: str | None) -> Variant:
        """The one to send: compressed only to a client that says it takes it, and only once for all of them."""
        if accept_encoding is None:
            return entry.plain
        name, most = "", max(1, coding.weight(accept_encoding, "identity")) - 1
        for other in entry.made:
            if other and (liked := coding.weight(accept_encoding, other)) > most:
                name, most = other, liked
        if most < coding.MOST and self.compresses and len(entry.body) >= _LEAST_BYTES:
            for other in coding.WRITTEN:
                if (liked := coding.weight(accept_encoding, other)) > most:
                    name, most = other, liked
        if not name:
            return entry.plain
        if name in entry.made:
            return entry.made[name]
        variant = entry.coded(name, coding.encode(entry.body, name))
        if self._entries.get(entry.key) is entry:
            self.size_bytes += len(variant.head) + len(variant.body)
            self._make_room()
        return variant

    def forget(self, beginning: str) -> None:
        """Drop all whose keys begin so: what they were made of has turned out to be otherwise."""
        for key in [key for key in self._entries if key.startswith(beginning)]:
            self._drop(key)

    def resize(self, max_bytes: int) -> None:
        """Hold at most so much from now on."""
        self._max_bytes = max_bytes
        self._make_room()

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        self.size_bytes -= self._entries.pop(key).size_bytes


class Impatient(Exception):
    """Who waited for another's fetch has left before that was even sent."""


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

    def begun_by(self, key: str) -> Steps | None:
        """Who leads a running fetch, where he is traced."""
        flight = self._flights.get(key)
        return None if flight is None else flight.by

    async def join(
        self,
        key: str,
        fetch: Callable[[], Coroutine[Any, Any, T]],
        *,
        sent: Callable[[], bool] = lambda: True,
        patience_s: float | None = None,
        by: Steps | None = None,
    ) -> T:
        """The result of the running fetch of `key`, or of one begun now. What it raises reaches all who wait.

        `sent`: whether the one that is begun is on its way. `patience_s`: how long to wait for that; raises Impatient.
        `by`: of who asks, where he is traced.
        """
        flight = self._flights.get(key)
        if flight is None:
            task = self._tasks.spawn(fetch(), f"fetch {key}", reported=False)
            flight = self._flights[key] = _Flight(task, sent, by)
            task.add_done_callback(lambda _: self._end(key, task))
        flight.waiting += 1
        try:
            if patience_s is not None and not flight.sent():
                await asyncio.wait({flight.task}, timeout=max(0.0, patience_s))
                if not flight.task.done() and not flight.sent():
                    raise Impatient
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
    sent: Callable[[], bool]
    by: Steps | None
    waiting: int = 0

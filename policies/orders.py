"""Which order requests must not overtake each other.

The exchange meters creating, amending and cancelling apart, and the wire does not keep order: sent freely, a cancel can
arrive before the create it belongs to, find nothing, and leave the order standing. So a later operation waits until an
earlier one that concerns the same order is answered, or known not to have been sent. A cancel-all is a barrier for its
symbol, or for its whole category when it names none. Everything else stays parallel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Kind(StrEnum):
    CREATE = "create"
    AMEND = "amend"
    CANCEL = "cancel"
    CANCEL_ALL = "cancel-all"


class Operation(NamedTuple):
    """What one item of a request does. `symbol` is None when it concerns every symbol of the category."""

    kind: Kind
    category: str
    symbol: str | None
    order_id: str | None
    link_id: str | None


_SINGLE: Final = {
    "/v5/order/create": Kind.CREATE,
    "/v5/order/amend": Kind.AMEND,
    "/v5/order/cancel": Kind.CANCEL,
    "/v5/order/cancel-all": Kind.CANCEL_ALL,
    "/v5/spread/order/create": Kind.CREATE,
    "/v5/spread/order/amend": Kind.AMEND,
    "/v5/spread/order/cancel": Kind.CANCEL,
    "/v5/spread/order/cancel-all": Kind.CANCEL_ALL,
}
_BATCH: Final = {
    "/v5/order/create-batch": Kind.CREATE,
    "/v5/order/amend-batch": Kind.AMEND,
    "/v5/order/cancel-batch": Kind.CANCEL,
}


_MOST_ITEMS: Final = 100
"""The exchange takes 20 in a batch. What is longer than that by far it refuses, and nobody needs to look at each."""


def concerns(path: str) -> bool:
    """Whether a path is one whose body must be looked at."""
    return path in _SINGLE or path in _BATCH


def is_batch(path: str) -> bool:
    return path in _BATCH


def operations(path: str, body: Mapping[str, Any]) -> tuple[Operation, ...]:
    """What a request does, read from its parsed body; what cannot be understood is the exchange's to refuse."""
    category = _text(body.get("category")) or ("spread" if path.startswith("/v5/spread/") else "")
    if not concerns(path):
        return ()
    single = _SINGLE.get(path)
    if single is not None:
        return (_operation(single, category, body),)
    kind = _BATCH.get(path)
    items = body.get("request")
    if kind is None or not isinstance(items, list) or len(items) > _MOST_ITEMS:
        return ()
    return tuple(_operation(kind, category, item) for item in items if isinstance(item, dict))


def cost_of(path: str, body: Mapping[str, Any]) -> int:
    """What a request takes from an account's budget: a batch as many as its orders, of options one."""
    items = body.get("request")
    if path not in _BATCH or not isinstance(items, list) or body.get("category") == "option":
        return 1
    return min(max(1, len(items)), _MOST_ITEMS)


def must_wait(later: Operation, earlier: Operation) -> bool:
    """Whether `later`, asked for after `earlier`, must reach the exchange after it."""
    if later.category != earlier.category:
        return False
    if later.symbol != earlier.symbol and later.symbol is not None and earlier.symbol is not None:
        return False
    if Kind.CANCEL_ALL in {later.kind, earlier.kind}:
        return True
    if Kind.CREATE in {later.kind, earlier.kind}:
        # An id that the exchange gives is known only once its create is answered: only our own ids can match.
        nameless = later.kind is not Kind.CREATE and later.order_id is None and later.link_id is None
        return nameless or (later.link_id is not None and later.link_id == earlier.link_id)
    if later.order_id is not None and earlier.order_id is not None:
        return later.order_id == earlier.order_id
    if later.link_id is not None and earlier.link_id is not None:
        return later.link_id == earlier.link_id
    return True  # one names the order by the exchange's id, the other by the client's: it may be the same


@dataclass(slots=True, eq=False)
class Entry:
    """A request that is on its way, or waits for others to be answered."""

    account: str
    operations: tuple[Operation, ...]
    waits_for: set[Entry] = field(default_factory=set)
    followers: list[Entry] = field(default_factory=list)
    done: bool = False


class OrderLanes:
    """The order requests of all accounts that are not yet answered."""

    def __init__(self) -> None:
        self._open: dict[str, dict[Entry, None]] = {}

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._open.values())

    def enter(self, account: str, wanted: Sequence[Operation]) -> Entry:
        """A request has arrived. It may go when its `waits_for` is empty."""
        entry = Entry(account, tuple(wanted))
        entries = self._open.setdefault(account, {})
        for other in entries:
            if any(must_wait(later, earlier) for later in entry.operations for earlier in other.operations):
                entry.waits_for.add(other)
                other.followers.append(entry)
        entries[entry] = None
        return entry

    def leave(self, entry: Entry) -> list[Entry]:
        """It is answered, or known not to have been sent. The answer are those that may go now."""
        if entry.done:
            return []
        entry.done = True
        entries = self._open[entry.account]
        del entries[entry]
        if not entries:
            del self._open[entry.account]
        for other in entry.waits_for:
            other.followers.remove(entry)
        entry.waits_for.clear()
        freed = []
        for follower in entry.followers:
            follower.waits_for.discard(entry)
            if not follower.waits_for and not follower.done:
                freed.append(follower)
        return freed


def _operation(kind: Kind, category: str, item: Mapping[str, Any]) -> Operation:
    return Operation(
        kind, category, _text(item.get("symbol")), _text(item.get("orderId")), _text(item.get("orderLinkId"))
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

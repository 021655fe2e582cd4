"""What arrived, request by request, and the counts that tests ask for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ORDER_PREFIX = "/v5/order/"


@dataclass(slots=True)
class Entry:
    """One arrival, at the instant the exchange booked it; the answer's fields are filled in later."""

    sequence: int
    time_us: int
    ip: str
    method: str
    target: str
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body_sha256: str
    body_length: int
    operation: str = ""  # create, amend-batch, cancel-all, ...: the last part of an order path
    link_ids: list[str] = field(default_factory=list)
    order_ids: list[str] = field(default_factory=list)
    uid: str = ""
    status: int | None = None  # None: no answer was given (yet)
    ret_code: int | None = None

    def headers(self) -> list[list[str]]:
        """Names and values as received, in order, duplicates apart."""
        return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.raw_headers]

    def as_dict(self) -> dict[str, Any]:
        """JSON for the control port."""
        return {
            "sequence": self.sequence,
            "time_us": self.time_us,
            "ip": self.ip,
            "method": self.method,
            "target": self.target,
            "headers": self.headers(),
            "body_sha256": self.body_sha256,
            "body_length": self.body_length,
            "operation": self.operation,
            "link_ids": self.link_ids,
            "order_ids": self.order_ids,
            "uid": self.uid,
            "status": self.status,
            "ret_code": self.ret_code,
        }


class Record:
    """The last `size` arrivals. Sequence numbers go on counting when old entries fall out."""

    def __init__(self, size: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.sequence = 0

    def add(
        self,
        time_us: int,
        ip: str,
        *,
        method: str,
        target: str,
        raw_headers: tuple[tuple[bytes, bytes], ...],
        body: bytes,
    ) -> Entry:
        """Book an arrival."""
        self.sequence += 1
        sha256 = hashlib.sha256(body).hexdigest() if body else _EMPTY_SHA256
        entry = Entry(self.sequence, time_us, ip, method, target, raw_headers, sha256, len(body))
        path = target.partition("?")[0]
        if method == "POST" and _ORDER_PREFIX in path:
            entry.operation = path.rpartition("/")[2]
            entry.link_ids, entry.order_ids = _order_ids(body)
        self.entries.append(entry)
        return entry

    def resize(self, size: int) -> None:
        """Keep the newest `size` entries from now on."""
        if size != self.entries.maxlen:
            self.entries = deque(self.entries, maxlen=size)

    def since(self, sequence: int = 0) -> list[Entry]:
        """Entries after that sequence number."""
        return [entry for entry in self.entries if entry.sequence > sequence]

    def clear(self) -> None:
        """Forget the entries; the numbering goes on."""
        self.entries.clear()


@dataclass(slots=True)
class Stats:
    """Counts since the start."""

    requests: int = 0
    endpoints: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    ret_codes: Counter[int] = field(default_factory=Counter)
    placed_link_ids: Counter[tuple[str, str]] = field(default_factory=Counter)

    def answered(self, endpoint: str, status: int | None, ret_code: int | None) -> None:
        """Count one finished request; no status is a connection that got no answer."""
        self.requests += 1
        self.endpoints[endpoint] += 1
        self.statuses[status or 0] += 1
        if ret_code is not None:
            self.ret_codes[ret_code] += 1

    def placed(self, uid: str, orders: list[Any]) -> None:
        """Count the orderLinkIds of orders that the account limiter let through to the order book."""
        rows = [order for order in orders if isinstance(order, dict)]
        self.placed_link_ids.update((uid, link_id) for link_id in _texts(rows, "orderLinkId"))

    def duplicated_link_ids(self) -> dict[str, int]:
        """orderLinkIds that one account sent more than once, and how often."""
        return {link_id: times for (_, link_id), times in self.placed_link_ids.items() if times > 1}


def _order_ids(body: bytes) -> tuple[list[str], list[str]]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return [], []
    if not isinstance(parsed, dict):
        return [], []
    batch = parsed.get("request")
    orders = [each for each in [parsed, *(batch if isinstance(batch, list) else [])] if isinstance(each, dict)]
    return _texts(orders, "orderLinkId"), _texts(orders, "orderId")


def _texts(orders: list[dict[str, Any]], name: str) -> list[str]:
    return [order[name] for order in orders if isinstance(order.get(name), str) and order[name]]

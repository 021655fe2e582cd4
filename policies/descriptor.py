"""All that a policy may know of a request and of a reply: plain immutable values, no headers, no secrets."""

from __future__ import annotations

from typing import NamedTuple

from policies.priority import Priority


class Descriptor(NamedTuple):
    """A request as the policies see it. The fields `egress` to `tier` can be partitions of a quota."""

    method: str
    path: str
    """The path of the target, undecoded, repeated leading slashes collapsed: for matching, never for forwarding."""
    query: str
    """The raw query string without its `?`."""
    endpoint: str
    """A name of the route table, never a raw path."""
    egress: str
    """The address that the exchange sees, by the name the operator gave it."""
    ip: str
    """The client's address, behind trusted proxies the one they vouch for."""
    api_key: str | None = None
    """A keyed hash of the API key; the key itself is not known here."""
    client: str | None = None
    tier: str | None = None
    signed: bool = False
    cost: int = 1
    """How many orders it carries."""
    line: str = ""
    """The business line that it concerns, where the exchange limits each by itself (bybit.LINES)."""
    priority: Priority = Priority.ACCOUNT
    deadline_us: int | None = None
    """After this instant (epoch) the exchange would reject the signature."""


class Outcome(NamedTuple):
    """A reply as the policies see it."""

    status: int
    ret_code: int | None
    """The exchange's own code; None when the body is not its envelope."""

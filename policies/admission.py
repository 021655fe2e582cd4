"""Quotas, and the one question asked of them: is there room in all of them at once?

A quota is one idea for every kind of limit: a number per window, whose windows are told apart by a *partition key*
(whose budget is spent) and which applies to the requests that *match*. A request meets several quotas; it takes its
cost from all of them or from none, so that a request which waits for one never occupies another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, assert_never

from policies.bucket import TokenBucket
from policies.descriptor import Descriptor
from policies.pacing import LearnedWindow
from policies.slotted import SlottedWindow
from policies.window import IN_FLIGHT, CompletionLog, SendLog, Window

WHOLE: Final = 1_000_000
"""Parts of a budget are counted in millionths."""


class Counts(StrEnum):
    """When a request spends the quota."""

    REQUESTS = "requests"  # every request that a client makes, answered from the cache or not
    UPSTREAM = "upstream"  # every request that is sent to the exchange


class WindowKind(StrEnum):
    HELD = "held"
    SENT = "sent"
    SLOTTED = "slotted"
    BUCKET = "bucket"
    LEARNED = "learned"  # an account's own, as the exchange tells of it: no rule of an operator


class WhenFull(StrEnum):
    WAIT = "wait"
    REFUSE = "refuse"


class RefuseWith(StrEnum):
    HTTP = "http"  # 429: the gateway's own rule speaks
    BYBIT = "bybit"  # 200 with the exchange's own code: clients retry by themselves


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a quota applies to; None means any."""

    endpoint: frozenset[str] | None = None
    path: frozenset[str] | None = None
    method: frozenset[str] | None = None
    tier: frozenset[str] | None = None
    signed: bool | None = None

    def accepts(self, request: Descriptor) -> bool:
        return (
            (self.endpoint is None or request.endpoint in self.endpoint)
            and (self.path is None or request.path in self.path)
            and (self.method is None or request.method in self.method)
            and (self.tier is None or request.tier in self.tier)
            and (self.signed is None or request.signed == self.signed)
        )


@dataclass(frozen=True, slots=True)
class Quota:
    name: str
    limit: int
    window_us: int
    partition: tuple[str, ...]
    match: Match = Match()
    counts: Counts = Counts.UPSTREAM
    window: WindowKind = WindowKind.SENT
    when_full: WhenFull = WhenFull.WAIT
    refuse_with: RefuseWith = RefuseWith.HTTP
    shadow: bool = False
    burst: int = 0
    """What a bucket holds; 0 for the other windows."""
    spaces: bool = False
    """All classes share it, so the less urgent ones are spaced out in it (spacing.py)."""
    floor: int = 1
    ceiling: int | None = None
    """Bounds of a learned limit; `limit` is what it begins with."""

    @property
    def of_address(self) -> bool:
        """It counts all that is sent from the address: what the exchange bans for."""
        return self.counts is Counts.UPSTREAM and self.match == Match() and set(self.partition) <= {"egress"}

    def new_window(self) -> Window:
        match self.window:
            case WindowKind.HELD:
                return CompletionLog(self.limit, self.window_us)
            case WindowKind.SENT:
                return SendLog(self.limit, self.window_us)
            case WindowKind.SLOTTED:
                return SlottedWindow(self.limit, self.window_us)
            case WindowKind.BUCKET:
                return TokenBucket(self.limit, self.window_us, self.burst)
            case WindowKind.LEARNED:
                return LearnedWindow(self.limit, self.window_us, self.floor, self.ceiling)
            case _:
                assert_never(self.window)

    def fitted(self, window: Window, now_us: int) -> Window:
        """The window that goes on where `window`, made by an earlier quota of this name, leaves off.

        Of another kind it begins full of what was used: charged now, so nothing is forgotten too early.
        """
        match window:
            case CompletionLog() | SendLog() if type(window) is type(self.new_window()):
                window.resize(self.limit, self.window_us)
                return window
            case SlottedWindow() if self.window is WindowKind.SLOTTED:
                window.resize(self.limit, self.window_us, now_us)
                return window
            case TokenBucket() if self.window is WindowKind.BUCKET:
                window.resize(self.limit, self.window_us, self.burst, now_us)
                return window
            case LearnedWindow() if self.window is WindowKind.LEARNED:
                window.resize(self.limit, self.window_us, self.floor, self.ceiling)
                return window
            case _:
                return self._full_of(window.used(now_us), now_us)

    def _full_of(self, used: int, now_us: int) -> Window:
        fresh = self.new_window()
        held = min(used, self.burst or self.limit)
        if held:
            fresh.take(held, now_us)
            fresh.complete(held, now_us)
        return fresh


class Charge(NamedTuple):
    """What one request takes from one quota. `key` names the window: the quota and whose budget it is."""

    quota: Quota
    key: tuple[str, ...]
    cost: int


class Filled(NamedTuple):
    """How full a window is by now, and among how many gateways it is shared."""

    limit: int
    used: int
    sharers: int = 1


class Admitted(NamedTuple):
    """Room in every enforced quota, and taken. `over` are shadow quotas that would have said no, `near` those that are
    more than four fifths used by now. `filled`, where others spend the same windows or only a part of them may be used:
    how full the spaced ones are, in the order of the charges."""

    over: tuple[Charge, ...] = ()
    near: tuple[Charge, ...] = ()
    filled: tuple[Filled, ...] = ()


class Deferred(NamedTuple):
    """No room now, nothing taken. `binding` is the quota to blame: one that refuses, or else the longest wait."""

    wait_us: int
    binding: Charge

    @property
    def in_flight(self) -> bool:
        """Only a completion can make room; no clock can tell when."""
        return self.wait_us == IN_FLIGHT


class Why(StrEnum):
    """Why a request was refused."""

    BAN = "ban"  # nothing is sent from this address at present
    FULL = "full"  # the rule says refuse
    QUEUE = "queue"  # too many wait already
    DEADLINE = "deadline"  # its turn would come too late


class Refused(NamedTuple):
    """Not admitted, nothing held. `wait_us`: after that long another try has a chance."""

    why: Why
    charge: Charge
    wait_us: int


Admission = Admitted | Deferred
_ADMITTED = Admitted()


class Rulebook:
    """All quotas that are asked at one point of a request's life, in the order of the configuration."""

    def __init__(self, quotas: Sequence[Quota], learned: Mapping[tuple[str, str], Quota] | None = None) -> None:
        """`learned`: an account's own quotas, by endpoint and business line."""
        self.quotas = tuple(quotas)
        self._learned = learned or {}
        self._by_path = any(quota.match.path is not None for quota in quotas)
        self._remembered = lru_cache(maxsize=8192)(self._charges)

    def charges(self, request: Descriptor) -> tuple[Charge, ...]:
        """What the request spends. A quota whose partition the request lacks (no API key, no tier) is not met."""
        # What a rule can see of a request repeats from request to request; a path does only where a rule names it.
        return self._remembered(
            request.method,
            request.path if self._by_path else "",
            request.endpoint,
            request.egress,
            request.ip,
            request.api_key,
            request.client,
            request.tier,
            request.signed,
            request.cost,
            request.line,
        )

    def _charges(
        self,
        method: str,
        path: str,
        endpoint: str,
        egress: str,
        ip: str,
        api_key: str | None,
        client: str | None,
        tier: str | None,
        signed: bool,  # noqa: FBT001  # positional like the others: this is a key
        cost: int,
        line: str,
    ) -> tuple[Charge, ...]:
        request = Descriptor(method, path, "", endpoint, egress, ip, api_key, client, tier, signed, cost)
        charges = []
        for quota in self.quotas:
            key = self._key(quota, request)
            if key is not None:
                charges.append(Charge(quota, key, _cost(quota, request)))
        learned = None if api_key is None else self._learned.get((endpoint, line))
        if learned is not None and api_key is not None:
            charges.append(Charge(learned, (learned.name, api_key), cost))
        return tuple(charges)

    @staticmethod
    def _key(quota: Quota, request: Descriptor) -> tuple[str, ...] | None:
        if not quota.match.accepts(request):
            return None
        parts = [getattr(request, part) for part in quota.partition]
        return None if None in parts else (quota.name, *parts)


def _cost(quota: Quota, request: Descriptor) -> int:
    """An account pays for the orders of a batch, everybody else for a request. More than all there is costs all."""
    if "api_key" not in quota.partition:
        return 1
    return min(request.cost, quota.burst or quota.limit)


def admit(states: Sequence[tuple[Charge, Window]], now_us: int, part: int = WHOLE) -> Admission:
    """Take every charge from its window, or none of them. `part`: how much of the address's windows may be used at
    present, in millionths.

    Shadow quotas never stand in the way: where they have room they are taken, where not they are reported.
    """
    binding: Deferred | None = None
    over: list[Charge] = []
    for charge, window in states:
        cost = charge.cost if part == WHOLE else _beside(charge, part)
        wait = window.wait_us(cost, now_us)
        if wait == 0:
            continue
        if charge.quota.shadow:
            over.append(charge)
        elif binding is None or _outranks(charge, wait, binding):
            binding = Deferred(wait, charge)
    if binding is not None:
        return binding
    near: list[Charge] = []
    for charge, window in states:
        if over and charge in over:
            continue
        window.take(charge.cost, now_us)
        # "No room for another fifth" is one look into the window, counting what it holds would be a search.
        if window.wait_us(window.limit // 5 or 1, now_us):
            near.append(charge)
    if part != WHOLE:
        filled = [
            Filled(max(1, charge.quota.limit * part // WHOLE), window.used(now_us))
            for charge, window in states
            if charge.quota.spaces
        ]
        return Admitted(tuple(over), tuple(near), tuple(filled))
    return Admitted(tuple(over), tuple(near)) if over or near else _ADMITTED


def _beside(charge: Charge, part: int) -> int:
    """What must fit so that the rest of the window stays unused."""
    quota = charge.quota
    if not quota.of_address:
        return charge.cost
    limit = quota.burst or quota.limit
    return min(limit, charge.cost + limit - limit * part // WHOLE)


def _outranks(charge: Charge, wait_us: int, than: Deferred) -> bool:
    """A quota that refuses is the answer to the client; between equals, the longer wait decides when to ask again."""
    refuses = charge.quota.when_full is WhenFull.REFUSE
    if refuses != (than.binding.quota.when_full is WhenFull.REFUSE):
        return refuses
    if than.wait_us == IN_FLIGHT:
        return False
    return wait_us == IN_FLIGHT or wait_us > than.wait_us

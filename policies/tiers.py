"""Tiers: what one client may ask for in a second, a minute and an hour, and who is given which.

A tier compiles to quotas like any other, matched by the tier and told apart by the client. Who has a tier by none of
the rules meets none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from policies.admission import Counts, Match, Quota, RefuseWith, WhenFull, WindowKind
from policies.quantities import Rate

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PRESETS: Final[Mapping[str, Mapping[str, int]]] = {
    "FREE": {"second": 5, "minute": 100, "hour": 1_000, "burst": 10},
    "PREMIUM": {"second": 20, "minute": 500, "hour": 10_000, "burst": 50},
    "ENTERPRISE": {"second": 100, "minute": 3_000, "hour": 50_000, "burst": 200},
    "INTERNAL": {"second": 1_000, "minute": 30_000, "hour": 500_000, "burst": 2_000},
}

_SECOND_US: Final = 1_000_000
_FEW: Final = 100
"""Keeping each of so few is as cheap as slots, and exact."""
_MAPPED_BITS: Final = 96
"""::ffff:0:0/96 is the IPv4 Internet, seen through an IPv6 socket."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What is None is not limited. `burst` is how many may go at once at the rate of `second`."""

    name: str
    second: int | None = None
    minute: int | None = None
    hour: int | None = None
    burst: int | None = None

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """(field, what was expected there) for every number that another one makes meaningless."""
        if (self.second, self.minute, self.hour) == (None, None, None):
            yield "", "expected at least one of second, minute and hour"
        if self.burst is not None and self.second is None:
            yield "burst", "expected a second beside it: a burst is how many may go at once at the rate of second"
        for smaller, larger in (("second", "minute"), ("minute", "hour"), ("second", "hour"), ("second", "burst")):
            low, high = getattr(self, smaller), getattr(self, larger)
            between = smaller == "second" and larger == "hour" and self.minute is not None
            if low is not None and high is not None and high < low and not between:
                yield larger, f"expected at least {low}, which is its {smaller}, got {high}"
        span = "minute" if self.minute is not None else "hour"
        most = getattr(self, span)
        if self.burst is not None and most is not None and self.burst > most:
            yield "burst", f"expected at most {most}, which is its {span}, got {self.burst}"

    def quotas(self) -> tuple[Quota, ...]:
        found = []
        if self.second is not None:
            kind = WindowKind.SENT if self.burst is None else WindowKind.BUCKET
            found.append(self._quota("second", Rate(self.second, _SECOND_US), kind))
        if self.minute is not None:
            found.append(self._quota("minute", Rate(self.minute, 60 * _SECOND_US), WindowKind.SLOTTED))
        if self.hour is not None:
            found.append(self._quota("hour", Rate(self.hour, 3600 * _SECOND_US), WindowKind.SLOTTED))
        return tuple(found)

    def heavy(self, endpoints: Sequence[str], rate: Rate) -> Quota:
        """A stricter number for endpoints that cost more than others, each counted by itself."""
        long = rate.window_us >= 60 * _SECOND_US and rate.limit > _FEW
        quota = self._quota(f"heavy-{endpoints[0]}", rate, WindowKind.SLOTTED if long else WindowKind.SENT)
        match = replace(quota.match, endpoint=frozenset(endpoints))
        return replace(quota, match=match, partition=("client", "endpoint"))

    def _quota(self, span: str, rate: Rate, kind: WindowKind) -> Quota:
        return Quota(
            name=f"tier-{self.name.lower()}-{span}",
            limit=rate.limit,
            window_us=rate.window_us,
            partition=("client",),
            match=Match(tier=frozenset({self.name})),
            counts=Counts.REQUESTS,
            window=kind,
            burst=(self.burst or 0) if kind is WindowKind.BUCKET else 0,
            when_full=WhenFull.REFUSE,
            refuse_with=RefuseWith.HTTP,
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who is given a tier. Every condition that is not None must hold, by any of its values."""

    tier: str
    ip: tuple[Network, ...] | None = None
    api_key: frozenset[str] | None = None
    account: frozenset[str] | None = None
    token: frozenset[str] | None = None
    client: frozenset[str] | None = None

    def accepts(
        self, address: Address | None, api_key: str | None, account: str | None, token: str | None, client: str | None
    ) -> bool:
        return (
            (self.ip is None or (address is not None and any(address in network for network in self.ip)))
            and (self.api_key is None or api_key in self.api_key)
            and (self.account is None or account in self.account)
            and (self.token is None or token in self.token)
            and (self.client is None or client in self.client)
        )


def unreachable(rules: Sequence[Assignment]) -> Iterator[tuple[int, int, str, str, str]]:
    """(later, earlier, condition, its value, the earlier value) where an earlier rule leaves nothing of a later one.

    The first match wins: what lies wholly inside an earlier condition is never asked. Inside an earlier rule for the
    same tier that is harmless, unless it is the very same value.
    """
    for later, rule in enumerate(rules):
        for condition in _CONDITIONS:
            for value in getattr(rule, condition) or ():
                for earlier, first in enumerate(rules[:later]):
                    around = next((wide for wide in getattr(first, condition) or () if _inside(value, wide)), None)
                    if around is None or not _covers(first, rule, condition, value):
                        continue
                    if first.tier != rule.tier or around == value:
                        yield later, earlier, condition, str(value), str(around)
                        break


_CONDITIONS: Final = ("ip", "api_key", "account", "token", "client")


def _covers(first: Assignment, then: Assignment, by: str, value: object) -> bool:
    """Whatever meets `then` by this value meets `first`."""
    for condition in _CONDITIONS:
        wide: Collection[object] | None = getattr(first, condition)
        narrow: Collection[object] | None = (value,) if condition == by else getattr(then, condition)
        if wide is None:
            continue
        if narrow is None or not all(any(_inside(inner, around) for around in wide) for inner in narrow):
            return False
    return True


def _inside(value: object, around: object) -> bool:
    if isinstance(value, IPv4Network) and isinstance(around, IPv4Network):
        return value.subnet_of(around)
    if isinstance(value, IPv6Network) and isinstance(around, IPv6Network):
        return value.subnet_of(around)
    return value == around


def address_of(text: str) -> Address | None:
    """An address as it is compared: without a zone, and IPv4 where it is IPv4 seen through an IPv6 socket."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def network_of(text: str) -> Network:
    """A network as it is compared. Raises ValueError for anything else, bits beyond the mask included."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network

"""Tiers: the numbers they promise, who is given which, and what contradicts itself."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Admitted, Counts, Quota, Rulebook, WindowKind
from policies.descriptor import Descriptor
from policies.identity_schema import HeavySection, IdentitySection
from policies.quantities import Rate
from policies.tiers import PRESETS, Assignment, Tier, address_of, network_of, unreachable
from proxy.store.memory import MemoryStore
from tests.virtual import EPOCH_US

SECOND = 1_000_000


def request(client: str, tier: str | None, endpoint: str = "kline") -> Descriptor:
    return Descriptor("GET", "/v5/market/kline", "", endpoint, "default", "192.0.2.1", client=client, tier=tier)


class Client:
    """Asks as often as it may, on a clock of its own."""

    def __init__(self, quotas: tuple[Quota, ...], tier: str | None = "FREE") -> None:
        self.now_us = EPOCH_US
        self._rules = Rulebook(quotas)
        self._store = MemoryStore(lambda: self.now_us)
        self._tier = tier

    async def may(self, client: str = "a", endpoint: str = "kline") -> bool:
        charges = self._rules.charges(request(client, self._tier, endpoint))
        return isinstance(await self._store.spend(charges), Admitted)

    async def at_once(self, most: int = 100_000) -> int:
        count = 0
        while count < most and await self.may():
            count += 1
        return count


def preset(name: str) -> tuple[Quota, ...]:
    return Tier(name, **PRESETS[name]).quotas()


@pytest.mark.parametrize(
    ("name", "burst", "second", "minute", "hour"),
    [
        ("FREE", 10, 5, 100, 1_000),
        ("PREMIUM", 50, 20, 500, 10_000),
        ("ENTERPRISE", 200, 100, 3_000, 50_000),
        ("INTERNAL", 2_000, 1_000, 30_000, 500_000),
    ],
)
async def test_a_tier_gives_what_it_promises(name: str, burst: int, second: int, minute: int, hour: int) -> None:
    """A burst at once, then so many a second; no more than so many in any minute and any hour."""
    client = Client(preset(name), name)

    assert await client.at_once() == burst
    client.now_us += SECOND
    assert await client.at_once() == second

    client = Client(preset(name), name)
    asked = 0
    for _ in range(60):  # one minute, less the width of a slot
        asked += await client.at_once()
        client.now_us += SECOND
    assert asked == minute

    for _ in range(60 * 64):
        asked += await client.at_once()
        client.now_us += SECOND
        if client.now_us < EPOCH_US + 3600 * SECOND:
            assert asked <= hour
    assert asked >= hour


async def test_clients_of_one_tier_do_not_share_it() -> None:
    client = Client(preset("FREE"))
    await client.at_once()

    assert not await client.may("a")
    assert await client.may("b")


async def test_who_has_no_tier_meets_no_quota_of_one() -> None:
    client = Client(preset("FREE"), None)

    assert await client.at_once(2_000) == 2_000


async def test_a_tier_without_a_burst_is_exact() -> None:
    """So many in any second, wherever it begins."""
    (quota,) = Tier("A", second=5).quotas()
    client = Client((quota,), "A")

    assert quota.window is WindowKind.SENT
    assert await client.at_once() == 5
    client.now_us += SECOND - 1
    assert await client.at_once() == 0
    client.now_us += 1
    assert await client.at_once() == 5


async def test_heavy_endpoints_have_their_own_number_beside() -> None:
    tier = Tier("FREE", **PRESETS["FREE"])
    heavy = tier.heavy(("instruments-info", "risk-limit"), Rate(2, 60 * SECOND))
    client = Client((*tier.quotas(), heavy))

    answers = [await client.may(endpoint="instruments-info") for _ in range(3)]

    assert answers == [True, True, False]
    assert await client.may(endpoint="risk-limit")
    assert await client.may(endpoint="kline")
    assert await client.may("b", endpoint="instruments-info")


def test_quotas_are_named_and_matched_by_their_tier() -> None:
    tier = Tier("Gold", 1, 2, 3, 1)
    quotas = (*tier.quotas(), tier.heavy(("kline",), Rate(200, 60 * SECOND)))

    assert [quota.name for quota in quotas] == [
        "tier-gold-second",
        "tier-gold-minute",
        "tier-gold-hour",
        "tier-gold-heavy-kline",
    ]
    assert [quota.window for quota in quotas] == [WindowKind.BUCKET, *[WindowKind.SLOTTED] * 3]
    assert all(quota.match.tier == {"Gold"} and quota.counts is Counts.REQUESTS for quota in quotas)


@given(*[st.none() | st.integers(1, 12) for _ in range(4)])
def test_numbers_that_contradict_each_other_are_named(
    second: int | None, minute: int | None, hour: int | None, burst: int | None
) -> None:
    """second <= burst <= minute <= hour, as far as they are given; a burst needs a second; something must be given."""
    given_ = [n for n in (second, minute, hour) if n is not None]
    good = bool(given_) and given_ == sorted(given_)
    if burst is not None:
        good = good and second is not None and second <= burst and (burst <= (minute or hour or burst))

    assert (not list(Tier("A", second, minute, hour, burst).contradictions())) == good


def test_only_tiers_that_somebody_can_have_are_enforced() -> None:
    """The rest would be lines in a list and nothing else; whoever signs tokens may name any of them."""
    secret = "s" * 32

    def names(**settings: object) -> set[str]:
        section = IdentitySection.model_validate(settings)
        return {quota.name.split("-")[1] for quota in section.quotas()}

    assert names() == set()
    assert names(default_tier="FREE") == {"free"}
    assert names(assign=[{"match": {"ip": "10.0.0.0/8"}, "tier": "INTERNAL"}]) == {"internal"}
    assert names(tokens=[{"name": "a", "token": "a-token-of-a", "tier": "PREMIUM"}]) == {"premium"}
    assert names(jwt={"algorithms": "HS256", "secret": secret}) == {"free", "premium", "enterprise", "internal"}


def test_heavy_rules_follow_their_tiers() -> None:
    heavy = HeavySection.model_validate({"endpoints": ["kline"], "tier": ["FREE", "PREMIUM"], "quota": "10/1m"})
    section = IdentitySection(default_tier="FREE", heavy=(heavy,))

    assert [q.name for q in section.quotas() if "heavy" in q.name] == ["tier-free-heavy-kline"]


NETWORKS = st.tuples(st.integers(0, 15), st.integers(28, 32)).map(
    lambda pair: ip_network((0x0A000000 | pair[0], pair[1]), strict=False)
)
RULES = st.lists(
    st.builds(
        Assignment,
        tier=st.sampled_from(["A", "B"]),
        ip=st.none() | st.lists(NETWORKS, min_size=1, max_size=2).map(tuple),
        api_key=st.none() | st.frozensets(st.sampled_from("kl"), min_size=1),
        token=st.none() | st.frozensets(st.sampled_from("tu"), min_size=1),
    ).filter(lambda rule: (rule.ip, rule.api_key, rule.token) != (None, None, None)),
    max_size=4,
)


@given(RULES)
def test_what_is_reported_as_unreachable_is_never_reached(rules: list[Assignment]) -> None:
    """No address, key or token that fits the reported value gets the later rule, whatever else is true of it."""
    for later, earlier, condition, value, _ in unreachable(rules):
        assert earlier < later
        for number in range(16):
            for key in (None, "k", "l"):
                for token in (None, "t", "u"):
                    address = ip_address(0x0A000000 | number)
                    has = {"ip": address, "api_key": key, "token": token}
                    fits = address in ip_network(value) if condition == "ip" else has[condition] == value
                    if fits and rules[later].accepts(address, key, None, token, None):
                        assert rules[earlier].accepts(address, key, None, token, None)


@given(st.lists(NETWORKS, min_size=1, max_size=5))
def test_networks_inside_earlier_ones_of_another_tier_are_reported(networks: list[object]) -> None:
    rules = [Assignment(f"T{number}", ip=(network,)) for number, network in enumerate(networks)]
    dead = {
        later for later, network in enumerate(networks) if any(network.subnet_of(first) for first in networks[:later])
    }

    assert {later for later, *_ in unreachable(rules)} == dead


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.01", None),
        ("host", None),
        ("", None),
    ],
)
def test_addresses_are_compared_as_what_they_are(text: str, address: str | None) -> None:
    assert address_of(text) == (None if address is None else ip_address(address))


def test_mapped_networks_are_ipv4() -> None:
    assert str(network_of("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    assert str(network_of("2001:db8::/32")) == "2001:db8::/32"
    assert str(network_of("::/0")) == "::/0"

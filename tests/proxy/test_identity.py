"""Who is asking: address, account, token, and the tier that follows."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from policies.identity_schema import IdentitySection
from proxy.config import ListenSection
from proxy.identity import Identifier, Identity, Rejected

OURS = "10.0.0.0/8"


def identifier(
    trusted: tuple[str, ...] = (), header: str = "x-forwarded-for", pepper: bytes = b"p" * 32, **identity: Any
) -> Identifier:
    listen = ListenSection.model_validate({"trusted_proxies": trusted, "trusted_header": header})
    return Identifier(listen, IdentitySection.model_validate(identity), lambda: 0, pepper)


def known(who: Identity | Rejected) -> Identity:
    assert isinstance(who, Identity), who
    return who


def ask(one: Identifier, peer: str | None = "192.0.2.1", **headers: str) -> Identity:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return known(one.who(peer, CIMultiDict(lines)))


def test_who_speaks_for_an_account_is_signed() -> None:
    who = identifier()

    assert ask(who, x_bapi_api_key="k").signed
    assert ask(who, X_BAPI_SIGN="s").signed
    assert not ask(who, X_BAPI_TIMESTAMP="1").signed


def test_a_key_is_known_by_a_hash_that_means_nothing_elsewhere() -> None:
    """Equal keys are equal, in one gateway only; the key itself cannot be found in it."""
    one, other = identifier(), identifier(pepper=b"q" * 32)

    hashed = ask(one, X_BAPI_API_KEY="secret-key").api_key

    assert hashed == ask(one, "192.0.2.2", X_BAPI_API_KEY="secret-key").api_key
    assert hashed != ask(other, X_BAPI_API_KEY="secret-key").api_key
    assert hashed is not None
    assert "secret" not in hashed


def test_processes_with_one_hash_key_agree() -> None:
    one, other = (identifier(pepper=pepper * 32, hash_key="of-all-processes") for pepper in (b"p", b"q"))

    assert ask(one, X_BAPI_API_KEY="k") == ask(other, X_BAPI_API_KEY="k")


def test_a_reload_knows_the_same_clients() -> None:
    """What was spent must not be forgotten because the configuration was read again."""
    listen, identity = ListenSection(), IdentitySection()
    headers = CIMultiDict({"X-BAPI-API-KEY": "k"})

    before, after = (Identifier(listen, identity, lambda: 0).who("192.0.2.1", headers) for _ in range(2))

    assert before == after


def test_keys_of_one_account_are_one_client() -> None:
    who = identifier(accounts={"main": ["k1", "k2"], "hedge": "k3"})

    main = ask(who, X_BAPI_API_KEY="k1")

    assert main == ask(who, X_BAPI_API_KEY="k2")
    assert main.client == main.api_key
    others = [ask(who, X_BAPI_API_KEY=key).api_key for key in ("k3", "k4", "main", "account:main")]
    assert len({main.api_key, *others}) == 5


@pytest.mark.parametrize(
    ("peer", "lines", "ip"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a proxy of ours: not believed
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),  # IPv4 through an IPv6 socket
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),  # two lines are one list
        ("10.0.0.1", ["10.9.9.9, 10.8.8.8"], "10.0.0.1"),  # all ours
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),  # what cannot be read ends the walk
        ("10.0.0.1", ["198.51.100.7, "], "10.0.0.1"),
        ("10.0.0.1", ["unknown, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:port"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8:1:2:3::1"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["[2001:db8:1:2:3::1]:443"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["[2001:db8::1"], "10.0.0.1"),
        ("10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7" + ", 10.0.0.2" * 31], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7" + ", 10.0.0.2" * 32], "10.0.0.1"),  # so many proxies has nobody
        (None, ["198.51.100.7"], "unknown"),
        ("/run/socket", ["198.51.100.7"], "/run/socket"),
    ],
)
def test_the_address_is_the_one_that_our_own_proxies_vouch_for(peer: str | None, lines: list[str], ip: str) -> None:
    headers: CIMultiDict[str] = CIMultiDict(Forwarded="for=203.0.113.77")
    for line in lines:
        headers.add("X-Forwarded-For", line)

    assert known(identifier((OURS,)).who(peer, headers)).ip == ip


@pytest.mark.parametrize(
    ("line", "ip"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ("For=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7"),
        ('for="198.51.100.7:4711"', "198.51.100.7"),
        ('for="[2001:db8:cafe:1::17]:4711"', "2001:db8:cafe:1::/64"),
        ('for="[2001:db8:cafe:1::17]"', "2001:db8:cafe:1::/64"),
        ("for=203.0.113.9, for=198.51.100.7, for=10.1.1.1", "198.51.100.7"),
        ("for=203.0.113.9 , for=198.51.100.7 ; proto=http", "198.51.100.7"),
        ("for=198.51.100.7;;proto=http", "198.51.100.7"),
        (r'for="198.51.10\0.7"', "198.51.100.7"),  # a quoted pair
        ("for=198.51.100.7, for=unknown", "10.0.0.1"),
        ("for=198.51.100.7, for=_hidden", "10.0.0.1"),
        ('for="198.51.100.7:_port"', "198.51.100.7"),
        ("for=198.51.100.7, proto=http", "10.0.0.1"),  # says nothing of whom
        ("for=198.51.100.7;for=203.0.113.9", "10.0.0.1"),
        ("for=2001:db8::1", "10.0.0.1"),  # must be quoted
        ("for=198.51.100.7,", "10.0.0.1"),
        ('for="198.51.100.7', "10.0.0.1"),
        ("198.51.100.7", "10.0.0.1"),
        ("", "10.0.0.1"),
        ('for="203.0.113.9, for=198.51.100.7', "198.51.100.7"),  # an open quotation swallows nothing
        ('for=203.0.113.9;x=", for="[2001:db8:1:2::7]"', "2001:db8:1:2::/64"),
        ('for=198.51.100.7;host="a, b"', "198.51.100.7"),  # a comma in a quotation
        ('for=198.51.100.7;host="a, for=203.0.113.9"', "198.51.100.7"),
        ("for=198.51.100.7;x=" + "y" * 2000, "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_its_rfc_says(line: str, ip: str) -> None:
    headers = CIMultiDict({"Forwarded": line, "X-Forwarded-For": "203.0.113.77"})

    assert known(identifier((OURS,), "forwarded").who("10.0.0.1", headers)).ip == ip


OUR_HOPS = st.integers(1, 2**24 - 1).map(lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
CLIENTS = st.integers(1, 2**8 - 1).map(lambda n: f"198.51.100.{n}")
INVENTED = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@given(INVENTED, CLIENTS, st.lists(OUR_HOPS, max_size=10), st.booleans())
def test_nothing_that_a_client_writes_moves_his_address(
    invented: str, client: str, proxies: list[str], apart: bool
) -> None:
    """Whatever stands left of what our proxies have added, in a line of its own or in theirs, in either header."""
    for header, shape in (("X-Forwarded-For", "{}"), ("Forwarded", 'for="{}";proto=http')):
        noted = ", ".join(shape.format(hop) for hop in (client, *proxies))
        headers: CIMultiDict[str] = CIMultiDict()
        if apart:
            headers.add(header, invented)
            headers.add(header, noted)
        else:
            headers.add(header, f"{invented}, {noted}")

        who = identifier((OURS,), header.lower()).who("10.0.0.1", headers)

        assert known(who).ip == client


@given(st.text(max_size=60), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_no_line_breaks_the_reading(line: str, header: str) -> None:
    """Whatever it says, the answer is an address that stands in it, or the proxy's."""
    ip = known(identifier((OURS,), header).who("10.0.0.1", CIMultiDict({header: line}))).ip

    assert ip == "10.0.0.1" or ip.endswith("/64") or ip in line or ":" in ip


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),  # all of a network segment have the same /64 there
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_an_ipv6_client_is_its_64(peer: str, ip: str) -> None:
    """Whoever has one address of a /64 has all of them."""
    who = ask(identifier(), peer)

    assert (who.ip, who.client) == (ip, ip)


TOKENS = [
    {"name": "bot-a", "token": "token-of-bot-a", "tier": "PREMIUM"},
    {"name": "bot-b", "token_sha256": sha256(b"token-of-bot-b").hexdigest().upper()},
]


def test_a_gateway_token_proves_who_it_is() -> None:
    who = identifier(tokens=TOKENS)

    assert ask(who, X_Gateway_Token="token-of-bot-a")[2:4] == ("token:bot-a", "PREMIUM")
    assert ask(who, x_gateway_token="token-of-bot-b")[2:4] == ("token:bot-b", None)
    signed = ask(who, X_Gateway_Token="token-of-bot-a", X_BAPI_API_KEY="k")
    assert signed.client == "token:bot-a"
    assert signed.api_key is not None


@pytest.mark.parametrize("token", ["", "token-of-bot-", "token-of-bot-A", "TOKEN-OF-BOT-A", "bot-a", "t\udcffken", "é"])
@pytest.mark.parametrize("tokens", [TOKENS, []])
def test_an_unknown_token_is_refused(token: str, tokens: list[dict[str, str]]) -> None:
    """Even where none is configured: whoever shows one expects to be known by it."""
    who = identifier(tokens=tokens).who("192.0.2.1", CIMultiDict({"X-Gateway-Token": token}))

    assert isinstance(who, Rejected)
    assert who.detail == "Not authorized: the gateway token is not known"
    assert who.challenge.startswith('X-Gateway-Token realm="bybit-gateway", error="invalid_token"')


def test_two_tokens_are_one_too_many() -> None:
    headers = CIMultiDict([("X-Gateway-Token", "token-of-bot-a"), ("x-gateway-token", "token-of-bot-b")])

    assert isinstance(identifier(tokens=TOKENS).who("192.0.2.1", headers), Rejected)


def test_the_hash_of_a_token_is_not_the_token() -> None:
    headers = CIMultiDict({"X-Gateway-Token": sha256(b"token-of-bot-b").hexdigest()})

    assert isinstance(identifier(tokens=TOKENS).who("192.0.2.1", headers), Rejected)


ASSIGN = [
    {"match": {"token": "bot-b"}, "tier": "ENTERPRISE"},
    {"match": {"ip": ["10.0.0.0/8", "2001:db8::/32"], "account": "main"}, "tier": "PREMIUM"},
    {"match": {"api_key": "k3"}, "tier": "INTERNAL"},
    {"match": {"ip": "10.0.0.0/8"}, "tier": "FREE"},
]


@pytest.mark.parametrize(
    ("peer", "headers", "tier"),
    [
        ("192.0.2.1", {}, "DEFAULT"),
        ("192.0.2.1", {"X_BAPI_API_KEY": "k1"}, "DEFAULT"),  # both conditions must hold
        ("10.1.1.1", {"X_BAPI_API_KEY": "k1"}, "PREMIUM"),
        ("::ffff:10.1.1.1", {"X_BAPI_API_KEY": "k2"}, "PREMIUM"),
        ("2001:db8::1", {"X_BAPI_API_KEY": "k2"}, "PREMIUM"),
        ("2001:db8::1", {}, "DEFAULT"),
        ("10.1.1.1", {}, "FREE"),
        ("10.1.1.1", {"X_BAPI_API_KEY": "k3"}, "INTERNAL"),  # the first match wins
        ("192.0.2.1", {"X_BAPI_API_KEY": "k3"}, "INTERNAL"),
        ("10.1.1.1", {"X_Gateway_Token": "token-of-bot-b", "X_BAPI_API_KEY": "k3"}, "ENTERPRISE"),
        ("10.1.1.1", {"X_Gateway_Token": "token-of-bot-a"}, "PREMIUM"),  # a token's own tier goes before
        (None, {}, "DEFAULT"),
    ],
)
def test_the_tier_comes_from_the_strongest_source(peer: str | None, headers: dict[str, str], tier: str) -> None:
    who = identifier(
        accounts={"main": ["k1", "k2"]},
        tokens=TOKENS,
        tiers={name: {"second": 1} for name in ("FREE", "PREMIUM", "ENTERPRISE", "INTERNAL", "DEFAULT")},
        assign=ASSIGN,
        default_tier="DEFAULT",
    )

    assert ask(who, peer, **headers).tier == tier


@pytest.mark.parametrize(
    ("peer", "headers", "may"),
    [
        ("192.0.2.1", {}, False),
        ("192.0.2.1", {"X-BAPI-API-KEY": "of-nobody"}, False),
        ("192.0.2.1", {"X-BAPI-API-KEY": "k1"}, True),
        ("192.0.2.1", {"X-BAPI-API-KEY": "k3"}, True),
        ("192.0.2.1", {"X-Gateway-Token": "token-of-bot-b"}, True),
        ("10.1.1.1", {}, True),
        ("10.1.1.1", {"X-Gateway-Token": "of-nobody"}, False),
    ],
)
def test_where_it_is_required_everybody_must_be_known(peer: str, headers: dict[str, str], may: bool) -> None:
    """By a token, an account, or a rule that names the address or the key."""
    one = identifier(required=True, accounts={"main": ["k1"]}, tokens=TOKENS, assign=ASSIGN[2:])
    who = one.who(peer, CIMultiDict(headers))

    assert isinstance(who, Identity) == may
    if isinstance(who, Rejected):
        assert who.ip == peer


def test_an_identity_can_be_remembered() -> None:
    who = identifier(tokens=TOKENS)

    assert hash(ask(who, X_Gateway_Token="token-of-bot-a")) == hash(ask(who, X_Gateway_Token="token-of-bot-a"))

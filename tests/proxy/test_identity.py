"""Who is asking."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from proxy.identity import Identifier


def test_who_speaks_for_an_account_is_signed() -> None:
    who = Identifier(())

    assert who.who("192.0.2.1", CIMultiDict({"x-bapi-api-key": "k"})).signed
    assert who.who("192.0.2.1", CIMultiDict({"X-BAPI-SIGN": "s"})).signed
    assert not who.who("192.0.2.1", CIMultiDict({"X-BAPI-TIMESTAMP": "1"})).signed


def test_a_key_is_known_by_a_hash_that_means_nothing_elsewhere() -> None:
    """Equal keys are equal, in one gateway only; the key itself cannot be found in it."""
    one, other = Identifier(()), Identifier(())
    headers = CIMultiDict({"X-BAPI-API-KEY": "secret-key"})

    hashed = one.who("192.0.2.1", headers).api_key

    assert hashed == one.who("192.0.2.2", headers).api_key
    assert hashed != other.who("192.0.2.1", headers).api_key
    assert hashed is not None
    assert "secret" not in hashed


@pytest.mark.parametrize(
    ("peer", "lines", "ip"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a proxy of ours: not believed
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),  # two lines are one list
        ("10.0.0.1", ["10.9.9.9, 10.8.8.8"], "10.0.0.1"),  # all ours
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),  # what cannot be read ends the walk
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        (None, ["198.51.100.7"], "unknown"),
    ],
)
def test_the_address_is_the_one_that_our_own_proxies_vouch_for(peer: str | None, lines: list[str], ip: str) -> None:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        headers.add("X-Forwarded-For", line)

    assert Identifier(("10.0.0.0/8",)).who(peer, headers).ip == ip

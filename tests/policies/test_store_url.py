"""Where the windows are kept, as an operator writes it."""

from __future__ import annotations

import re

import pytest

from policies.store_url import PATTERN, StoreAddress, StoreKind, parse

GOOD = [
    ("memory://", StoreAddress(StoreKind.MEMORY)),
    ("redis://localhost", StoreAddress(StoreKind.REDIS, hosts=(("localhost", 6379),))),
    ("redis://10.0.0.7:6380/3", StoreAddress(StoreKind.REDIS, hosts=(("10.0.0.7", 6380),), db=3)),
    ("redis://[::1]:7000/", StoreAddress(StoreKind.REDIS, hosts=(("::1", 7000),))),
    (
        "rediss://me:p%40ss:w@rd@store",
        StoreAddress(StoreKind.REDIS, True, (("store", 6379),), username="me", password="p@ss:w@rd"),
    ),
    ("redis://:only@store", StoreAddress(StoreKind.REDIS, hosts=(("store", 6379),), password="only")),
    (
        "redis+sentinel://:x@a,b:26380,c/mymaster/2",
        StoreAddress(
            StoreKind.SENTINEL, False, (("a", 26379), ("b", 26380), ("c", 26379)), "mymaster", 2, password="x"
        ),
    ),
    ("redis+cluster://a,b:7001", StoreAddress(StoreKind.CLUSTER, hosts=(("a", 6379), ("b", 7001)))),
    ("rediss+cluster://a", StoreAddress(StoreKind.CLUSTER, True, (("a", 6379),))),
]


@pytest.mark.parametrize(("text", "address"), GOOD, ids=[text for text, _ in GOOD])
def test_every_kind_of_store_has_an_url(text: str, address: StoreAddress) -> None:
    assert parse(text) == address
    if "@rd@" not in text:  # an unescaped @ in a password is understood, and frowned upon by editors
        assert re.search(PATTERN, text)


@pytest.mark.parametrize(
    "text", ["redis://", "redis://a:0", "redis://a:65536", "redis://a/x", "redis://a/1/2", "memory://x"]
)
def test_the_rest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_people_are_shown_neither_user_nor_password() -> None:
    address = parse("redis+sentinel://me:s3cr3t@a,b/mymaster/2")
    assert address.shown == "redis+sentinel://a:26379,b:26379/mymaster/2"
    assert "s3cr3t" not in repr(address)
    with pytest.raises(ValueError) as caught:
        parse("redis://:s3cr3t")
    assert "s3cr3t" not in str(caught.value)

"""Values that a stranger has put into the common Redis reach no client: they are a miss, and all goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from policies.frame import Kind
from proxy.l2 import mac_key_of
from tests.by_hand import target
from tests.cached import ask, detail, envelope, unlike
from tests.hand_clock import until
from tests.planted import KINDS, SECRET, nobody_is_told, stage
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@KINDS
async def test_what_a_gateway_has_put_there_is_believed(redis: RedisServer, kind: Kind) -> None:
    """Else the rest of these tests would prove nothing."""
    async with stage(redis) as on:
        await on.filled(kind)
        answers, asked = await on.another(kind)

        assert asked == 0
        assert [detail(each) for each in answers] == ["l2", ""]
        assert unlike(answers[0].body) == unlike(await on.truth(kind))


@KINDS
async def test_the_same_sealed_anew_is_believed_too(redis: RedisServer, kind: Kind) -> None:
    """So is what is forged below, but for what is false in it."""
    async with stage(redis) as on:
        await on.filled(kind)
        on.forge(kind, lambda frame: frame)
        assert (await on.another(kind))[1] == 0


def other_seal(raw: bytes) -> bytes:
    unsealed = raw[:-16]
    return unsealed + b"\0" * 16


SPOILED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "nothing": lambda _: b"",
    "garbage": lambda _: b"garbage",
    "zeros": lambda _: b"\0" * 500,
    "a pickle": lambda _: b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "plain JSON": lambda _: envelope({"symbol": "BTCUSDT", "category": "linear", "list": []}),
    "an answer": lambda _: b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "cut short": lambda raw: raw[:-1],
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "longer": lambda raw: raw + b"x",
    "twice": lambda raw: raw + raw,
    "no seal": other_seal,
    "next version": lambda raw: raw[:4] + b"\x02" + raw[5:],
    "version before": lambda raw: raw[:4] + b"\x00" + raw[5:],
    "other kind": lambda raw: raw[:5] + bytes([raw[5] % 3 + 1]) + raw[6:],
    "a flipped bit": lambda raw: raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:],
    "a gigabyte by its word": lambda raw: raw[:39] + b"\x40\0\0\0" + raw[43:],
    "two megabytes": lambda raw: raw + b"\0" * (2 << 20),
}


@KINDS
@pytest.mark.parametrize("name", SPOILED)
async def test_what_is_not_sealed_is_nothing(redis: RedisServer, kind: Kind, name: str) -> None:
    async with stage(redis) as on:
        await on.filled(kind)
        key = on.key(kind)
        on.plant(key, SPOILED[name](on.value(key)))

        await nobody_is_told(on, kind)


@KINDS
async def test_what_is_sealed_with_another_secret_is_nothing(redis: RedisServer, kind: Kind) -> None:
    async with stage(redis, cache__l2__secret="seal-of-other-gateways") as on:
        await on.filled(kind)
        assert (await on.another(kind))[1] == 0
        on.shared["cache__l2__secret"] = SECRET

        await nobody_is_told(on, kind)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (Kind.ENTRY, "/v5/market/instruments-info?category=linear&symbol=ETHUSDT"),
        (Kind.SEGMENT, target("ETHUSDT", start=1_770_000_000_000, end=1_770_000_600_000)),
        (Kind.TAIL, target("ETHUSDT", limit=5)),
    ],
    ids=["entry", "segment", "tail"],
)
async def test_a_good_value_in_another_place_is_nothing(redis: RedisServer, kind: Kind, asked: str) -> None:
    """The answer for one symbol is no answer for another."""
    async with stage(redis) as on:
        await ask(on.here.app, asked)
        key = on.key(kind)
        moved = key.replace("ETHUSDT", "BTCUSDT")
        on.plant(moved, on.value(key))
        with on.client() as client:
            client.delete(key)

        await nobody_is_told(on, kind)


async def test_values_of_another_exchange_are_not_found(redis: RedisServer) -> None:
    """The test network's prices are not the main network's, though its symbols are the same."""
    async with stage(redis) as on:
        await on.filled(Kind.SEGMENT)
        key = on.key(Kind.SEGMENT)
        on.plant(key.partition("@")[0] + "@api-testnet.bybit.com", on.value(key))
        on.plant(key.partition("@")[0], on.value(key))
        with on.client() as client:
            client.delete(key)

        await nobody_is_told(on, Kind.SEGMENT)


async def test_another_type_of_value_is_nothing(redis: RedisServer) -> None:
    async with stage(redis) as on:
        await on.filled(Kind.TAIL)
        key = on.key(Kind.TAIL)
        with on.client() as client:
            client.delete(key)
            client.hset(key, "field", "value")

        answers, asked = await on.another(Kind.TAIL)
        assert (asked, [each.status for each in answers]) == (1, [200, 200])


async def test_a_lease_that_is_never_let_go_holds_nobody_up(redis: RedisServer) -> None:
    """A key of ours without an end, or with one in a year, is none that a gateway has made."""
    for life_ms in (None, 31_536_000_000):
        async with stage(redis) as on:
            key = "bybit:market:instruments-info:category=linear:symbol=BTCUSDT"
            place = f"@127.0.0.1:{on.here.exchange.port}"
            with on.client() as client:
                client.set(f"{key}{place}:fetching", "evil", px=life_ms)
            answers, asked = await on.another(Kind.ENTRY)

            assert [each.status for each in answers] == [200, 200]
            assert asked == 1


async def test_the_right_seal_is_of_the_secret_or_else_of_the_password() -> None:
    keys = {mac_key_of(secret, password) for secret in (None, "a", "b") for password in (None, "a", "b")}

    assert len(keys) == 2 + 3
    assert mac_key_of("a", "x") == mac_key_of("a", None)


async def test_what_a_planted_value_costs_is_counted(redis: RedisServer) -> None:
    async with stage(redis) as on, on.beside() as other:
        await on.filled(Kind.ENTRY)
        on.plant(on.key(Kind.ENTRY), b"garbage")
        await ask(other.app, "/v5/market/instruments-info?category=linear&symbol=BTCUSDT")
        await until(lambda: other.app.metrics.l2_operations.counts.get(("get", "unreadable-magic")))

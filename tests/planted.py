"""A Redis that several gateways share, and somebody who writes to it what he likes, with the right seal or without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import zstandard
from redis import Redis

from policies.frame import Frame, Kind, Unreadable, pack, unpack
from proxy.l2 import mac_key_of
from tests.by_hand import Desk, beside, desk
from tests.cached import CLOSED, INFO, LATEST, get, unlike, was_hit
from tests.raw_http import RawAnswer, exchange_bytes, read_answer
from tests.redis_servers import RedisServer

SECRET: Final = "seal-of-all-gateways"
SEAL: Final = mac_key_of(SECRET, None)
ASKED: Final = {Kind.ENTRY: INFO, Kind.SEGMENT: CLOSED, Kind.TAIL: LATEST}
"""By the kind of value that alone answers it."""
_PARTS: Final = {Kind.ENTRY: "instruments-info", Kind.SEGMENT: ":segment:", Kind.TAIL: ":tail"}

KINDS: Final = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
BEFORE: Final = '{"retCode":0,"retMsg":"OK","result":{"symbol":"BTCUSDT","category":"linear","list":['
"""What stands before the rows of the segment."""

Change = Callable[[Frame], Frame]


@dataclass
class Stage:
    """`here` is the gateway that fills the Redis."""

    here: Desk
    redis: RedisServer
    shared: dict[str, Any]

    def client(self) -> Redis:
        return Redis(port=self.redis.port, decode_responses=False, protocol=2)

    def key(self, kind: Kind) -> str:
        """The only one of its kind."""
        with self.client() as redis:
            (found,) = [key.decode() for key in redis.scan_iter() if _PARTS[kind] in key.decode()]
        return str(found)

    def value(self, key: str) -> bytes:
        with self.client() as redis:
            return bytes(redis.get(key))  # type: ignore[arg-type]  # it is there

    def plant(self, key: str, value: bytes) -> None:
        with self.client() as redis:
            redis.set(key, value, px=600_000)

    def frame(self, kind: Kind) -> Frame:
        """As it was put, its body unpacked."""
        key = self.key(kind)
        found = unpack(self.value(key), key, SEAL)
        assert not isinstance(found, Unreadable)
        if found.packed:
            found = found._replace(body=zstandard.ZstdDecompressor().decompress(found.body))
        return found

    def forge(self, kind: Kind, change: Change) -> None:
        """In its place, rightly sealed."""
        forged = change(self.frame(kind))
        self.plant(forged.key, pack(forged._replace(plain_bytes=len(forged.body)), SEAL))

    async def filled(self, kind: Kind) -> None:
        await exchange_bytes(self.here.app.port, get(ASKED[kind]))

    async def truth(self, kind: Kind) -> bytes:
        """What the exchange says; this counts in asked(), too."""
        return await self.direct(ASKED[kind])

    async def direct(self, target: str) -> bytes:
        return (await exchange_bytes(self.here.exchange.port, get(target))).body

    def beside(self) -> AbstractAsyncContextManager[Desk]:
        """Another gateway that has just started."""
        return beside(self.here.exchange, self.here.clock, **self.shared)

    async def another(self, kind: Kind) -> tuple[list[RawAnswer], int]:
        """What a gateway that has just started tells a client that asks twice on one connection, and how often the
        exchange was asked for it."""
        before = self.here.exchange.stats.requests
        async with self.beside() as other:
            answers = await twice(other, ASKED[kind])
        return answers, self.here.exchange.stats.requests - before


async def twice(at: Desk, target: str) -> list[RawAnswer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", at.app.port, limit=2**22)
    try:
        async with asyncio.timeout(10):
            answers = []
            for line in ("X: 1", "Connection: close"):
                writer.write(get(target, line))
                answers.append(await read_answer(reader))
            assert await reader.read() == b"", "more than was asked for"
    finally:
        writer.close()
    return answers


@asynccontextmanager
async def stage(redis: RedisServer, **overrides: Any) -> AsyncIterator[Stage]:
    """An empty Redis, in which all is found that a gateway has just fetched."""
    with redis.client() as client:
        client.flushall()
    shared: dict[str, Any] = {
        "cache__l2__url": redis.url,
        "cache__l2__timeout": "1s",
        "cache__l2__secret": SECRET,
        "cache__lock": "always",
        "candles__boundary__enabled": "false",
        "retry__enabled": "false",
        **overrides,
    }
    async with desk(**shared) as here:
        yield Stage(here, redis, shared)


async def nobody_is_told(on: Stage, kind: Kind) -> None:
    """A new gateway gives what the exchange says, for which it has asked it."""
    answers, asked = await on.another(kind)
    truth = unlike(await on.truth(kind))

    assert asked == 1
    assert [each.status for each in answers] == [200, 200]
    assert [unlike(each.body) for each in answers] == [truth] * 2
    assert [was_hit(each) for each in answers] == [False, True]
    names = {name.lower() for each in answers for name, _ in each.headers}
    assert not names & {"x-evil", "set-cookie", "location", "transfer-encoding", "refresh"}


# What may be said falsely


def about(**changes: Any) -> Change:
    """Of a segment: what stands around its rows, and where they are complete. An Ellipsis: not at all."""

    def change(frame: Frame) -> Frame:
        said, _, lines = frame.head.partition(b"\n")
        told = {**json.loads(said), **changes}
        told = {name: value for name, value in told.items() if value is not ...}
        return frame._replace(head=json.dumps(told).encode() + b"\n" + lines)

    return change


def replaced(old: str, new: str) -> Change:
    """In its body."""

    def change(frame: Frame) -> Frame:
        assert old.encode() in frame.body, (old, frame.body[:300])
        return frame._replace(body=frame.body.replace(old.encode(), new.encode(), 1))

    return change


def lines(change: Callable[[bytes], bytes]) -> Change:
    """The header lines that are given to clients."""

    def changed(frame: Frame) -> Frame:
        if frame.kind is Kind.ENTRY:
            return frame._replace(head=change(frame.head))
        said, _, told = frame.head.partition(b"\n")
        return frame._replace(head=said + b"\n" + change(told))

    return changed

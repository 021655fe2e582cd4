"""Dead, alive, or nobody knows: what a gateway learns at another's door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.store import peers
from proxy.store.peers import Doorbell, Verdict, ring


@asynccontextmanager
async def door(name: str) -> AsyncIterator[Doorbell]:
    bell = Doorbell(name)
    await bell.open(("127.0.0.1", 6379))
    try:
        yield bell
    finally:
        await bell.close()


@asynccontextmanager
async def listener(says: bytes, *, hangs_up: bool) -> AsyncIterator[str]:
    """Some other program at that address."""
    open_ones: list[asyncio.Transport] = []

    class Program(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(says)
            if hangs_up:
                transport.close()
            open_ones.append(transport)

    server = await asyncio.get_running_loop().create_server(Program, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for transport in open_ones:
            transport.abort()
        await asyncio.sleep(0)


async def test_a_gateway_is_reached_where_it_reaches_the_store_from() -> None:
    async with door("a1") as bell:
        assert bell.address.startswith("127.0.0.1:")
        assert await ring(bell.address, "a1") is Verdict.ALIVE


async def test_a_door_that_is_gone_means_dead() -> None:
    async with door("a1") as bell:
        address = bell.address
    assert await ring(address, "a1") is Verdict.DEAD


async def test_another_gateway_at_the_address_means_dead() -> None:
    async with door("b2") as bell:
        assert await ring(bell.address, "a1") is Verdict.DEAD


@pytest.mark.parametrize(("says", "hangs_up"), [(b"", False), (b"", True), (b"HTTP/1.1 400 Bad Request", True)])
async def test_what_cannot_be_understood_means_nothing(
    says: bytes, hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be frozen, or another program has the port: its share is not taken from it for that."""
    monkeypatch.setattr(peers, "_PATIENCE_S", 0.05)
    async with listener(says, hangs_up=hangs_up) as address:
        assert await ring(address, "a1") is Verdict.UNKNOWN


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:http", "203.0.113.1:9"])
async def test_an_address_that_leads_nowhere_means_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_PATIENCE_S", 0.05)
    assert await ring(address, "a1") is Verdict.UNKNOWN

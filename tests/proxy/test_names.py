"""The exchange's name is looked up, whatever becomes of other names."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest

from proxy.names import Addresses, OwnThreads
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url

MANY = 100
"""More than the loop has threads for look-ups."""


async def test_names_that_nobody_answers_for_do_not_hold_up_the_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that is gone is looked up again and again, for seconds each time. New connections to the exchange come to
    stand meanwhile."""
    answered, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "gone.invalid":
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    loop = asyncio.get_running_loop()
    async with FakeBybit() as exchange, aiohttp.ClientSession() as session:
        stuck = [loop.run_in_executor(None, socket.getaddrinfo, "gone.invalid", 6379) for _ in range(MANY)]
        try:
            async with (
                gateway(exchange.url.replace("127.0.0.1", "localhost")) as app,
                asyncio.timeout(30),
                session.get(url(app, "/v5/market/time")) as answer,
            ):
                assert (answer.status, (await answer.json())["retCode"]) == (200, 0)
        finally:
            answered.set()
            await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_redis_that_cannot_be_found_is_looked_for_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call to it gives up soon, and the look-up takes long. Requests go on meanwhile."""
    answered, asked, real = threading.Event(), [], socket.getaddrinfo
    wanted, of = [], Addresses.of

    async def counted(addresses: Addresses, host: str, port: int) -> list[str]:
        wanted.append(host)
        return await of(addresses, host, port)

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "gone.invalid":
            asked.append(host)
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(Addresses, "of", counted)
    try:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url="redis://gone.invalid:6379/0", store__timeout="20ms") as app,
            aiohttp.ClientSession() as session,
        ):
            async with asyncio.timeout(60):
                while len(wanted) < 5:
                    async with session.get(url(app, "/v5/market/time")) as answer:
                        assert (answer.status, (await answer.json())["retCode"]) == (200, 0)
                    await asyncio.sleep(0.1)  # it is tried again by its own clock
            assert len(asked) == 1
            answered.set()
    finally:
        answered.set()


async def test_what_one_has_looked_up_the_next_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have given up before it was known. An address that was of no use is looked up again."""
    release, asked, real = threading.Event(), [], socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **named: Any) -> Any:
        if host != "redis":
            return real(host, port, **named)  # something else that this process runs
        asked.append(host)
        address = f"10.0.0.{len(asked)}"
        release.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses = Addresses()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await addresses.of("redis", 6379)
    release.set()
    assert [await addresses.of("redis", 6379) for _ in range(3)] == [["10.0.0.1"]] * 3
    addresses.forget("redis", 6379)
    assert await addresses.of("redis", 6379) == ["10.0.0.2"]


async def test_a_name_has_all_its_addresses_of_the_kind_that_is_wanted() -> None:
    """As the system knows them."""
    found = await OwnThreads().resolve("localhost", 443, socket.AF_INET)

    assert {(each["hostname"], each["host"], each["port"]) for each in found} == {("localhost", "127.0.0.1", 443)}
    assert {each["family"] for each in found} == {socket.AF_INET}

"""The exchange's name is looked up, whatever becomes of other names."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest

from proxy.names import OwnThreads
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


async def test_a_name_has_all_its_addresses_of_the_kind_that_is_wanted() -> None:
    """As the system knows them."""
    found = await OwnThreads().resolve("localhost", 443, socket.AF_INET)

    assert {(each["hostname"], each["host"], each["port"]) for each in found} == {("localhost", "127.0.0.1", 443)}
    assert {each["family"] for each in found} == {socket.AF_INET}

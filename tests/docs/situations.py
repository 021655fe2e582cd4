"""`when NAME`: how the gateway stands when a page shows an answer of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import jwt

from tests.docs.surroundings import Surroundings
from tests.integration.test_process import free_port

KLINES: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=15&limit=200"
_SECRET: Final = "a secret of the tests, of 32 bytes or more"
_TOKEN: Final = "token-of-the-desk-0123"
_LONG_AGO_S: Final = 1_700_000_000
_POLL_S: Final = 0.05
_WITHIN_S: Final = 20.0


async def _nothing(_: Surroundings) -> None:
    pass


@dataclass(frozen=True)
class Situation:
    """`environment` is the gateway's, `brought_about` runs when it is ready."""

    environment: Mapping[str, str] = field(default_factory=dict)
    brought_about: Callable[[Surroundings], Awaitable[None]] = _nothing
    headers: Mapping[str, str] = field(default_factory=dict)


async def _asked(at: Surroundings, **headers: str) -> None:
    """A miss and a hit."""
    async with aiohttp.ClientSession(at.gateway_url, headers=headers) as session:
        for _ in range(2):
            async with session.get(KLINES) as answer:
                assert answer.status == 200


async def _asked_by_the_desk(at: Surroundings) -> None:
    await _asked(at, **{"X-Gateway-Token": _TOKEN})


async def _banned(at: Surroundings) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{at.exchange.control_url}/ban", json={"ip": "127.0.0.1"}) as answer:
            assert answer.status == 200
        async with session.get(f"{at.gateway_url}/v5/market/time") as answer:
            assert answer.status == 403


async def _until(at: Surroundings, path: str, words: str) -> None:
    """Until a page says so: what the gateway finds out by itself."""
    async with asyncio.timeout(_WITHIN_S), aiohttp.ClientSession(at.gateway_url) as session:
        while True:
            async with session.get(path) as answer:
                if words in await answer.text():
                    return
            await asyncio.sleep(_POLL_S)


async def _without_redis(at: Surroundings) -> None:
    await _asked(at)
    await _until(at, "/health/ready", '"redis"')


async def _pressed(at: Surroundings) -> None:
    await _until(at, "/metrics", "gateway_backpressure_level 1")


_CLOSED: Final = free_port()
"""Nobody listens there."""

SITUATIONS: Final[Mapping[str, Situation]] = {
    "it was asked": Situation(brought_about=_asked),
    "a desk with a token has asked it": Situation(
        environment={"GATEWAY__IDENTITY__TOKENS": json.dumps([{"name": "desk", "token": _TOKEN, "tier": "PREMIUM"}])},
        brought_about=_asked_by_the_desk,
    ),
    "it is slow": Situation(environment={"GATEWAY__LOG__SLOW": "1ms"}, brought_about=_asked),
    "the exchange has banned it": Situation(brought_about=_banned),
    "its Redis is lost": Situation(
        environment={"REDIS_URL": f"redis://127.0.0.1:{_CLOSED}/0"}, brought_about=_without_redis
    ),
    "it has too much to do": Situation(
        environment={
            "GATEWAY__BACKPRESSURE__ENABLED": "true",
            "GATEWAY__BACKPRESSURE__TASKS_HIGH": "1",
            "GATEWAY__BACKPRESSURE__TASKS_CRITICAL": "100000",
        },
        brought_about=_pressed,
    ),
    "the token has expired": Situation(
        environment={
            "GATEWAY__IDENTITY__JWT": json.dumps(
                {"algorithms": ["HS256"], "secret": _SECRET, "claims": {"client": "sub"}}
            )
        },
        headers={
            "Authorization": "Bearer " + jwt.encode({"sub": "alice", "exp": _LONG_AGO_S}, _SECRET, algorithm="HS256")
        },
    ),
}

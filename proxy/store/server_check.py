"""What of a Redis server should be known before one relies on it. Nothing here refuses to go on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any, Final

from redis.asyncio import RedisCluster

from proxy.store.client import FAILURES, Client

_LEAST: Final = (6, 2)
_SKEW_US: Final = 500_000
_PATIENCE_S: Final = 0.5


async def warnings(client: Client, key: bytes, offset_us: int) -> list[str]:
    """In words, for the operator. What the server does not want to tell is not warned about."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            info = await _info(client, key)
    except FAILURES:
        info = {}
    return [*_of_server(info), *_of_clock(offset_us)]


async def _info(client: Client, key: bytes) -> dict[str, Any]:
    if isinstance(client, RedisCluster):
        node = client.get_node_from_key(key.decode())
        return dict(await client.info("everything", target_nodes=node)) if node is not None else {}
    return dict(await client.info("everything"))


def _of_server(info: dict[str, Any]) -> Iterator[str]:
    version = str(info.get("redis_version", ""))
    if re.match(r"\d+\.\d+", version) and tuple(int(part) for part in version.split(".")[:2]) < _LEAST:
        yield f"store.url: Redis {version} is too old, 6.2 or newer is needed: limits are not shared with this one"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            f"store.url: this Redis may throw windows away (maxmemory-policy {policy}), and then more is sent than the "
            "exchange allows: set maxmemory-policy noeviction"
        )


def _of_clock(offset_us: int) -> Iterator[str]:
    if abs(offset_us) > _SKEW_US:
        ahead = "ahead of" if offset_us > 0 else "behind"
        yield (
            f"store.url: Redis' clock is {abs(offset_us) / 1e6:.1f} s {ahead} ours. Limits go by Redis' clock and are "
            "safe; signatures go by ours: check both with NTP"
        )

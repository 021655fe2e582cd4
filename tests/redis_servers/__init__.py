"""Real Redis for tests: one server, a primary under three sentinels, a cluster of six. Methods block; they are bounded.

A test that shares its event loop with the gateway calls them through `asyncio.to_thread`.
"""

from __future__ import annotations

import shutil

import pytest

from tests.redis_servers.cluster import RedisCluster, redis_cluster
from tests.redis_servers.sentinel import SentinelTrio, sentinel_trio
from tests.redis_servers.server import RedisServer, redis_server
from tests.redis_servers.waiting import wait_until

__all__ = [
    "RedisCluster",
    "RedisServer",
    "SentinelTrio",
    "needs_redis",
    "redis_cluster",
    "redis_server",
    "sentinel_trio",
    "wait_until",
]

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("setpriv") is None,
    reason="redis-server is not installed (Debian: apt-get install redis-server), or setpriv of util-linux is not",
)

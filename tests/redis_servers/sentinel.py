"""A primary, its replica and three sentinels that watch them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from redis import exceptions as redis_errors

from tests.redis_servers.server import RedisServer
from tests.redis_servers.waiting import wait_until

NAME = "mymaster"
QUORUM = 2

# A sentinel first pings a server one period after it has met it, and counts its silence from the meeting: with a
# period as long as DOWN_AFTER_MS it takes a server for dead that it has just promoted. Shorter than a fifth of the
# second between two INFO, it would find no replica fit to promote. Unless told: 1000, 10000 and 2000.
PERIODS_MS = {"PING-PERIOD": 300, "INFO-PERIOD": 1000, "PUBLISH-PERIOD": 250}
DOWN_AFTER_MS = 800
_GIVEN_UP_S = 8.0
"""A failover that has not come about by then never will."""


@dataclass(frozen=True)
class SentinelTrio:
    """`servers[0]` was started as the primary, `servers[1]` as its replica."""

    servers: tuple[RedisServer, RedisServer]
    sentinels: tuple[RedisServer, RedisServer, RedisServer]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{NAME}"

    @property
    def primary(self) -> RedisServer:
        """The one that the sentinels name now; after a kill they name the dead one until they have failed over."""
        return self._named_by(self._any_sentinel())

    def kill_primary(self) -> RedisServer:
        """The answer is the one that was killed. `wait_for_another_primary` waits for what the sentinels make of it."""
        primary = self.primary
        primary.kill()
        return primary

    def failover(self) -> RedisServer:
        """Ask a sentinel to promote the replica, and do not wait. The answer is the primary until now.

        Until the sentinels turn the old primary into a replica, a second or two later (8 s with the periods of
        production), it takes writes, which are lost.
        """
        primary = self.primary
        with self._any_sentinel().client() as redis:
            redis.sentinel_failover(NAME)
        return primary

    def wait_for_another_primary(self, than: RedisServer) -> RedisServer:
        """Until every running sentinel names the same one, and it is a primary in its own eyes."""
        other = next(server for server in self.servers if server is not than)
        asked = time.monotonic()

        def promoted() -> bool:
            nonlocal asked
            named = {self._named_by(sentinel).port for sentinel in self.sentinels if sentinel.running}
            if named == {than.port} and than.running and time.monotonic() - asked > _GIVEN_UP_S:
                # Sentinels give a failover up when their votes cross; nobody but us would begin another.
                asked = time.monotonic()
                with suppress(redis_errors.RedisError):
                    self.failover()
            with other.client() as redis:
                return named == {other.port} and redis.info("replication")["role"] == "master"

        wait_until(promoted, f"{other} is the primary", seconds=30)
        return other

    def _any_sentinel(self) -> RedisServer:
        return next(sentinel for sentinel in self.sentinels if sentinel.running)

    def _named_by(self, sentinel: RedisServer) -> RedisServer:
        with sentinel.client() as redis:
            _, port = redis.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if server.port == int(port))


@contextmanager
def sentinel_trio() -> Iterator[SentinelTrio]:
    with ExitStack() as closing:
        primary = _opened(closing, RedisServer())
        primary.start()
        replica = _opened(closing, RedisServer(replicaof=f"127.0.0.1 {primary.port}"))
        first, second, third = (_opened(closing, RedisServer("--sentinel")) for _ in range(3))
        sentinels = (first, second, third)
        for server in (replica, *sentinels):
            server.launch()
        for server in (replica, *sentinels):
            server.wait_until_ready()
        wait_until(lambda: _follows(replica), f"{replica} is in sync")
        for sentinel in sentinels:
            _watch(sentinel, primary)
        wait_until(lambda: all(_is_prepared(sentinel) for sentinel in sentinels), "the sentinels know all they need")
        yield SentinelTrio((primary, replica), sentinels)


def _opened(closing: ExitStack, server: RedisServer) -> RedisServer:
    closing.callback(server.close)
    return server


def _follows(replica: RedisServer) -> bool:
    with replica.client() as redis:
        return bool(redis.info("replication")["master_link_status"] == "up")


def _watch(sentinel: RedisServer, primary: RedisServer) -> None:
    with sentinel.client() as redis:
        redis.execute_command("SENTINEL DEBUG", *(word for pair in PERIODS_MS.items() for word in pair))
        redis.sentinel_monitor(NAME, "127.0.0.1", primary.port, QUORUM)
        redis.sentinel_set(NAME, "down-after-milliseconds", DOWN_AFTER_MS)
        redis.sentinel_set(NAME, "failover-timeout", 2000)


def _is_prepared(sentinel: RedisServer) -> bool:
    """It could lead a failover, or vote in one."""
    with sentinel.client() as redis:
        replicas = redis.sentinel_slaves(NAME)
        others = redis.sentinel_sentinels(NAME)
    return [(each["flags"], each["master-link-status"]) for each in replicas] == [("slave", "ok")] and [
        each["flags"] for each in others
    ] == ["sentinel", "sentinel"]

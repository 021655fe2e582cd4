"""A cluster of three primaries, each with one replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.redis_servers.ports import BUS
from tests.redis_servers.server import RedisServer
from tests.redis_servers.waiting import wait_until

PRIMARIES = 3


@dataclass(frozen=True)
class RedisCluster:
    """`servers[0:3]` were started as primaries, `servers[3:6]` as their replicas, in the same order."""

    servers: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(server.address for server in self.servers)}"

    def owner(self, key: str) -> RedisServer:
        """The primary of the key's slot, as most running nodes see it: a dead one until its replica takes over."""
        seen = Counter(port for server in self._running() for port in _ports_of(server, key)[:1])
        assert seen, f"no node knows who serves the slot of {key!r}"
        return self._at(seen.most_common(1)[0][0])

    def kill_owner(self, key: str) -> RedisServer:
        """The answer is the one that was killed. `wait_for_another_owner` waits for what the cluster makes of it."""
        owner = self.owner(key)
        owner.kill()
        return owner

    def failover(self, key: str) -> RedisServer:
        """Tell the owner's replica to take its place, and do not wait. The answer is the owner until now."""
        owner = self.owner(key)
        wait_until(lambda: len(_ports_of(owner, key)) == 2, f"{owner} has a replica")
        _tell(self._at(_ports_of(owner, key)[1]), "CLUSTER FAILOVER")
        return owner

    def wait_for_another_owner(self, key: str, than: RedisServer) -> RedisServer:
        """Until every running node sends the key's callers to the same other server, and all slots are served."""

        def moved() -> bool:
            owners = {tuple(_ports_of(server, key)[:1]) for server in self._running()}
            return (
                len(owners) == 1
                and owners.isdisjoint({(), (than.port,)})
                and all(_is_whole(each) for each in self._running())
            )

        wait_until(moved, f"the slot of {key!r} has another owner than {than}", seconds=30)
        return self.owner(key)

    def _running(self) -> list[RedisServer]:
        return [server for server in self.servers if server.running]

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)


@contextmanager
def redis_cluster() -> Iterator[RedisCluster]:
    with ExitStack() as closing:
        servers = tuple(_node(closing) for _ in range(2 * PRIMARIES))
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_until_ready()
        _form(servers)
        yield RedisCluster(servers)


def _node(closing: ExitStack) -> RedisServer:
    server = RedisServer(
        cluster_enabled="yes",
        cluster_announce_ip="127.0.0.1",
        cluster_node_timeout=800,
        repl_ping_replica_period=1,  # until the first ping (10 s) a replica counts as one that has received nothing
        cluster_require_full_coverage="no",
        cluster_allow_replica_migration="no",  # each primary keeps the replica it was given
        cluster_replica_validity_factor=0,  # a replica that lost touch a while ago may still take over
    )
    closing.callback(server.close)
    return server


def _form(servers: tuple[RedisServer, ...]) -> None:
    ids = [_introduced(server, servers[0], epoch) for epoch, server in enumerate(servers, 1)]
    share = -(-REDIS_CLUSTER_HASH_SLOTS // PRIMARIES)
    for index, primary in enumerate(servers[:PRIMARIES]):
        last = min((index + 1) * share, REDIS_CLUSTER_HASH_SLOTS) - 1
        _tell(primary, "CLUSTER ADDSLOTSRANGE", index * share, last)
    wait_until(lambda: all(len(_nodes(server)) == len(servers) for server in servers), "all nodes have met")
    for replica, primary_id in zip(servers[PRIMARIES:], ids, strict=False):
        _tell(replica, "CLUSTER REPLICATE", primary_id)
    wait_until(lambda: all(_is_whole(server) for server in servers), "all slots are served")
    wait_until(lambda: all(_names_the_replicas(server) for server in servers), "every node names every replica")
    wait_until(lambda: all(_replica_is_in_sync(primary) for primary in servers[:PRIMARIES]), "the replicas are in sync")


def _introduced(server: RedisServer, first: RedisServer, epoch: int) -> str:
    """Its id. Each begins with an epoch of its own: settling equal ones between them would take time."""
    _tell(server, "CLUSTER SET-CONFIG-EPOCH", epoch)
    if server is not first:
        _tell(server, "CLUSTER MEET", "127.0.0.1", first.port, first.port + BUS)
    return str(_tell(server, "CLUSTER MYID"))


def _tell(server: RedisServer, *words: str | int) -> Any:
    with server.client() as redis:
        return redis.execute_command(*words)


def _nodes(server: RedisServer) -> dict[str, dict[str, Any]]:
    """What it knows of every node that it has met, itself included."""
    with server.client() as redis:
        nodes: dict[str, dict[str, Any]] = redis.cluster("NODES")
    return {address: node for address, node in nodes.items() if "handshake" not in node["flags"]}


def _ports_of(server: RedisServer, key: str) -> list[int]:
    """The primary of the key's slot and its replicas, as this server sees them.

    Empty while it has heard that the old primary gave the slot up, and not yet who took it.
    """
    slot = key_slot(key.encode())
    ranges = _tell(server, "CLUSTER SLOTS")
    return next(([int(node[1]) for node in nodes] for first, last, *nodes in ranges if first <= slot <= last), [])


def _is_whole(server: RedisServer) -> bool:
    with server.client() as redis:
        info = redis.cluster("INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == REDIS_CLUSTER_HASH_SLOTS


def _names_the_replicas(server: RedisServer) -> bool:
    """A node leaves out a replica until it has heard how far that one has come."""
    ranges = _tell(server, "CLUSTER SLOTS")
    return [len(nodes) for _, _, *nodes in ranges] == [2] * PRIMARIES


def _replica_is_in_sync(primary: RedisServer) -> bool:
    with primary.client() as redis:
        replication = redis.info("replication")
    return bool(replication["connected_slaves"] == 1 and replication["slave0"]["state"] == "online")

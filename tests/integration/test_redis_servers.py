"""The Redis that other tests lean on: it dies, hangs, comes back and fails over when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.exceptions import MovedError

from tests.fake_bybit.tls import make_certificates
from tests.redis_servers import (
    RedisCluster,
    RedisServer,
    SentinelTrio,
    needs_redis,
    redis_cluster,
    redis_server,
    sentinel_trio,
    wait_until,
)
from tests.relay import Relay

pytestmark = needs_redis
KEY = "{egress}:budget"
ON_BOTH_LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest.fixture
def trio() -> Iterator[SentinelTrio]:
    with sentinel_trio() as started:
        yield started


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster() as started:
        yield started


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def put(server: RedisServer, key: str, value: str) -> None:
    with server.client() as client:
        client.set(key, value)


def get(server: RedisServer, key: str) -> str | None:
    with server.client() as client:
        value = client.get(key)
    assert value is None or isinstance(value, str)
    return value


def put_on_both(server: RedisServer, key: str, value: str) -> None:
    """On the replica too: a primary that is killed at once may not have passed it on."""
    with server.client() as client:
        client.set(key, value)
        assert client.wait(1, 2000) == 1


def test_a_server_answers_at_its_url_with_the_options_it_was_given() -> None:
    with redis_server(requirepass="planted/secret@1", maxmemory_policy="allkeys-lru") as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            assert client.config_get("maxmemory-policy", "save", "appendonly") == {
                "maxmemory-policy": "allkeys-lru",
                "save": "",
                "appendonly": "no",
            }
        assert refused(server.port) is False

    assert refused(server.port)


def test_a_server_with_a_certificate_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, time.time_ns() // 1000)
    with redis_server(
        tls_cert_file=certificates.chain_path,
        tls_key_file=certificates.key_path,
        tls_ca_cert_file=certificates.ca_path,
    ) as server:
        with redis.Redis.from_url(server.url, ssl_ca_certs=str(certificates.ca_path)) as client:
            assert client.ping()
        with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url.replace("rediss", "redis")) as plain:
            plain.ping()


def test_a_killed_server_refuses_and_comes_back_empty_on_the_same_port(server: RedisServer) -> None:
    port = server.port
    put(server, KEY, "7")
    server.kill()

    assert refused(port)
    assert not server.running

    server.restart()

    assert server.port == port
    assert get(server, KEY) is None


def test_a_stopped_server_is_silent_and_then_goes_on_where_it_was(server: RedisServer) -> None:
    put(server, KEY, "7")
    server.stop_process()

    assert not refused(server.port)
    with pytest.raises(redis.TimeoutError), server.client(seconds=0.1) as client:
        client.ping()

    server.continue_process()

    assert get(server, KEY) == "7"


def test_a_stopped_server_can_be_killed(server: RedisServer) -> None:
    server.stop_process()
    server.restart()

    assert server.running


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(AssertionError, match="no-such-directive"), redis_server(no_such_directive="1"):
        pass


def test_a_server_outlives_the_event_loop_that_started_it() -> None:
    """A fixture of a module may be started from one test's loop, whose threads end with it."""
    server = RedisServer()
    try:
        asyncio.run(asyncio.to_thread(server.start))

        assert get(server, KEY) is None
        assert server.running
    finally:
        server.close()


def test_a_server_does_not_outlive_its_test_run(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from tests.redis_servers import RedisServer\n"
        "server = RedisServer()\n"
        "server.start()\n"
        "print(server.port, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a run that is killed leaves its files
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        port = int(run.stdout.readline())
        assert not refused(port)
        os.kill(run.pid, signal.SIGKILL)

    wait_until(lambda: refused(port), "the server has ended with its run")


def test_sentinels_promote_the_replica_of_a_killed_primary(trio: SentinelTrio) -> None:
    first = trio.primary
    put_on_both(first, KEY, "7")
    killed = trio.kill_primary()
    promoted = trio.wait_for_another_primary(killed)

    assert trio.servers == (killed, promoted) == (first, trio.primary)
    assert get(promoted, KEY) == "7"
    put(promoted, KEY, "8")


def test_sentinels_turn_a_primary_that_comes_back_into_a_replica(trio: SentinelTrio) -> None:
    killed = trio.kill_primary()
    promoted = trio.wait_for_another_primary(killed)
    put(promoted, KEY, "8")
    killed.restart()

    def follows() -> bool:
        with killed.client() as client:
            return bool(client.info("replication")["role"] == "slave" and client.get(KEY) == "8")

    wait_until(follows, "the old primary follows the new one", seconds=30)


def test_sentinels_fail_over_when_told_to(trio: SentinelTrio) -> None:
    put_on_both(trio.primary, KEY, "7")
    old = trio.failover()
    promoted = trio.wait_for_another_primary(old)

    assert old.running
    assert get(promoted, KEY) == "7"
    put(promoted, KEY, "8")


def test_a_url_of_the_trio_names_all_sentinels_and_the_service(trio: SentinelTrio) -> None:
    first, second, third = (sentinel.port for sentinel in trio.sentinels)

    assert trio.url == f"redis+sentinel://127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}/mymaster"


def test_a_cluster_serves_every_slot_by_three_primaries(cluster: RedisCluster) -> None:
    keys = [f"{{{number}}}:budget" for number in range(100)]
    owners = {key: cluster.owner(key) for key in keys}
    for key, owner in owners.items():
        put(owner, key, key)

    assert {owner.port for owner in owners.values()} == {server.port for server in cluster.servers[:3]}
    assert asyncio.run(values_of(keys, cluster.servers[5].port)) == keys
    assert cluster.url == f"redis+cluster://{','.join(server.address for server in cluster.servers)}"


async def values_of(keys: list[str], port: int) -> list[Any]:
    """By the client that the gateway has. The blocking one leaves a socket open, which a later test is blamed for."""
    async with AsyncRedisCluster(host="127.0.0.1", port=port, decode_responses=True) as client:
        return [await client.get(key) for key in keys]


def test_a_replica_takes_the_slots_of_a_killed_owner(cluster: RedisCluster) -> None:
    put_on_both(cluster.owner(KEY), KEY, "7")
    killed = cluster.kill_owner(KEY)
    owner = cluster.wait_for_another_owner(KEY, killed)

    assert (cluster.servers.index(owner), owner) == (cluster.servers.index(killed) + 3, cluster.owner(KEY))
    assert get(owner, KEY) == "7"
    put(owner, KEY, "8")

    killed.restart()

    wait_until(lambda: get_from_replica(killed) == "8", "the old owner follows the new one", seconds=30)


def get_from_replica(server: RedisServer) -> str | None:
    with server.client() as client:
        client.readonly()
        return str(client.get(KEY))


def test_a_replica_takes_the_slots_when_told_to(cluster: RedisCluster) -> None:
    put_on_both(cluster.owner(KEY), KEY, "7")
    old = cluster.failover(KEY)
    owner = cluster.wait_for_another_owner(KEY, old)

    assert old.running
    assert get(owner, KEY) == "7"
    with pytest.raises(MovedError):
        put(old, KEY, "8")


async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"PING\r\n")
    return await asyncio.wait_for(reader.readline(), 10)


async def is_silent(reader: asyncio.StreamReader) -> bool:
    """For as long as a loopback answer never takes; not the connection's end either."""
    try:
        await asyncio.wait_for(reader.read(1), 0.2)
    except TimeoutError:
        return True
    return False


@ON_BOTH_LOOPS
def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_healed(run: Run, server: RedisServer) -> None:
    async def scene() -> None:
        async with Relay(server.port) as relay:
            port = relay.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await ping(reader, writer) == b"+PONG\r\n"

            await relay.cut()

            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 10)
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            assert not refused(server.port)

            await relay.heal()

            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await ping(reader, writer) == b"+PONG\r\n"
            writer.close()
        assert refused(port)

    run(scene())


@ON_BOTH_LOOPS
def test_a_freeze_is_silent_to_old_and_new_connections_and_loses_nothing(run: Run, server: RedisServer) -> None:
    async def scene() -> None:
        async with Relay(server.port) as relay:
            old_reader, old_writer = await asyncio.open_connection("127.0.0.1", relay.port)
            assert await ping(old_reader, old_writer) == b"+PONG\r\n"

            await relay.freeze()
            new_reader, new_writer = await asyncio.open_connection("127.0.0.1", relay.port)
            for writer in (old_writer, new_writer):
                writer.write(b"ECHO kept\r\n")
            assert await is_silent(old_reader)
            assert await is_silent(new_reader)

            await relay.heal()
            for reader in (old_reader, new_reader):
                assert await asyncio.wait_for(reader.readexactly(10), 10) == b"$4\r\nkept\r\n"
            old_writer.close()
            new_writer.close()

    run(scene())


async def test_a_cut_ends_frozen_connections_too(server: RedisServer) -> None:
    async with Relay(server.port) as relay:
        await relay.freeze()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        await relay.cut()

        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()


async def test_a_delay_holds_bytes_back(server: RedisServer) -> None:
    async with Relay(server.port, delay_s=0.05) as relay:
        slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ping(slow_reader, slow_writer) == b"+PONG\r\n"

        relay.delay_s = 60
        slow_writer.write(b"PING\r\n")
        assert await is_silent(slow_reader)

        relay.delay_s = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ping(reader, writer) == b"+PONG\r\n"
        assert await is_silent(slow_reader)
        slow_writer.close()
        writer.close()


async def test_a_client_of_a_dead_server_gets_a_connection_and_its_end(server: RedisServer) -> None:
    async with Relay(server.port) as relay:
        await asyncio.to_thread(server.kill)
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)

        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()


async def test_what_a_server_said_last_still_arrives(server: RedisServer) -> None:
    async with Relay(server.port) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"QUIT\r\n")

        assert await asyncio.wait_for(reader.read(), 10) == b"+OK\r\n"
        writer.close()

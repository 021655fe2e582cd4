"""The second level of the cache keeps what it is given, believes only what gateways have put there, and is done without
when Redis is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import frame as frames
from policies.frame import AROUND_BYTES, Frame, Kind
from proxy.clock import system_clock
from proxy.config_store import StoreSection
from proxy.l2 import L2, mac_key_of
from proxy.store.client import StoreLost, closed, connected
from proxy.store.commands import Commands
from proxy.tasks import TaskOwner
from tests.fake_bybit.tls import make_certificates
from tests.level import BODY, BRIEF_US, HEAD, KEY, MAX_VALUE, SECRET, Level, Standing, level, until
from tests.redis_servers import RedisServer, needs_redis, redis_cluster, redis_server, sentinel_trio

pytestmark = needs_redis
SERVERS: dict[str, Callable[[], Any]] = {"redis": redis_server, "sentinel": sentinel_trio, "cluster": redis_cluster}
SEAL = mac_key_of(SECRET, None)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisServer]:
    """Empty."""
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        yield stack.enter_context(SERVERS[request.param]()).url


def frame(**changes: Any) -> Frame:
    clock = Standing()
    made = Frame(Kind.ENTRY, 200, clock(), clock() + 60_000_000, KEY, HEAD, "", BODY, len(BODY))
    return made._replace(**changes)


# What it keeps


@pytest.mark.parametrize("kind", Kind)
async def test_another_gateway_reads_what_one_has_put(url: str, kind: Kind) -> None:
    """On one Redis, under sentinels and in a cluster; whole, with its metadata, and packed."""
    key = f"{KEY}:{kind.name}"
    async with level(url) as one, level(url) as other:
        assert await one.store(key, kind=kind, status=206)
        found = await other.l2.get(key, kind)
        raw = await one.raw().execute_command("GET", key)

    clock = one.clock()
    assert found == Frame(kind, 206, clock, clock + 60_000_000, key, HEAD, "", BODY, len(BODY))
    assert len(raw) < len(BODY) / 2
    assert SECRET.encode() not in raw


async def test_a_put_is_written_in_the_background(redis: RedisServer) -> None:
    async with level(redis.url) as here:
        now_us = here.clock()
        here.l2.put(KEY, Kind.ENTRY, 200, HEAD, "", BODY, now_us, now_us + 1_000_000)
        assert here.l2.status().queued == 1
        await until(lambda: here.counted("put"), "the write")
        assert await here.found() == BODY
        assert here.l2.status() == (here.commands.reach(), 0, 0, 0)


async def test_redis_forgets_a_value_when_its_grace_is_over(redis: RedisServer) -> None:
    async with level(redis.url) as here:
        now_us = here.clock()
        assert await here.store(expires_us=now_us + 40_000_000, grace_us=20_000_000)
        with redis.client() as client:
            assert 50_000 < client.pttl(KEY) <= 60_000
        # What is older is still given: whoever reads decides how old it may be.
        assert await here.store(expires_us=now_us - 1, grace_us=20_000_000)
        assert await here.found() == BODY
        assert not await here.store("gone", expires_us=now_us - 1, grace_us=1)
        assert here.counted("put") == {"stored": 2, "expired": 1}


async def test_a_body_that_is_compressed_already_is_left_as_it_is(redis: RedisServer) -> None:
    async with level(redis.url) as here:
        assert await here.store(encoding="gzip", body=BODY)
        found = await here.l2.get(KEY, Kind.ENTRY)
        assert found is not None
        assert (found.encoding, found.body) == ("gzip", BODY)
        with redis.client() as client:
            assert client.strlen(KEY) > len(BODY)


@settings(max_examples=20)
@given(body=st.binary(max_size=2_000), repeated=st.sampled_from([1, 300]))
def test_any_body_comes_back(server: RedisServer, body: bytes, repeated: int) -> None:
    """Short, long, empty, incompressible; the longest are packed and unpacked in a thread."""

    async def there_and_back() -> None:
        async with level(server.url) as here:
            assert await here.store(body=body * repeated)
            assert await here.found() == body * repeated

    asyncio.run(there_and_back())


async def test_what_is_too_long_is_not_written(redis: RedisServer) -> None:
    async with level(redis.url, max_value_bytes=2_000) as here:
        assert await here.store(body=b"x" * 2_000)
        assert not await here.store("long", body=b"x" * 2_001)
        assert not await here.store("k" * 2_000, body=b"x")
        assert await here.found("long") is None
        assert here.counted("put") == {"stored": 1, "too-long": 1, "unfit": 1}


async def test_when_too_many_wait_the_rest_is_dropped(redis: RedisServer) -> None:
    """By count and by bytes; what waits is written when its turn comes."""
    async with level(redis.url, started=False, most_queued=3, most_queued_bytes=2_500) as here:
        now_us = here.clock()
        for number, size in enumerate([1_000, 1_000, 1_000, 10, 10]):
            here.l2.put(f"k{number}", Kind.ENTRY, 200, b"", "", b"x" * size, now_us, now_us + 10**6)
        assert here.counted("put") == {"dropped": 2}
        assert here.l2.status()[1:] == (3, 2_010, 2)
        here.l2.start(here.tasks)
        await until(lambda: here.counted("put").get("stored") == 3, "the writes")
        assert here.l2.status()[1:] == (0, 0, 2)
        with redis.client() as client:
            assert sorted(client.keys()) == ["k0", "k1", "k3"]


# What it believes


def resealed(raw: bytes) -> bytes:
    return raw[:-16] + frames._mac(memoryview(raw)[:-16], SEAL)


def bodied(body: bytes, plain_bytes: int) -> bytes:
    """By somebody who has the key: what a gateway that was taken over could write."""
    return frames.pack(frame(body=body, plain_bytes=plain_bytes), SEAL)


def streamed(plain: bytes) -> bytes:
    """Without its length in it."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(plain) + packer.flush()


def packed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


BOMB = packed(bytes(200 << 20))
GOOD = frames.pack(frame(), SEAL)
PLANTED = {
    "text": (b"hello", "unreadable-magic"),
    "pickle": (b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", "unreadable-magic"),
    "empty": (b"", "miss"),
    "magic and garbage": (b"BGFR\x01" + bytes(range(256)), "unreadable-length"),
    "cut": (GOOD[:-1], "unreadable-length"),
    "more behind it": (GOOD + b"x", "unreadable-length"),
    "another body": (GOOD.replace(b'"1.5"', b'"9.9"'), "unreadable-mac"),
    "another version": (resealed(GOOD[:4] + b"\x02" + GOOD[5:]), "unreadable-version"),
    "sealed by another key": (frames.pack(frame(), mac_key_of("guessed", None)), "unreadable-mac"),
    "sealed by none": (frames.pack(frame(), b""), "unreadable-mac"),
    "put under another key": (frames.pack(frame(key="bybit:klines:linear:ETHUSDT"), SEAL), "unreadable-key"),
    "of another kind": (frames.pack(frame(kind=Kind.TAIL), SEAL), "unreadable-kind"),
    "too long": (frames.pack(frame(body=bytes(MAX_VALUE + 1), plain_bytes=MAX_VALUE + 1), SEAL), "too-long"),
    "bomb": (bodied(BOMB, 200 << 20), "too-long"),
    "bomb that looks small": (bodied(BOMB, 100_000), "unreadable-body"),
    "bomb without a length": (bodied(streamed(bytes(20 << 20)), 100_000), "unreadable-body"),
    "shorter than it says": (bodied(packed(bytes(99_999)), 100_000), "unreadable-body"),
    "not packed at all": (bodied(b"x" * 50, 51), "unreadable-body"),
    "two bodies": (bodied(packed(bytes(100_000)) + packed(b"more"), 100_000), "unreadable-body"),
    "broken off": (bodied(packed(BODY)[:-5], len(BODY)), "unreadable-body"),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_planted_values_are_misses(redis: RedisServer, name: str) -> None:
    """Whoever can write to Redis answers no client; the next answer of the exchange takes the place of his."""
    raw, reason = PLANTED[name]
    async with level(redis.url) as here:
        await here.raw().set(KEY, raw)
        assert await here.found() is None
        assert here.counted("get") == {reason: 1}
        assert here.l2.status().reach.answers
        assert await here.store()
        assert await here.found() == BODY


async def test_a_key_of_another_type_is_a_miss(redis: RedisServer) -> None:
    async with level(redis.url) as here:
        await here.raw().rpush(KEY, "one")
        assert await here.found() is None
        assert here.counted("get") == {"error-answer": 1}
        assert here.l2.status().reach.answers
        assert await here.store()
        assert await here.found() == BODY


async def test_a_gigantic_value_is_not_fetched(redis: RedisServer) -> None:
    """No more of it crosses the wire than a value may be long."""
    async with level(redis.url) as here:
        await here.raw().execute_command("SETRANGE", KEY, 256 << 20, "x")
        await here.raw().execute_command("SETRANGE", KEY, 0, GOOD)
        before = (await here.raw().info("stats"))["total_net_output_bytes"]
        assert await here.found() is None
        moved = (await here.raw().info("stats"))["total_net_output_bytes"] - before
        assert here.counted("get") == {"unreadable-length": 1}
        assert moved < MAX_VALUE + AROUND_BYTES + 20_000


def test_a_seal_without_a_key_is_none() -> None:
    with pytest.raises(ValueError, match="anybody"):
        L2(None, None, Standing(), mac_key=b"", max_value_bytes=1)


def test_the_seal_follows_from_the_secret_or_else_from_the_password() -> None:
    keys = [mac_key_of(secret, password) for secret in (None, "", "a") for password in (None, "a", "b")]
    assert len(set(keys)) == 5  # a secret stands above the password
    assert {len(key) for key in keys} == {32}


# When Redis is lost


async def lost(here: Level) -> str:
    await until(lambda: here.commands.resting, "the loss")
    return here.l2.status().reach.reason


async def test_a_frozen_redis_costs_one_timeout_and_then_nothing(redis: RedisServer) -> None:
    """It is asked again in the background: after a second, two, four; and serves as before when it answers."""
    async with level(redis.url, timeout_us=BRIEF_US) as here:
        await until_stored(here)
        redis.stop_process()
        try:
            async with asyncio.timeout(10):  # for ever, if nothing bounded it
                assert await here.found() is None
            assert await lost(here) == "timeout"
            here.l2.put(KEY, Kind.ENTRY, 200, HEAD, "", BODY, 0, here.clock() + 10**6)
            before = here.counted("get")
            assert [await here.found() for _ in range(50)] == [None] * 50
            assert here.counted("get") == before | {"resting": 50}
            assert here.counted("put")["resting"] == 1
            await here.pauses.ended(1)
            await here.pauses.ended(2)
            await until(lambda: len(here.pauses.begun) == 3, "the third pause")
            assert here.pauses.begun == [1.0, 2.0, 4.0]
            assert here.l2.status().reach.again_us == here.clock() + 4_000_000
        finally:
            redis.continue_process()
        await here.pauses.ended(3)
        await until(lambda: not here.commands.resting, "the recovery")
        assert here.l2.status().reach == (True, "", here.clock(), 0)
        await until_found(here)


async def until_stored(here: Level) -> None:
    """With a brief timeout on a busy machine a call may come too late, and the level may rest for that."""
    while not await here.store():
        await recovered(here)


async def until_found(here: Level) -> None:
    while await here.found() != BODY:
        await recovered(here)


async def recovered(here: Level) -> None:
    while here.commands.resting:
        if here.pauses.begun:
            here.pauses.end()
        await asyncio.sleep(0.005)  # bounded by the test's own time: another process sets no Event


async def test_all_who_wait_are_let_go_at_once_when_redis_is_lost(redis: RedisServer) -> None:
    async with level(redis.url, timeout_us=BRIEF_US) as here:
        await until_stored(here)
        redis.stop_process()
        try:
            async with asyncio.timeout(10):
                found = await asyncio.gather(*(here.found(f"{KEY}:{number}") for number in range(200)))
        finally:
            redis.continue_process()
        assert found == [None] * 200
        assert here.counted("get") == {"timeout": 200}


async def test_each_connection_tries_once_for_all_who_wait() -> None:
    """A server that hangs up on everybody is not asked two hundred times by two hundred requests."""
    tries = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, level(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as here:
        found = await asyncio.gather(*(here.found(f"{KEY}:{number}") for number in range(200)))
        assert found == [None] * 200
        assert here.counted("get") == {"unreachable": 200}
        assert here.pauses.begun == [1.0]
        assert 1 <= tries <= 4


async def test_connecting_is_bounded_as_the_rest_is() -> None:
    """A handshake may take long, but not at the cost of whoever asks."""
    with redis_server(requirepass="right-password") as guarded:
        async with level(guarded.url, timeout_us=BRIEF_US, connecting_s=1_000.0) as here:
            guarded.stop_process()
            async with asyncio.timeout(10):
                assert await here.found() is None
            assert here.counted("get") == {"timeout": 1}
            assert not here.commands.resting  # nobody knows yet


async def test_an_answer_in_the_instant_in_which_its_caller_goes_is_told() -> None:
    orphans: list[str] = []
    client = connected(StoreSection(url="redis://127.0.0.1:1"))
    commands = Commands(client, Standing(), timeout_us=10**9, connect_s=1.0)
    tasks = TaskOwner()
    for answer in (b"OK", StoreLost("timeout"), None):
        asking = tasks.spawn(commands.ask("SET", "key", orphaned=lambda: orphans.append("told")), "asking")
        await asyncio.sleep(0)
        future = commands._waiting.popleft().answer
        if isinstance(answer, StoreLost):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
    assert orphans == ["told"]
    await closed(client)


async def test_a_killed_redis_is_found_again(redis: RedisServer) -> None:
    """Each time within a second of its return, however often it goes."""
    async with level(redis.url) as here:
        for number in (1, 2):
            assert await here.store()
            await asyncio.to_thread(redis.kill)
            try:
                assert await here.found() is None
                assert await lost(here) == "unreachable"
                assert not await here.store()
            finally:
                await asyncio.to_thread(redis.start)
            await here.pauses.ended(number)
            await until(lambda: not here.commands.resting, "the recovery")
            assert await here.found() is None
            assert await here.store()
            assert await here.found() == BODY
        assert here.pauses.begun == [1.0, 1.0]
        assert set(here.counted("put")) == {"stored", "resting"}


async def test_a_connection_that_redis_has_closed_is_not_a_loss(redis: RedisServer) -> None:
    """Servers close what has been idle for long."""
    async with level(redis.url) as here:
        assert await here.store()
        for _ in range(20):
            assert await here.found() == BODY
        with redis.client() as client:
            await asyncio.to_thread(client.client_kill_filter, _type="normal", skipme=True)
        for connection in list(here.raw().connection_pool._in_use_connections):
            stream = connection._parser._stream
            await until(lambda stream=stream: stream is None or stream.at_eof(), "the end of the connection")
        assert [await here.found() for _ in range(20)] == [BODY] * 20
        assert here.counted("get") == {"hit": 40}


async def test_a_full_redis_is_read_as_before() -> None:
    with redis_server() as small:
        async with level(small.url) as here:
            assert await here.store()
            with small.client() as client:
                client.config_set("maxmemory", 1)
                client.config_set("maxmemory-policy", "noeviction")
            assert not await here.store("another")
            assert not await here.store("a third")
            assert here.counted("put") == {"stored": 1, "out-of-memory": 1, "refused": 1}
            assert await here.found() == BODY
            with small.client() as client:
                client.config_set("maxmemory", 0)
            here.clock.now_us += 1_000_000
            assert await here.store("another")


async def test_a_caller_who_goes_away_leaves_the_others_be(redis: RedisServer) -> None:
    async with level(redis.url) as here:
        assert await here.store()
        tasks = [here.tasks.spawn(here.found(), "reader") for _ in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended[1::2] == [BODY] * 20
        assert all(isinstance(each, asyncio.CancelledError) for each in ended[::2])
        assert await here.found() == BODY
        assert here.l2.status().reach.answers


async def test_a_wrong_password_is_a_miss_and_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server(requirepass="right-password") as guarded:
        async with level(f"redis://:wrong-password@127.0.0.1:{guarded.port}") as here:
            assert await here.found() is None
            assert await lost(here) == "authentication"
            assert "wrong-password" not in str(here.l2.status())
        async with level(guarded.url) as here:
            assert await here.store()
            assert await here.found() == BODY
    assert "-password" not in "".join(capsys.readouterr())


async def test_over_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, system_clock()())
    files = {"tls_cert_file": made.chain_path, "tls_key_file": made.key_path, "tls_ca_cert_file": made.ca_path}
    with redis_server(**files) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        async with level(url, ca_file=str(made.ca_path)) as here:
            assert await here.store()
            assert await here.found() == BODY
        async with level(url) as here:
            assert await here.found() is None
            assert await lost(here) == "unreachable"


async def test_after_a_failover_the_new_primary_serves() -> None:
    """On every connection, though those to the old one, which is frozen, have not ended."""
    with sentinel_trio() as trio:
        async with level(trio.url, timeout_us=1_000_000) as here:
            assert await here.store()
            await asyncio.gather(*(here.found() for _ in range(100)))
            frozen = trio.primary
            frozen.stop_process()
            assert await here.found() is None
            assert await lost(here)
            await asyncio.to_thread(trio.wait_for_another_primary, frozen)
            await recovered(here)
            assert await here.store()
            assert await asyncio.gather(*(here.found() for _ in range(100))) == [BODY] * 100


async def test_a_cluster_is_asked_again_where_it_failed() -> None:
    """The node that froze, and not another one that has answered all the time."""
    with redis_cluster() as cluster:
        async with level(cluster.url, timeout_us=1_000_000) as here:
            assert await here.store()
            owner = cluster.owner(KEY)
            owner.stop_process()
            try:
                assert await here.found() is None
                assert await lost(here) == "timeout"
                await here.pauses.ended(1)
                await until(lambda: len(here.pauses.begun) == 2, "another pause")
                assert here.commands.resting
            finally:
                owner.continue_process()
            await recovered(here)
            while await here.found() is None:  # its replica may have taken its place, and the client not heard of it
                await recovered(here)
                await here.store()

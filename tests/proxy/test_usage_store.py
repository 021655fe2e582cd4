"""What was counted for bills is added to the store once, whatever becomes of connections, servers and disks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode

from policies.usage import COUNTS, HOUR_US, OTHERS, hour_name
from proxy.store.client import StoreLost
from proxy.tasks import TaskOwner
from proxy.usage_files import directory_of
from proxy.usage_store import Keeping
from tests.hanging_file import hanging_file
from tests.level import until
from tests.redis_servers import RedisServer, needs_redis, redis_cluster, redis_server, sentinel_trio
from tests.relay import Relay
from tests.usage_bench import DAY_US, counting

SERVERS: dict[str, Callable[[], Any]] = {"redis": redis_server, "sentinel": sentinel_trio, "cluster": redis_cluster}


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


@pytest.fixture(params=["redis", "files"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """A place that outlives a gateway."""
    if request.param == "files":
        yield tmp_path
    else:
        yield request.getfixturevalue("redis").url


def hash_of(hour: int) -> str:
    return f"bybit:usage:{{default}}:{hour_name(hour)}"


class LosesAnswers(Relay):
    """A way to a server that passes all that is asked; while `losing`, it breaks where an answer would come back."""

    losing = False
    lost = 0

    async def _exchange(self, reader: Any, writer: Any, target_reader: Any, target_writer: Any) -> None:
        async def there() -> None:
            while data := await reader.read(65_536):
                target_writer.write(data)
            raise EOFError

        async def back() -> None:
            while data := await target_reader.read(65_536):
                if self.losing:
                    self.lost += 1
                    break
                writer.write(data)
            raise EOFError

        async with asyncio.TaskGroup() as group:
            group.create_task(there())
            group.create_task(back())


# What is kept


@needs_redis
@pytest.mark.parametrize("kind", SERVERS)
async def test_the_figures_of_all_gateways_add_up(kind: str) -> None:
    """On one Redis, under sentinels and in a cluster; each gateway shows what all have put there, and its own rest."""
    with ExitStack() as stack:
        url = stack.enter_context(SERVERS[kind]()).url
        async with counting(url) as one, counting(url, one.clock) as other:
            for _ in range(3):
                one.one("token:a")
                other.one("token:a", source="cache", attempts=0)
                other.one("10.0.0.9", None, rule="per-ip", source="gateway", attempts=0, asked_bytes=7)
                await one.usage.flush()
                await other.usage.flush()
            one.one("token:b", "")
            found, wholeness = await one.told()
            there, _ = await other.told()

    assert found["token:a", "FREE"] == dict(zip(COUNTS, (6, 3, 3, 0, 0, 0, 60), strict=True))
    assert found["10.0.0.9", ""] == dict(zip(COUNTS, (3, 0, 0, 3, 0, 21, 30), strict=True))
    assert found["token:b", ""]["requests"] == 1
    assert there == {who: counts for who, counts in found.items() if who[0] != "token:b"}
    assert wholeness.partial == (one.hour,)


async def test_figures_outlive_the_gateway_that_counted(kept: str | Path) -> None:
    """Put there when it ended, and added to by the one that came after."""
    async with counting(kept) as before:
        before.one()
        await before.usage.flush()
        before.one()
    async with counting(kept, before.clock) as after:
        assert await after.requests() == {"token:a": 2}
        after.one()
        await after.usage.flush()
        assert await after.requests() == {"token:a": 3}
        assert after.flushes() == {"stored": 1}


async def test_without_a_place_they_live_as_long_as_the_process() -> None:
    async with counting(None) as here:
        for _ in range(3):
            here.one()
            await here.usage.flush()
            here.clock.now_us += HOUR_US
        assert await here.requests() == {"token:a": 3}
        here.clock.now_us += 90 * DAY_US
        here.one("token:b")
        await here.usage.flush()
        assert await here.store.hours() == [here.hour]


@pytest.mark.parametrize("where", ["memory", "files", "redis"])
async def test_hours_are_counted_apart(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """By when a request ended; also those that nobody flushed before the next hour began."""
    url = request.getfixturevalue("redis").url if where == "redis" else None
    async with counting(tmp_path if where == "files" else url) as here:
        here.clock.now_us = (here.hour + 1) * HOUR_US - 1
        first = here.hour
        here.one()
        here.clock.now_us += 1
        here.one()
        here.clock.now_us += HOUR_US
        here.one("token:b")
        await here.usage.flush()
        for hour, expected in zip(range(first, first + 3), ("token:a", "token:a", "token:b"), strict=True):
            found = await here.store.read(hour, "")
            assert found is not None
            assert {client: sums[0] for (client, _), sums in found.rows.items()} == {expected: 1}
        assert await here.store.hours() == [first, first + 1, first + 2]
        assert await here.store.read(first - 1, "") is None


# Once


@needs_redis
async def test_a_flush_whose_answer_was_lost_is_counted_once(redis: RedisServer) -> None:
    """It is sent again as it was, however often; what came meanwhile is counted beside it."""
    async with LosesAnswers(redis.port) as way, counting(f"redis://127.0.0.1:{way.port}/0") as here:
        here.one()
        await here.usage.flush()
        way.losing = True
        here.one()
        await here.usage.flush()
        assert way.lost == 1
        with redis.client() as client:
            assert client.hget(hash_of(here.hour), "requests:FREE:token:a") == "2"  # it has arrived
        here.one()
        await here.usage.flush()
        assert here.flushes() == {"stored": 1, "failed": 2}

        way.losing = False
        await here.pauses.ended(1)
        await until(lambda: not here.store._commands.resting, "Redis is asked again")
        assert await here.requests() == {"token:a": 3}
        await here.usage.flush()
        assert here.flushes() == {"stored": 2, "repeated": 1, "failed": 2}
        assert await here.requests() == {"token:a": 3}
        with redis.client() as client:
            assert client.hget(hash_of(here.hour), "requests:FREE:token:a") == "3"
            assert client.hget(hash_of(here.hour), "#holes") is None


@needs_redis
async def test_what_the_page_shows_is_right_while_nobody_knows_whether_a_flush_arrived(redis: RedisServer) -> None:
    """It is in Redis and waits here to be sent again: it is one request all the same. Another gateway sees it too."""
    async with LosesAnswers(redis.port) as way, counting(f"redis://127.0.0.1:{way.port}/0") as here:
        way.losing = True
        here.one()
        await here.usage.flush()
        way.losing = False
        await here.pauses.ended(1)
        await until(lambda: not here.store._commands.resting, "Redis is asked again")

        assert here.usage.waiting_rows == 1
        assert await here.requests() == {"token:a": 1}
        async with counting(redis.url, here.clock) as other:
            assert await other.requests() == {"token:a": 1}


@needs_redis
async def test_a_flush_that_is_cut_off_by_the_end_is_counted_once(redis: RedisServer) -> None:
    """The gateway ends while Redis has the batch and has not answered: the last flush sends it again."""
    async with Relay(redis.port) as way:
        async with counting(f"redis://127.0.0.1:{way.port}/0") as here:
            here.one()
            await here.usage.flush()
            here.one()
            redis.stop_process()
            tasks = TaskOwner()
            tasks.spawn(here.usage.flush(), "flush")
            await until(lambda: here.usage._pending, "the batch")
            await tasks.close()
            assert here.usage.waiting_rows == 1
            redis.continue_process()
        with redis.client() as client:
            assert client.hget(hash_of(here.hour), "requests:FREE:token:a") == "2"
        assert here.usage.waiting_rows == 0


@needs_redis
async def test_a_redis_that_dies_costs_nothing_that_was_not_in_it(redis: RedisServer) -> None:
    """What is counted meanwhile waits, added up, and is there when Redis is back."""
    async with Relay(redis.port) as way, counting(f"redis://127.0.0.1:{way.port}/0") as here:
        here.one()
        await here.usage.flush()
        await way.cut()
        for _ in range(5):
            here.one()
            await here.usage.flush()
        here.one("token:b")
        assert here.usage.waiting_rows == 3  # the batch of the first, the four after it, the other client
        found, wholeness = await here.told()
        assert {client: counts["requests"] for (client, _), counts in found.items()} == {"token:a": 5, "token:b": 1}
        assert not wholeness.complete
        assert "the store cannot be read" in wholeness.note

        await way.heal()
        await here.pauses.ended(1)
        await until(lambda: not here.store._commands.resting, "Redis is asked again")
        await here.usage.flush()
        assert here.usage.waiting_rows == 0
        assert await here.requests() == {"token:a": 6, "token:b": 1}


async def test_batches_are_counted_once_whoever_sends_them_again(kept: str | Path) -> None:
    """In both kinds of places that outlive a gateway: by the number in the place itself."""
    async with counting(kept) as here:
        here.one()
        await here.usage._settle()
        batch = here.usage._batch(here.hour)
        assert batch is not None
        assert [await here.store.add(batch) for _ in range(3)] == [True, False, False]
        assert await here.store.add(batch._replace(source="another"))
        found = await here.store.read(here.hour, batch.source)
        assert found is not None
        assert (found.number, found.holed) == (1, False)
        assert found.rows["token:a", "FREE"][0] == 2
        assert await here.requests() == {"token:a": 2}


# While a report is made


async def test_a_flush_does_not_wait_for_a_report(tmp_path: Path) -> None:
    """One that reads for as long as it wants, from a disk that hangs. What came meanwhile is in it, once."""
    async with counting(tmp_path) as here:
        here.clock.now_us += 2 * HOUR_US
        here.one()
        with hanging_file(tmp_path / f"{hour_name(here.hour - 1)}.json") as disk:
            tasks = TaskOwner()
            report = tasks.spawn(here.requests(), "report")
            await disk.reading()
            await here.usage.flush()
            here.one("token:b")
            await here.usage.flush()
            flushed, reading = here.flushes(), not report.done()
            here.one()
            disk.let_go(b'{"bybit_gateway_usage":1,"numbers":{},"holed":false,"rows":[["old","",[5,5,0,0,0,0,0]]]}')
            found = await report
            await tasks.close()

    assert (flushed, reading) == ({"stored": 2}, True)
    assert found in ({"old": 5, "token:a": 1, "token:b": 1}, {"old": 5, "token:a": 2, "token:b": 1})


async def test_an_hour_is_not_flushed_while_it_is_read(tmp_path: Path) -> None:
    """If something of it waits here: that would be neither in what was read nor here any more."""
    async with counting(tmp_path) as here:
        here.one()
        await here.usage.flush()
        here.one()
        path = tmp_path / f"{hour_name(here.hour)}.json"
        text = path.read_bytes()
        path.unlink()
        with hanging_file(path) as disk:
            tasks = TaskOwner()
            report = tasks.spawn(here.requests(), "report")
            await disk.reading()
            path.unlink()
            path.write_bytes(text)
            flush = tasks.spawn(here.usage.flush(), "flush")
            await asyncio.wait({flush}, timeout=0.05)  # a wrong one would be done soon
            disk.let_go(text)
            assert await report == {"token:a": 2}
            await flush
        assert await here.requests() == {"token:a": 2}
        assert here.flushes() == {"stored": 2}


@needs_redis
async def test_what_is_flushed_as_reports_are_made_is_counted_once(redis: RedisServer) -> None:
    """In many batches, read in many pieces, however they take turns."""
    clients = {f"10.0.{number >> 8}.{number & 255}" for number in range(1_000)}
    async with counting(redis.url) as here:
        for times in range(1, 6):
            for client in clients:
                here.one(client)
            found, *_ = await asyncio.gather(here.requests(), here.usage.flush())
            assert found == dict.fromkeys(clients, times)


# What is lost is said


@needs_redis
async def test_an_emptied_redis_is_not_taken_for_the_whole(redis: RedisServer) -> None:
    """Neither in the hour in which it lost its memory, nor for the time before; what came after it is exact again."""
    async with counting(redis.url) as here, counting(redis.url, here.clock) as other:
        begun = here.hour
        here.one()
        await here.usage.flush()
        here.clock.now_us += 2 * HOUR_US
        here.one()
        await here.usage.flush()
        with redis.client() as client:
            client.flushall()
        here.one()
        await here.usage.flush()
        here.clock.now_us += 2 * HOUR_US
        here.one()
        await here.usage.flush()
        here.clock.now_us += HOUR_US
        found, wholeness = await other.told(back=6)
        _, after = await other.told(back=2, ahead=0)

    assert found["token:a", "FREE"]["requests"] == 2
    assert not wholeness.complete
    assert wholeness.since == begun + 2
    assert begun + 2 in wholeness.partial
    assert "nothing is known of the time before" in wholeness.note
    assert "have lost figures" in wholeness.note
    assert (after.complete, after.partial, after.note) == (True, (), "")


@needs_redis
async def test_an_hour_that_was_taken_away_is_not_taken_for_an_empty_one(redis: RedisServer) -> None:
    async with counting(redis.url) as here:
        here.one()
        await here.usage.flush()
        here.clock.now_us += HOUR_US
        lost = here.hour
        here.one()
        await here.usage.flush()
        here.clock.now_us += 2 * HOUR_US
        with redis.client() as client:
            assert client.delete(hash_of(lost)) == 1
        _, wholeness = await here.told(back=2, ahead=0)

    assert wholeness.partial == (lost,)
    assert wholeness.note == "some hours have lost figures in the store"


@needs_redis
async def test_an_hour_that_has_just_ended_can_grow_where_others_count_too(redis: RedisServer) -> None:
    """They bring their figures a flush later; a gateway that stands alone has all of its own."""
    async with counting(redis.url) as here, counting(None, here.clock) as alone:
        for each in (here, alone):
            each.one()
        here.clock.now_us += 2 * HOUR_US
        for each in (here, alone):
            each.one()
        here.clock.now_us = (here.hour + 1) * HOUR_US + 5_000_000
        _, soon = await here.told(back=1, ahead=0)
        _, own = await alone.told(back=1, ahead=0)
        here.clock.now_us += 20_000_000
        _, later = await here.told(back=1, ahead=0)

    assert (soon.complete, soon.partial) == (False, (here.hour - 1,))
    assert own.complete
    assert later.complete


@needs_redis
async def test_what_a_stranger_has_put_there_harms_nobody_else(redis: RedisServer) -> None:
    """A sum that is no number, a field of another kind, a key of another type in another hour."""
    async with counting(redis.url) as here:
        here.clock.now_us += 2 * HOUR_US
        with redis.client() as client:
            client.hset(hash_of(here.hour), mapping={"requests:FREE:token:a": "x", "odd": "1", "bytes_in:FREE:": "1"})
            client.hset(hash_of(here.hour), mapping={"hits:FREE:token:b": "9" * 5_000, "errors::c": str(10**18)})
            client.zadd("bybit:usage:{default}:hours", {"9" * 5_000: here.hour, "x": here.hour})
            client.set(hash_of(here.hour - 1), "no hash")
        here.clock.now_us -= HOUR_US
        here.one("token:z")
        here.clock.now_us += HOUR_US
        here.one("token:a")
        here.one("token:b")
        await here.usage.flush()
        await here.usage.flush()

        assert here.flushes() == {
            "stored": 1,
            "failed": 2,
        }  # of the hour that is no hash; it does not hold up the other
        assert here.usage.waiting_rows == 1
        with redis.client() as client:
            client.delete(hash_of(here.hour - 1))
        await here.usage.flush()
        found, wholeness = await here.told()

    assert here.usage.waiting_rows == 0
    assert found["token:b", "FREE"]["requests"] == 1
    assert found["token:z", "FREE"]["requests"] == 1
    assert found["token:a", "FREE"]["bytes_out"] == 10
    assert here.hour in wholeness.partial
    assert "have lost figures" in wholeness.note


async def test_a_torn_file_is_said_to_have_lost_something(tmp_path: Path) -> None:
    async with counting(tmp_path) as here:
        begun = here.hour
        here.one()
        await here.usage.flush()
        here.clock.now_us += HOUR_US
        here.one()
        await here.usage.flush()
        path = tmp_path / f"{hour_name(here.hour)}.json"
        path.write_bytes(path.read_bytes()[:-10])
        here.one("token:b")
        await here.usage.flush()
        found, wholeness = await here.told()

    assert {client: counts["requests"] for (client, _), counts in found.items()} == {"token:a": 1, "token:b": 1}
    assert {begun, begun + 1} <= {*wholeness.partial}
    assert "have lost figures" in wholeness.note


# Bounds


async def test_beyond_the_clients_of_an_hour_sums_are_kept_without_names(kept: str | Path) -> None:
    """Over all flushes and all gateways of an hour, not only within one."""
    keeping = Keeping(90 * DAY_US, 3)
    async with counting(kept, keeping=keeping) as one, counting(kept, one.clock, keeping) as other:
        for number in range(12):
            for here in (one, other):
                here.one(f"10.0.0.{number}", "FREE" if number % 2 else None)
                await here.usage.flush()
        found, _ = await one.told()

    assert sum(counts["requests"] for counts in found.values()) == 24
    assert sum(counts["bytes_out"] for counts in found.values()) == 240
    assert {client for client, _ in found} == {"10.0.0.0", "10.0.0.1", "10.0.0.2", OTHERS}
    assert found[OTHERS, "FREE"]["requests"] == 10
    assert found[OTHERS, ""]["requests"] == 8


async def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    """While the store is lost, too: names are left out, sums are not."""
    async with counting("redis://127.0.0.1:1/0", keeping=Keeping(90 * DAY_US, 100)) as here:
        for number in range(5_000):
            here.one(f"10.0.{number >> 8}.{number & 255}")
            if number % 500 == 0:
                await here.usage.flush()
        assert here.usage.waiting_rows <= 100 + 2 + 1 + 100
        found, _ = await here.told()
        assert sum(counts["requests"] for counts in found.values()) == 5_000


@needs_redis
async def test_thousands_of_clients_are_put_there_in_parts(redis: RedisServer) -> None:
    """Of a size that holds up nobody else in Redis; read back bit by bit."""
    async with counting(redis.url) as here:
        for number in range(2_500):
            here.one(f"10.0.{number >> 8}.{number & 255}")
        await here.usage.flush()
        assert here.flushes() == {"stored": 25}
        found, _ = await here.told()

    assert len(found) == 2_500
    assert sum(counts["requests"] for counts in found.values()) == 2_500


# How long it is kept


@needs_redis
async def test_redis_forgets_an_hour_when_its_time_is_over(redis: RedisServer) -> None:
    async with counting(redis.url, keeping=Keeping(2 * DAY_US, 10)) as here:
        here.one()
        await here.usage.flush()
        begun = here.hour
        with redis.client() as client:
            left_us = (begun + 1) * HOUR_US - here.clock.now_us
            ttl_us = client.pttl(hash_of(begun)) * 1000
            assert 2 * DAY_US < ttl_us <= 2 * DAY_US + left_us
            assert client.ttl("bybit:usage:{default}:hours") > 0
        here.clock.now_us += 3 * DAY_US
        here.one()
        await here.usage.flush()
        assert await here.store.hours() == [here.hour]
        with redis.client() as client:
            assert client.zrange("bybit:usage:{default}:hours", 0, -1) == [str(here.hour)]


async def test_files_go_when_their_time_is_over(tmp_path: Path) -> None:
    async with counting(tmp_path, keeping=Keeping(2 * DAY_US, 10)) as here:
        for _ in range(4):
            here.one()
            await here.usage.flush()
            here.clock.now_us += DAY_US
        names = sorted(path.name for path in tmp_path.glob("*.json"))
        assert names == [f"{hour_name(here.hour - 24 * days)}.json" for days in (3, 2, 1)]
        assert await here.store.hours() == [here.hour - 48, here.hour - 24]


# Files


async def test_processes_that_share_a_directory_add_up(tmp_path: Path) -> None:
    """Two gateways without a Redis, started by mistake beside each other."""
    async with counting(tmp_path) as one, counting(tmp_path, one.clock) as other:
        for _ in range(20):
            one.one()
            other.one()
            await asyncio.gather(one.usage.flush(), other.usage.flush())
        assert await one.requests() == {"token:a": 40}
    (path,) = tmp_path.glob("*.json")
    assert path.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob("*.new"))
    assert json.loads(path.read_text())["rows"] == [["token:a", "FREE", [40, 40, 0, 0, 0, 0, 400]]]


async def test_a_disk_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """Not so long as the process lives: what was counted waits."""
    directory = tmp_path / "usage"
    async with counting(directory) as here:
        here.one()
        await here.usage.flush()
        assert here.flushes() == {"failed": 1}
        with pytest.raises(StoreLost, match="disk"):
            await here.store.add(here.usage._pending[here.hour])
        directory.mkdir()
        here.one()
        await here.usage.flush()
        assert here.flushes() == {"failed": 1, "stored": 2}
        assert await here.requests() == {"token:a": 2}


def test_the_directory_lies_beside_the_state_file_and_is_ours_alone(tmp_path: Path) -> None:
    budget = ("default", "https://api.bybit.com")
    found = directory_of(str(tmp_path / "state.json"), budget, {})
    assert found == tmp_path / "state.usage"
    assert found.stat().st_mode & 0o077 == 0
    auto = directory_of("auto", budget, {"XDG_STATE_HOME": str(tmp_path)})
    assert auto is not None
    assert auto.parent == tmp_path / "bybit-gateway"
    assert auto != directory_of("auto", ("other", budget[1]), {"XDG_STATE_HOME": str(tmp_path)})
    found.chmod(0o777)  # somebody else could have put something there
    assert directory_of(str(tmp_path / "state.json"), budget, {}) is None


@needs_redis
async def test_all_keys_of_an_egress_lie_on_one_node() -> None:
    """A script looks at an hour and at the list of hours."""
    with redis_cluster() as cluster:
        async with counting(cluster.url) as here:
            here.one()
            await here.usage.flush()
            nodes = [ClusterNode("127.0.0.1", server.port) for server in cluster.servers]
            client = RedisCluster(startup_nodes=nodes)
            try:
                slots = {client.keyslot(key) for key in (hash_of(here.hour), "bybit:usage:{default}:hours")}
                assert len(slots) == 1
                assert await client.exists(hash_of(here.hour)) == 1
            finally:
                await client.aclose()

"""A changed file: what clients notice before and after it, what the exchange does, and what a mistake in it does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy.app import App
from proxy.config import Config, load, load_routes
from proxy.reload import Result, Source, adopted, mark_of
from tests.fake_bybit import FakeBybit
from tests.raw_http import exchange_bytes
from tests.recorder import OK, Seen, recorder

ROUTES = load_routes()
TIME = b"GET /v5/market/time HTTP/1.1\r\nHost: me\r\n\r\n"
CANDLES = b"GET /v5/market/kline?category=linear&symbol=BTCUSDT&interval=1 HTTP/1.1\r\nHost: me\r\n\r\n"
POLL_S = 0.02


def mine(quota: str, **fields: object) -> dict[str, object]:
    return {"name": "mine", "quota": quota, "partition": ["ip"], "counts": "requests", **fields}


def sent(quota: str, **fields: object) -> dict[str, object]:
    return {"name": "sent", "quota": quota, "window": "held", "when_full": "wait", **fields}


class File:
    """A configuration on disk. JSON is YAML."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._edits = 0

    def write(self, *limits: dict[str, object], **sections: object) -> None:
        self._edits += 1
        self.text(json.dumps({"limits": limits, **sections}) + "\n" * self._edits)

    def text(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "config.yaml")


@asynccontextmanager
async def running(upstream_url: str, path: Path, poll_s: float = 3600.0) -> AsyncIterator[App]:
    """Does not look at the file by itself unless told to."""
    environment = {
        "GATEWAY__UPSTREAM__URL": upstream_url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": "0",
    }
    source = Source(path, environment, ROUTES)
    async with App(source.load(), ROUTES, source=source, poll_s=poll_s) as app:
        yield app


async def reload(app: App) -> Result:
    assert app.reloader is not None
    return await app.reloader.reload()


async def statuses(app: App, count: int, request: bytes = TIME) -> list[int]:
    return [(await exchange_bytes(app.port, request)).status for _ in range(count)]


async def page(app: App, path: str) -> Any:
    answer = await exchange_bytes(app.port, f"GET {path} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
    return json.loads(answer.body) if answer.body[:1] == b"{" else answer.body.decode()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_lowered_limit_counts_what_was_used(file: File) -> None:
    file.write(mine("5/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        assert await statuses(app, 3) == [200] * 3
        file.write(mine("4/60s"))
        assert await reload(app) is Result.APPLIED

        assert await statuses(app, 3) == [200, 429, 429]


async def test_a_raised_limit_gives_room_at_once(file: File) -> None:
    file.write(mine("2/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        assert await statuses(app, 3) == [200, 200, 429]
        file.write(mine("4/60s"))
        await reload(app)

        assert await statuses(app, 3) == [200, 200, 429]


async def test_a_raised_limit_lets_those_go_who_wait_already(file: File) -> None:
    file.write(sent("1/60s"), queue={"max_wait": "10m"})
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(exchange_bytes(app.port, TIME)) for _ in range(3)]
            await until(lambda: app.limiter.waiting == 3)
            file.write(sent("4/60s"), queue={"max_wait": "10m"})
            await reload(app)
            async with asyncio.timeout(5):
                answers = [(await task).status for task in waiting]

        assert answers == [200] * 3
        assert len(upstream.seen) == 4


async def test_who_waits_by_a_rule_that_is_gone_still_waits_by_it(file: File) -> None:
    """Requests finish under the rules that they have met; those that come later meet the new ones."""
    file.write(sent("1/400ms"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        early = asyncio.ensure_future(exchange_bytes(app.port, TIME))  # noqa: TID251  # awaited below
        await until(lambda: app.limiter.waiting == 1)
        file.write()
        await reload(app)
        waits = app.limiter.waiting

        assert (await early).status == 200
        assert waits == 1
        assert await statuses(app, 3) == [200] * 3


async def test_the_windows_of_a_removed_rule_are_dropped_when_they_are_idle(file: File) -> None:
    file.write(mine("5/300ms"), sent("9/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        file.write(sent("9/60s"))
        await reload(app)
        before = {row["rule"] for row in (await page(app, "/gateway/limits"))["limits"]}
        await asyncio.sleep(0.35)
        after = {row["rule"] for row in (await page(app, "/gateway/limits"))["limits"]}

        assert before == {"mine", "sent"}
        assert after == {"sent"}
        assert 'gateway_window_used{rule="mine"}' not in await page(app, "/metrics")


async def test_a_rule_of_another_partition_starts_anew(file: File) -> None:
    """Its windows are somebody else's now. The old ones are told until they are idle."""
    file.write(mine("1/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        file.write(mine("1/60s", partition=["ip", "endpoint"]))
        await reload(app)

        assert await statuses(app, 2) == [200, 429]
        partitions = [row["partition"] for row in (await page(app, "/gateway/limits"))["limits"]]
        assert partitions == [{"ip": "127.0.0.1"}, {"ip": "127.0.0.1", "endpoint": "server-time"}]


async def test_a_wrong_file_changes_nothing_and_says_everything(file: File) -> None:
    file.write(mine("2/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        good = (await page(app, "/health"))["config"]
        file.text("limits: [{name: mine, quota: 9}]\nlog: {level: loud, secret: hunter2}\n")
        with structlog.testing.capture_logs() as events:
            assert await reload(app) is Result.REFUSED

        assert await statuses(app, 2) == [200, 429]
        (event,) = [event for event in events if event["event"] == "config_refused"]
        assert event["error_count"] == 3
        assert event["problems"][0] == f"{file.path}:1: limits[0].quota: expected a quota such as 600/5s, got 9"
        health = await page(app, "/health")
        assert good["status"] == "ok"
        assert health["config"] == {**good, "status": "refused", "error_count": 3}
        assert "hunter2" not in json.dumps(health)
        metrics = await page(app, "/metrics")
        assert 'gateway_config_reloads_total{result="refused"} 1.0' in metrics
        assert "gateway_config_last_reload_successful 0.0" in metrics

        file.write(mine("3/60s"))
        assert await reload(app) is Result.APPLIED
        assert (await page(app, "/health"))["config"]["status"] == "ok"
        assert "gateway_config_last_reload_successful 1.0" in await page(app, "/metrics")
        assert await statuses(app, 2) == [200, 429]


async def test_the_old_file_put_back_is_no_change(file: File) -> None:
    file.write(mine("2/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        file.text("limits: [{")
        await reload(app)
        file.write(mine("2/60s"))

        assert await reload(app) is Result.UNCHANGED
        assert (await page(app, "/health"))["config"]["error_count"] == 0
        assert 'gateway_config_reloads_total{result="unchanged"} 1.0' in await page(app, "/metrics")


async def test_fields_that_need_a_restart_are_named_and_the_rest_is_applied(file: File) -> None:
    file.write(mine("2/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        file.write(
            mine("1/60s"),
            listen={"max_body": "1KiB", "keepalive": "5s"},
            upstream={"pool": {"total": 7}},
            egress={"id": "b"},
        )
        with structlog.testing.capture_logs() as events:
            assert await reload(app) is Result.APPLIED

        (event,) = [event for event in events if event["event"] == "config_needs_restart"]
        assert event["fields"] == ["listen.max_body", "listen.keepalive", "upstream.pool.total", "egress.id"]
        assert await statuses(app, 2) == [200, 429]
        assert (await page(app, "/health"))["config"]["status"] == "needs-restart"
        limits = (await page(app, "/gateway/limits"))["limits"]
        assert [row["partition"] for row in limits] == [{"ip": "127.0.0.1"}]


def test_what_needs_a_restart_keeps_its_old_value() -> None:
    running_config = Config()
    wanted = load(
        None, {"GATEWAY__LISTEN__PORT": "1", "GATEWAY__QUEUE__MAX_WAIT": "1s", "GATEWAY__EGRESS__ID": "x"}, ROUTES
    )

    config, left = adopted(running_config, wanted)

    assert left == ("listen.port", "egress.id")
    assert (config.listen, config.egress, config.queue.max_wait) == (
        running_config.listen,
        running_config.egress,
        1_000_000,
    )


def test_connections_of_the_cache_stay_as_they_were_made() -> None:
    """Redis and the streams are connected to once; all else of these sections changes at once."""
    wanted = config(
        CACHE__L2__URL="redis://elsewhere", CACHE__OPEN_TTL="3s", CANDLES__STREAM="true", CANDLES__SHADOW="5"
    )
    new, left = adopted(config(), wanted)
    assert left == ("cache.l2.url", "candles.stream")
    assert (new.cache.l2.url, new.cache.open_ttl, new.candles.stream, new.candles.shadow) == (None, 3_000_000, False, 5)


def config(**environment: str) -> Config:
    return load(None, {f"GATEWAY__{name}": value for name, value in environment.items()}, ROUTES)


async def test_the_cache_follows_the_file(file: File) -> None:
    """Switched off it answers nothing more; switched on again it is empty; smaller it forgets."""
    file.write()
    async with FakeBybit() as exchange, running(exchange.url, file.path) as app:
        for enabled, expected in ((True, 1), (False, 3), (True, 4)):
            file.write(cache={"enabled": enabled, "open_ttl": "20s"})
            await reload(app)
            await statuses(app, 2, CANDLES)
            assert exchange.stats.requests == expected
        file.write(cache={"open_ttl": "20s", "l1": {"max_bytes": "10B"}})
        await reload(app)
        assert (await page(app, "/health"))["cache"] == {"entries": 0, "bytes": 0}


async def test_the_cache_may_be_switched_off_while_a_candle_is_fetched(file: File) -> None:
    file.write()
    asked, release = asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    async with recorder(later) as upstream, running(upstream.url, file.path) as app, asyncio.TaskGroup() as group:
        pending = group.create_task(exchange_bytes(app.port, CANDLES))
        await asyncio.wait_for(asked.wait(), 10)
        file.write(cache={"enabled": False})
        await reload(app)
        release.set()

        assert (await pending).status == 200


async def test_the_bounds_of_the_queue_follow_the_file(file: File) -> None:
    file.write(sent("1/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        await statuses(app, 1)
        file.write(sent("1/60s"), queue={"max_waiting": 0})
        await reload(app)

        assert await statuses(app, 1) == [429]


async def test_a_changed_file_is_noticed_without_being_told(file: File) -> None:
    file.write(mine("2/60s"))
    async with recorder() as upstream, running(upstream.url, file.path, POLL_S) as app:
        file.write(mine("1/60s"))
        await until(lambda: reloads(app, "applied") == 1)

        assert await statuses(app, 2) == [200, 429]


async def test_a_swapped_symlink_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes does it: config.yaml -> ..data/config.yaml, ..data -> ..one, then ..data -> ..two in one rename."""
    for name, quota in (("..one", "2/60s"), ("..two", "1/60s")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(json.dumps({"limits": [mine(quota)]}))
        os.utime(tmp_path / name / "config.yaml", ns=(1, 1))  # archives often carry one and the same time
    (tmp_path / "..data").symlink_to("..one")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    async with recorder() as upstream, running(upstream.url, path, POLL_S) as app:
        (tmp_path / "..next").symlink_to("..two")
        (tmp_path / "..next").replace(tmp_path / "..data")
        await until(lambda: reloads(app, "applied") == 1)

        assert await statuses(app, 2) == [200, 429]


async def test_a_file_that_is_being_written_is_not_read(file: File) -> None:
    """Half a file can be a good one, with half the rules."""
    file.write(mine("1/60s"))
    async with recorder() as upstream, running(upstream.url, file.path, 0.1) as app:
        with file.path.open("w") as half:
            for number in range(20):
                half.write(f"# {number}\n")
                half.flush()
                await asyncio.sleep(0.02)
            assert reloads(app, "applied") == 0
            half.write("limits: []\n")
        await until(lambda: reloads(app, "applied") == 1)


async def test_a_file_that_is_gone_keeps_the_rules(file: File) -> None:
    file.write(mine("1/60s"))
    async with recorder() as upstream, running(upstream.url, file.path, POLL_S) as app:
        file.path.unlink()
        await until(lambda: reloads(app, "refused") == 1)
        assert await statuses(app, 2) == [200, 429]
        file.write(mine("2/60s"))
        await until(lambda: reloads(app, "applied") == 1)

        assert await statuses(app, 2) == [200, 429]


async def test_what_cannot_be_put_into_force_does_not_end_the_watching(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(mine("1/60s"))
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        with monkeypatch.context() as patch:
            patch.setattr("proxy.app.describer_of", lambda *_: 1 // 0)
            file.write(mine("2/60s"))
            assert await reload(app) is Result.REFUSED
            assert await statuses(app, 2) == [200, 429]
        assert await reload(app) is Result.APPLIED


def reloads(app: App, result: str) -> float:
    value = app.metrics.registry.get_sample_value("gateway_config_reloads_total", {"result": result})
    assert value is not None
    return value


def test_marks_tell_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert mark_of(path) == mark_of(tmp_path / "b")
    path.write_text("1")
    first = mark_of(path)
    assert mark_of(path) == first
    path.write_text("22")
    assert mark_of(path) != first
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert mark_of(loop) == mark_of(loop)

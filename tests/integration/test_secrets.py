"""No secret is in anything that the gateway emits: logs of both forms, metrics, pages, answers of its own, Redis."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy import log
from proxy.__main__ import main
from proxy.app import App
from proxy.reload import Source
from tests.gateway_fixture import ROUTES
from tests.hidden import HIDDEN
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.planting import ADMIN, FAILURES, KEY, SIGNED, asked, request, sections, silence
from tests.proxy.test_config_secrets import MISTAKES
from tests.proxy.test_log import Captured
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import Recorder, recorder
from tests.redis_servers import RedisServer, needs_redis

pytestmark = needs_redis

# What is looked through


class Emitted:
    """Everything that has come out of the gateway, by where."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self.own: dict[str, bytes] = {}

    def add(self, where: str, what: bytes) -> None:
        self.own[where] = self.own.get(where, b"") + what

    def answer(self, answer: RawAnswer) -> None:
        """Of the exchange's own nothing may be cut out; what we say ourselves holds nothing of anybody."""
        if answer.get("X-Gateway"):
            self.add("answers", answer.head + answer.body)

    def leaks(self) -> dict[str, list[str]]:
        everything = {**self.own, "log": b"".join(self._captured.written)}
        found = {where: HIDDEN.found_in(what) + HIDDEN.hashed_in(what) for where, what in everything.items()}
        # Who asks for candles or prices of several symbols is told of which there are none.
        found["answers"] = [each for each in found["answers"] if not each.startswith("symbol ")]
        return {where: names for where, names in found.items() if names}


async def look_around(app: App, emitted: Emitted) -> None:
    """Every page there is, by its list; of those that never end, what comes at first."""
    for path in [*dict.fromkeys([*app.admin._pages, *app.admin._handlers]), "/gateway/limits?drift=1"]:
        for accept in ("*/*", "application/openmetrics-text"):
            page = await read_for_a_while(app.port, request("GET", path, ADMIN, f"Accept: {accept}"))
            assert page.startswith(b"HTTP/1.1 "), path
            assert not page.startswith((b"HTTP/1.1 401", b"HTTP/1.1 404")), path
            emitted.add(path, page)
    emitted.add("windows", repr(await app.store.usage()).encode())


async def read_for_a_while(port: int, data: bytes) -> bytes:
    """All of an answer, or what there is of it after which nothing comes for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = b""
    try:
        writer.write(data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(10 if not text else 0.5):
                    piece = await reader.read(1 << 20)
                if not piece:
                    break
                text += piece
    finally:
        writer.close()
    return text


def look_into(redis: RedisServer, emitted: Emitted) -> None:
    """Every key and value, and the file that a Redis leaves on its disk."""
    with redis.client() as client:
        keys = list(client.scan_iter(count=1_000))
        assert keys
        for key in keys:
            emitted.add("redis", f"{key}\n".encode() + _value(client, key))
        emitted.add("redis", repr(client.client_list()).encode())
        client.config_set("rdbcompression", "no")
        client.save()
        directory = client.config_get("dir")["dir"]
    emitted.add("redis on disk", Path(directory, "dump.rdb").read_bytes())


def _value(client: Any, key: str) -> bytes:
    read = {
        "string": lambda: client.get(key),
        "hash": lambda: client.hgetall(key),
        "list": lambda: client.lrange(key, 0, -1),
        "set": lambda: client.smembers(key),
        "zset": lambda: client.zrange(key, 0, -1, withscores=True),
        "stream": lambda: client.xrange(key),
    }
    try:
        return repr(read[client.type(key)]()).encode()
    except UnicodeDecodeError:  # packed; the file on disk has it byte for byte
        return b""


# The stage


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer(requirepass=HIDDEN["store.url"])
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=["json", "console"])
def captured(request: pytest.FixtureRequest) -> Iterator[Captured]:
    sink = Captured()
    log.set_up("debug", request.param, sink)
    structlog.configure(cache_logger_on_first_use=False)
    yield sink
    structlog.reset_defaults()
    log.adopt("info", "json")


@asynccontextmanager
async def stage(redis: RedisServer, file: Path, form: str) -> AsyncIterator[tuple[App, Recorder]]:
    async with recorder() as exchange:
        told = sections(redis, exchange.url)
        told["log"]["format"] = form
        file.write_text(json.dumps(told))
        source = Source(file, {}, ROUTES)
        async with App(source.load(), ROUTES, source=source, poll_s=3600) as app:
            yield app, exchange


async def converse(app: App, emitted: Emitted) -> None:
    """Every request that can be thought of, at the same time; some are answered by a connection that ends."""

    async def send(data: bytes) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            emitted.answer(await exchange_bytes(app.port, data, seconds=1.5))

    await asyncio.gather(*map(send, asked()))


async def test_whatever_the_exchange_does_no_secret_is_emitted(
    captured: Captured, redis: RedisServer, tmp_path: Path
) -> None:
    emitted = Emitted(captured)
    async with stage(redis, tmp_path / "config.yaml", log.form()) as (app, exchange):
        for failure in FAILURES:
            exchange.answer = failure
            seen = len(exchange.seen)
            await converse(app, emitted)
            assert len(exchange.seen) > seen
        assert any(KEY.encode() in each.head for each in exchange.seen)
        assert app.egress.banned
        await look_around(app, emitted)
        await asyncio.to_thread(look_into, redis, emitted)

    assert len(captured.written) > 100
    assert {"answers", "redis", "redis on disk", "/metrics", "/gateway/limits"} <= emitted.own.keys()
    assert emitted.leaks() == {}


async def test_nor_when_something_of_ours_goes_wrong(
    captured: Captured, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the gateway whose text holds what the client sent; a task of anybody's that fails; Redis lost while
    requests wait for it; a changed file with mistakes in it; an exchange that cannot be reached at all."""
    emitted, file = Emitted(captured), tmp_path / "config.yaml"
    everything = " ".join(HIDDEN.planted.values())

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot send {everything}")

    async with stage(redis, file, log.form()) as (app, exchange):
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as broken:
            broken.setattr(app.upstream, "send", fail)
            await converse(app, emitted)
        with monkeypatch.context() as broken:
            broken.setattr(app.gateway.describer, "describe", fail_at_once)
            await converse(app, emitted)
        with monkeypatch.context() as broken:
            broken.setitem(app.admin._pages, "/health", fail)
            emitted.answer(await exchange_bytes(app.port, request("GET", "/health")))
        app.tasks.spawn(fail(), "one that is reported")
        forgotten = app.tasks.spawn(fail(), f"one that nobody asks about {KEY}", reported=False)
        await asyncio.wait({forgotten})
        del forgotten
        gc.collect()
        loop.call_exception_handler({"message": "odd", "exception": RuntimeError(everything), "future": everything})
        for number, text in enumerate(MISTAKES):
            file.write_text(f"{text}\n# {number}")
            assert app.reloader is not None
            await app.reloader.reload()
        await asyncio.to_thread(redis.kill)
        await converse(app, emitted)
        await look_around(app, emitted)
        exchange.answer = silence
        await asyncio.to_thread(redis.start)
        await converse(app, emitted)
        await look_around(app, emitted)
        await asyncio.to_thread(look_into, redis, emitted)

    told = {
        event
        for event in ("internal_error", "task_failed", "config_refused", "store_lost", "library")
        if event.encode() in b"".join(captured.written)
    }
    assert told == {"internal_error", "task_failed", "config_refused", "store_lost", "library"}
    assert emitted.leaks() == {}


def fail_at_once(*_: object) -> None:
    raise ValueError(" ".join(HIDDEN.planted.values()))


# What is said at a terminal


def test_check_and_explain_tell_no_secret(
    tmp_path: Path, redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an operator sees of a good configuration, and of a request that he asks about."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(sections(redis, "https://api.bybit.com")))
    query = f"api_key={HIDDEN['query']}&sign={HIDDEN['query signature']}"
    headers = [word for line in (*SIGNED, f"X-Gateway-Token: {HIDDEN['X-Gateway-Token']}") for word in ("-H", line)]
    order = ["explain", "POST", f"/v5/order/create?{query}", *headers, "--body", json.dumps({"apiKey": HIDDEN["body"]})]
    runs = [["check"], order, [*order, "--json"], ["explain", "GET", "/v5/market/time", "-H", HIDDEN["malformed"]]]
    codes = [main([*words, "--config", str(path)]) for words in runs]
    said = "".join(capsys.readouterr())

    assert codes == [0, 0, 0, 2]
    assert "The configuration is good." in said
    assert said.count("order-create") >= 2
    assert HIDDEN.found_in(said.encode()) == []


async def test_a_process_tells_none_on_its_outputs(tmp_path: Path, redis: RedisServer) -> None:
    """Greeting, warnings, log and whatever libraries say, from the start to the end."""
    port, path = free_port(), tmp_path / "config.yaml"
    async with recorder(FAILURES[0]) as exchange:
        told = sections(redis, exchange.url)
        told["listen"]["port"] = port
        path.write_text(json.dumps(told))
        with process("run", "--config", str(path), PYTHONASYNCIODEBUG="1", PYTHONWARNINGS="always") as started:
            await asyncio.to_thread(wait_until_ready, port, started)

            async def send(data: bytes) -> None:
                with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                    await exchange_bytes(port, data, seconds=1.5)

            await asyncio.gather(*map(send, asked()))
            path.write_text(MISTAKES[0])
            started.send_signal(signal.SIGHUP)
            await asyncio.to_thread(redis.kill)
            await asyncio.gather(*map(send, asked()))
            started.send_signal(signal.SIGTERM)
            output, errors = await asyncio.to_thread(started.communicate, timeout=30)

    events = {json.loads(line)["event"] for line in output.splitlines()}
    assert {"started", "slow_request", "archive_lost", "store_lost", "config_refused", "stopped"} <= events
    assert "bybit-gateway on http://" in errors
    assert "Traceback" not in errors
    assert HIDDEN.found_in((output + errors).encode()) == []
    assert HIDDEN.hashed_in((output + errors).encode()) == []


@pytest.mark.parametrize(
    "written",
    [
        lambda secret: f"x{secret}y",
        lambda secret: secret.upper(),
        lambda secret: f"api_key={secret[:20]}...",
        lambda secret: f"...{secret[-16:]}",
        lambda secret: secret.encode().hex(),
        lambda secret: "".join(f"%{ord(each):02X}" for each in secret),
        lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(f"{secret}".encode()).decode(),
        lambda secret: base64.urlsafe_b64encode(f"ab:{secret}!".encode()).decode(),
    ],
)
def test_these_tests_would_find_a_secret_in_any_of_its_forms(written: Callable[[str], str]) -> None:
    assert HIDDEN.found_in(f"before {written(KEY)} after".encode())
    assert HIDDEN.hashed_in(sha256(KEY.encode()).hexdigest().encode()) == ["API key"]

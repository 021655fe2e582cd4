"""The status page as its server gives it: files that anybody may have, figures for who has the token, no secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policies.admission import Charge
from proxy.app import App
from proxy.config import Config, load
from proxy.metrics import Metrics
from proxy.status_page import charges_of_the_address, config_hash
from proxy.store.memory import MemoryStore
from proxy.trail import Trail
from tests.conversation import INFO, TICKERS, Client, new_session
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import ROUTES, gateway
from tests.hand_clock import HandClock
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.raw_http import RawAnswer, exchange_bytes
from tests.redis_servers import needs_redis, redis_server
from tests.relay import Relay

TOKEN = "the-admins-own-token"
FILES = sorted(path.name for path in (Path(__file__).parents[2] / "proxy" / "status").iterdir())
PAGES = ["/gateway/", *(f"/gateway/{name}" for name in FILES if name != "index.html")]


async def ask(app: App, target: str, *lines: str, method: str = "GET") -> RawAnswer:
    head = "".join(f"{line}\r\n" for line in lines)
    return await exchange_bytes(app.port, f"{method} {target} HTTP/1.1\r\nHost: gateway\r\n{head}\r\n".encode())


def configured(**settings: str) -> Config:
    return load(None, {f"GATEWAY__{name.upper()}": value for name, value in settings.items()}, ROUTES)


async def test_every_file_is_served_strictly() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        for path in PAGES:
            answer = await ask(app, path)
            assert answer.status == 200, path
            policy = answer.get("Content-Security-Policy") or ""
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
            assert "unsafe" not in policy
            assert (answer.get("X-Content-Type-Options"), answer.get("Referrer-Policy")) == ("nosniff", "no-referrer")
            kind = {".js": "text/javascript", ".css": "text/css"}.get(Path(path).suffix, "text/html")
            assert answer.get("Content-Type") == f"{kind}; charset=utf-8"
            again = await ask(app, path, f"If-None-Match: {answer.get('ETag')}")
            assert (again.status, again.body) == (304, b"")
            assert (await ask(app, path, 'If-None-Match: "another"')).status == 200
            assert (await ask(app, path, method="DELETE")).status == 405
        moved = await ask(app, "/gateway")

    assert (moved.status, moved.get("Location")) == (308, "gateway/")
    assert list(exchange.record.entries) == []


def test_the_page_asks_nobody_else_for_anything() -> None:
    """No address of another host stands in any file, but for the name of SVG's elements, which nobody fetches."""
    for name in FILES:
        text = (Path(__file__).parents[2] / "proxy" / "status" / name).read_text()
        assert text.count("://") == text.count("http://www.w3.org/2000/svg"), name
        assert "innerHTML" not in text, name
        assert len(text.splitlines()) <= 400, name


async def test_without_the_token_there_is_the_page_and_no_figure() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, admin__token=TOKEN) as app:
        for path in ["/gateway", *PAGES]:
            assert (await ask(app, path)).status in {200, 308}, path
        for path in (
            "/gateway/status",
            "/gateway/events",
            "/gateway/limits",
            "/gateway/status?/gateway/status.js",
            "/gateway/status.js/../limits",
            "/gateway/./",
            "/gateway//",
            "/gateway/status.js%00",
        ):
            assert (await ask(app, path)).status == 401, path
            assert (await ask(app, path, "Authorization: Bearer something-else")).status == 401, path
        told = await ask(app, "/gateway/status", f"Authorization: Bearer {TOKEN}")

    assert told.status == 200
    assert json.loads(told.body)["status"] == "ok"


async def test_no_secret_is_in_a_snapshot() -> None:
    secrets = {
        "admin__token": TOKEN,
        "identity__hash_key": "planted-hash-key-0123456789abcdef",
        "identity__tokens": json.dumps([{"name": "bot-a", "token": "planted-token-0123456789abcdef"}]),
    }
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, **secrets) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        await client.get(TICKERS, **{"X-Gateway-Token": "planted-token-0123456789abcdef"})
        await client.get_signed(INFO)
        told = await ask(app, "/gateway/status", f"Authorization: Bearer {TOKEN}")

    text = told.body.decode()
    assert "token:bot-a" in text
    assert '"accounts":[{' in text
    for secret in (TOKEN, "planted", "test-key", "test-secret"):
        assert secret not in text


async def test_an_account_and_its_window_are_shown_by_the_beginning_of_a_hash() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        await Client(session, app).get_signed(INFO)
        told = json.loads((await ask(app, "/gateway/status")).body)

    (window,) = told["windows"]["accounts"]
    assert window["rule"] == "account-info"
    assert window["whose"].startswith("account ")
    assert len(window["whose"]) == len("account ") + 8
    assert told["callers"]["rows"][0]["name"] == window["whose"]


def test_the_hash_of_a_configuration_follows_its_settings_and_no_secret() -> None:
    plain = config_hash(configured())

    assert len(plain) == 12
    assert plain == config_hash(configured())
    assert plain != config_hash(configured(queue__max_wait="7s"))
    one, other = (config_hash(configured(admin__token=f"{number}-token-of-the-admin")) for number in (1, 2))
    assert one == other
    one, other = (config_hash(configured(store__url=f"redis://:pass-{number}@host")) for number in (1, 2))
    assert one == other


def test_what_counts_the_address_is_found_among_the_rules() -> None:
    limits = [
        {"name": "all", "quota": "600/5s"},
        {"name": "trial", "quota": "9/5s", "shadow": True},
        {"name": "kline", "quota": "9/5s", "match": {"endpoint": "kline"}},
        {"name": "clients", "quota": "9/5s", "counts": "requests", "partition": ["ip"]},
        {"name": "whole", "quota": "9/5s", "partition": []},
    ]

    charges = charges_of_the_address(configured(limits=json.dumps(limits)))

    assert [charge.key for charge in charges] == [("all", "default"), ("whole",)]


class Nobody:
    """A store that is lost."""

    async def usage(self, charges: Any) -> list[Any]:
        return []


class Quiet:
    """What of a gateway a trail looks at."""

    waiting = asked = failed = 0

    def part(self) -> int:
        return 1_000_000


def trail_over(store: Any, clock: Callable[[], int], charges: tuple[Charge, ...]) -> Trail:
    quiet: Any = Quiet()
    return Trail(
        charges=charges, store=store, egress=quiet, limiters=[quiet], callers=quiet, metrics=Metrics(), clock=clock
    )


async def test_the_trail_keeps_ten_minutes_and_rates_between_its_points() -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    (charge,) = charges_of_the_address(configured(limits='[{"name": "all", "quota": "600/5s"}]'))
    trail = trail_over(store, clock, (charge,))
    for _ in range(400):
        store.spend_now((charge,))
        trail._metrics.requests.inc(("kline", "2xx", "cache"), 8)
        await trail.note()
        clock.now_us += 2_000_000

    shown: Any = trail.shown()
    assert len(shown["ago_s"]) == 299
    assert (shown["ago_s"][0], shown["ago_s"][-1]) == (598, 2)
    assert set(shown["requests_per_s"]) == {4.0}
    assert set(shown["used"][5:]) == {3}
    assert set(shown["usable"]) == {600}
    assert trail.lately(300_000_000)[1].requests == 8 * 149  # none since the latest point


async def test_where_nobody_can_tell_the_trail_has_a_gap() -> None:
    clock = HandClock()
    (charge,) = charges_of_the_address(configured(limits='[{"name": "all", "quota": "600/5s"}]'))
    trail = trail_over(Nobody(), clock, (charge,))
    for _ in range(2):
        await trail.note()
        clock.now_us += 2_000_000

    assert trail.shown()["used"] == [None]
    assert await trail.budget() is None


async def test_to_look_at_one_window_touches_no_other() -> None:
    """The plots cost the same with a hundred thousand windows as with one."""
    clock = HandClock()
    store = MemoryStore(clock)
    (charge,) = charges_of_the_address(configured(limits='[{"name": "all", "quota": "600/5s"}]'))
    (before,) = await store.usage([charge])
    store.spend_now((charge,))
    (after,) = await store.usage([charge])

    assert (before.used, after.used, after.capacity) == (0, 1, 600)
    assert len(store._windows) == 1


@pytest.mark.parametrize("reloaded", [False, True])
async def test_a_snapshot_names_the_configuration_in_force(reloaded: bool) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        config = app._config.model_copy(update={"queue": configured(queue__max_wait="7s").queue})
        if reloaded:
            app.apply(config)
        told = json.loads((await ask(app, "/gateway/status")).body)

    assert (told["config"]["hash"] == config_hash(config)) is reloaded


@needs_redis
async def test_a_lost_store_is_said_in_words_and_leaves_a_gap() -> None:
    with redis_server() as redis:
        async with (
            FakeBybit() as exchange,
            Relay(redis.port) as relay,
            gateway(exchange.url, store__url=f"redis://127.0.0.1:{relay.port}") as app,
        ):
            told = await told_until(app, lambda told: told["store"]["mode"] == "shared" and told["budget"] is not None)
            assert told["budget"]["usable"] < told["budget"]["limit"] == 600  # something is set aside
            await relay.cut()
            told = await told_until(app, lambda told: told["store"]["mode"] != "shared")
            await app.watch.page._trail.note()
            again = json.loads((await ask(app, "/gateway/status")).body)

    assert told["status"] == "degraded"
    assert told["notices"][0]["text"].startswith("The common store ")
    assert again["budget"] is None
    assert again["history"]["used"][-1] is None


async def test_what_it_goes_on_without_is_what_health_says() -> None:
    """In words; of two pages one must not know less than the other."""
    archive = {"archive__url": f"postgresql://archive@127.0.0.1:{free_port()}/nothing"}
    async with FakeBybit() as exchange, gateway(exchange.url, **archive) as app:
        told = await told_until(app, lambda told: told["notices"] != [])
        ready = json.loads((await ask(app, "/health/ready")).body)

    assert [notice["id"] for notice in told["notices"]] == ["lost-The archive (PostgreSQL)"]
    assert ready == {"status": "ready", "degraded": ["postgres"]}


@needs_redis
async def test_of_several_workers_the_page_says_which_it_is_of() -> None:
    port = free_port()
    with redis_server() as redis:
        async with FakeBybit() as exchange:
            settings = {"WORKERS": "2", "GATEWAY__STORE__URL": redis.url, "GATEWAY__UPSTREAM__URL": exchange.url}
            with process("run", LOG_LEVEL="error", GATEWAY__LISTEN__PORT=str(port), **settings) as parent:
                await asyncio.to_thread(wait_until_ready, port, parent)
                app: Any = SimpleNamespace(port=port)
                told = await told_until(app, lambda told: told["notices"] == [])
                parent.terminate()
                await asyncio.to_thread(parent.communicate, timeout=30)

    assert told["worker"]["of"] == 2
    assert told["worker"]["number"] in {1, 2}


async def told_until(app: Any, holds: Callable[[Any], bool]) -> Any:
    """The status that says so: other processes act in their own time."""
    async with asyncio.timeout(30):
        while not holds(told := json.loads((await ask(app, "/gateway/status")).body)):
            await asyncio.sleep(0.05)
    return told

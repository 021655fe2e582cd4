"""What clients and operators see of a store that gateways share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.clock import system_clock
from tests.fake_bybit import FakeBybit
from tests.fake_bybit.tls import make_certificates
from tests.gateway_fixture import gateway, url
from tests.proxy.test_log import Captured, captured
from tests.recorder import recorder
from tests.redis_servers import RedisServer, needs_redis, redis_server
from tests.relay import Relay
from tests.signing import signed

__all__ = ["captured"]
pytestmark = needs_redis

PER_ACCOUNT = {
    "name": "per-account",
    "partition": ["api_key"],
    "quota": "3/1m",
    "counts": "requests",
    "when_full": "refuse",
}
PER_IP = {**PER_ACCOUNT, "name": "per-ip", "partition": ["ip"]}
EXACT = {"name": "bybit-ip", "quota": "100/1s", "window": "held", "refuse_with": "bybit"}
TIME = "/v5/market/time"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def emptied(redis: RedisServer) -> None:
    """A budget of its own for each test; the scripts stay known."""
    with redis.client() as client:
        client.flushall()


async def until(holds: Callable[[], Any], what: str) -> None:
    """Wait for the heartbeat, which has a time of its own."""
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.02)


async def ask(session: aiohttp.ClientSession, app: App, target: str = TIME, **headers: str) -> tuple[int, bytes]:
    async with session.get(url(app, target), headers=headers) as answer:
        return answer.status, await answer.read()


def mode(app: App) -> str:
    return str(app.store.status()["mode"])


async def test_a_clients_quota_is_one_for_all_gateways(redis: RedisServer) -> None:
    """Nobody said how keys are hashed: the gateways agree all the same."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=[PER_ACCOUNT], store__url=redis.url) as first,
        gateway(exchange.url, limits=[PER_ACCOUNT], store__url=redis.url) as second,
        aiohttp.ClientSession() as session,
    ):
        asked = [
            (await ask(session, app, **{"X-BAPI-API-KEY": key}))[0]
            for app, key in [
                (first, "k1"),
                (second, "k1"),
                (first, "k1"),
                (second, "k1"),
                (first, "k1"),
                (second, "k2"),
            ]
        ]
        await asyncio.sleep(0.5)  # a heartbeat, with which the second tells of its windows
        rows = await first.store.usage()

    assert asked == [200, 200, 200, 429, 429, 200]
    assert sorted(row.used for row in rows) == [1, 3]


async def test_planted_secrets_are_nowhere_in_the_store(redis: RedisServer, captured: Captured) -> None:
    secrets = ["PLANTEDAPIKEY0123456", "planted-token-0123456", "planted-password-0123456", "planted-secret-0123456"]
    identity = {"tokens": [{"name": "bot", "token": secrets[1], "tier": "PREMIUM"}], "accounts": {"main": [secrets[0]]}}
    with redis_server(requirepass=secrets[2]) as guarded:
        async with (
            FakeBybit() as exchange,
            gateway(
                exchange.url,
                identity__tokens=identity["tokens"],
                identity__accounts=identity["accounts"],
                store__url=f"redis://127.0.0.1:{guarded.port}",
                store__password=secrets[2],
            ) as app,
            aiohttp.ClientSession() as session,
        ):
            headers = signed("", key=secrets[0], secret=secrets[3])
            for _ in range(2):
                await ask(session, app, "/v5/account/info", **headers, **{"X-Gateway-Token": secrets[1]})
            await asyncio.sleep(0.5)  # a heartbeat, which writes what the gateway says of itself
            pages = [(await ask(session, app, page))[1] for page in ("/health", "/metrics", "/gateway/limits")]
            with guarded.client() as client:
                kept = [str(client.execute_command(*dump(client, key))) for key in client.keys("*")]
                kept += [str(key) for key in client.keys("*")]
        await asyncio.to_thread(guarded.kill)
    everything = "\n".join([*kept, *(str(page) for page in pages), *(str(line) for line in captured.written)])
    assert "per-ip" in everything
    assert [secret for secret in secrets if secret in everything] == []


def dump(client: Any, key: Any) -> tuple[Any, ...]:
    kind = client.type(key)
    kind = kind.decode() if isinstance(kind, bytes) else kind
    return {
        "zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
        "hash": ("HGETALL", key),
        "string": ("GET", key),
    }[kind]


async def test_a_gateway_starts_without_its_store_and_finds_it_later(redis: RedisServer) -> None:
    async with FakeBybit() as exchange, Relay(redis.port) as relay:
        await relay.cut()
        async with (
            gateway(exchange.url, store__url=f"redis://127.0.0.1:{relay.port}") as app,
            aiohttp.ClientSession() as session,
        ):
            ready, _ = await ask(session, app, "/health/ready")
            status, _ = await ask(session, app)
            warnings, started = list(app.store.warnings), mode(app)
            await relay.heal()
            await until(lambda: mode(app) in {"shared", "holding"}, "the store")

    assert (ready, status, started) == (200, 200, "emergency")
    assert warnings == ["store.url: not reached (unreachable); until it is, this gateway goes by its own share"]


async def test_a_wrong_password_is_named_and_not_shown(captured: Captured) -> None:
    with redis_server(requirepass="right-password") as guarded:
        async with (
            FakeBybit() as exchange,
            gateway(exchange.url, store__url=f"redis://:wrong-password@127.0.0.1:{guarded.port}") as app,
            aiohttp.ClientSession() as session,
        ):
            status, _ = await ask(session, app)
            _, health = await ask(session, app, "/health")
    assert status == 200
    assert b'"failure": "authentication"' in health
    assert b"wrong-password" not in health + b"".join(captured.written)


async def test_over_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, system_clock()())
    files = {
        "tls_cert_file": made.chain_path,
        "tls_key_file": made.key_path,
        "tls_ca_cert_file": made.ca_path,
        "tls_auth_clients": "no",
    }
    with redis_server(**files) as server:
        async with FakeBybit() as exchange:
            address = f"rediss://127.0.0.1:{server.port}"
            async with gateway(exchange.url, store__url=address, store__ca_file=str(made.ca_path)) as app:
                trusted = mode(app)
            async with gateway(exchange.url, store__url=address) as app:
                untrusted = (mode(app), app.store.status()["failure"])
    assert trusted in {"shared", "holding"}
    assert untrusted == ("emergency", "unreachable")


async def test_clients_that_hang_up_leave_nothing_behind(redis: RedisServer) -> None:
    """In the store and beside it, whatever the call was doing when they went."""
    async with (
        FakeBybit() as exchange,
        Relay(redis.port) as relay,
        gateway(exchange.url, limits=[EXACT], store__url=f"redis://127.0.0.1:{relay.port}") as app,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        await until(lambda: mode(app) == "shared", "the shared budget")
        relay.delay_s = 0.01
        for wave in range(10):
            tasks = [asyncio.get_running_loop().create_task(ask(session, app)) for _ in range(20)]
            await asyncio.sleep(0.004 * wave)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        relay.delay_s = 0.0
        await until(lambda: not app.limiter.waiting, "an empty queue")
        await until(lambda: not app.store._flying, "the last answer")
        await asyncio.sleep(1.2)  # the window, after which only what is in flight counts
        ends = asyncio.get_running_loop().time() + 10  # on a busy machine; long before the lease of what is left behind
        with redis.client() as client:
            while (rows := await app.store.usage()) and asyncio.get_running_loop().time() < ends:
                await asyncio.sleep(0.1)  # bounded polling: calls that were on their way may end a little later
            flying = client.zcount("bg:{default}:w:bybit-ip|default", system_clock()(), "+inf")
    assert rows == []
    assert flying == 0
    assert app.store._local._sent._taken == {}


async def test_gateways_that_disagree_are_told_so(redis: RedisServer, captured: Captured) -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=[EXACT], store__url=redis.url),
        gateway(exchange.url, limits=[{**EXACT, "quota": "90/1s"}], store__url=redis.url),
    ):

        def told() -> list[str]:
            return [str(event["warning"]) for event in captured.events() if event["event"] == "replicas_disagree"]

        await until(lambda: len(told()) == 2, "both warnings")
    assert any(
        text.startswith("limits differ in replica ")
        and text.endswith("): bybit-ip is 100/1s held per egress here and 90/1s held per egress there")
        for text in told()
    )


async def test_a_store_that_may_throw_windows_away_is_warned_about() -> None:
    with redis_server(maxmemory="50mb", maxmemory_policy="allkeys-lru") as server:
        async with FakeBybit() as exchange, gateway(exchange.url, store__url=server.url) as app:
            (warning,) = app.store.warnings
    assert "maxmemory-policy allkeys-lru" in warning
    assert "set maxmemory-policy noeviction" in warning


async def test_a_gateway_that_stops_leaves_its_share_to_the_others(redis: RedisServer) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, store__url=redis.url) as first:
        async with gateway(exchange.url, store__url=redis.url):
            await until(lambda: first.store.status()["share"] == 0.5, "half of the budget")
            assert first.store.status()["replicas"] == 2
        await until(lambda: first.store.status()["share"] == 1.0, "the whole")


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        pytest.param({"store__on_failure": "closed"}, 0, 0, id="closed"),
        pytest.param({"store__on_failure": "open", "store__accept_bans": "true"}, 50, 50, id="open"),
        pytest.param({"store__on_failure": "divided"}, 1, 2, id="divided"),  # what was set aside
    ],
)
async def test_what_is_sent_while_the_store_is_lost(settings: dict[str, str], least: int, most: int) -> None:
    # Of a short window what was set aside would be free again while a busy machine is still sending.
    rule = {**EXACT, "quota": "100/4s"}
    with redis_server() as server:
        async with (
            recorder() as upstream,
            aiohttp.ClientSession() as session,
            gateway(upstream.url, limits=[rule], store__url=server.url, queue__max_wait="300ms", **settings) as app,
        ):
            await until(lambda: mode(app) == "shared", "the shared budget")
            await asyncio.to_thread(server.kill)
            await until(lambda: not app.store._standing.up, "the loss")
            answers = await asyncio.gather(*(ask(session, app, f"/v5/x/{n}") for n in range(50)))

    told = Counter((status, body[:80]) for status, body in answers)
    assert least <= len(upstream.seen) <= most, told


async def test_metrics_tell_by_which_book_it_spends(redis: RedisServer) -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=[EXACT], store__url=redis.url) as app,
        aiohttp.ClientSession() as session,
    ):
        await until(lambda: mode(app) == "shared", "the shared budget")
        await ask(session, app)
        _, page = await ask(session, app, "/metrics")
        _, health = await ask(session, app, "/health")
    assert b'gateway_store_mode{mode="shared"} 1.0' in page
    assert b'gateway_store_mode{mode="divided"} 0.0' in page
    assert b"gateway_store_replicas 1.0" in page
    assert b'gateway_store_call_seconds_count{script="reserve"}' in page
    assert b'gateway_window_used{rule="bybit-ip"}' in page
    assert b'"kind": "redis"' in health


async def test_a_reload_changes_a_shared_rule(redis: RedisServer) -> None:
    """The window goes on under the new number."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=[PER_IP], store__url=redis.url) as app,
        aiohttp.ClientSession() as session,
    ):
        first = [(await ask(session, app))[0] for _ in range(4)]
        raised = app._config.model_copy(
            update={
                "limits": (
                    app._config.limits[0].model_copy(
                        update={"quota": type(app._config.limits[0].quota)(5, 60_000_000)}
                    ),
                )
            }
        )
        app.apply(raised)
        then = [(await ask(session, app))[0] for _ in range(3)]
    assert first == [200, 200, 200, 429]
    assert then == [200, 200, 429]


async def test_a_gateway_that_was_killed_does_not_keep_the_budget_from_the_next(redis: RedisServer) -> None:
    """The next one on that machine knows from the closed door that its predecessor is dead."""
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[EXACT], store__url=redis.url) as killed:
        await until(lambda: killed.store.status()["share"] == 1.0, "the whole budget")
        await asyncio.sleep(0.5)  # until it has said where it can be reached
        # As a kill would leave it: no last word, and nobody at the door.
        await killed.store._tasks.close()
        await killed.store._members.close()
        async with (
            gateway(exchange.url, limits=[EXACT], store__url=redis.url) as after,
            aiohttp.ClientSession() as session,
        ):
            share_at_first = after.store.status()["share"]
            await until(lambda: after.store.status()["share"] == 1.0, "its predecessor's share")
            status, _ = await ask(session, after)
    assert share_at_first == 0
    assert status == 200


async def test_a_silent_store_holds_up_neither_requests_nor_pages_and_is_found_again(redis: RedisServer) -> None:
    """It takes connections and says nothing, and its connections never break."""
    async with (
        FakeBybit() as exchange,
        Relay(redis.port) as relay,
        gateway(exchange.url, limits=[EXACT], store__url=f"redis://127.0.0.1:{relay.port}") as app,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
    ):
        await until(lambda: mode(app) == "shared", "the shared budget")
        await relay.freeze()
        await until(lambda: mode(app) == "divided", "the own share")
        pages = [(await ask(session, app, page))[0] for page in ("/metrics", "/gateway/limits", "/health", TIME)]
        await relay.heal()
        await until(lambda: mode(app) == "shared", "the shared budget again")
    assert pages == [200, 200, 200, 200]

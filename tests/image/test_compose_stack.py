"""The compose stacks as they are shipped, started by a real engine: they come up, serve, and survive."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from tests.docs.blocks import named
from tests.fake_bybit import FakeBybit
from tests.image.engine import Engine, NoImage
from tests.image.reads import read_together
from tests.image.stack import CannotCrash, Stack, stack, wait_until
from tests.raw_http import RawAnswer, exchange_bytes
from tests.redis_servers.ports import reserve_port

CANDLES = [
    f"/v5/market/kline?category=linear&symbol={symbol}&interval=15&start=1767225600000&end=1767404700000&limit=200"
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
]
"""Of the past, so that every exchange of one seed says the same of them."""
TICKERS = "/v5/market/tickers?category=linear&symbol=BTCUSDT"
"""Never kept: the exchange is asked each time."""
LIMIT = 600
PAGE = "docs/compose.md"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _has_compose(engine: Engine, image: str) -> None:
    done = engine.docker("compose", "version", check=False)
    if done.returncode != 0:
        pytest.skip("the engine has no compose plug-in")


def prepared(engine: Engine, name: str, file: str, **environment: Any) -> Iterator[Stack]:
    try:
        with ExitStack() as ending:

            def port() -> int:
                reserved = reserve_port()
                ending.callback(reserved.release)
                return reserved.number

            yield ending.enter_context(stack(engine, name, file, port, **environment))
    except NoImage as reason:
        pytest.skip(str(reason))


@pytest.fixture
def scaled(engine: Engine) -> Iterator[Stack]:
    """Grafana is in no package of Debian, so there is no stand-in for it: the profile `metrics`."""
    own = {"COMPOSE_PROFILES": "metrics", "INSIDE_SUBNET": "10.213.78.0/24"}
    yield from prepared(engine, "scale", "compose.scale.yaml", **own)


@pytest.fixture
def alone(engine: Engine) -> Iterator[Stack]:
    yield from prepared(engine, "alone", "compose.yaml")


@pytest.fixture
def with_redis(engine: Engine) -> Iterator[Stack]:
    yield from prepared(engine, "redis", "compose.redis.yaml")


@pytest.fixture
def without_password(engine: Engine) -> Iterator[Stack]:
    """The same under another name: each stack takes away what is left of its own."""
    yield from prepared(engine, "no-password", "compose.redis.yaml")


async def right_candles() -> dict[str, Any]:
    """What the exchange says of each target, by another one of the same seed."""
    async with FakeBybit() as twin:
        answers = {target: await exchange_bytes(twin.port, _get(target)) for target in CANDLES}
    return {target: json.loads(answer.body)["result"] for target, answer in answers.items()}


def candles_are(right: dict[str, Any]) -> Any:
    def judge(target: str, answer: RawAnswer) -> str:
        if answer.status != 200 or not answer.complete:
            return f"{answer.status} {answer.get('X-Gateway')} {answer.body[:80]!r}"
        told = orjson.loads(answer.body)
        return "" if (told["retCode"], told["result"]) == (0, right[target]) else f"other candles: {answer.body[:80]!r}"

    return judge


def a_ticker_or_a_refusal(_: str, answer: RawAnswer) -> str:
    """Where the budget is small somebody is told so: with 200 by the rule of the address, with 429 by the tickers'."""
    told = orjson.loads(answer.body) if answer.status in {200, 429} else {}
    if told.get("retCode") == 10006 and answer.get("X-Gateway"):
        return "refused"
    if told.get("retCode") == 0 and told["result"]["list"][0]["symbol"] == "BTCUSDT":
        return ""
    return f"{answer.status} {answer.get('X-Gateway')} {answer.body[:80]!r}"


async def test_one_gateway_alone_comes_up_and_serves(alone: Stack) -> None:
    """On 127.0.0.1 and nowhere else; what it must not forget lies on a volume."""
    await asyncio.to_thread(alone.up)

    answer = await exchange_bytes(alone.port["GATEWAY_PORT"], _get(CANDLES[0]))
    (container,) = alone.containers("gateway")
    told = alone.inspect(container)

    assert json.loads(answer.body)["result"] == (await right_candles())[CANDLES[0]]
    assert set(alone.states().values()) == {"healthy"}
    (published,) = told["NetworkSettings"]["Ports"]["8080/tcp"]
    assert published == {"HostIp": "127.0.0.1", "HostPort": str(alone.port["GATEWAY_PORT"])}
    assert [mount["Destination"] for mount in told["Mounts"] if mount["RW"]] == ["/var/lib/bybit-gateway"]
    assert (told["Config"]["User"], told["HostConfig"]["ReadonlyRootfs"]) == ("10001:10001", True)
    await asyncio.to_thread(alone.as_written, named(PAGE, "alone"))
    assert alone.states() == {}


async def test_with_redis_windows_and_candles_are_in_one_each(with_redis: Stack) -> None:
    """Both ask for the password."""
    await asyncio.to_thread(with_redis.up)

    await exchange_bytes(with_redis.port["GATEWAY_PORT"], _get(CANDLES[0]))

    def keys(service: str) -> str:
        authenticated = 'REDISCLI_AUTH="$(cat /run/secrets/redis-password)" redis-cli --scan'
        return with_redis.run_inside(service, "sh", "-c", authenticated)

    wait_until(lambda: "bybit:klines:linear:BTCUSDT:15" in keys("redis-cache"), "the candles are in redis-cache")
    assert "bg:{default}:" in keys("redis")
    assert "bg:" not in keys("redis-cache")
    assert "bybit:klines" not in keys("redis")
    assert with_redis.modes() == ["shared"]
    for service in ("redis", "redis-cache"):
        assert "NOAUTH" in with_redis.run_inside(service, "redis-cli", "ping", check=False)
    await asyncio.to_thread(with_redis.as_written, named(PAGE, "redis"))
    assert with_redis.states() == {}


def test_a_missing_password_is_named(without_password: Stack) -> None:
    """And nothing runs without it."""
    missing = without_password.secrets / "redis-password"
    missing.unlink()

    done = without_password.compose("up", "--detach", "--wait", check=False)

    assert done.returncode != 0
    assert str(missing) in done.stderr
    assert not without_password.containers("gateway")


async def test_the_scaled_stack(scaled: Stack) -> None:
    """One story, because it takes half a minute to come up: it serves a crowd, loses a gateway, is watched, upgraded,
    and loses Redis; and the exchange never sees more than it allows."""
    await asyncio.to_thread(scaled.up)
    assert set(scaled.states().values()) == {"healthy"}
    assert len(scaled.containers("gateway")) == 3
    right = candles_are(await right_candles())

    await a_crowd_gets_right_answers(scaled, right)
    await a_gateway_may_die(scaled, right)
    await prometheus_finds_all_gateways(scaled)
    await gateways_are_exchanged_while_others_serve(scaled, right)
    await redis_may_die(scaled, right)

    assert 0 < scaled.most_in_a_window() <= LIMIT
    orders = [link for _, links in scaled.arrivals() for link in links]
    assert len(orders) == len(set(orders)), "no order was sent twice"
    await there_may_be_more(scaled)  # of a new image all is started anew, the exchange with its books too
    await asyncio.to_thread(scaled.as_written, named(PAGE, "scale"))
    assert scaled.states() == {}


async def a_crowd_gets_right_answers(scaled: Stack, right: Any) -> None:
    """300 clients at once; the exchange is asked next to nothing."""
    reads = await read_together(scaled.port["GATEWAY_PORT"], CANDLES, right, clients=300, every_s=0.5, rounds=8)
    assert not reads.wrong
    assert (reads.answers, reads.again) == (2_400, 0)
    assert len(scaled.arrivals()) < 30


async def a_gateway_may_die(scaled: Stack, right: Any) -> None:
    """The others answer, and it is started again."""
    victim = scaled.containers("gateway")[1]
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(
            read_together(scaled.port["GATEWAY_PORT"], CANDLES, right, clients=300, every_s=0.5, rounds=12)
        )
        await asyncio.sleep(1)  # so that it is in the middle
        try:
            await asyncio.to_thread(scaled.crash, victim)
        except CannotCrash as why:
            pytest.skip(f"what comes after the first load was not tested: {why}")
    assert not reading.result().wrong
    await asyncio.to_thread(
        wait_until,
        lambda: scaled.inspect(victim)["RestartCount"] > 0 and scaled.modes() == ["shared"] * 3,
        "it is back",
    )


async def prometheus_finds_all_gateways(scaled: Stack) -> None:
    """Each is a target and up, the rules are loaded, Alertmanager is there to be told."""

    def asked(what: str) -> Any:
        url = f"http://127.0.0.1:{scaled.port['PROMETHEUS_PORT']}/api/v1/{what}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def up(job: str) -> int:
        targets = asked("targets?state=active")["activeTargets"]
        return sum(target["health"] == "up" for target in targets if target["scrapePool"] == job)

    await asyncio.to_thread(wait_until, lambda: (up("bybit-gateway"), up("node")) == (3, 1), "all targets are up")
    assert {rule["health"] for group in asked("rules")["groups"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert [each["url"] for each in asked("alertmanagers")["activeAlertmanagers"]] == [
        "http://alertmanager:9093/api/v2/alerts"
    ]


async def gateways_are_exchanged_while_others_serve(scaled: Stack, right: Any) -> None:
    """By deploy/compose/upgrade: no read fails meanwhile, and as many are there as before, whatever the file says."""
    await asyncio.to_thread(scaled.up, "--no-recreate", "--scale", "gateway=2")
    before = set(scaled.containers("gateway"))
    async with asyncio.TaskGroup() as group:
        upgraded = group.create_task(asyncio.to_thread(scaled.as_written, named(PAGE, "upgrade")))
        wrong: Counter[str] = Counter()
        while not upgraded.done():
            reads = await read_together(scaled.port["GATEWAY_PORT"], CANDLES, right, clients=40, every_s=0.2, rounds=5)
            wrong += reads.wrong + Counter({"a connection was ended": reads.again})
    assert not wrong, f"{wrong}\n{scaled.compose('logs', '--timestamps', '--tail', '30', 'nginx').stdout}"
    after = set(scaled.containers("gateway"))
    assert len(before) == len(after) == 2
    assert not before & after
    await asyncio.to_thread(scaled.up, "--no-recreate")


async def redis_may_die(scaled: Stack, right: Any) -> None:
    """The gateways go on, each by its share, and hand it back: candles as ever, of the rest as much as there is."""
    port = scaled.port["GATEWAY_PORT"]
    async with asyncio.TaskGroup() as group:
        candles = group.create_task(read_together(port, CANDLES, right, clients=100, every_s=0.5, rounds=50))
        tickers = group.create_task(
            read_together(port, [TICKERS], a_ticker_or_a_refusal, clients=40, every_s=0.1, rounds=70)
        )
        await asyncio.to_thread(scaled.compose, "kill", "redis")
        await asyncio.to_thread(wait_until, lambda: scaled.modes() == ["divided"] * 3, "each has its share")
        own = await read_together(port, [TICKERS], a_ticker_or_a_refusal, clients=10, every_s=0.2, rounds=5)
        await asyncio.to_thread(scaled.compose, "start", "redis")
        await asyncio.to_thread(wait_until, lambda: scaled.modes() == ["shared"] * 3, "the budget is one again")
    assert not candles.result().wrong
    assert set(tickers.result().wrong) <= {"refused"}
    assert own.answers > own.wrong.total()


async def there_may_be_more(scaled: Stack) -> None:
    """Five, with one budget."""
    await asyncio.to_thread(scaled.as_written, named(PAGE, "more"))
    await asyncio.to_thread(wait_until, lambda: scaled.modes() == ["shared"] * 5, "all five share it")


def _get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

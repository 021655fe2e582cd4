"""The image as it is deployed: hardened, on half a processor. It serves, says how it is, forgets nothing, and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pybit.unified_trading import HTTP

from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET, Clock
from tests.clients.chain import served as on_a_thread
from tests.clients.compare import end_of
from tests.fake_bybit import FakeBybit
from tests.image.engine import Engine, base_image
from tests.image.gateways import HARDENED, MOUNTED, Gateway, configuration, served, told
from tests.redis_servers.server import redis_server

pytestmark = pytest.mark.timeout(1200)  # whoever comes first builds the image, which may mean downloads

DRAIN_S = 90
"""What docs/image.md gives it; nothing of what is under way lasts longer."""
OTHER_USERS = {"another user of group 0": "1234:0", "another user, no group": "1234", "nobody known": "1234:1234"}


@contextmanager
def pybit(base: str) -> Iterator[HTTP]:
    made = HTTP(api_key=KEY, api_secret=SECRET, recv_window=RECV_WINDOW_MS)
    made.endpoint = base
    yield made
    made.client.close()


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[FakeBybit]:
    """With TLS, by a CA of its own."""
    with on_a_thread(FakeBybit(tls=True, tls_dir=tmp_path)) as (running,):
        yield running


def names(gateway: Gateway) -> list[str]:
    return [event["event"] for event in gateway.container.events()]


def order(client: HTTP, link_id: str) -> Any:
    question = {"category": "linear", "symbol": "BTCUSDT"}
    placed = client.place_order(
        **question, side="Buy", orderType="Limit", qty="0.123", price="999.90", orderLinkId=link_id
    )
    return (
        placed,
        client.get_open_orders(**question, orderLinkId=link_id),
        client.cancel_order(**question, orderLinkId=link_id),
    )


CALLS: dict[str, Callable[[HTTP], Any]] = {
    "the time": lambda client: client.get_server_time(),
    "a ticker": lambda client: client.get_tickers(category="linear", symbol="BTCUSDT"),
    "a book": lambda client: client.get_orderbook(category="linear", symbol="BTCUSDT", limit=50),
    "instruments": lambda client: client.get_instruments_info(category="linear", limit=250),
    "a wallet": lambda client: client.get_wallet_balance(accountType="UNIFIED", coin="BTC,USDT"),
    "an order's life": lambda client: order(client, "through-a-container"),
    "what is not there": lambda client: client.get_tickers(category="linear", symbol="NOSUCHUSDT"),
}


def test_it_serves_pybit_as_the_exchange_does(engine: Engine, image: str, tmp_path: Path) -> None:
    """Hardened and on half a processor it becomes healthy, and every call ends as it does without it."""
    clock = Clock()
    direct, behind = FakeBybit(clock=clock), FakeBybit(clock=clock, tls=True, tls_dir=tmp_path)
    with on_a_thread(direct, behind), served(engine, tmp_path / "etc", behind) as gateway:
        gateway.container.wait_until_healthy()
        clock.stand()
        with pybit(direct.url) as plain, pybit(gateway.url) as through:
            for name, call in CALLS.items():
                assert end_of(lambda: call(through)) == end_of(lambda: call(plain)), name  # noqa: B023
        arrived = [entry for entry in behind.record.since(0) if entry.operation == "create"]
        limits = gateway.container.inspect()["HostConfig"]

    assert [(entry.status, entry.ret_code, entry.link_ids) for entry in arrived] == [(200, 0, ["through-a-container"])]
    assert limits["ReadonlyRootfs"] is True
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (256 << 20, 500_000_000, 100)


@pytest.mark.parametrize(
    ("sections", "environment"),
    [
        ({}, {}),
        ({"listen": {"port": 9000}}, {}),
        ({"listen": {"port": 9000, "host": "127.0.0.1"}, "admin": {"port": 9100}}, {}),
        ({"admin": {"port": 9100, "host": "0.0.0.0"}}, {}),
        ({"listen": {"port": 9000}}, {"GATEWAY__LISTEN__PORT": "9001"}),
        ({}, {"GATEWAY__ADMIN__PORT": "9100"}),
    ],
    ids=[
        "as shipped",
        "port in the file",
        "pages of their own",
        "pages everywhere",
        "port by environment",
        "pages by it",
    ],
)
def test_the_image_looks_for_the_pages_where_they_are(
    engine: Engine, image: str, tmp_path: Path, sections: dict[str, Any], environment: dict[str, str]
) -> None:
    """Its health check asks on the port that the configuration says, by file or by environment."""
    mounted = configuration(tmp_path / "etc", **sections)
    variables = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
    options = (*HARDENED, "--network=none", "--health-interval=1s", *mounted, *variables)
    with engine.running(options=options) as container:
        container.wait_until_healthy()


def test_a_gateway_that_does_not_answer_is_not_healthy(engine: Engine, image: str) -> None:
    """And the engine is told why, in one line."""
    quickly = ("--health-interval=1s", "--health-start-period=1s", "--health-retries=2")
    wait = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"
    with engine.running(
        "-c", wait, options=(*HARDENED, "--network=none", *quickly, "--entrypoint=python")
    ) as container:
        container.wait_until(lambda: container.state["Health"]["Status"] == "unhealthy", "unhealthy")
        said = container.state["Health"]["Log"][-1]["Output"]

    assert said == "not alive: http://127.0.0.1:8080/health/live: [Errno 111] Connection refused\n"


def test_it_stops_when_it_is_told_to(engine: Engine, image: str, exchange: FakeBybit, tmp_path: Path) -> None:
    """`docker stop`: it drains, says so, and ends with 0 long before it would be killed."""
    with served(engine, tmp_path / "etc", exchange) as gateway:
        assert gateway.get("/v5/market/time")[0] == 200
        code = gateway.container.stop(DRAIN_S)
        events = names(gateway)

    assert code == 0
    assert events[-2:] == ["draining", "stopped"]


def test_what_it_has_sent_is_known_to_the_next_one_on_its_volume(
    engine: Engine, image: str, exchange: FakeBybit, tmp_path: Path
) -> None:
    """The container may be replaced: the windows go on where they were, and nothing is held back."""
    with engine.volume() as volume:
        options = (*HARDENED, "--volume", f"{volume}:/var/lib/bybit-gateway")
        with served(engine, tmp_path / "one", exchange, options=options) as first:
            first.get("/v5/market/time")
            assert first.container.stop(DRAIN_S) == 0
        with served(engine, tmp_path / "two", exchange, options=options) as second:
            events = names(second)

    assert "state_restored" in events
    assert "cold_start" not in events


def test_it_keeps_its_state_without_being_given_a_volume(
    engine: Engine, image: str, exchange: FakeBybit, tmp_path: Path
) -> None:
    """A container that is stopped and started again, or restarted after a crash, has the volume of its own."""
    with served(engine, tmp_path / "etc", exchange) as gateway:
        gateway.get("/v5/market/time")
        assert gateway.container.stop(DRAIN_S) == 0
        gateway.container.start()
        gateway.wait_until_ready()
        assert "state_restored" in names(gateway)


@pytest.mark.parametrize("user", OTHER_USERS)
def test_it_runs_as_whoever_it_is_told_to(engine: Engine, image: str, tmp_path: Path, user: str) -> None:
    """OpenShift picks a user of its own, in group 0: even then the state is kept. One outside goes without."""
    numbers = OTHER_USERS[user]
    with served(engine, tmp_path / "etc", options=(*HARDENED, "--user", numbers)) as gateway:
        assert gateway.container.execute("id", "-u").stdout == "1234\n"
        gateway.container.stop(DRAIN_S)
        gateway.container.start()
        gateway.wait_until_ready()
        events = names(gateway)

    kept = numbers != "1234:1234"
    assert ("state_restored" in events) is kept
    assert ("state_file_nowhere" in events) is not kept


@pytest.fixture(scope="module")
def on_a_bare_base(engine: Engine, image: str) -> str:
    """Built on another base: one without the bytecode of Python's library, as the official images are."""
    bare = f"FROM {base_image()}\nRUN find /usr -name '*.pyc' -delete\n"
    base = engine.build("bybit-gateway-base:test", dockerfile=bare)
    return engine.build(f"{image}-bare", "--build-arg", f"PYTHON_IMAGE={base}")


@pytest.mark.parametrize("built", ["image", "on_a_bare_base"])
def test_nothing_is_written_outside_the_volume(
    engine: Engine, built: str, exchange: FakeBybit, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Where the root could be written to, and by root: not even bytecode is missing that it would write."""
    name, options = request.getfixturevalue(built), ("--user=0:0", "--env=PYTHONDONTWRITEBYTECODE=")
    with served(engine, tmp_path / "etc", exchange, image=name, options=options) as gateway:
        for target in ("/v5/market/time", "/gateway/", "/gateway/limits", "/metrics", "/health"):
            assert gateway.get(target)[0] == 200
        gateway.container.execute("python", "-m", "proxy.alive")
        changed = engine.docker("diff", gateway.container.id).stdout.splitlines()
        gateway.container.stop(DRAIN_S)

    # Docker itself makes the place where the configuration is mounted.
    assert [line for line in changed if MOUNTED not in line and line != "C /etc"] == []


def test_several_workers_need_a_place_to_meet(engine: Engine, image: str, exchange: FakeBybit, tmp_path: Path) -> None:
    """`--tmpfs /tmp` is that place; without one the gateway says so and ends."""
    with redis_server() as redis:
        store = {"url": redis.url}
        several = ("--tmpfs=/tmp", *HARDENED)
        with served(engine, tmp_path / "one", exchange, options=several, workers=2, store=store) as gateway:
            gateway.container.wait_until_healthy()
            assert told(gateway.get("/health")[1])["workers"] == {"expected": 2, "up": 2}
            assert gateway.container.stop(DRAIN_S) == 0
        mounted = configuration(tmp_path / "two", exchange, workers=2, store=store)
        with engine.running(options=(*HARDENED, "--network=host", *mounted)) as container:
            container.wait_until(lambda: container.state["Status"] == "exited", "ended")
            code, (_, errors) = container.state["ExitCode"], container.logs()

    assert code == 1
    assert errors.startswith("several workers need a directory of their own under TMPDIR or /tmp: No usable temporary")


@pytest.mark.parametrize("command", [["run"], ["check"]])
def test_a_wrong_configuration_ends_it_at_once(engine: Engine, image: str, tmp_path: Path, command: list[str]) -> None:
    """Exit 2, and every mistake with its line."""
    mounted = configuration(tmp_path / "etc", listen={"port": "http"}, limits=[{"name": "a", "quota": 5}])
    with engine.running(*command, options=(*HARDENED, "--network=none", *mounted)) as container:
        container.wait_until(lambda: container.state["Status"] == "exited", "ended")
        code, (_, errors) = container.state["ExitCode"], container.logs()

    assert code == 2
    assert "listen.port: expected a whole number, got 'http'" in errors
    assert f"GATEWAY_CONFIG names the file {MOUNTED}/config.yaml." in errors
    assert "Traceback" not in errors


def test_the_archive_and_traces_have_what_they_need(engine: Engine, image: str, tmp_path: Path) -> None:
    """Their libraries are in the image; only Parquet's is not."""
    sections = {"archive": {"url": "postgresql://me:it@127.0.0.1/candles"}, "tracing": {"enabled": True}}
    mounted = configuration(tmp_path / "etc", **sections)
    with engine.running("check", options=(*HARDENED, "--network=none", *mounted)) as container:
        container.wait_until(lambda: container.state["Status"] == "exited", "ended")
        code, (output, _) = container.state["ExitCode"], container.logs()

    assert code == 0
    assert "The configuration is good." in output

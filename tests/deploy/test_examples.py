"""deploy/examples: each is good as it stands, and does what docs/tuning.md says of it."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policies.admission import Refused, Why
from proxy.__main__ import main
from proxy.config import load
from tests.conversation import TICKERS, TIME, Client, Told
from tests.deploy.trial import ADDRESS, ROUTES, Trial, tried
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway
from tests.hand_clock import START_US, HandClock
from tests.proxy.test_tokens import pem

EXAMPLES: Final = Path(__file__).parents[2] / "deploy" / "examples"
KLINE: Final = "/v5/market/kline?category=linear&symbol={}&interval=15&limit=200"
CREATE: Final = "/v5/order/create"
SIGNED: Final = {"X_BAPI_SIGN": "s", "X_BAPI_TIMESTAMP": "1800000000000", "X_BAPI_RECV_WINDOW": "60000"}
TOKENS: Final = {"fund-a": "token-of-fund-a", "studio": "token-of-studio"}
KEY: Final = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment of whoever runs the tests."""
    for name in ("REDIS_URL", "LOG_LEVEL", "WORKERS", "CACHE_TTL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def agency(tmp_path: Path) -> Path:
    """As its head says: with a public key, and tokens of one's own."""
    (tmp_path / "identity.pem").write_bytes(pem(KEY))
    text = (EXAMPLES / "agency.yaml").read_text().replace("/etc/bybit-gateway/", f"{tmp_path}/")
    for name, digest in re.findall(r"name: ([a-z-]+), token_sha256: ([0-9a-f]{64})", text):
        text = text.replace(digest, sha256(TOKENS[name].encode()).hexdigest())
    path = tmp_path / "agency.yaml"
    path.write_text(text)
    return path


def warnings_of(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["check", "--config", str(path)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()
    return [line.removeprefix("warning: ").partition(":")[0] for line in said if line.startswith("warning: ")]


# What `check` says


@pytest.mark.parametrize("name", ["one-bot", "ten-bots"])
def test_an_example_is_good_as_it_stands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert warnings_of(EXAMPLES / f"{name}.yaml", capsys) == []


def test_the_agency_is_good_once_its_key_is_there(agency: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the key of the identity provider it does not start, and says what is missing."""
    assert main(["check", "--config", str(EXAMPLES / "agency.yaml")]) == 2
    assert "public_key_file" in capsys.readouterr().err
    assert warnings_of(agency, capsys) == []


def test_the_institution_is_warned_until_its_redis_has_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = EXAMPLES / "institution.yaml"
    assert warnings_of(path, capsys) == ["identity.hash_key", "cache.l2.secret"]
    monkeypatch.setenv("GATEWAY__STORE__PASSWORD", "long-and-secret-password")
    monkeypatch.setenv("GATEWAY__IDENTITY__HASH_KEY", "another-long-secret")
    assert warnings_of(path, capsys) == []


def test_every_example_is_about_something_of_this_list() -> None:
    """A new example gets tests of its own."""
    assert sorted(path.stem for path in EXAMPLES.glob("*.yaml")) == ["agency", "institution", "one-bot", "ten-bots"]


# One bot


def test_one_bot_shares_its_address_with_a_browser() -> None:
    """A saturated bot gets 540 in 5 s less the way there and back, and 60 in 5 s of somebody else cause no ban."""

    async def course(trial: Trial) -> None:
        async def browser() -> None:
            while trial.loop.passed < 30:
                trial.foreign()
                await asyncio.sleep(1 / 12)

        async with asyncio.TaskGroup() as group:
            group.create_task(browser())
            group.create_task(trial.never_enough("bot", TICKERS, until_s=30, at_once=200, peer="127.0.0.1"))

    trial = tried(EXAMPLES / "one-bot.yaml", course)

    assert (trial.book.breaches, trial.book.bans) == (0, 0)
    assert trial.book.max_in_window(ADDRESS) <= 600
    assert trial.rate("bot", 10, 30) >= 105
    assert not trial.refused


def test_the_order_of_one_bot_does_not_wait_behind_its_market_data() -> None:
    orders: list[float] = []

    async def course(trial: Trial) -> None:
        async def order() -> None:
            for second in range(5, 30):
                await asyncio.sleep(second - trial.loop.passed)
                answer = await trial.ask(
                    "orders", CREATE, method="POST", line="futures", peer="127.0.0.1", X_BAPI_API_KEY="k", **SIGNED
                )
                assert answer is None

        async with asyncio.TaskGroup() as group:
            group.create_task(order())
            group.create_task(trial.never_enough("bot", TICKERS, until_s=30, at_once=200, peer="127.0.0.1"))
        orders.extend(trial.waited["orders"])

    tried(EXAMPLES / "one-bot.yaml", course)

    assert len(orders) == 25
    assert sorted(orders)[23] <= 0.05  # all but one of 25


# Ten bots


def bots(number: int) -> list[str]:
    return [f"10.0.0.{each}" for each in range(1, number + 1)]


def test_ten_bots_that_never_have_enough_get_a_tenth_each() -> None:
    """12 a second each, 118 together, and the exchange never sees more than 600 in 5 s."""

    async def course(trial: Trial) -> None:
        async with asyncio.TaskGroup() as group:
            for each in bots(10):
                group.create_task(trial.never_enough(each, TICKERS, until_s=40, peer=each))

    trial = tried(EXAMPLES / "ten-bots.yaml", course)

    rates = [trial.rate(each, 10, 40) for each in bots(10)]
    assert trial.book.breaches == 0
    assert trial.book.max_in_window(ADDRESS) <= 600
    assert sum(rates) >= 0.97 * 120
    assert min(rates) >= 0.95 * sum(rates) / 10
    assert max(rates) <= 1.05 * sum(rates) / 10


def test_one_of_ten_bots_that_runs_wild_costs_the_others_nothing() -> None:
    """Nine ask for 8 a second each; the tenth never has enough, and gets 30 a second and no more."""

    async def course(trial: Trial) -> None:
        async def steady(who: str) -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(8 * 30):
                    await asyncio.sleep(max(0.0, number / 8 - trial.loop.passed))
                    group.create_task(trial.ask(who, TICKERS, peer=who))

        async with asyncio.TaskGroup() as group:
            for each in bots(9):
                group.create_task(steady(each))
            group.create_task(trial.never_enough("wild", TICKERS, until_s=30, at_once=100, peer="10.0.0.10"))

    trial = tried(EXAMPLES / "ten-bots.yaml", course)

    assert trial.book.breaches == 0
    assert trial.rate("wild", 10, 30) <= 150 / 5
    for each in bots(9):
        assert len(trial.arrived[each]) == 8 * 30
        assert max(trial.waited[each]) < 2
    assert not trial.refused


def test_ten_bots_that_warm_up_at_one_instant_are_all_served() -> None:
    """600 candle requests that nothing shares: 90 a second, the last after less than `queue.max_wait`."""

    async def course(trial: Trial) -> None:
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(bots(10)):
                for pair in range(60):
                    group.create_task(trial.ask(each, KLINE.format(f"P{number}X{pair}USDT"), peer=each))

    trial = tried(EXAMPLES / "ten-bots.yaml", course)

    assert not trial.refused
    assert sum(len(found) for found in trial.arrived.values()) == 600
    assert 6 <= max(max(found) for found in trial.waited.values()) < 8
    assert trial.book.breaches == 0


def test_a_bot_that_fills_its_part_of_the_queue_is_refused_in_the_exchanges_words() -> None:
    answers: list[Refused | None] = []

    async def course(trial: Trial) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(trial.ask("wild", TICKERS, peer="10.0.0.1")) for _ in range(600)]
        answers.extend(task.result() for task in tasks)

    trial = tried(EXAMPLES / "ten-bots.yaml", course)

    refused = [answer for answer in answers if answer is not None]
    assert {answer.why for answer in refused} == {Why.QUEUE}
    assert len(trial.arrived["wild"]) == 150 + 150
    assert {answer.charge.quota.refuse_with for answer in refused} == {"bybit"}


# An agency


def token(tier: str | None) -> str:
    claims = {"sub": "alice", "iss": "https://id.example.com", "aud": "bybit-gateway", "exp": START_US // 10**6 + 3600}
    return jwt.encode(claims if tier is None else {**claims, "tier": tier}, KEY, "ES256")


class Agency:
    """Its gateway, on a clock that stands until it is moved on: what is counted does not depend on the machine."""

    def __init__(self, client: Client, clock: HandClock) -> None:
        self.client, self.clock = client, clock

    async def times(self, number: int, **headers: str) -> list[Told]:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        return [await self.client.send("GET", TIME, headers=lines) for _ in range(number)]


async def with_agency(path: Path, course: Any) -> None:
    clock = HandClock()
    overrides = {"admin__port": "0", "admin__host": "127.0.0.1", "listen__trusted_proxies": ["127.0.0.1"]}
    async with (
        FakeBybit(settings=Settings(ip_limit=100_000)) as exchange,
        gateway(exchange.url, file=path, clock=clock, sleep=clock.sleep, **overrides) as app,
        aiohttp.ClientSession() as session,
    ):
        await course(Agency(Client(session, app), clock))


def statuses(told: list[Told]) -> list[int]:
    return [each.status for each in told]


async def test_a_free_client_of_the_agency_has_ten_at_once_and_five_a_second(agency: Path) -> None:
    """The eleventh is refused with 429 and told to come again in a second; then there are five."""

    async def course(house: Agency) -> None:
        told = await house.times(11, X_Forwarded_For="198.51.100.7")
        assert statuses(told) == [200] * 10 + [429]
        assert told[-1].gateway == "rate-limit"
        assert told[-1].headers["Retry-After"] == "1"
        assert told[-1].headers["RateLimit-Policy"] == '"tier-free-second";q=5;w=1'
        await house.clock.leap(1)
        assert statuses(await house.times(6, X_Forwarded_For="198.51.100.7")) == [200] * 5 + [429]

    await with_agency(agency, course)


@pytest.mark.parametrize(
    ("tier", "burst", "headers"),
    [
        ("ENTERPRISE", 200, {"X_Gateway_Token": TOKENS["fund-a"]}),
        ("PREMIUM", 50, {"X_Gateway_Token": TOKENS["studio"]}),
        ("PREMIUM", 50, {"Authorization": "PREMIUM"}),
        ("FREE", 10, {"Authorization": ""}),
    ],
    ids=["token of ENTERPRISE", "token of PREMIUM", "sign-in with a tier", "sign-in without one"],
)
async def test_a_customer_of_the_agency_gets_what_his_tier_has(
    agency: Path, tier: str, burst: int, headers: dict[str, str]
) -> None:
    """By token or by sign-in: so many at once, and the next one names his tier's quota."""
    if "Authorization" in headers:
        headers = {"Authorization": f"Bearer {token(headers['Authorization'] or None)}"}

    async def course(house: Agency) -> None:
        told = await house.times(burst + 1, X_Forwarded_For="198.51.100.7", **headers)
        assert statuses(told) == [200] * burst + [429]
        assert told[-1].headers["RateLimit-Policy"].startswith(f'"tier-{tier.lower()}-second"')

    await with_agency(agency, course)


async def test_the_desks_of_the_agency_are_known_by_their_network(agency: Path) -> None:
    """Three hundred at once from a desk, by the word of the load balancer: INTERNAL."""

    async def course(house: Agency) -> None:
        assert set(statuses(await house.times(300, X_Forwarded_For="10.20.1.7"))) == {200}

    await with_agency(agency, course)


async def test_a_stranger_who_calls_himself_by_another_key_each_time_meets_the_rule_for_his_address(
    agency: Path,
) -> None:
    """Fifty in five seconds, whatever names he gives himself."""

    async def course(house: Agency) -> None:
        told = [
            (await house.times(1, X_Forwarded_For="198.51.100.7", X_BAPI_API_KEY=f"key-{number}"))[0]
            for number in range(51)
        ]
        assert statuses(told) == [200] * 50 + [429]
        assert told[-1].headers["RateLimit-Policy"].startswith('"strangers"')

    await with_agency(agency, course)


async def test_a_wrong_token_is_nobodys_tier(agency: Path) -> None:
    async def course(house: Agency) -> None:
        assert statuses(await house.times(1, X_Gateway_Token="not-a-token-of-ours")) == [401]
        assert statuses(await house.times(1, Authorization="Bearer not-a-token")) == [401]

    await with_agency(agency, course)


def test_forty_free_clients_leave_three_quarters_of_the_address_to_an_enterprise(agency: Path) -> None:
    """They ask for 200 a second together and get 30; one ENTERPRISE that never has enough gets what is left, 88."""

    async def course(trial: Trial) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                address = f"198.51.100.{number}"
                group.create_task(trial.never_enough("free", TICKERS, until_s=15, at_once=5, peer=address))
            fund = {"X_Gateway_Token": TOKENS["fund-a"]}
            group.create_task(
                trial.never_enough("fund", TICKERS, until_s=15, at_once=60, peer="198.51.100.200", **fund)
            )

    trial = tried(agency, course)

    assert trial.book.breaches == 0
    assert trial.rate("free", 5, 15) <= 150 / 5
    assert trial.rate("fund", 5, 15) >= 85
    assert {rule for who, rule in trial.refused if who == "fund"} <= {"tier-enterprise-second"}


# An institution


def test_market_data_of_the_institution_leaves_four_fifths_of_the_address_to_orders() -> None:
    """Whatever the firm reads, it reads 24 times a second; two UIDs with 45 orders a second each wait for nothing."""

    async def course(trial: Trial) -> None:
        async def orders(key: str) -> None:
            how: dict[str, Any] = {"method": "POST", "line": "futures", "peer": "10.30.0.9", "X_BAPI_API_KEY": key}
            async with asyncio.TaskGroup() as group:
                for number in range(45 * 30):
                    await asyncio.sleep(max(0.0, number / 45 - trial.loop.passed))
                    group.create_task(trial.ask(key, CREATE, **how, **SIGNED))

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                peer = f"10.30.0.{number}"
                group.create_task(trial.never_enough("reads", TICKERS, until_s=30, at_once=20, peer=peer))
            for key in ("MM-KEY-2", "HEDGE-KEY-1"):
                group.create_task(orders(key))

    trial = tried(EXAMPLES / "institution.yaml", course)

    assert trial.book.breaches == 0
    assert 22 <= trial.rate("reads", 10, 30) <= 24
    for key in ("MM-KEY-2", "HEDGE-KEY-1"):
        assert len(trial.arrived[key]) == 45 * 30
        assert max(trial.waited[key]) < 0.1
    assert not [rule for who, rule in trial.refused if who != "reads"]


async def test_the_institution_serves_nobody_but_its_accounts_and_its_network() -> None:
    """An unknown key is 401, and so is nobody; one of a known account is not, nor the firm's own network."""
    one = {"store__url": "memory://", "listen__trusted_proxies": ["127.0.0.1"]}
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, file=EXAMPLES / "institution.yaml", **one) as app,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, app)
        assert (await client.get(TIME, **{"X-BAPI-API-KEY": "MM-KEY-1"})).status == 200
        assert (await client.get(TIME, **{"X-BAPI-API-KEY": "stranger"})).status == 401
        assert (await client.get(TIME)).status == 401
        assert (await client.get(TIME, **{"X-Forwarded-For": "10.30.4.4"})).status == 200


def test_a_uid_of_the_institution_begins_at_what_was_agreed_and_not_at_the_published_ten() -> None:
    config = load(EXAMPLES / "institution.yaml", {}, ROUTES)
    order = config.learned(ROUTES)["order-create", "futures"]
    assert (order.limit, order.floor, order.ceiling) == (100, 10, 100)

"""When the exchange says "too many" and not of what: an endpoint is backed off from, the address is throttled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.clock import system_clock
from tests.conversation import TICKERS, Client, arrivals, new_session, now_us, until
from tests.crowd import crowd, market
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import gateway

KLINE = "/v5/market/kline"
PART = "gateway_budget_part_ratio"
ONCE: dict[str, Any] = {"retry__enabled": "false"}


def kline(number: int) -> str:
    """Each another one, so that none is known."""
    return f"{KLINE}?category=linear&symbol=BTCUSDT&interval=1&limit={number + 1}"


def address_of(quota: str) -> list[dict[str, str]]:
    return [{"name": "bybit-ip", "quota": quota, "window": "held", "when_full": "wait", "refuse_with": "bybit"}]


async def test_a_public_endpoint_that_refuses_everybody_is_left_alone_for_a_while() -> None:
    """It says 10006 and nothing of a limit. After a pause it is asked again, and all get their answer."""
    settings = Settings(endpoint_limit=5)
    async with (
        FakeBybit(settings=settings) as exchange,
        gateway(exchange.url) as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        asked = [group.create_task(client.get(kline(number))) for number in range(12)]
        await until(lambda: exchange.books.endpoint.refused == 7, "the refusals")
        refused_us = now_us()
        exchange.settings.endpoint_limit = 0
        row = (await client.limits())["@kline.refused"]
        other = await client.get(TICKERS)
        told = [await task for task in asked]
        backed_off = await client.metric('gateway_backed_off_total{endpoint="kline"}')
        retried = await client.metric('gateway_retries_total{endpoint="kline",reason="too-many"}')
        many = await asyncio.gather(*(client.get(kline(number)) for number in range(20, 50)))

    assert row["learned"]["blocked_ms"] > 0
    assert list(row["partition"]) == ["egress"]
    assert {each.code for each in told} == {0}
    again = [entry for entry in arrivals(exchange, KLINE) if entry.time_us > refused_us]
    assert min(entry.time_us for entry in again) - refused_us >= 800_000
    assert (other.status, other.told_us - other.asked_us < 500_000) == (200, True)
    assert (backed_off, retried) == (7, 7)
    assert {each.code for each in many} == {0}
    assert max(each.told_us - each.asked_us for each in many) < 2_000_000, "it has recovered"


async def test_a_refusal_of_everybody_is_no_matter_of_accounts() -> None:
    """Backing off from one endpoint leaves the others, and the address, as they are."""
    settings = Settings(endpoint_limit=1)
    async with (
        FakeBybit(settings=settings) as exchange,
        gateway(exchange.url, **ONCE) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        codes = [(await client.get(kline(number))).code for number in range(2)]
        limits = await client.limits()
        part = await client.metric(PART)

    assert codes == [0, 10006]
    assert limits["bybit-ip"]["limit"] == 600
    assert {rule for rule in limits if rule.startswith("@")} == {"@kline.refused"}
    assert part == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429},
        {"kind": "ret_code", "ret_code": 10429},
        {"kind": "ret_code", "ret_code": 10018},
        {"kind": "ret_code", "ret_code": 429},
    ],
    ids=["HTTP 429", "10429", "10018", "429"],
)
async def test_an_exchange_that_protects_itself_gets_half_of_it(fault: dict[str, object]) -> None:
    """Halved once for all that was on its way together; then a twentieth comes back with every second."""
    passed_us = 0
    now = system_clock()
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, clock=lambda: now() + passed_us, **ONCE) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        before = await client.metric(PART)
        exchange.faults.add({**fault, "count": 20})
        exchange.faults.add({"kind": "delay", "delay_us": 100_000, "leg": "response"})
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(20)))
        parts = [await client.metric(PART)]
        halved = await client.metric("gateway_throttled_total")
        for seconds in (2, 3, 10):
            passed_us += seconds * 1_000_000
            parts.append(await client.metric(PART))
        await client.get(TICKERS)
        limit = (await client.limits())["bybit-ip"]["limit"]

    assert len({(each.status, each.code) for each in told}) == 1
    assert before == 1
    assert halved == 1
    assert parts == [pytest.approx(0.5, abs=0.04), pytest.approx(0.6, abs=0.04), pytest.approx(0.75, abs=0.04), 1]
    assert limit == 600, "the limit is what it is: less of it is used"


async def test_one_refusal_after_the_other_halves_it_again_and_never_stops_everything() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url, **ONCE) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 429, "count": 6})
        parts = []
        for _ in range(6):
            await client.get(TICKERS)
            parts.append(await client.metric(PART))
        told = await client.get(TICKERS)
        halved = await client.metric("gateway_throttled_total")

    assert parts[:3] == [pytest.approx(part, abs=0.03) for part in (0.5, 0.25, 0.125)]
    assert all(0.1 <= part < 0.2 for part in parts[3:])
    assert told.status == 200
    assert halved == 6


async def test_half_of_the_budget_is_half_of_the_requests() -> None:
    """What is throttled waits; nobody is refused."""
    limits = address_of("40/1s")
    async with FakeBybit() as exchange, gateway(exchange.url, limits=limits, **ONCE) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 429, "count": 1})
        await client.get(TICKERS)
        began_us = now_us()
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(30)))

    first = [entry for entry in exchange.record.entries if began_us <= entry.time_us < began_us + 900_000]
    assert len(first) <= 22
    assert {each.status for each in told} == {200}


async def test_orders_find_room_at_once_while_only_a_quarter_of_the_budget_may_be_used() -> None:
    """After a ban market data without end is spaced out over what may be used, so that it never takes all of that."""
    settings: dict[str, Any] = {
        "limits": address_of("240/2s"),
        "queue__max_wait": "30s",
        "pacing__ban": "300ms",
        "pacing__ramp": "60s",
    }
    async with (
        FakeBybit(settings=Settings(ip_ban_us=200_000)) as exchange,
        gateway(exchange.url, **settings) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        exchange.faults.add({"kind": "ban", "count": 1})
        await client.get(TICKERS)
        await until(lambda: not app.egress.banned, "the end of the ban")
        waits = []
        async with crowd(session, [app], ask=market, clients=100):
            for number in range(8):
                await asyncio.sleep(0.15)  # more orders would wait for their account
                told = await client.create(f"order-{number}")
                assert told.code == 0
                waits.append((told.told_us - told.asked_us) // 1_000)

    assert max(waits) < 500, waits


@pytest.mark.parametrize("path", ["/v2/public/time", "/spot/v3/public/quote/ticker", "/derivatives/v3/public/kline"])
async def test_a_path_that_is_long_retired_slows_down_nobody(path: str) -> None:
    """It answers 429 for ever: that is passed on, and says nothing of the rest."""
    async with FakeBybit() as exchange, gateway(exchange.url, **ONCE) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 429, "match": {"path": path}})
        told = [await client.get(path) for _ in range(3)]
        part, halved = await client.metric(PART), await client.metric("gateway_throttled_total")

    assert [(each.status, each.gateway, each.body) for each in told] == [(429, None, b"Too Many Requests")] * 3
    assert (part, halved) == (1, 0)

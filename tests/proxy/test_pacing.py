"""Limits of accounts are learned from the exchange's answers: high ones are used in full, low ones are kept."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load
from tests.conversation import CREATE, INFO, TICKERS, TIME, Client, Told, arrivals, new, new_session
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import ROUTES, gateway
from tests.proxy.test_log import Captured, captured
from tests.signing import KEY, SECRET

__all__ = ["captured"]

BATCH = "/v5/order/create-batch"
QUERY_API = "/v5/user/query-api"
SIBLING: dict[str, str] = {"key": "test-key-2", "secret": "test-secret-2"}
"""Of the same account as the usual key."""
STRANGER: dict[str, str] = {"key": "other-key", "secret": "other-secret"}
ORDERS = ("1001", "POST", CREATE, "futures")
"""The exchange's name for the account's budget of orders."""


def limited(**limits: int) -> Settings:
    """An account whose limits are not those of the published table."""
    paths = {"info": f"GET {INFO}", "create": f"POST {CREATE}", "batch": f"POST {BATCH}"}
    return Settings(account_limits={paths[name]: limit for name, limit in limits.items()})


async def test_bursts_of_orders_are_never_too_many() -> None:
    """Thirty at once of an account that may send ten a second, of two symbols, with the default configuration."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        told = await asyncio.gather(
            *(client.post(CREATE, **new(f"order-{at}", ("BTCUSDT", "ETHUSDT")[at % 2])) for at in range(30))
        )

    assert [each.code for each in told] == [0] * 30
    assert exchange.books.account.refused == 0
    assert exchange.books.account.max_in_window(ORDERS) <= 10
    assert exchange.stats.duplicated_link_ids() == {}


@asynccontextmanager
async def pushing(client: Client, clients: int) -> AsyncIterator[list[Told]]:
    """Orders without end, from as many clients. Yields what they are told."""
    told: list[Told] = []
    numbers = itertools.count()

    async def push() -> None:
        while True:
            told.append(await client.create(f"push-{next(numbers)}"))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(push()) for _ in range(clients)]
        yield told
        for task in tasks:
            task.cancel()


async def test_an_account_that_is_raised_or_lowered_is_followed() -> None:
    """The headers of the next answer tell: more is used once it is allowed, less is kept once it is known."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        book = exchange.books.account
        async with pushing(client, 30) as told:
            await asyncio.sleep(1.2)  # the account as published
            before = book.max_admitted(ORDERS)
            exchange.settings.account_level = "vip1"
            await asyncio.sleep(2.5)  # until it is known and used
            raised, refused = book.max_admitted(ORDERS), book.refused
            row = (await client.limits())["@order-create.futures"]
            exchange.settings.account_limits = {f"POST {CREATE}": 5}
            await asyncio.sleep(1.5)  # until that is known
            lowered, surprised = (await client.limits())["@order-create.futures"], book.refused
            arrived = len(arrivals(exchange, CREATE))
            await asyncio.sleep(2)  # of keeping it
            kept, arrived = book.refused - surprised, len(arrivals(exchange, CREATE)) - arrived

    print(before, raised, refused, surprised, kept, arrived)
    assert before <= 10
    assert raised >= 16
    assert refused == 0
    assert row["limit"] == 20
    assert lowered["limit"] == 5
    assert surprised <= 20, "no more than were on their way"
    assert kept == 0
    assert 6 <= arrived <= 15
    assert {each.code for each in told} <= {0, 10006}
    assert exchange.stats.duplicated_link_ids() == {}


@pytest.mark.parametrize("how", ["told in passing", "configured"])
async def test_keys_of_one_account_share_its_limits(how: str) -> None:
    """The exchange has said whose keys they are, in answer to what their clients asked; or the operator says so."""
    accounts = {"main": [KEY, SIBLING["key"]]} if how == "configured" else {}
    async with (
        FakeBybit(settings=limited(info=10)) as exchange,
        gateway(exchange.url, identity__accounts=accounts) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        if how == "told in passing":
            for each in ({}, SIBLING, STRANGER):
                assert (await client.get_signed(QUERY_API, **each)).code == 0
        for each in ({}, SIBLING, STRANGER):
            await client.get_signed(**each)  # tells of the limit
        await asyncio.sleep(1.1)  # until the window is empty
        told = await asyncio.gather(
            *(client.get_signed(**each) for _ in range(12) for each in ({}, SIBLING)),
            *(client.get_signed(**STRANGER) for _ in range(5)),
        )
        rows = [row for row in (await client.get("/gateway/limits")).json["limits"] if row["rule"] == "@account-info"]

    assert {each.code for each in told} == {0}
    assert exchange.books.account.refused == 0
    assert [row["learned"]["left_to_others"] for row in rows] == [0, 0], "one of the two, and one of the stranger"


async def test_a_question_whose_key_it_is_proves_nothing_when_it_is_refused() -> None:
    """Only the exchange's own word joins accounts."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "ret_code", "ret_code": 10004, "match": {"path": QUERY_API}})
        for each in ({}, SIBLING):
            await client.get_signed(QUERY_API, **each)
            await client.get_signed(**each)
        rows = [row for row in (await client.get("/gateway/limits")).json["limits"] if row["rule"] == "@account-info"]

    assert [row["used"] for row in rows] == [1, 1]


@pytest.mark.parametrize("headers", [True, False], ids=["with headers", "without headers"])
async def test_orders_of_a_batch_that_were_too_many_slow_the_next_one(headers: bool) -> None:
    """The batch as a whole succeeds, and says inside that two of its orders did not."""
    async with FakeBybit(settings=limited(batch=4)) as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        if not headers:
            exchange.faults.add({"kind": "no_bapi_headers"})
        first = await client.post(BATCH, request=[new(f"first-{at}") for at in range(6)])
        row = (await client.limits())["@order-create-batch.futures"]
        second = await client.post(BATCH, request=[new(f"second-{at}") for at in range(4)])

    codes = [[item["code"] for item in told.json["retExtInfo"]["list"]] for told in (first, second)]
    assert codes == [[0] * 4 + [10006] * 2, [0] * 4]
    one, other = arrivals(exchange, BATCH)
    assert other.time_us - one.time_us >= 900_000
    assert 0 < row["learned"]["blocked_ms"] <= 1_100
    assert row["learned"]["told_by_exchange"] is headers
    assert exchange.stats.duplicated_link_ids() == {}


async def test_what_an_account_may_send_says_nothing_of_the_address() -> None:
    """Headers of endpoints, public ones too, leave the address's budget as it is."""
    settings = limited(info=5)
    settings.public_bapi_headers, settings.public_bapi_limit = True, 7
    async with FakeBybit(settings=settings) as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        for _ in range(3):
            await client.get_signed()
            await client.get(TICKERS)
        limits = await client.limits()
        many = await asyncio.gather(*(client.get(f"{TIME}?n={number}") for number in range(40)))

    address = limits["bybit-ip"]
    assert (address["limit"], address["capacity"], address["used"], address["remaining"]) == (600, 600, 6, 594)
    assert address["percentage_used"] == 1
    assert "learned" not in address
    assert limits["tickers"]["limit"] == 60
    assert {told.status for told in many} == {200}
    assert max(told.told_us - told.asked_us for told in many) < 4_000_000, "seven a second would take six seconds"


async def test_the_limits_page_shows_what_was_learned() -> None:
    """Before the first answer what is published, less a tenth; from then on what the exchange says."""
    async with FakeBybit(settings=limited(info=20)) as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "no_bapi_headers", "count": 1})
        await client.get_signed()
        published = (await client.limits())["@account-info"]
        await client.get_signed()
        learned = (await client.limits())["@account-info"]
        metric = await client.metric('gateway_learned_limit{rule="@account-info"}')

    untold = {"told_by_exchange": False, "left_to_others": 0, "blocked_ms": 0}
    assert (published["limit"], published["used"], published["learned"]) == (45, 1, untold)
    assert (learned["limit"], learned["used"], learned["learned"]) == (20, 2, {**untold, "told_by_exchange": True})
    assert (learned["remaining"], learned["percentage_used"], learned["window_s"]) == (18, 10.0, 1.0)
    assert list(learned["partition"]) == ["api_key"]
    assert metric == 20


async def test_the_drift_report_can_be_pasted_into_the_configuration(tmp_path: Path) -> None:
    """What it says of two limits that are not as published is loaded, and the next gateway begins with it."""
    settings = limited(info=7, create=20)
    async with FakeBybit(settings=settings) as exchange, new_session() as session:
        async with gateway(exchange.url) as app:
            client = Client(session, app)
            await client.get_signed()
            await client.create("one")
            await client.get_signed("/v5/account/wallet-balance?accountType=UNIFIED")
            report = (await client.get("/gateway/limits?drift=1")).json
            ratios = [
                await client.metric(f'gateway_limit_drift_ratio{{rule="{rule}"}}')
                for rule in ("@account-info", "@order-create.futures", "@account-wallet-balance")
            ]
        file = tmp_path / "config.yaml"
        file.write_text(report["yaml"])
        config = load(file, {}, ROUTES)
        await asyncio.sleep(1.0)  # until the account's window is empty
        pasted = yaml.safe_load(report["yaml"])["pacing"]["accounts"]
        async with gateway(exchange.url, pacing__accounts=pasted) as app:
            told = await asyncio.gather(*(Client(session, app).get_signed() for _ in range(12)))

    by_endpoint = {row["endpoint"]: row for row in report["limits"]}
    assert report["drifting"] == 2
    assert by_endpoint["account-info"] == {
        "endpoint": "account-info",
        "category": None,
        "rule": None,
        "published": "50/1s",
        "learned": "7/1s",
        "ratio": 0.14,
        "drifts": True,
    }
    assert (by_endpoint["order-create"]["category"], by_endpoint["order-create"]["ratio"]) == ("futures", 2.0)
    assert ratios == [0.14, 2, 1]
    bounds = {bound.endpoint[0]: (bound.category, bound.start, bound.ceiling) for bound in config.pacing.accounts}
    assert bounds == {"account-info": (None, 7, None), "order-create": ("futures", 20, None)}
    assert {each.code for each in told} == {0}
    assert exchange.books.account.refused == 0


async def test_where_nothing_drifts_there_is_nothing_to_paste() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        await client.get_signed()
        report = (await client.get("/gateway/limits?drift=1")).json

    assert (report["drifting"], report["yaml"]) == (0, "")
    assert [row["drifts"] for row in report["limits"]] == [False]


async def test_an_account_that_has_little_left_is_warned_about_once(captured: Captured) -> None:
    """Less than a fifth: one warning for each endpoint and minute, and no key in it or anywhere."""
    async with FakeBybit(settings=limited(info=10)) as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        for _ in range(8):
            await client.get_signed()
        calm = [event for event in captured.events() if event["event"] == "account_nearly_used"]
        for _ in range(4):
            await client.get_signed()
        counted = await client.metric('gateway_account_nearly_used_total{rule="@account-info"}')
        pages = [
            (await client.get(page)).body
            for page in ("/gateway/limits", "/gateway/limits?drift=1", "/metrics", "/health")
        ]

    assert calm == []
    (warning,) = [event for event in captured.events() if event["event"] == "account_nearly_used"]
    assert (warning["level"], warning["rule"]) == ("warning", "@account-info")
    assert (warning["limit"], warning["remaining"], warning["percentage_used"]) == (10, 1, 90.0)
    assert len(str(warning["account"])) == 8
    assert counted == 1
    everything = b"".join(captured.written) + b"".join(pages)
    for secret in (KEY, SECRET):
        assert secret.encode() not in everything


async def test_switched_off_nothing_is_learned() -> None:
    """Then the exchange's own refusals are the client's business."""
    async with (
        FakeBybit(settings=limited(info=5)) as exchange,
        gateway(exchange.url, pacing__enabled="false", retry__enabled="false") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        told = await asyncio.gather(*(client.get_signed() for _ in range(8)))
        limits: dict[str, Any] = await client.limits()

    assert sorted(each.code or 0 for each in told) == [0] * 5 + [10006] * 3
    assert not any(rule.startswith("@") for rule in limits)

"""Every query of the dashboards, asked of a Prometheus that has watched a gateway in good and in bad weather."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from tests.observability.boards import FILES, WRITTEN, Asked, everything_asked, panels
from tests.observability.programs import needs_prometheus
from tests.observability.promql import legend_labels
from tests.observability.traffic import World, observed
from tests.postgres_server import needs_postgres
from tests.redis_servers import needs_redis
from tests.signing import signed

SETTINGS: Final = {
    "log__slow": "500ms",
    "log__sample_hits": "50",
    "backpressure__enabled": "true",
    "backpressure__lag_high": "20s",  # the machine's pauses are not what this is about
    "backpressure__lag_critical": "40s",
}
SPAN_S: Final = 240
REVISED_S: Final = 120
"""A candle has to end, be believed, and be read again."""
STEP_S: Final = 2
RATE_INTERVAL: Final = "8s"
"""Prometheus looks once a second here."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is chosen above a dashboard; the first is what Grafana sends for All."""

    instance: str = ".*"
    route: str = ".*"
    tier: str = ".*"


def as_grafana_sends_it(expr: str, choices: Choices) -> str:
    """With everything in its place that Grafana replaces: its own words, and the variables."""
    words = {
        "__rate_interval": RATE_INTERVAL,
        "__range": f"{SPAN_S}s",
        "instance": choices.instance,
        "route": choices.route,
        "tier": choices.tier,
    }
    text = re.sub(r"\$(\w+)", lambda found: words[found[1]], expr)
    assert "$" not in text
    return text


def chosen(value: str) -> str:
    """A value that is picked from a list, in the way that Grafana's data source writes it into a pattern."""
    return f"({re.escape(value)})".replace("\\", "\\\\")


async def answer(world: World, path: str, **params: str) -> Any:
    async with world.session.get(f"{world.prometheus_url}/api/v1/{path}", params=params) as reply:
        told = orjson.loads(await reply.read())
    assert told["status"] == "success", f"{params}: {told}"
    assert not told.get("warnings"), f"{params}: {told['warnings']}"
    return told["data"]


async def plotted(world: World, expr: str, choices: Choices) -> list[dict[str, Any]]:
    """The series of the last minutes that have a number in them."""
    now = time.time()  # noqa: TID251  # Prometheus goes by it
    data = await answer(
        world,
        "query_range",
        query=as_grafana_sends_it(expr, choices),
        start=str(now - SPAN_S),
        end=str(now),
        step=str(STEP_S),
    )
    return [each for each in data["result"] if any(math.isfinite(float(value)) for _, value in each["values"])]


def everything() -> Iterator[Asked]:
    for name in FILES:
        yield from everything_asked(name)


async def offered(world: World, query: str) -> list[str]:
    """The values of a variable, asked for as Grafana does."""
    found = re.fullmatch(r"label_values\((\w+(?:\{.*\})?), (\w+)\)", query)
    assert found is not None
    values = await answer(world, f"label/{found[2]}/values", **{"match[]": as_grafana_sends_it(found[1], Choices())})
    return list(values)


@needs_prometheus
@needs_postgres
@needs_redis
@pytest.mark.timeout(300)
async def test_every_query_finds_what_it_asks_for() -> None:
    """No error, and data with the labels that legends show, for all and for one instance; variables have values."""
    async with observed(**SETTINGS) as world:
        await too_much_to_do(world)
        await little_left(world)
        await a_store_that_fails(world)
        await counted(world, "gateway_candles_revised_total", seconds=REVISED_S)
        problems: list[str] = []
        values: dict[str, list[str]] = {}
        for name in FILES:
            for variable in WRITTEN[name]["templating"]["list"][1:]:
                values[variable["name"]] = await offered(world, variable["query"]["query"])
        for asked in everything():
            series = await plotted(world, asked.expr, Choices())
            if not series:
                problems.append(f"{asked.where}: nothing for {asked.expr}")
            missing = {label for each in series for label in legend_labels(asked.legend) - set(each["metric"])}
            if missing:
                problems.append(f"{asked.where}: the legend names {missing}, which the result does not have")
            narrow = [
                await plotted(world, asked.expr, Choices(instance=chosen(instance))) for instance in values["instance"]
            ]
            if bool(series) and not any(narrow):
                problems.append(f"{asked.where}: All has {len(series)} series, no instance has any")
        bans = [query for query in everything() if query.where == "limits.json: Answers with 403 A"]
        (banned,) = [
            each for each in await plotted(world, bans[0].expr, Choices()) if each["metric"]["reason"] == "ban"
        ]

    assert not problems, "\n".join(problems)
    assert len(values["instance"]) == 2
    assert {"kline", "orderbook", "order-create"} <= set(values["route"])
    assert "FREE" in values["tier"]
    assert max(float(value) for _, value in banned["values"]) >= 1, "the first of its kind is not seen"


async def too_much_to_do(world: World) -> None:
    """A configuration by which every request is one too many, a file with a mistake, and all is well again."""
    await reloaded(world, "backpressure: {tasks_high: 1}\n")
    await counted(world, "gateway_shed_requests_total")
    await reloaded(world, "backpressure: {tasks_high: many}\n")
    await world.until("gateway_config_last_reload_successful == 0")
    await reloaded(world, "{}\n")
    await world.until("gateway_config_last_reload_successful == 1")


async def reloaded(world: World, text: str) -> None:
    world.file.write_text(text)
    assert world.app.reloader is not None
    await world.app.reloader.reload()


async def little_left(world: World) -> None:
    """A burst of orders that uses an account's limit up, and a refusal of the exchange that names no limit."""
    world.exchange.faults.add({"kind": "ret_code", "ret_code": 10006, "match": {"path": "/v5/market/price-limit"}})
    body = b'{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"100"}'
    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            headers = {"Content-Type": "application/json", **signed(body)}
            group.create_task(ask(world, "POST", "/v5/order/create", headers, body))
        group.create_task(ask(world, "GET", "/v5/market/price-limit?category=linear&symbol=BTCUSDT", {}, None))
    await counted(world, "gateway_account_nearly_used_total", "gateway_backed_off_total")


async def a_store_that_fails(world: World) -> None:
    """Redis is killed, and comes back empty."""
    await asyncio.to_thread(world.redis.kill)
    await counted(world, "gateway_store_failures_total")
    await asyncio.to_thread(world.redis.start)


async def counted(world: World, *names: str, seconds: float = 60) -> None:
    """Until there is something to plot: of what is seen for the first time there is no rate before the second look."""
    conditions = (f"sum({name}) > 0 and sum(rate({name}[{RATE_INTERVAL}])) >= 0" for name in names)
    await world.until(" and ".join(conditions), seconds)


async def ask(world: World, method: str, target: str, headers: dict[str, str], body: bytes | None) -> None:
    async with world.session.request(method, world.gateway_url + target, headers=headers, data=body) as reply:
        await reply.read()


def test_states_have_words_for_every_value_that_they_can_have() -> None:
    """A state without a word would be a bare number in the timeline."""
    for name in FILES:
        for panel in panels(WRITTEN[name]):
            if panel["type"] == "state-timeline":
                assert panel["fieldConfig"]["defaults"]["mappings"], f"{name}: {panel['title']}"

"""The whole chain, live: a gateway in good and bad weather, Prometheus with the rules as they are shipped, Alertmanager
with its routes, and somebody who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import pytest
import yaml
from aiohttp import web

from tests.observability.programs import ALERTMANAGER, alertmanager, needs_prometheus
from tests.observability.rulebooks import alerts, raw, records
from tests.observability.traffic import World, observed
from tests.postgres_server import needs_postgres
from tests.redis_servers import needs_redis

pytestmark = [needs_prometheus, needs_postgres, needs_redis]

# What dashboards rely on, name by name, as it was promised; behind each which of its series must be there, and with
# what value: counters that this traffic moves must have moved.
PROMISED: Final = {
    "bybit_api_requests_total": ('{endpoint="kline", status="2xx", source="cache"}', "> 0"),
    "bybit_api_duration_seconds": ('_count{endpoint="kline"}', "> 0"),
    "bybit_cache_operations_total": ('{operation="get", result="hit"}', "> 0"),
    "bybit_candles_fetched_total": ('{source="exchange"}', "> 0"),
    "bybit_errors_total": ('{error_type="banned"}', "> 0"),
    "bybit_rate_limit_hits_total": ("", "> 0"),
    "bybit_historical_fetches_total": ('{result="whole"}', "> 0"),
    "bybit_historical_fetch_duration_seconds": ("_count", "> 0"),
    "bybit_cache_size_bytes": ("", "> 0"),
    "bybit_db_stores_total": ('{result="stored"}', "> 0"),
    "rate_limit_hits_total": ('{identifier_type="ip", tier="FREE", endpoint="server-time"}', "> 0"),
    "rate_limit_blocks_total": ('{identifier_type="ip", tier="FREE", endpoint="server-time"}', "> 0"),
    "rate_limit_remaining_requests": ('{identifier_type=~".+", tier=~".+"}', ">= 0"),
    "backpressure_event_loop_lag_seconds": ("", ">= 0"),
    "backpressure_db_queue_size": ("", ">= 0"),
    "backpressure_redis_queue_size": ("", ">= 0"),
    "backpressure_async_tasks_pending": ('{task_type=~".+"}', "> 0"),
    "memory_rss_bytes": ("", "> 1e6"),
    "memory_vms_bytes": ("", "> 1e6"),
    "memory_objects_count": ('{type=~".+"}', "> 0"),
    "memory_gc_collections_total": ('{generation="0"}', "> 0"),
    "memory_gc_collected_total": ('{generation="2"}', ">= 0"),
    "memory_growth_rate_bytes_per_second": ("", ""),
    "circuit_breaker_state": ('{service="bybit"}', ">= 0"),
    "dependency_health_status": ('{dependency="redis"}', "== 1"),
    "slow_query_count_total": ('{query_type="limits"}', ">= 0"),
    "query_timeout_count_total": ('{query_type="archive-write"}', ">= 0"),
    "websocket_connections_active": ('{endpoint="public-linear"}', ">= 0"),
    "response_time_p95_seconds": ('{endpoint="kline"}', "> 0"),
    "error_rate_total": ('{error_type="banned", endpoint="orderbook"}', "> 0"),
    # and the gateway's own
    "gateway_window_used": ('{rule="bybit-ip"}', ">= 0"),
    "gateway_window_limit": ('{rule="bybit-ip"}', "== 120"),
    "gateway_queue_depth": ('{priority="order"}', ">= 0"),
    "gateway_queue_wait_seconds": ('_count{priority="live"}', "> 0"),
    "gateway_added_seconds": ('_count{source="cache"}', "> 0"),
    "gateway_retries_total": ('{endpoint="insurance"}', "> 0"),
    "gateway_bans_total": ("", "== 1"),
    "gateway_refusals_total": ('{rule="orderbook", reason="deadline"}', "> 0"),
    "gateway_collapsed_requests_total": ('{endpoint="kline"}', "> 0"),
    "gateway_learned_limit": ('{rule="@order-create.futures"}', "> 0"),
    "gateway_config_reloads_total": ('{result="applied"}', ">= 0"),
}
DEPENDENCIES: Final = ("bybit", "redis", "redis_cache", "postgres", "stream")
LATELY_S: Final = 60


@pytest.mark.timeout(300)
async def test_everything_is_seen_from_the_gateway_to_whoever_is_told() -> None:
    async with told_by_alertmanager() as (address, notified), observed(alertmanager=address) as world:
        problems = [
            *await names_without_data(world),
            *await rules_that_fail(world),
            *await alerts_without_data(world),
            *await records_without_data(world),
            *await exemplars_missing(world),
        ]
        async with asyncio.timeout(30):
            while "Banned" not in notified:  # told by other processes
                await asyncio.sleep(0.1)

    assert not problems, "\n".join(problems)
    where, ban = notified["Banned"]
    assert (where, ban["receiver"], ban["status"]) == ("pager", "pager", "firing")
    assert (ban["commonLabels"]["severity"], ban["commonLabels"]["group"]) == ("critical", "exchange")
    assert ban["commonAnnotations"]["runbook_url"] == "docs/runbook.md#banned"
    assert "sends nothing for another" in ban["commonAnnotations"]["description"]
    assert all(place == "pager" for place, told in notified.values() if told["commonLabels"]["severity"] == "critical")


async def names_without_data(world: World) -> list[str]:
    found = [
        f"no data: {name}{selector} {compared}"
        for name, (selector, compared) in PROMISED.items()
        if not await lately(world, f"{name}{selector}", compared)
    ]
    return found + [
        f"no data: dependency {each}"
        for each in DEPENDENCIES
        if not await lately(world, f'dependency_health_status{{dependency="{each}"}}')
    ]


async def rules_that_fail(world: World) -> list[str]:
    """Prometheus has evaluated each of them, every second, in all weathers."""
    rules = await world.rules()
    names = {rule["name"] for rule in rules}
    found = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    return found + [
        f"not loaded: {name}" for name in {alert.name for alert in alerts()} | set(records()) if name not in names
    ]


async def alerts_without_data(world: World) -> list[str]:
    """An alert whose series do not exist would be quiet for ever."""
    wanted = {asked.text: alert.name for alert in alerts() for asked in raw(alert.expr)}
    return [f"{name}: no data for {text}" for text, name in wanted.items() if not await lately(world, text)]


async def records_without_data(world: World) -> list[str]:
    return [f"nothing recorded: {name}" for name in records() if not await lately(world, name)]


async def lately(world: World, selector: str, compared: str = "") -> bool:
    """A single look of Prometheus may have failed on a busy machine."""
    return bool(await world.query(f"last_over_time({selector}[{LATELY_S}s]) {compared}"))


async def exemplars_missing(world: World) -> list[str]:
    """A bucket leads to a trace."""
    async with world.session.get(
        f"{world.prometheus_url}/api/v1/query_exemplars",
        params={"query": "gateway_response_seconds_bucket", "start": "0", "end": "9999999999"},
    ) as answer:
        told = orjson.loads(await answer.read())
    seen = [each["labels"]["trace_id"] for series in told["data"] for each in series["exemplars"]]
    return [] if seen and all(len(each) == 32 for each in seen) else [f"exemplars: {told}"]


@asynccontextmanager
async def told_by_alertmanager() -> AsyncIterator[tuple[str, dict[str, tuple[str, Any]]]]:
    """HOST:PORT of an Alertmanager with the configuration as it is shipped, but in a hurry, and what its webhooks were
    told first of each alert: the last part of their path, and the body."""
    notified: dict[str, tuple[str, Any]] = {}

    async def webhook(request: web.BaseRequest) -> web.Response:
        told = orjson.loads(await request.read())
        notified.setdefault(told["groupLabels"]["alertname"], (request.path.rpartition("/")[2], told))
        return web.Response()

    runner = web.ServerRunner(web.Server(webhook))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        text = ALERTMANAGER.read_text()
        assert text.count("127.0.0.1:9095") == 2
        config = yaml.safe_load(text.replace("127.0.0.1:9095", f"127.0.0.1:{runner.addresses[0][1]}"))
        of_bans = config["route"]["routes"][0]["routes"][0]
        assert (of_bans["matchers"], of_bans["group_wait"]) == (["alertname = Banned"], "20s")
        of_bans["group_wait"] = "1s"  # Prometheus looks every second here, not every 15
        running = alertmanager(config)
        address = (await asyncio.to_thread(running.__enter__)).removeprefix("http://")
        try:
            yield address, notified
        finally:
            running.__exit__(None, None, None)
    finally:
        await runner.cleanup()

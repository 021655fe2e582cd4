"""One event tells a request's whole story: who, what, by which rules, how long, why; a slow one where it went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Charge, Quota
from policies.descriptor import Descriptor
from policies.priority import Priority
from policies.traceparent import Trace
from proxy import log
from proxy.app import App
from proxy.log_page import PATH
from proxy.metrics import Metrics
from proxy.request_event import RequestLog, event_of
from proxy.story import Story
from tests.by_hand import desk
from tests.cached import INFO as SYMBOL
from tests.cached import ask, envelope, get, raw, turning
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.proxy.test_failures import closed_port
from tests.proxy.test_log import Captured, captured
from tests.raw_http import RawAnswer, exchange_bytes
from tests.recorder import OK, Seen, recorder

__all__ = ["captured"]

TOKEN = "correct-horse-battery-staple"
KLINE = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
INFO = "/v5/account/info"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RULES = [
    {"name": "bybit-ip", "quota": "600/5s", "partition": ["egress"], "counts": "upstream", "window": "held"},
    {"name": "per-ip", "quota": "300/5s", "partition": ["ip"], "counts": "requests"},
]
SHORT = {"id", "method", "endpoint", "ip", "client", "status", "source", "took_us", "bytes", "cache"}
ABOUT_LINE = {"event", "level", "time"}


def requests(captured: Captured, name: str = "request") -> list[dict[str, Any]]:
    return [dict(event) for event in captured.events() if event["event"] == name]


def hit() -> Story:
    story = Story("1", "GET", 0)
    story.source, story.cache, story.status, story.endpoint = "cache", "hit", 200, "kline"
    return story


# What is told


async def test_a_request_that_was_sent_tells_everything(captured: Captured) -> None:
    """Who asked, in which class, by which rules of both sides, how long each part took, and what the exchange said."""
    lines = ("X-BAPI-API-KEY: somebody", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01", "Content-Length: 2")
    answer = turning(raw(envelope({}, code=10001)))
    async with recorder(answer) as upstream, gateway(upstream.url, limits=RULES, identity__default_tier="FREE") as app:
        await exchange_bytes(app.port, get("/v5/order/cancel", *lines, method="POST") + b"{}")
        hashes = {usage.charge_key[1] for usage in await app.store.usage() if usage.quota.partition == ("api_key",)}

    (event,) = requests(captured)
    assert (event["method"], event["endpoint"], event["status"]) == ("POST", "order-cancel", 200)
    assert (event["source"], event["attempts"], event["ret_code"]) == ("exchange", 1, 10001)
    assert (event["tier"], event["priority"], event["trace_id"]) == ("FREE", "cancel", TRACE)
    assert event["charges"].split(",")[0] == "per-ip"
    assert "bybit-ip" in event["charges"].split(",")
    assert event["bytes_in"] == 2
    assert event["bytes"] > 0
    assert event["upstream_us"] > 0
    assert event["took_us"] >= event["upstream_us"]
    assert len(event["client"]) == 12
    assert event["client"] != "somebody"
    assert event["client"] in {each[:12] for each in hashes}
    assert "upstream_status" not in event  # it is `status`


async def test_a_hit_is_short(captured: Captured) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        for _ in range(2):
            await ask(app, KLINE)

    miss, kept = requests(captured)
    assert kept.keys() == SHORT | ABOUT_LINE
    assert len(json.dumps(kept)) < 320
    assert kept["client"] == kept["ip"] == "127.0.0.1"
    assert miss.keys() > SHORT | {"waited_us", "upstream_us", "attempts", "priority", "charges", "ret_code"}


async def test_what_the_exchange_said_is_told_where_the_client_was_given_something_else(captured: Captured) -> None:
    """An older answer in place of a 500: the event has both statuses, and is no everyday hit."""
    async with desk(retry__enabled="false", log__sample_hits="0", limits=RULES) as here:
        first = await ask(here.app, SYMBOL)
        await here.clock.leap(61)
        here.exchange.faults.add({"kind": "status", "status": 500})
        second = await ask(here.app, SYMBOL)

    assert (first.status, second.status) == (200, 200)
    event = requests(captured)[-1]
    assert (event["source"], event["cache"], event["status"]) == ("cache", "stale", 200)
    assert (event["upstream_status"], event["attempts"]) == (500, 1)
    assert event["charges"].split(",") == ["per-ip", "bybit-ip"]


async def test_who_is_refused_by_a_rule_was_not_charged(captured: Captured) -> None:
    rule = {"name": "one", "quota": "1/60s", "partition": ["ip"], "counts": "requests", "when_full": "refuse"}
    async with FakeBybit() as exchange, gateway(exchange.url, limits=[rule]) as app:
        for _ in range(2):
            await ask(app, INFO)

    first, second = requests(captured)
    assert first["charges"] == "one"
    assert "charges" not in second
    assert (second["outcome"], second["rule"], second["status"]) == ("limit-full", "one", 429)
    assert second["attempts"] == second["upstream_us"] == 0


async def test_a_request_that_nobody_answered_tells_why(captured: Captured) -> None:
    async with gateway(f"http://127.0.0.1:{closed_port()}", retry__enabled="false", limits=RULES) as app:
        await ask(app, INFO)

    (event,) = requests(captured)
    assert (event["status"], event["source"], event["attempts"]) == (502, "gateway", 1)
    assert event["outcome"]
    assert "upstream_status" not in event
    assert "ret_code" not in event


def test_a_method_of_the_clients_own_making_is_not_repeated() -> None:
    """A request line can hold anything in its place, a key included, if the parser lets it pass."""
    assert [event_of(Story("1", method, 0))["method"] for method in ("DELETE", "PROPFIND", "PLANTEDKEY")] == [
        "DELETE",
        "other",
        "other",
    ]


def test_names_are_told_whole_and_hashes_shortened() -> None:
    story = hit()
    descriptor = Descriptor("GET", "/", "", "kline", "default", "10.0.0.1", api_key="0123456789abcdef")
    shown = []
    for client in ("0123456789abcdef", "token:team-of-the-long-name", "10.0.0.1"):
        story.descriptor = descriptor._replace(client=client)
        shown.append(event_of(story)["client"])

    assert shown == ["0123456789ab", "token:team-of-the-long-name", "10.0.0.1"]


@given(
    story=st.fixed_dictionaries(
        {},
        optional={
            "endpoint": st.just("kline"),
            "source": st.sampled_from(["exchange", "cache", "gateway"]),
            "status": st.sampled_from([0, 200, 304, 429, 502]),
            "outcome": st.sampled_from(["", "client-gone", "limit-full"]),
            "rule": st.sampled_from(["", "per-ip"]),
            "cache": st.sampled_from(["", "hit", "stale", "bypass"]),
            "ret_code": st.sampled_from([None, 0, 10006]),
            "upstream_status": st.sampled_from([0, 200, 500]),
            "attempts": st.integers(0, 3),
            "waited_us": st.integers(0, 10**7),
            "upstream_us": st.integers(0, 10**7),
            "took_us": st.integers(0, 10**7),
            "asked_bytes": st.integers(0, 10),
            "trace": st.sampled_from([None, Trace(TRACE, "00f067aa0ba902b7", sampled=True)]),
            "door_charges": st.sampled_from([(), (Charge(Quota("per-ip", 1, 1, ()), ("per-ip",), 1),)]),
            "descriptor": st.sampled_from(
                [None, Descriptor("GET", "/", "", "kline", "e", "::1"), Descriptor("GET", "/", "", "k", "e", "1", "a")]
            ),
        },
    )
)
def test_whatever_happened_to_a_request_nothing_empty_is_told(story: dict[str, Any]) -> None:
    """But for the few fields that every event has, and numbers that are summed up."""
    told = Story("1", "GET", 0)
    vars(told).update(story)
    event = event_of(told)

    always = {"id", "method", "endpoint", "ip", "status", "source", "took_us", "bytes"}
    sums = {"waited_us", "upstream_us", "attempts", "ret_code"}
    assert always <= event.keys()
    assert [name for name, value in event.items() if value in ("", None, 0) and name not in always | sums] == []
    assert json.loads(json.dumps(event)) == event


def test_every_class_has_its_word() -> None:
    story = Story("1", "GET", 0)
    words = []
    for priority in Priority:
        story.descriptor = Descriptor("GET", "/", "", "kline", "default", "10.0.0.1", priority=priority)
        words.append(event_of(story)["priority"])

    assert words == ["cancel", "order", "account", "live", "history"]


# How many hits are told


@pytest.fixture
def sampled(captured: Captured) -> tuple[RequestLog, Metrics]:
    metrics = Metrics()
    return RequestLog(metrics), metrics


@pytest.mark.parametrize("percent", [0, 1, 7, 33, 50, 99, 100])
def test_of_a_hundred_hits_so_many_are_told_as_is_said(
    captured: Captured, sampled: tuple[RequestLog, Metrics], percent: int
) -> None:
    """Exactly, evenly spread, from the first one on; and what is left out is counted."""
    told, metrics = sampled
    told.adopt(percent, None)
    places = []
    for place in range(1_000):
        before = len(captured.written)
        told.tell(hit())
        if len(captured.written) > before:
            places.append(place)

    assert len(places) == 10 * percent
    assert metrics.unlogged.value() == 1_000 - 10 * percent
    if percent:
        assert places[0] == 0
        assert max(later - earlier for earlier, later in pairwise(places)) <= -(-100 // percent)


@pytest.mark.parametrize(
    "what",
    [
        {"source": "exchange", "cache": "fwd=uri-miss"},
        {"source": "gateway", "status": 429, "outcome": "limit-full"},
        {"cache": "stale"},
        {"waited_us": 5},
        {"upstream_us": 5},
        {"attempts": 1},
        {"outcome": "client-gone"},
        {"took_us": 5_000_001},
    ],
    ids=",".join,
)
def test_all_that_is_no_plain_hit_is_always_told(
    captured: Captured, sampled: tuple[RequestLog, Metrics], what: dict[str, Any]
) -> None:
    """Misses, refusals, waits, stale answers, slow ones: sampling leaves nothing out that anybody would look for."""
    told, metrics = sampled
    told.adopt(0, 5_000_000)
    for _ in range(10):
        story = hit()
        vars(story).update(what)
        told.tell(story)

    assert len(captured.written) == 10
    assert metrics.unlogged.value() == 0


def test_what_the_level_leaves_out_is_not_called_sampled(
    captured: Captured, sampled: tuple[RequestLog, Metrics]
) -> None:
    told, metrics = sampled
    told.adopt(10, None)
    log.set_level("warning")
    for _ in range(10):
        told.tell(hit())

    assert captured.written == []
    assert metrics.unlogged.value() == 0


# What was slow


@pytest.mark.parametrize(("took_us", "slow"), [(5_000_000, False), (5_000_001, True)])
def test_a_slow_request_is_told_once_with_where_its_time_has_gone(
    captured: Captured, sampled: tuple[RequestLog, Metrics], took_us: int, *, slow: bool
) -> None:
    told, metrics = sampled
    told.adopt(100, 5_000_000)
    story = hit()
    story.source, story.waited_us, story.upstream_us, story.took_us = "exchange", 3_000_000, 1_500_000, took_us
    told.tell(story)

    (event,) = captured.events()
    assert (event["event"], event["level"]) == (("slow_request", "warning") if slow else ("request", "info"))
    assert (event["waited_us"], event["upstream_us"]) == (3_000_000, 1_500_000)
    assert event.get("own_us") == (took_us - 4_500_000 if slow else None)
    assert metrics.registry.get_sample_value("gateway_slow_requests_total", {"endpoint": "kline"}) == (
        1.0 if slow else None
    )


def test_a_slow_hit_has_the_breakdown_too(captured: Captured, sampled: tuple[RequestLog, Metrics]) -> None:
    told, _ = sampled
    told.adopt(0, 1_000)
    story = hit()
    story.took_us = 1_500
    told.tell(story)

    (event,) = captured.events()
    assert event.keys() == SHORT - {"client"} | ABOUT_LINE | {"waited_us", "upstream_us", "own_us"}
    assert event["own_us"] == 1_500


def test_slow_ones_are_told_as_long_as_warnings_are(captured: Captured, sampled: tuple[RequestLog, Metrics]) -> None:
    told, metrics = sampled
    told.adopt(100, 1_000)
    for level in ("warning", "error"):
        log.set_level(level)
        story = hit()
        story.took_us = 2_000
        told.tell(story)

    assert [event["event"] for event in captured.events()] == ["slow_request"]
    assert metrics.registry.get_sample_value("gateway_slow_requests_total", {"endpoint": "kline"}) == 2.0


def test_null_calls_nothing_slow(captured: Captured, sampled: tuple[RequestLog, Metrics]) -> None:
    told, _ = sampled
    told.adopt(100, None)
    story = hit()
    story.took_us = 10**12
    told.tell(story)

    assert [event["event"] for event in captured.events()] == ["request"]


def test_what_is_streamed_is_judged_by_when_it_began(captured: Captured, sampled: tuple[RequestLog, Metrics]) -> None:
    """A history of years is read at the pace of its reader: that he takes an hour is no fault of the gateway."""
    told, _ = sampled
    told.adopt(100, 5_000_000)
    for streamed_us in (1_000_000, 6_000_000):
        story = hit()
        story.streamed_us, story.took_us = streamed_us, 3_600_000_000
        told.tell(story)

    assert [event["event"] for event in captured.events()] == ["request", "slow_request"]


async def test_a_slow_exchange_is_seen_in_the_event(captured: Captured) -> None:
    """By the gateway's own clock, through the whole of it."""
    clock = HandClock()
    asked, release = asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    async with (
        recorder(later) as upstream,
        gateway(upstream.url, clock=clock, sleep=clock.sleep, log__slow="2s") as app,
        asyncio.TaskGroup() as group,
    ):
        pending = group.create_task(ask(app, INFO))
        await asked.wait()
        await clock.leap(3)
        release.set()
        answer = await pending
        await until(lambda: requests(captured, "slow_request"))

    (event,) = requests(captured, "slow_request")
    assert requests(captured) == []
    assert (event["id"], event["took_us"], event["upstream_us"]) == (answer.get("X-Request-Id"), 3_000_000, 3_000_000)
    assert event["own_us"] == 0


async def test_who_waits_in_vain_has_waited(captured: Captured) -> None:
    """The time is the queue's, not the gateway's own."""
    clock = HandClock()
    asked, release = asyncio.Event(), asyncio.Event()

    async def later(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(OK)

    rule = {"name": "one", "partition": ["egress"], "quota": "1/1s", "counts": "upstream", "window": "held"}
    async with (
        recorder(later) as upstream,
        gateway(
            upstream.url, clock=clock, sleep=clock.sleep, limits=[{**rule, "when_full": "wait"}], queue__max_wait="2s"
        ) as app,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(ask(app, INFO))
        await asked.wait()
        second = group.create_task(ask(app, INFO))
        await until(lambda: app.limiter.waiting)
        await clock.leap(3)
        refused = await second
        release.set()
        await first
        await until(lambda: len(requests(captured)) == 2)

    event = requests(captured)[0]
    assert (event["id"], event["outcome"], event["attempts"]) == (refused.get("X-Request-Id"), "limit-deadline", 0)
    assert event["waited_us"] == event["took_us"] >= 2_000_000


async def test_a_history_that_is_read_slowly_is_not_slow(captured: Captured) -> None:
    """The whole of it is given while it is read; its reader takes his time."""
    clock = HandClock()
    start_ms = clock.now_us // 1000 - 3_000 * 60_000
    target = f"/api/v1/marketdata/klines/BTCUSDT?interval=1&start={start_ms}&format=ndjson"
    async with (
        FakeBybit(clock=clock, sleep=clock.sleep) as exchange,
        gateway(exchange.url, clock=clock, sleep=clock.sleep, log__slow="2s") as app,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1_000)
        writer.write(get(target, "Connection: close"))
        await reader.readuntil(b"\r\n\r\n")
        await clock.leap(30)
        body = b""
        while piece := await reader.read(65_536):
            body += piece
        writer.close()
        await until(lambda: captured.written and (requests(captured) or requests(captured, "slow_request")))

    assert body.endswith(b"0\r\n\r\n")
    assert requests(captured, "slow_request") == []
    (event,) = requests(captured)
    assert event["status"] == 200


# What is set while it runs


async def post(app: App, data: bytes, token: str | None = TOKEN) -> RawAnswer:
    lines = [f"Content-Length: {len(data)}", *([] if token is None else [f"Authorization: Bearer {token}"])]
    return await exchange_bytes(app.port, get(PATH, *lines, method="POST") + data)


async def shown(app: App) -> dict[str, Any]:
    answer = await ask(app, PATH, f"Authorization: Bearer {TOKEN}")
    state: dict[str, Any] = json.loads(answer.body)
    return state


async def test_the_level_can_be_set_while_it_runs(captured: Captured) -> None:
    """From the next event on, for loggers that exist already; and the change itself is told."""
    async with recorder() as upstream, gateway(upstream.url, admin__token=TOKEN) as app:
        answer = await post(app, b'{"level": "warning"}')
        await ask(app, INFO)
        quiet = requests(captured)
        state = await shown(app)
        await post(app, b'{"level": "debug"}')
        structlog.get_logger().debug("small")
        await ask(app, INFO)

    assert answer.status == 200
    assert json.loads(answer.body) == state
    assert state == {"level": "warning", "format": "json", "sample_hits": 100, "slow_ms": 5000, "dropped": None}
    assert quiet == []
    assert [(event["wanted"], event["before"]) for event in requests(captured, "log_level_set")] == [
        ("warning", "info"),
        ("debug", "warning"),
    ]
    assert len(requests(captured, "small")) == len(requests(captured)) == 1


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_only_who_has_the_token_may_set_it(captured: Captured, token: str | None) -> None:
    async with recorder() as upstream, gateway(upstream.url, admin__token=TOKEN) as app:
        answer = await post(app, b'{"level": "debug"}', token)
        page = await ask(app, PATH)

    assert (answer.status, page.status) == (401, 401)
    assert log.level() == "info"


async def test_without_a_token_in_the_configuration_nobody_may(captured: Captured) -> None:
    async with recorder() as upstream, gateway(upstream.url) as app:
        answer = await post(app, b'{"level": "debug"}', None)
        page = await ask(app, PATH)

    assert (answer.status, answer.get("X-Gateway")) == (403, "no-admin-token")
    assert b"admin.token" in answer.body
    assert page.status == 200
    assert log.level() == "info"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"debug", b'{"level": "trace"}', b'{"level": ["debug"]}', b"\xff"])
async def test_what_is_no_level_changes_nothing(captured: Captured, data: bytes) -> None:
    async with recorder() as upstream, gateway(upstream.url, admin__token=TOKEN) as app:
        answer = await post(app, data)

    assert (answer.status, answer.get("X-Gateway")) == (400, "bad-level")
    assert b'{"level": "debug"} or {"level": "info"}' in answer.body
    assert log.level() == "info"


async def test_a_reload_brings_back_what_is_configured(captured: Captured) -> None:
    """What was set by hand ends with it; sampling and the bound of what is slow follow the file."""
    with manner_kept():
        async with recorder() as upstream, gateway(upstream.url, admin__token=TOKEN) as app:
            await post(app, b'{"level": "error"}')
            wanted = {"level": "info", "format": "console", "sample_hits": 10, "slow": "250ms"}
            section = type(app._config.log).model_validate(wanted)  # as a reload would bring it
            app.apply(app._config.model_copy(update={"log": section}))
            state = await shown(app)
            await ask(app, INFO)

    assert state == {"level": "info", "format": "console", "sample_hits": 10, "slow_ms": 250, "dropped": None}
    assert b"endpoint=account-info" in captured.written[-1]


@contextmanager
def manner_kept() -> Iterator[None]:
    """What is set for the whole process ends with the test."""
    try:
        yield
    finally:
        log.adopt("info", "json")

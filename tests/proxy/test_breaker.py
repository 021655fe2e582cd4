"""An upstream that fails is left alone for a while; what concerns orders is tried all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from policies.admission import Match
from proxy.app import App
from tests.conversation import CREATE, TICKERS, TIME, Client, arrivals, new_session, until
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.proxy.test_failures import closed_port
from tests.proxy.test_log import Captured, captured
from tests.proxy.test_reload import File, file, reload, running
from tests.recorder import OK, Recorder, Seen, answer_ok, answering, recorder

__all__ = ["captured", "file"]

STATE = 'circuit_breaker_state{service="bybit"}'
CLOSED, HALF_OPEN, OPEN = 0, 1, 2
KLINE = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
CALLS = 4
"""So many calls are enough to conclude something."""


@asynccontextmanager
async def quick(upstream_url: str, **overrides: Any) -> AsyncIterator[App]:
    """A gateway that concludes soon, and sends everything once."""
    settings = {"breaker__least_calls": str(CALLS), "breaker__open": "60s", "retry__enabled": "false", **overrides}
    async with gateway(upstream_url, **settings) as app:
        yield app


def failing(upstream: Recorder) -> None:
    upstream.answer = answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nOops")


def healthy(upstream: Recorder) -> None:
    upstream.answer = answer_ok


async def opened(client: Client) -> None:
    """Fail until it is open."""
    for _ in range(CALLS):
        await client.get(TICKERS)
    assert await client.metric(STATE) == OPEN


async def test_answers_of_trouble_open_it(captured: Captured) -> None:
    """Half of them are enough: then nothing is sent, and the client knows that nothing was, and for how long."""
    async with FakeBybit() as exchange, quick(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        for _ in range(CALLS // 2):
            await client.get(TICKERS)
        exchange.faults.add({"kind": "status", "status": 502, "body": "html"})
        trouble = [await client.get(TICKERS) for _ in range(CALLS // 2)]
        refused = [await client.get(TICKERS) for _ in range(3)]
        state, health = await client.metric(STATE), (await client.get("/health")).json
        errors = await client.metric('bybit_errors_total{error_type="breaker-open"}')
        arrived = exchange.stats.requests

    assert [(told.status, told.gateway) for told in trouble] == [(502, None)] * 2
    assert [(told.status, told.gateway) for told in refused] == [(503, "breaker-open")] * 3
    assert all(told.headers["Content-Type"].startswith("text/plain") for told in refused)
    assert all(50 < int(told.headers["Retry-After"]) <= 60 for told in refused)
    assert all(b"not sent" in told.body for told in refused)
    assert arrived == CALLS
    assert (state, health["breaker"], health["status"]) == (OPEN, "open", "ok")
    assert errors == 3
    assert [event["state"] for event in captured.events() if event["event"] == "breaker"] == ["open"]


async def test_connections_that_are_refused_open_it() -> None:
    async with quick(f"http://127.0.0.1:{closed_port()}") as app, new_session() as session:
        client = Client(session, app)
        told = [await client.get(TICKERS) for _ in range(CALLS + 1)]

    assert [each.gateway for each in told] == ["upstream-unreachable"] * CALLS + ["breaker-open"]
    assert told[-1].status == 503


async def test_silence_opens_it() -> None:
    async def never(_: Seen, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with (
        recorder(never) as upstream,
        quick(upstream.url, upstream__timeouts__read="100ms") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(CALLS)))
        refused = await client.get(TICKERS)

    assert {each.gateway for each in told} == {"upstream-timeout"}
    assert refused.gateway == "breaker-open"


async def test_slow_answers_open_it() -> None:
    """They are passed on: an answer that comes late is still an answer."""
    async with FakeBybit() as exchange, quick(exchange.url, breaker__slow="100ms") as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "delay", "delay_us": 150_000})
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(CALLS)))
        refused = await client.get(TICKERS)

    assert [each.status for each in told] == [200] * CALLS
    assert refused.gateway == "breaker-open"


async def test_orders_are_sent_all_the_same() -> None:
    """Whether an order can be placed is for the exchange to say; a question about the account can wait."""
    async with FakeBybit() as exchange, quick(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 503, "match": {"method": "GET"}})
        await opened(client)
        created = await client.create("all-the-same")
        cancelled = await client.post("/v5/order/cancel", symbol="BTCUSDT", orderLinkId="all-the-same")
        asked = await client.get_signed()
        state = await client.metric(STATE)

    assert (created.status, created.code) == (200, 0)
    assert (cancelled.status, cancelled.code) == (200, 0)
    assert (asked.status, asked.gateway) == (503, "breaker-open")
    assert state == OPEN, "they prove nothing"
    assert len(arrivals(exchange, CREATE)) == 1


async def test_what_is_exempt_can_be_said() -> None:
    exempt = [{"endpoint": ["tickers"]}]
    async with FakeBybit() as exchange, quick(exchange.url, breaker__exempt=exempt) as app, new_session() as session:
        client = Client(session, app)
        exchange.faults.add({"kind": "status", "status": 503})
        await opened(client)
        told = [await client.get(TICKERS), await client.get(TIME), await client.create("not-exempt-any-more")]

    assert [each.gateway for each in told] == [None, "breaker-open", "breaker-open"]
    assert exchange.stats.requests == CALLS + 1


async def test_candles_that_are_known_are_answered_while_it_is_open() -> None:
    async with (
        FakeBybit() as exchange,
        quick(exchange.url, cache__open_ttl="100ms", candles__boundary__enabled="false") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        before = await client.get(KLINE)
        exchange.faults.add({"kind": "status", "status": 503})
        await opened(client)
        await asyncio.sleep(0.15)  # the candle expires
        stale, unknown = await client.get(KLINE), await client.get(KLINE.replace("BTC", "ETH"))

    assert (stale.status, stale.body) == (200, before.body)
    assert "hit; ttl=-" in stale.headers["Cache-Status"]
    assert stale.headers["Cache-Status"].endswith("; detail=breaker")
    assert (unknown.status, unknown.gateway) == (503, "breaker-open")


async def test_a_few_calls_try_it_again_and_close_it(captured: Captured) -> None:
    """One after the other, as clients come; when as many as are asked for have succeeded it is closed."""
    async with (
        recorder() as upstream,
        quick(upstream.url, breaker__open="300ms", breaker__probes="3") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        failing(upstream)
        await opened(client)
        healthy(upstream)
        await asyncio.sleep(0.4)  # the time it stays open
        states = [await client.metric(STATE)]
        for _ in range(3):
            assert (await client.get(TICKERS)).status == 200
            states.append(await client.metric(STATE))
        rest = [(await client.get(TICKERS)).status for _ in range(5)]

    assert states == [HALF_OPEN, HALF_OPEN, HALF_OPEN, CLOSED]
    assert rest == [200] * 5
    shown = [event["state"] for event in captured.events() if event["event"] == "breaker"]
    assert (shown[0], shown[-1]) == ("open", "closed")


async def test_half_open_only_a_few_calls_go_through() -> None:
    """Whoever comes while they are out is told to wait: a recovering upstream is not stormed."""
    release = asyncio.Event()

    async def held(request: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer_ok(request, writer)

    async with (
        recorder() as upstream,
        quick(upstream.url, breaker__open="300ms", breaker__probes="2") as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        failing(upstream)
        await opened(client)
        upstream.answer = held
        await asyncio.sleep(0.4)  # the time it stays open
        calls = [group.create_task(client.get(TICKERS)) for _ in range(10)]
        await until(lambda: sum(call.done() for call in calls) == 8, "the refusals")
        sent = len(upstream.seen) - CALLS
        release.set()
        told = [await call for call in calls]
        after = await client.get(TICKERS)

    assert sent == 2
    assert sorted(each.status for each in told) == [200] * 2 + [503] * 8
    assert after.status == 200


async def test_a_trial_that_fails_opens_it_for_twice_as_long() -> None:
    async with (
        recorder() as upstream,
        quick(upstream.url, breaker__open="2s", breaker__probes="1") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        failing(upstream)
        await opened(client)
        first = await client.get(TICKERS)
        await asyncio.sleep(2.1)  # the time it stays open
        trial = await client.get(TICKERS)
        second = await client.get(TICKERS)

    assert (first.headers["Retry-After"], second.headers["Retry-After"]) == ("2", "4")
    assert (trial.status, trial.gateway) == (503, None)


async def test_what_was_sent_before_it_opened_says_nothing_of_the_trial() -> None:
    """Late time-outs of the time of trouble do not open it again: the calls that try it decide."""
    hung = 0

    async def never(_: Seen, __: asyncio.StreamWriter) -> None:
        nonlocal hung
        hung += 1
        await asyncio.Event().wait()

    async with (
        recorder(never) as upstream,
        quick(upstream.url, breaker__open="200ms", breaker__probes="2", upstream__timeouts__read="1s") as app,
        new_session() as session,
        asyncio.TaskGroup() as group,
    ):
        client = Client(session, app)
        calls = [group.create_task(client.get(TICKERS)) for _ in range(CALLS)]
        await until(lambda: hung == CALLS, "the first of them")
        await asyncio.sleep(0.6)  # so much later than the first
        calls += [group.create_task(client.get(TICKERS)) for _ in range(CALLS)]
        await until(lambda: app.breaker.state == OPEN, "the first time-outs")
        healthy(upstream)
        await until(lambda: app.breaker.state == HALF_OPEN, "the time of trial")
        trial = await client.get(TICKERS)
        late = [(await call).gateway for call in calls]
        after = [await client.get(TICKERS) for _ in range(3)]

    assert trial.status == 200
    assert set(late) == {"upstream-timeout"}
    assert [told.status for told in after] == [200] * 3


async def test_connections_that_died_idle_are_no_sign_of_trouble() -> None:
    """Something between us and the exchange forgets all that lay idle: reads are sent once more, and all is well."""
    together = 3 * CALLS
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, breaker__least_calls=str(CALLS)) as app,
        new_session() as session,
    ):
        client = Client(session, app)
        exchange.faults.add({"kind": "delay", "delay_us": 100_000, "count": together})  # a connection for each
        await asyncio.gather(*(client.get(TICKERS) for _ in range(together)))
        exchange.faults.add({"kind": "reset_before", "count": together})
        told = await asyncio.gather(*(client.get(TICKERS) for _ in range(together)))
        state = await client.metric(STATE)

    assert [(each.status, each.gateway) for each in told] == [(200, None)] * together
    assert state == CLOSED


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_answers_that_blame_the_client_do_not_open_it(status: int) -> None:
    raw = b"HTTP/1.1 %d Oops\r\nContent-Length: 0\r\n\r\n" % status
    async with recorder(answering(raw)) as upstream, quick(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        told = [await client.get(TICKERS) for _ in range(3 * CALLS)]
        state = await client.metric(STATE)

    assert [(each.status, each.gateway) for each in told] == [(status, None)] * 3 * CALLS
    assert state == CLOSED


@pytest.mark.parametrize(
    ("code", "state"), [(10001, CLOSED), (10006, CLOSED), (110001, CLOSED), (10016, OPEN), (10000, OPEN)]
)
async def test_of_the_exchanges_codes_only_its_own_errors_open_it(code: int, state: int) -> None:
    """An error or a time-out of its own in HTTP 200 is trouble like any 5xx; what the client did wrong is none."""
    body = json.dumps({"retCode": code, "retMsg": "", "result": {}, "retExtInfo": {}, "time": 1}).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with (
        recorder(answering(raw)) as upstream,
        quick(upstream.url, pacing__enabled="false") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        for _ in range(CALLS):
            await client.get(TICKERS)
        assert await client.metric(STATE) == state


async def test_a_reload_changes_its_rules(file: File, tmp_path: Path) -> None:
    """New rules begin closed; a reload that leaves them as they are changes nothing; switched off, all is sent."""
    rules = {"least_calls": CALLS, "open": "60s"}
    retry = {"enabled": False}
    file.write(breaker=rules, retry=retry)
    async with recorder() as upstream, running(upstream.url, file.path) as app, new_session() as session:
        client = Client(session, app)
        failing(upstream)
        await opened(client)
        file.write(breaker=rules, retry=retry, queue={"max_wait": "9s"})
        await reload(app)
        same = await client.metric(STATE)
        file.write(breaker={**rules, "least_calls": 2 * CALLS}, retry=retry)
        await reload(app)
        other = [await client.metric(STATE)]
        for _ in range(2):
            for _ in range(CALLS):
                await client.get(TICKERS)
            other.append(await client.metric(STATE))
        file.write(breaker={"enabled": False}, retry=retry)
        await reload(app)
        off = await client.metric(STATE)
        told = [(await client.get(TICKERS)).gateway for _ in range(3 * CALLS)]

    assert same == OPEN
    assert other == [CLOSED, CLOSED, OPEN]
    assert off == CLOSED
    assert told == [None] * 3 * CALLS


async def test_a_403_that_nobody_can_read_may_be_a_ban() -> None:
    """Enough of them, and nothing is sent for a while."""
    raw = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with recorder(answering(raw)) as upstream, quick(upstream.url) as app, new_session() as session:
        client = Client(session, app)
        for _ in range(3 * CALLS):
            await client.get(TICKERS)

        assert await client.metric(STATE) == OPEN
        assert not app.egress.banned


async def test_a_trial_that_a_reload_has_exempted_is_a_trial_still() -> None:
    """Whatever is exempt when it ends: it frees the place that it took."""
    hold, held = asyncio.Event(), 0

    async def slowly(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        held += 1
        await hold.wait()
        writer.write(OK)

    async with (
        recorder() as upstream,
        quick(upstream.url, breaker__probes="1", breaker__open="50ms") as app,
        new_session() as session,
    ):
        client = Client(session, app)
        failing(upstream)
        for _ in range(CALLS):
            await client.get(TICKERS)
        await until(lambda: app.breaker.state == HALF_OPEN, "the time of trial")
        upstream.answer = slowly
        async with asyncio.TaskGroup() as group:
            group.create_task(client.get(TICKERS))
            await until(lambda: held == 1, "the trial")
            app.breaker.adopt(app.breaker._circuit.rules, (Match(endpoint=frozenset({"tickers"})),))
            hold.set()

        assert app.breaker.state == CLOSED

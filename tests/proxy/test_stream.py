"""Candles of the exchange's streams: over real sockets, with the exchange in a box at the other end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from policies.segments import Series
from policies.stream_demand import DemandRules
from policies.stream_reconnect import ReconnectRules
from proxy.metrics import Metrics
from proxy.stream import StreamRules, Streams
from proxy.stream_link import Patience
from proxy.tasks import TaskOwner
from tests.exchange.help import ask
from tests.fake_bybit import FakeBybit, Settings
from tests.fake_bybit.kline_topic import kline_topic
from tests.hand_clock import HandClock, until

MINUTE_MS = 60_000
BTC = Series("kline", "linear", "BTCUSDT", "1")
ETH = Series("kline", "linear", "ETHUSDT", "5")
SPOT = Series("kline", "spot", "BTCUSDT", "1")
RULES = StreamRules(
    DemandRules(asks=1, keep_us=600_000_000),
    ReconnectRules(backoff_us=1_000_000),
    Patience(),
)
ROW = "row"
GAP = "gap"


@dataclass
class Heard:
    """What the callbacks were told, in order."""

    streams: Streams
    metrics: Metrics
    events: list[tuple[Any, ...]] = field(default_factory=list)
    tasks: TaskOwner = field(default_factory=TaskOwner)

    def rows(self, series: Series, *, confirmed: bool | None = None) -> list[tuple[int, bytes, bool, int]]:
        return [event[2:] for event in self.events if event[:2] == (ROW, series) and confirmed in (None, event[4])]

    def gaps(self, series: Series) -> int:
        return self.events.count((GAP, series))

    def active(self, category: str = "linear") -> float:
        return self.metrics.websocket_connections.labels(f"public-{category}")._value.get()

    def lost(self, reason: str, category: str = "linear") -> float:
        return self.metrics.stream_reconnects.labels(f"public-{category}", reason)._value.get()

    def messages(self, result: str, category: str = "linear") -> int:
        return self.metrics.stream_messages.value(f"public-{category}", result)

    async def until_live(self, *series: Series) -> None:
        await until(lambda: all(self.streams.covers(each) for each in series))


@asynccontextmanager
async def listening(
    url: str, clock: HandClock, *, rules: StreamRules = RULES, ca_file: str | None = None, **how: Any
) -> AsyncIterator[Heard]:
    """Streams that run, and end without leaving anything behind."""
    heard: Heard

    def on_row(series: Series, open_ms: int, row: bytes, confirmed: bool, heard_us: int) -> None:
        heard.events.append((ROW, series, open_ms, row, confirmed, heard_us))

    def on_gap(series: Series) -> None:
        heard.events.append((GAP, series))

    metrics = Metrics()
    how = {"on_row": on_row, "on_gap": on_gap, "chance": lambda: 0} | how
    streams = Streams(url, ca_file, metrics=metrics, clock=clock, sleep=clock.sleep, rules=rules, **how)
    heard = Heard(streams, metrics)
    before = asyncio.all_tasks()
    heard.tasks.spawn(streams.run(), "streams")
    try:
        yield heard
    finally:
        await heard.tasks.close()
    # What is left serves the other end of the sockets.
    left = [task for task in asyncio.all_tasks() - before if "fake_bybit" not in repr(task.get_coro())]
    assert [task for task in left if "RequestHandler" not in repr(task.get_coro())] == []


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def exchange(clock: HandClock) -> AsyncIterator[FakeBybit]:
    async with FakeBybit(clock=clock, sleep=clock.sleep) as running:
        yield running


def counts(exchange: FakeBybit, category: str = "linear") -> Any:
    return exchange.streams.book.of(category)


def topics(exchange: FakeBybit) -> set[str]:
    return {topic for connection in exchange.streams.connections for topic in connection.topics}


# --- demand ---


async def test_without_demand_there_is_no_connection(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        await clock.walk(30)
        assert not heard.streams.covers(BTC)
    assert exchange.streams.book.categories == {}


async def test_many_series_of_a_category_share_one_connection(exchange: FakeBybit, clock: HandClock) -> None:
    """Spot takes ten topics in a request, so it is asked three times on the one connection."""
    linear = [Series("kline", "linear", f"ALT{number:03d}USDT", "15") for number in range(40)]
    spot = [Series("kline", "spot", f"ALT{number:03d}USDT", "15") for number in range(25)]
    async with listening(exchange.stream_url, clock) as heard:
        for each in [*linear, *spot]:
            heard.streams.want(each)
        await heard.until_live(*linear, *spot)
        assert (counts(exchange).connections, counts(exchange, "spot").connections) == (1, 1)
        assert "inverse" not in exchange.streams.book.categories
        assert counts(exchange, "spot").largest_request == 10
        assert not counts(exchange, "spot").refused_topics
        assert (heard.active(), heard.active("spot"), heard.active("inverse")) == (1, 1, 0)
        assert heard.messages("accepted", "spot") == 3


async def test_a_series_that_is_asked_for_once_is_not_subscribed_to(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock, rules=StreamRules()) as heard:
        for each in (BTC, ETH, ETH):
            heard.streams.want(each)
        await heard.until_live(ETH)
        assert topics(exchange) == {"kline.5.ETHUSDT"}


async def test_what_has_no_stream_is_ignored(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        for odd in (
            BTC._replace(endpoint="mark-price-kline"),
            BTC._replace(category="option"),
            BTC._replace(interval="7"),
        ):
            heard.streams.want(odd)
            assert not heard.streams.covers(odd)
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        assert topics(exchange) == {"kline.1.BTCUSDT"}


async def test_a_new_series_joins_the_connection_that_stands(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        heard.streams.want(ETH)
        await heard.until_live(BTC, ETH)
        assert counts(exchange).connections == 1


async def test_what_nobody_wants_any_more_is_unsubscribed_and_at_last_the_connection_closed(
    exchange: FakeBybit, clock: HandClock
) -> None:
    rules = RULES._replace(demand=DemandRules(asks=1, keep_us=60_000_000, keep_candles=0))
    async with listening(exchange.stream_url, clock, rules=rules) as heard:
        heard.streams.want(BTC)
        heard.streams.want(ETH)
        await heard.until_live(BTC, ETH)
        await clock.leap(40)
        heard.streams.want(BTC)
        await clock.leap(30)
        await until(lambda: counts(exchange).unsubscribed)
        assert counts(exchange).unsubscribed == {"kline.5.ETHUSDT": 1}
        assert heard.gaps(ETH) == 2  # its beginning and its end
        assert heard.streams.covers(BTC)
        assert not heard.streams.covers(ETH)
        await clock.leap(40)
        await until(lambda: not exchange.streams.connections)
        await until(lambda: heard.active() == 0)
        await clock.walk(10)
        assert counts(exchange).connections == 1
        heard.streams.want(ETH)
        await heard.until_live(ETH)
        assert counts(exchange).connections == 2
        assert heard.metrics.stream_reconnects.collect()[0].samples == []  # none of this was a loss


# --- rows ---


async def test_a_closed_candle_comes_with_the_very_bytes_of_rest(exchange: FakeBybit, clock: HandClock) -> None:
    wanted = [BTC, ETH, SPOT, Series("kline", "inverse", "BTCUSD", "3")]
    async with listening(exchange.stream_url, clock) as heard:
        for each in wanted:
            heard.streams.want(each)
        await heard.until_live(*wanted)
        await clock.leap(300)
        await until(lambda: all(heard.rows(each, confirmed=True) for each in wanted))
        await until(lambda: len(heard.rows(BTC, confirmed=True)) == 5)
        for each in wanted:
            query = f"category={each.category}&symbol={each.symbol}&interval={each.interval}&limit=50"
            body = (await ask(exchange, "GET", f"/v5/market/kline?{query}")).body
            for open_ms, row, _, heard_us in heard.rows(each, confirmed=True):
                assert row in body
                assert row.startswith(b'["%d",' % open_ms)
                assert heard_us == clock.now_us


async def test_the_open_candle_is_told_as_it_runs_and_closes_once(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        for number in range(2, 5):
            await clock.leap(1)
            await until(lambda number=number: len(heard.rows(BTC)) == number)
        await clock.leap(60)
        await until(lambda: len(heard.rows(BTC)) == 6)
        first_ms = heard.rows(BTC)[0][0]
        assert [(open_ms - first_ms, confirmed) for open_ms, _, confirmed, _ in heard.rows(BTC)] == [
            *[(0, False)] * 4,
            (0, True),
            (MINUTE_MS, False),
        ]
        assert len({row for _, row, _, _ in heard.rows(BTC)}) == 6
        assert heard.gaps(BTC) == 1  # before its first row
        assert heard.events[0] == (GAP, BTC)
        assert (heard.messages("open"), heard.messages("closed")) == (5, 1)


async def test_a_late_confirmation_is_no_gap(exchange: FakeBybit, clock: HandClock) -> None:
    exchange.settings.stream_confirm_delay_ms = 3_000
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        end_ms = heard.rows(BTC)[0][0] + MINUTE_MS
        await clock.leap(end_ms / 1000 - clock.now_us / 1e6 + 1)
        await until(lambda: len(heard.rows(BTC)) == 2)
        assert not heard.rows(BTC, confirmed=True)
        await clock.leap(2)
        await until(lambda: heard.rows(BTC, confirmed=True))
        await until(lambda: heard.rows(BTC)[-1][0] == end_ms)
        assert heard.gaps(BTC) == 1


async def test_an_old_message_is_counted_and_not_told(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        await clock.leap(60)
        await until(lambda: len(heard.rows(BTC)) == 3)
        assert await exchange.streams.replay() == 1
        await until(lambda: heard.messages("late") == 1)
        assert len(heard.rows(BTC)) == 3


async def test_a_closed_candle_that_changes_is_a_gap_and_what_it_became_is_not_told(
    exchange: FakeBybit, clock: HandClock
) -> None:
    """Nobody knows which of the two is right: REST is to be asked."""
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        await clock.leap(60)
        await until(lambda: len(heard.rows(BTC)) == 3)
        topic = exchange.streams.connections[0].topics["kline.1.BTCUSDT"]
        assert topic is not None
        closed = next(json.loads(message) for message in topic.sent if b'"confirm":true' in message)
        await exchange.streams.say(json.dumps(closed))
        closed["data"][0]["volume"] = "1"
        await exchange.streams.say(json.dumps(closed))
        await until(lambda: heard.messages("contradicted") == 1)
        assert heard.messages("repeated") == 1
        assert (len(heard.rows(BTC)), heard.gaps(BTC)) == (3, 2)


async def test_candles_that_did_not_come_are_a_gap(exchange: FakeBybit, clock: HandClock) -> None:
    rules = RULES._replace(demand=DemandRules(asks=1, keep_us=10**12))
    async with listening(exchange.stream_url, clock, rules=rules) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        await clock.leap(1_500 * 60)
        await until(lambda: heard.messages("jump") == 1)
        assert [event[0] for event in heard.events] == [GAP, ROW, GAP, ROW]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{garbage", "odd-json"),
        ("[1,2]", "odd-shape"),
        ('{"topic":"kline.1.DOGEUSDT","data":[],"ts":1,"type":"snapshot"}', "unasked"),
        ('{"topic":"kline.1.BTCUSDT","data":[],"ts":1,"type":"snapshot"}', "odd-shape"),
        ('{"success":true,"ret_msg":"","req_id":"999","op":"subscribe"}', "odd-answer"),
        ("x" * 300_000, None),
    ],
)
async def test_garbage_is_counted_and_forgotten(
    exchange: FakeBybit, clock: HandClock, text: str, result: str | None
) -> None:
    """What is longer than any message could be ends the connection, and it comes back."""
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        before = len(heard.events)
        await exchange.streams.say(text)
        if result is not None:
            await until(lambda: heard.messages(result) == 1)
            assert len(heard.events) == before
            await clock.leap(1)
            await until(lambda: len(heard.rows(BTC)) == 2)
        else:
            await until(lambda: heard.lost("disconnected") == 1)
            await clock.leap(1)
            await heard.until_live(BTC)


# --- what the exchange refuses ---


@pytest.mark.parametrize("takes", ["all", "rest"])
@pytest.mark.parametrize("category", ["linear", "spot"])
async def test_a_symbol_that_the_exchange_does_not_know_harms_no_other(
    exchange: FakeBybit, clock: HandClock, category: str, takes: Any
) -> None:
    """Whether the exchange refuses all of a request or only the bad part of it."""
    exchange.settings.stream_bad_topic = takes
    good = [Series("kline", category, f"ALT{number:03d}USDT", "1") for number in range(23)]
    bad = [Series("kline", category, name, "1") for name in ("AAAUSDT", "NOPEUSDT")]
    async with listening(exchange.stream_url, clock) as heard:
        for each in [*good[:9], *bad, *good[9:]]:
            heard.streams.want(each)
        await heard.until_live(*good)
        await until(lambda: topics(exchange) == {f"kline.1.{each.symbol}" for each in good})
        asked = sum(counts(exchange, category).refused_topics.values())
        for each in bad:
            heard.streams.want(each)
        await clock.leap(6)
        await until(lambda: len(heard.rows(good[0])) >= 2)
        assert sum(counts(exchange, category).refused_topics.values()) == asked  # they are left alone
        assert counts(exchange, category).connections == 1


async def test_only_unknown_symbols_are_given_up_with_their_connection(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC._replace(symbol="NOPEUSDT"))
        await until(lambda: heard.messages("refused") == 1)
        await until(lambda: not exchange.streams.connections)
        heard.streams.want(BTC._replace(symbol="NOPEUSDT"))
        await clock.walk(10)
        assert counts(exchange).connections == 1


# --- losses ---


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_lost_connection_is_made_again_with_all_its_subscriptions(
    exchange: FakeBybit, clock: HandClock, how: Any
) -> None:
    """The loss is told at once, and once more when the stream is back: what came between is to be asked for."""
    async with listening(exchange.stream_url, clock) as heard:
        for each in (BTC, ETH, SPOT):
            heard.streams.want(each)
        await heard.until_live(BTC, ETH, SPOT)
        before = topics(exchange)
        exchange.streams.drop("linear", how=how)
        await until(lambda: heard.gaps(BTC) == heard.gaps(ETH) == 2)
        assert not heard.streams.covers(BTC)
        assert heard.active() == 0
        await clock.leap(60)
        await heard.until_live(BTC, ETH)
        assert topics(exchange) == before
        after = [event for event in heard.events if event[1] == BTC][2:]
        assert [event[0] for event in after[:3]] == [GAP, GAP, ROW]
        assert heard.lost("disconnected") == 1
        assert (heard.gaps(SPOT), counts(exchange, "spot").connections) == (1, 1)


async def test_a_silent_connection_is_given_up(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        exchange.settings.stream_silent = True
        await clock.walk(29)
        assert heard.active() == 1
        await clock.walk(2)
        await until(lambda: heard.lost("silent") == 1)
        exchange.settings.stream_silent = False
        await clock.leap(1)
        await heard.until_live(BTC)
        assert counts(exchange).connections == 2


async def test_a_process_that_was_stopped_does_not_take_that_for_silence(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        await clock.leap(540)
        await until(lambda: len(heard.rows(BTC)) >= 10)
        assert counts(exchange).connections == 1


async def test_a_subscription_without_an_answer_is_not_waited_for_for_ever(
    exchange: FakeBybit, clock: HandClock
) -> None:
    exchange.settings.stream_silent = True
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.active() == 1)
        await clock.walk(11)
        await until(lambda: heard.lost("unanswered") == 1)
        exchange.settings.stream_silent = False
        await clock.leap(1)
        await heard.until_live(BTC)


async def test_a_stream_that_works_without_an_answer_is_let_be(clock: HandClock) -> None:
    requests = []

    async def push(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            requests.append(json.loads(message.data)["op"])
            topic = kline_topic("linear", "kline.1.BTCUSDT", 1, Settings(), clock.now_us)
            assert topic is not None
            await socket.send_bytes(b"not even text")
            await socket.send_str(topic.due(clock.now_us)[0][0].decode())
        return socket

    runner = web.ServerRunner(web.Server(push))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with listening(f"ws://127.0.0.1:{runner.addresses[0][1]}", clock) as heard:
            heard.streams.want(BTC)
            await heard.until_live(BTC)
            await clock.walk(20)
            await until(lambda: requests == ["subscribe", "ping"])
            await clock.walk(5)
            assert (heard.active(), heard.messages("odd-shape")) == (1, 2)
    finally:
        await runner.cleanup()


async def test_the_heart_beats_every_twenty_seconds_in_json(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        for number in range(1, 4):
            await clock.leap(19)
            await until(lambda number=number: len(heard.rows(BTC, confirmed=False)) >= 2 * number)
            assert counts(exchange).pings == number - 1
            await clock.leap(1)
            await until(lambda number=number: heard.messages("pong") == number)
            await until(lambda number=number: len(heard.rows(BTC, confirmed=False)) >= 2 * number + 1)
        assert counts(exchange).pings == 3


async def test_failures_are_followed_by_ever_longer_pauses(exchange: FakeBybit, clock: HandClock) -> None:
    exchange.faults.add({"kind": "status", "status": 502, "body": "html", "match": {"path": "/v5/public"}})
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        pauses = []
        for number in range(1, 10):
            await until(lambda number=number: heard.lost("handshake") == number and clock.due_s)
            pauses.append(clock.due_s)
            await clock.leap(pauses[-1])
        assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        await until(lambda: heard.lost("handshake") == 10)
        exchange.faults.clear()
        await clock.leap(60)
        await heard.until_live(BTC)


async def test_one_connection_too_many_is_answered_by_staying_away(exchange: FakeBybit, clock: HandClock) -> None:
    """A handshake 403 says that the address has opened too many: nothing for as long as they are counted."""
    exchange.settings.stream_connect_limit = 0
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.lost("refused") == 1)
        exchange.settings.stream_connect_limit = 500
        await clock.leap(299)
        await clock.walk(1)
        assert counts(exchange).connections == 0
        heard.streams.want(BTC)
        await clock.leap(2)
        await heard.until_live(BTC)


async def test_nothing_is_opened_while_it_may_not_be(exchange: FakeBybit, clock: HandClock) -> None:
    """While the address is banned; what stands stays."""
    allowed = False
    async with listening(exchange.stream_url, clock, may_connect=lambda: allowed) as heard:
        heard.streams.want(BTC)
        await clock.walk(20)
        assert exchange.streams.book.categories == {}
        allowed = True
        await clock.leap(5)
        await heard.until_live(BTC)
        allowed = False
        await clock.leap(60)
        await until(lambda: heard.rows(BTC, confirmed=True))
        assert heard.active() == 1


async def test_a_demand_that_ends_while_there_is_no_connection_makes_none(
    exchange: FakeBybit, clock: HandClock
) -> None:
    rules = RULES._replace(demand=DemandRules(asks=1, keep_us=60_000_000, keep_candles=0))
    allowed = False
    async with listening(exchange.stream_url, clock, rules=rules, may_connect=lambda: allowed) as heard:
        heard.streams.want(BTC)
        await clock.walk(3)
        await clock.leap(60)
        allowed = True
        await clock.walk(10)
        assert exchange.streams.book.categories == {}
        heard.streams.want(BTC)
        await heard.until_live(BTC)


async def test_an_exchange_that_does_not_answer_the_handshake_is_given_up(
    exchange: FakeBybit, clock: HandClock
) -> None:
    exchange.faults.add({"kind": "hang", "match": {"path": "/v5/public"}, "count": 1})
    rules = RULES._replace(patience=Patience(connect_us=50_000))
    async with listening(exchange.stream_url, clock, rules=rules) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.lost("connect-timeout") == 1)
        await clock.leap(1)
        await heard.until_live(BTC)


async def test_an_unreachable_exchange_is_tried_again(clock: HandClock) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with listening(f"ws://127.0.0.1:{port}", clock) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.lost("unreachable") == 1)
        async with FakeBybit(clock=clock, sleep=clock.sleep, port=port):
            await clock.leap(1)
            await heard.until_live(BTC)


async def test_a_redirect_leads_nowhere(exchange: FakeBybit, clock: HandClock) -> None:
    """Only the configured host is connected to."""
    answer = (
        f"HTTP/1.1 302 Found\r\nLocation: {exchange.url}/v5/public/linear\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    )

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, listening(f"ws://127.0.0.1:{port}", clock) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.lost("handshake") == 1)
    assert exchange.record.since() == []


async def test_the_certificate_is_verified(clock: HandClock) -> None:
    async with FakeBybit(tls=True) as exchange:
        async with listening(exchange.stream_url, clock) as heard:
            heard.streams.want(BTC)
            await until(lambda: heard.lost("certificate") == 1)
        assert exchange.streams.book.categories == {}
        async with listening(exchange.stream_url, clock, ca_file=str(exchange.ca_path)) as heard:
            heard.streams.want(BTC)
            await heard.until_live(BTC)


async def test_a_callback_that_fails_costs_the_connection_and_not_the_stream(
    exchange: FakeBybit, clock: HandClock
) -> None:
    failing = True
    told = []

    def on_row(*row: Any) -> None:
        if failing:
            raise RuntimeError("planted")
        told.append(row)

    async with listening(exchange.stream_url, clock, on_row=on_row) as heard:
        heard.streams.want(BTC)
        await until(lambda: heard.lost("failed") == 1)
        assert heard.active() == 0
        failing = False
        await clock.leap(1)
        await until(lambda: told)


async def test_the_end_of_the_task_is_the_end_of_all_connections(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        for each in (BTC, SPOT):
            heard.streams.want(each)
        await heard.until_live(BTC, SPOT)
    await until(lambda: not exchange.streams.connections)
    assert (heard.active(), heard.active("spot")) == (0, 0)


async def test_the_labels_of_metrics_name_no_symbol(exchange: FakeBybit, clock: HandClock) -> None:
    async with listening(exchange.stream_url, clock) as heard:
        heard.streams.want(BTC)
        await heard.until_live(BTC)
        await exchange.streams.say(json.dumps({"topic": "kline.1.SECRETUSDT", "op": "SECRETUSDT"}))
        await until(lambda: heard.messages("unasked") == 1)
        exchange.streams.drop()
        await until(lambda: heard.lost("disconnected") == 1)
        for family in heard.metrics.registry.collect():
            for sample in family.samples:
                assert "USDT" not in "".join(sample.labels.values())

"""Candles that the exchange streams: who asks for the newest ones is answered without a request, with the same bytes;
and where the stream fails, as if there were none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from policies.segments import Series
from proxy.stream_link import SILENT
from tests.by_hand import MINUTE_MS, Desk, desk, opens, rows, was_hit
from tests.conversation import TICKERS, Told
from tests.fake_bybit import Settings
from tests.hand_clock import until

BTC = Series("kline", "linear", "BTCUSDT", "1")
PUBLIC = "public-linear"
TOLD = ("open", "closed", "first", "next", "jump", "late", "repeated")


@asynccontextmanager
async def streamed(settings: Settings | None = None, series: Series = BTC, **overrides: Any) -> AsyncIterator[Desk]:
    """A gateway to which the candles of a series come by themselves."""
    async with desk(exchange=settings, candles__stream="true", **overrides) as here:
        for _ in range(2):
            await here.ask(series.symbol, series.interval, limit=3)
            await here.clock.leap(4)
        await until(lambda: _covered(here, series))
        await joined(here, series)
        yield here


async def joined(here: Desk, series: Series = BTC) -> None:
    """An answer has told what was before the stream's first row, and the stream goes on from there."""
    await here.clock.leap(6)  # what had ended by the first row has settled
    await here.ask(series.symbol, series.interval, limit=3)
    await here.settled()
    await listened(here, 1)


async def listened(here: Desk, seconds: float) -> None:
    """So much later, and all that the exchange has pushed by then has been heard."""
    pushed = here.exchange.streams.book.of("linear")
    topics = [
        topic for each in here.exchange.streams.connections for topic in each.topics.values() if topic is not None
    ]
    before = pushed.pushes
    expected = sum(
        1 + (here.now_ms + round(seconds * 1000)) // MINUTE_MS - here.now_ms // MINUTE_MS
        for topic in topics
        if topic._interval == "1" and topic._due_us <= here.clock.now_us + round(seconds * 1e6)
    )
    await here.clock.leap(seconds)
    await until(lambda: pushed.pushes >= before + expected)
    await until(lambda: sum(here.app.metrics.stream_messages.value(PUBLIC, each) for each in TOLD) == pushed.pushes)


async def same_as_the_exchange(here: Desk, told: Told, **asked: Any) -> None:
    """Row by row what it answers at this very instant."""
    direct = await here.direct(**asked)
    assert rows(told) == direct["result"]["list"]


async def test_while_the_stream_lives_the_newest_candles_cost_no_request() -> None:
    """Second by second, over the ends of candles: the same rows as the exchange's, the open one included."""
    async with streamed() as here:
        await here.ask(limit=200)  # as far back as anybody asks
        before = here.asked()
        for number in range(150):
            await listened(here, 1)
            told = await here.ask(limit=1 + number)
            assert was_hit(told)
            assert (opens(told)[0], len(opens(told))) == (here.minute_ms, 1 + number)
            if number % 10 == 0:
                await same_as_the_exchange(here, told, limit=1 + number)
                before += 1

        assert here.asked() == before
        assert here.refreshed() == 0
        assert here.counted("gateway_candles_revised_total", endpoint="kline") == 0


@pytest.mark.parametrize("ahead", [True, False])
async def test_who_asks_only_when_a_candle_has_ended_needs_the_stream_alone(ahead: bool) -> None:
    """As bots do: by then the candle before has only just settled, and nobody asks while the running one could be
    joined to it. One more fetch at a candle's end does that, the gateway's own or a client's; then there is none."""
    async with desk(candles__stream="true", candles__boundary={"enabled": ahead}) as here:
        hits, asked = [], []
        for _ in range(6):
            await listened(here, 60 - here.now_ms % MINUTE_MS / 1000 + 0.03)
            await here.settled()
            await listened(here, 1)
            told = await here.ask(limit=100)
            hits.append(was_hit(told))
            asked.append(here.asked())
            if len(hits) > 1:  # asked for twice: it is subscribed to
                await until(lambda: _covered(here))
            assert opens(told)[0] == here.minute_ms
            assert len(opens(told)) == 100

        assert hits == [False, ahead, ahead, True, True, True]
        assert asked == [1, 2, 3, 3, 3, 3]
        assert here.counted("gateway_candles_revised_total", endpoint="kline") == 0


async def test_a_confirmed_candle_is_final_at_once() -> None:
    """It lives for days from the first millisecond on, where one of REST is looked at again until it has settled."""
    async with streamed() as here:
        await listened(here, 60 - here.now_ms % MINUTE_MS / 1000 + 0.001)
        past = {"start": here.minute_ms - MINUTE_MS, "end": here.minute_ms - 1}
        before = here.asked()
        told = await here.ask(**past)

        assert (was_hit(told), opens(told), here.asked()) == (True, [here.minute_ms - MINUTE_MS], before)
        assert int(told.headers["Cache-Status"].partition("ttl=")[2]) > 600_000
        await same_as_the_exchange(here, told, **past)


async def test_the_streams_word_is_final_where_rest_lags_behind() -> None:
    """The exchange's REST needs three seconds more for its last row: nobody is told that row."""
    async with streamed(Settings(kline_settle_ms=3_000)) as here:
        await listened(here, 60 - here.now_ms % MINUTE_MS / 1000 + 0.001)
        past = {"start": here.minute_ms - MINUTE_MS, "end": here.minute_ms - 1}
        told = await here.ask(**past)
        early = await here.direct(**past)
        await listened(here, 4)

        assert rows(told) != early["result"]["list"]
        await same_as_the_exchange(here, told, **past)
        await same_as_the_exchange(here, await here.ask(**past), **past)


async def test_an_open_candle_is_not_given_when_it_is_old() -> None:
    """The stream is quiet, as it may be for a minute: after candles.stream_max_age the exchange is asked, and then the
    stream is believed again."""
    async with streamed(cache__stale_while_revalidate="0s") as here:
        await listened(here, 1)
        here.exchange.settings.stream_push_ms = 20_000
        await listened(here, 1)  # the last one for a while
        before = here.asked()
        await here.clock.leap(1.9)
        assert was_hit(await here.ask(limit=3))
        await here.clock.leap(0.2)
        told = await here.ask(limit=3)
        assert (was_hit(told), here.asked()) == (False, before + 1)
        await same_as_the_exchange(here, told, limit=3)
        await listened(here, 17.9)
        told, before = await here.ask(limit=3), here.asked()

        assert was_hit(told)
        await same_as_the_exchange(here, told, limit=3)
        assert here.asked() == before + 1  # that was us


async def test_its_age_is_told() -> None:
    async with streamed() as here:
        await listened(here, 1)
        fresh = await here.ask(limit=1)
        here.exchange.settings.stream_push_ms = 20_000
        await listened(here, 1)
        await here.clock.leap(1.5)
        old = await here.ask(limit=1)

        assert (fresh.headers["Age"], old.headers["Age"]) == ("0", "1")
        assert old.json["time"] == here.now_ms - 1_500


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_lost_stream_is_replaced_by_requests_and_its_gap_filled(how: Any) -> None:
    """Three candles end meanwhile. Every answer is whole; when the stream is back, one more request joins both."""
    async with streamed() as here:
        fault = here.exchange.faults.add({"kind": "status", "status": 503, "match": {"path": "/v5/public/"}})
        here.exchange.streams.drop("linear", how=how)
        await until(lambda: not _covered(here))
        before = here.asked()
        for _ in range(4):
            await here.clock.leap(55)
            await here.settled()
            told = await here.ask(limit=10)
            await here.settled()
            assert (opens(told)[0], len(opens(told))) == (here.minute_ms, 10)
            await same_as_the_exchange(here, told, limit=10)
        assert fault.fired > 1
        assert here.asked() > before + 4  # our own, and some of the gateway's

        here.exchange.faults.clear()
        await here.clock.walk(60)
        await until(lambda: _covered(here))
        await joined(here)
        before = here.asked()
        for _ in range(70):
            await listened(here, 1)
            assert was_hit(await here.ask(limit=10))
        assert here.asked() == before
        await same_as_the_exchange(here, await here.ask(limit=10), limit=10)


async def test_a_silent_stream_is_done_without_long_before_it_is_given_up() -> None:
    async with streamed() as here:
        here.exchange.settings.stream_silent = True
        before = here.asked()
        for _ in range(10):
            await here.clock.leap(3.1)
            told = await here.ask(limit=3)
            await here.settled()
            assert opens(told)[0] == here.minute_ms
        assert here.asked() >= before + 8
        await here.clock.walk(40)
        await until(lambda: here.counted("gateway_stream_reconnects_total", endpoint=PUBLIC, reason=SILENT) >= 1)
        here.exchange.settings.stream_silent = False
        await here.clock.walk(60)
        await here.ask(limit=3)
        await until(lambda: _covered(here))
        await joined(here)
        before = here.asked()
        await listened(here, 1)
        assert was_hit(await here.ask(limit=3))
        assert here.asked() == before


async def test_after_a_contradiction_the_exchange_is_asked_before_the_stream_is_believed_again() -> None:
    """Neither an answer from before, nor one about the past, tells which of the two was right."""
    async with streamed() as here:
        await listened(here, 60)
        topic = here.exchange.streams.connections[0].topics["kline.1.BTCUSDT"]
        assert topic is not None
        closed = [json.loads(message) for message in topic.sent if b'"confirm":true' in message][-1]
        closed["data"][0]["volume"] = "1"
        before = here.asked()
        await here.exchange.streams.say(json.dumps(closed))
        await until(lambda: here.app.metrics.stream_messages.value(PUBLIC, "contradicted") == 1)
        await here.clock.leap(0.5)
        await here.ask(start=here.minute_ms - 7_200_000, end=here.minute_ms - 3_600_001)
        assert here.asked() == before + 1
        for _ in range(4):
            await listened(here, 1)  # it goes on as if nothing had been
        told = await here.ask(limit=3)
        assert (was_hit(told), here.asked()) == (False, before + 2)
        await same_as_the_exchange(here, told, limit=3)
        for _ in range(4):
            await listened(here, 1)
        assert was_hit(await here.ask(limit=3))


async def test_during_a_ban_the_stream_goes_on() -> None:
    """Nothing is asked, and the newest candles are known all the same."""
    async with streamed(pacing__ban="10m") as here:
        here.exchange.faults.add({"kind": "ban", "count": 1})
        await here.client.get(TICKERS)
        before = here.exchange.stats.requests
        for _ in range(70):
            await listened(here, 1)
            told = await here.ask(limit=3)
            assert (told.status, was_hit(told), opens(told)[0]) == (200, True, here.minute_ms)
            assert "detail" not in told.headers["Cache-Status"]

        assert here.exchange.stats.requests == before


async def test_during_a_ban_no_connection_is_opened() -> None:
    """A handshake is a request, too."""
    async with streamed(pacing__ban="10m") as here:
        here.exchange.faults.add({"kind": "ban", "count": 1})
        await here.client.get(TICKERS)
        here.exchange.streams.drop("linear")
        await until(lambda: not _covered(here))
        await here.clock.walk(60)

        assert here.exchange.streams.book.of("linear").connections == 1


async def test_an_answer_never_waits_for_a_stream() -> None:
    """The stream's host takes connections and says nothing at all."""
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, desk(candles__stream="true", upstream__stream_url=url) as here:
        for number in range(1, 5):
            told = await here.ask(limit=3)
            await here.settled()
            assert (told.status, opens(told)[0], here.asked()) == (200, here.minute_ms, number)
            await here.clock.leap(4)
        await asyncio.wait_for(arrived.wait(), 10)
        assert (await here.ask(limit=3)).status == 200


async def test_without_the_switch_there_is_no_stream() -> None:
    async with desk() as here:
        for _ in range(4):
            await here.ask(limit=3)
            await here.clock.leap(4)

        assert here.exchange.streams.book.categories == {}


@pytest.mark.parametrize("symbol", ["NOPEUSDT", "AAAUSDT"])
async def test_symbols_that_do_not_exist_leave_nothing_behind(symbol: str) -> None:
    async with desk(candles__stream="true") as here:
        for _ in range(3):
            await here.ask(symbol)
            await here.clock.leap(1)
        await until(lambda: here.app.metrics.stream_messages.value(PUBLIC, "refused") == 1)

        assert here.app.caches.candles is not None
        assert here.app.caches.candles._gaps == {}


async def test_a_gateway_that_ends_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with streamed() as here:
        assert _covered(here)
        app = here.app
    left = [task for task in asyncio.all_tasks() - before if "fake_bybit" not in repr(task.get_coro())]

    assert (len(app.loops), len(app.tasks)) == (0, 0)
    assert [task for task in left if "RequestHandler" not in repr(task.get_coro())] == []


def _covered(here: Desk, series: Series = BTC) -> bool:
    streams = here.app.caches.streams
    return streams is not None and streams.covers(series)

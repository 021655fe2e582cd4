"""Candles of one symbol: what paging by hand gives, in one answer."""

from __future__ import annotations

import json
import random

import pytest

from policies import candles as calendar
from tests.fake_bybit import FakeBybit, Settings
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms
from tests.gateway_fixture import DEEP, gateway
from tests.hand_clock import START_US, HandClock
from tests.market import KLINES, ask, by_hand, candles, error_of, rows_of

NOW_MS = START_US // 1000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
NO_LIMITS: dict[str, object] = {"limits": []}


def calm() -> Settings:
    """An exchange that does not mind being asked a lot."""
    return Settings(ip_limit=10**6)


async def test_the_newest_candles_are_the_exchanges_own_oldest_first() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        answer = await ask(app, f"{KLINES}/btcusdt?interval=15&limit=3")
        body = json.loads(answer.body)

        assert exchange.stats.requests == 1
        assert body["result"].pop("list") == await by_hand(exchange.url, "BTCUSDT", "15", limit=3)
        assert body == {
            "retCode": 0,
            "retMsg": "OK",
            "result": {
                "category": "linear",
                "symbol": "BTCUSDT",
                "kind": "kline",
                "interval": "15",
                "order": "asc",
                "closed": False,
            },
            "retExtInfo": {},
            "time": NOW_MS,
        }
        assert answer.get("Content-Type") == "application/json; charset=utf-8"
        assert (answer.get("X-Gateway"), answer.get("Cache-Control")) == ("marketdata", "no-store")
        assert answer.get("X-Request-Id")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "GAPUSDT", "NEWUSDT", "OLDUSDT"])
@pytest.mark.parametrize("category", ["linear", "spot"])
async def test_more_than_a_page_is_what_paging_by_hand_gives(category: str, symbol: str) -> None:
    """With gaps, with a listing or a delisting in the middle."""
    clock = HandClock()
    async with (
        FakeBybit(clock=clock, settings=Settings(kline_gap_fill=False)) as exchange,
        gateway(exchange.url, clock=clock, **NO_LIMITS) as app,
    ):
        given = await candles(app, symbol, f"interval=1&limit=2500&category={category}")

        assert len(given) == 2500
        assert given == await by_hand(exchange.url, symbol, "1", category=category, limit=2500)


async def test_no_more_is_asked_than_paging_by_hand_would_ask_and_nothing_the_second_time() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        first = await candles(app, "BTCUSDT", "interval=15&limit=2500")
        asked = exchange.stats.requests
        second = await candles(app, "BTCUSDT", "interval=15&limit=2500&order=desc&format=csv")

        assert (asked, exchange.stats.requests) == (3, 3)
        assert second == first[::-1]
        history = await candles(app, "BTCUSDT", f"interval=15&start={first[0][0]}")
        assert (history, exchange.stats.requests) == (first, 3)


async def test_when_less_exists_than_is_asked_for_all_of_it_is_given() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **NO_LIMITS) as app:
        given = await candles(app, "NEWUSDT", "interval=60&limit=100000")

        assert int(given[0][0]) == NEWUSDT_LISTED_MS - NEWUSDT_LISTED_MS % HOUR_MS
        assert given == await by_hand(exchange.url, "NEWUSDT", "60")
        assert exchange.stats.requests < 20 + len(given) // 500


@pytest.mark.parametrize("interval", ["W", "M"])
async def test_weeks_and_months_follow_the_calendar(interval: str) -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        expected = await by_hand(exchange.url, "BTCUSDT", interval)
        assert await candles(app, "BTCUSDT", f"interval={interval}&limit=1500") == expected
        start, end = int(expected[3][0]), int(expected[-4][0])
        ranged = await candles(app, "BTCUSDT", f"interval={interval}&start={start}&end={end}")
        assert ranged == expected[3:-3]
        assert await candles(app, "BTCUSDT", f"interval={interval}&start=0") == expected


@pytest.mark.parametrize(
    ("kind", "category", "symbol", "columns"),
    [
        ("mark-price-kline", "linear", "BTCUSDT", 5),
        ("index-price-kline", "inverse", "BTCUSD", 5),
        ("premium-index-price-kline", "linear", "BTCUSDT", 5),
        ("kline", "inverse", "BTCUSD", 7),
        ("mark-price-kline", "option", "BTC-25DEC26-60000-C", 5),
    ],
)
async def test_all_kinds_of_candles(kind: str, category: str, symbol: str, columns: int) -> None:
    """Options among them, of which the exchange gives 500 at a time."""
    clock = HandClock()
    query = f"interval=60&kind={kind}&category={category}"
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **NO_LIMITS) as app:
        expected = await by_hand(exchange.url, symbol, "60", category=category, kind=kind, limit=1700)
        assert len(expected) == 1700
        for format_ in ("json", "ndjson", "csv"):
            assert await candles(app, symbol, f"{query}&limit=1700&format={format_}") == expected
            given = await candles(app, symbol, f"{query}&start={expected[0][0]}&format={format_}")
            assert given == expected
        csv = await ask(app, f"{KLINES}/{symbol}?{query}&limit=1&format=csv")
        assert len(csv.body.splitlines()[0].split(b",")) == columns


async def test_both_ends_of_a_history_are_included() -> None:
    start, end = utc_ms(2026, 5, 1), utc_ms(2026, 5, 1, 2)
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        opens = [int(row[0]) for row in await candles(app, "BTCUSDT", f"interval=60&start={start}&end={end}")]
        assert opens == [start, start + HOUR_MS, end]
        inner = await candles(app, "BTCUSDT", f"interval=60&start={start + 1}&end={end - 1}")
        assert [int(row[0]) for row in inner] == [start + HOUR_MS]
        assert await candles(app, "BTCUSDT", f"interval=60&start={start + 1}&end={start + 2}") == []


async def test_the_newest_candles_up_to_an_instant() -> None:
    """The candle that opens then is the last; an instant that has not come is now."""
    end = utc_ms(2026, 5, 1, 2)
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        given = await candles(app, "BTCUSDT", f"interval=60&limit=2&end={end + 5}")
        assert [int(row[0]) for row in given] == [end - HOUR_MS, end]
        assert await candles(app, "BTCUSDT", f"interval=60&limit=1200&end={end}") == await by_hand(
            exchange.url, "BTCUSDT", "60", end_ms=end, limit=1200
        )
        newest = await candles(app, "BTCUSDT", "interval=60&limit=1")
        assert await candles(app, "BTCUSDT", f"interval=60&limit=1&end={NOW_MS + HOUR_MS}") == newest


async def test_the_future_holds_no_candles_and_is_not_asked_for() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock) as app:
        answer = await ask(app, f"{KLINES}/BTCUSDT?interval=1&start={NOW_MS + HOUR_MS}")

        assert (rows_of(answer), json.loads(answer.body)["result"]["closed"]) == ([], None)
        assert exchange.stats.requests == 0
        given = await candles(app, "BTCUSDT", f"interval=1&start={NOW_MS - HOUR_MS}&end=9999999999999")
        assert int(given[-1][0]) == NOW_MS - NOW_MS % MINUTE_MS
        assert exchange.stats.requests == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    ("symbol", "listed_ms", "ended_ms"),
    [
        ("NEWUSDT", NEWUSDT_LISTED_MS - NEWUSDT_LISTED_MS % HOUR_MS, NOW_MS),
        ("OLDUSDT", utc_ms(2022, 1, 1), OLDUSDT_DELISTED_MS - HOUR_MS),
    ],
)
async def test_years_without_a_candle_cost_a_few_questions(
    symbol: str, listed_ms: int, ended_ms: int, order: str
) -> None:
    """From the beginning of time: before a listing and after a delisting there is nothing to be asked for."""
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange, gateway(exchange.url, clock=clock, **NO_LIMITS) as app:
        given = await candles(app, symbol, f"interval=60&start=0&order={order}&format=ndjson")
        asked = exchange.stats.requests

        oldest_first = given if order == "asc" else given[::-1]
        assert int(oldest_first[0][0]) == listed_ms
        assert int(oldest_first[-1][0]) == ended_ms - ended_ms % HOUR_MS
        assert oldest_first == await by_hand(exchange.url, symbol, "60")
        assert asked < len(given) / 1000 + 20


async def test_the_newest_candle_is_closed_once_the_exchange_says_that_it_has_ended() -> None:
    """By the exchange's stamp on that answer, not by when it is given."""
    clock = HandClock(now_us=START_US - START_US % 60_000_000 + 59_900_000)
    async with (
        FakeBybit(clock=clock) as exchange,
        gateway(exchange.url, clock=clock, **NO_LIMITS) as app,
    ):
        open_ms = int((await candles(app, "BTCUSDT", "interval=1&limit=1"))[0][0])
        closed = f"{KLINES}/BTCUSDT?interval=1&limit=1&end={open_ms}"
        assert json.loads((await ask(app, closed)).body)["result"]["closed"] is False
        await clock.leap(0.2)
        answer = json.loads((await ask(app, closed)).body)
        assert (answer["result"]["closed"], answer["time"]) == (True, open_ms + MINUTE_MS + 100)
        for order in ("asc", "desc"):
            history = f"{KLINES}/BTCUSDT?interval=1&start={open_ms - HOUR_MS}&end={open_ms}&order={order}"
            assert json.loads((await ask(app, history)).body)["result"]["closed"] is True


async def test_an_exchange_that_gives_fewer_rows_than_it_is_asked_for_leaves_no_hole() -> None:
    """Some kinds of candles came 200 at a time once."""
    async with (
        FakeBybit(settings=calm()) as exchange,
        gateway(exchange.url, **NO_LIMITS, candles__enabled="false", cache__enabled="false") as app,
    ):
        _answer_at_most(exchange, 200)
        start, end = utc_ms(2026, 5, 1), utc_ms(2026, 5, 2, 16, 39)
        opens = [int(row[0]) for row in await candles(app, "BTCUSDT", f"interval=1&start={start}&end={end}")]
        assert opens == list(range(start, end + 1, MINUTE_MS))
        assert len(await candles(app, "BTCUSDT", f"interval=1&limit=2345&end={end}")) == 2345


def _answer_at_most(exchange: FakeBybit, rows: int) -> None:
    handle = exchange.market.handle

    def shortened(path: str, pairs: list[tuple[str, str]], now_us: int) -> object:
        limited = [(name, str(min(rows, int(value))) if name == "limit" else value) for name, value in pairs]
        return handle(path, limited, now_us)

    exchange.market.handle = shortened


async def test_many_random_questions_have_the_answers_of_the_exchange() -> None:
    """Through one warm gateway, with time moving on."""
    chance = random.Random(1)
    clock = HandClock()
    async with (
        FakeBybit(clock=clock, settings=Settings(ip_limit=10**6, kline_gap_fill=False)) as exchange,
        gateway(exchange.url, clock=clock, **NO_LIMITS, cache__open_ttl="0s") as app,
    ):
        for _ in range(600 if DEEP else 60):
            interval = chance.choice(["1", "5", "60", "D", "W"])
            symbol = chance.choice(["BTCUSDT", "GAPUSDT", "NEWUSDT", "OLDUSDT"])
            length_ms = calendar.WEEK_MS if interval == "W" else calendar.FIXED_MS[interval]
            order, format_ = chance.choice(["asc", "desc"]), chance.choice(["json", "ndjson", "csv"])
            # Near a listing, a delisting, or now.
            around = chance.choice([NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, clock() // 1000])
            end_ms = around + chance.randrange(-2500, 2500) * length_ms + chance.choice([0, 1, -1])
            start_ms = max(0, end_ms - chance.randrange(2500) * length_ms)
            end_ms = max(start_ms, end_ms)
            if chance.random() < 0.5:
                query, known = f"start={start_ms}&end={end_ms}", {"start_ms": start_ms, "end_ms": end_ms}
            else:
                limit = chance.choice([1, 200, 999, 1000, 1001, 2345])
                query, known = f"limit={limit}&end={end_ms}", {"limit": limit, "end_ms": end_ms}
            given = await candles(app, symbol, f"interval={interval}&{query}&order={order}&format={format_}")
            expected = await by_hand(exchange.url, symbol, interval, **known)
            assert given == (expected if order == "asc" else expected[::-1]), (symbol, interval, query, order)
            await clock.leap(chance.choice([0.1, 3, 61]))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("NOPE?interval=1", (404, 10001, "unknown-symbol")),
        ("NOPE?interval=1&limit=5000", (404, 10001, "unknown-symbol")),
        ("NOPE?interval=1&start=0", (404, 10001, "unknown-symbol")),
        ("BTCUSDT?interval=7", (400, 10001, "bad-parameter")),
        ("BTC%20USDT?interval=1", (400, 10001, "bad-parameter")),
    ],
)
async def test_what_cannot_be_answered_is_told_in_the_envelope(target: str, error: tuple[int, int, str]) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, f"{KLINES}/{target}")
        assert error_of(answer)[:3] == error
        assert answer.get("Connection") != "close"
        assert exchange.stats.requests == (1 if error[0] == 404 else 0)

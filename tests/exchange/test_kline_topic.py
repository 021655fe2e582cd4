"""What a kline topic pushes and when, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_bybit.candles import candle
from tests.fake_bybit.intervals import INTERVALS, next_open, open_at_or_before
from tests.fake_bybit.kline_topic import MOST_AT_ONCE, KlineTopic, kline_topic
from tests.fake_bybit.market import Market
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.symbols import OLDUSDT_DELISTED_MS, utc_ms

SEED = 7
MINUTE = 60_000
NOW = utc_ms(2026, 9, 28, 12, 34) + 16_789


def begun(
    name: str = "kline.1.BTCUSDT", *, category: str = "linear", settings: Settings | None = None, now_ms: int = NOW
) -> KlineTopic:
    topic = kline_topic(category, name, SEED, settings or Settings(), now_ms * 1000)
    assert topic is not None
    return topic


def pushed(topic: KlineTopic, now_ms: int) -> list[Any]:
    """The messages of this instant."""
    return [json.loads(message) for message, _ in topic.due(now_ms * 1000)]


def rest_row(start: int, now_ms: int, settings: Settings | None = None, **asked: Any) -> list[str]:
    query = {"category": "linear", "symbol": "BTCUSDT", "interval": "1", "start": start, "end": start} | asked
    pairs = [(name, str(value)) for name, value in query.items()]
    reply = Market(SEED, settings or Settings()).handle("/v5/market/kline", pairs, now_ms * 1000)
    assert reply is not None
    row: list[str] = reply.result["list"][0]
    return row


def as_row(data: dict[str, Any]) -> list[str]:
    return [str(data["start"]), *(data[name] for name in ("open", "high", "low", "close", "volume", "turnover"))]


def test_the_first_message_is_the_running_candle_in_the_documented_shape() -> None:
    """bybit.md 4.6, field by field and in order."""
    (message,) = pushed(begun(), NOW)
    start = NOW - NOW % MINUTE
    row = rest_row(start, NOW)
    assert list(message) == ["topic", "data", "ts", "type"]
    assert (message["topic"], message["ts"], message["type"]) == ("kline.1.BTCUSDT", NOW, "snapshot")
    (data,) = message["data"]
    assert list(data) == [
        "start", "end", "interval", "open", "close", "high", "low", "volume", "turnover", "confirm", "timestamp",
    ]  # fmt: skip
    assert (data["start"], data["end"], data["interval"]) == (start, start + 59_999, "1")
    assert (data["confirm"], data["timestamp"]) == (False, start + 16_700)
    assert as_row(data) == row


def test_a_snapshot_comes_once_in_a_period() -> None:
    topic = begun(settings=Settings(stream_push_ms=2_000))
    assert len(pushed(topic, NOW)) == 1
    assert pushed(topic, NOW + 1_999) == []
    assert len(pushed(topic, NOW + 2_000)) == 1
    assert pushed(topic, NOW + 2_001) == []


def test_a_closed_candle_is_confirmed_once_and_the_next_one_begins() -> None:
    topic = begun()
    pushed(topic, NOW)
    end = NOW - NOW % MINUTE + MINUTE
    assert pushed(topic, end - 1)[0]["data"][0]["confirm"] is False
    closed, opened = (message["data"][0] for message in pushed(topic, end))
    assert (closed["start"], closed["confirm"]) == (end - MINUTE, True)
    assert as_row(closed) == rest_row(end - MINUTE, end + 5_000)
    assert (opened["start"], opened["confirm"]) == (end, False)
    assert [message["data"][0]["confirm"] for message in pushed(topic, end + 1_000)] == [False]


def test_the_confirmed_row_is_final_even_while_rest_still_lags() -> None:
    settings = Settings(kline_settle_ms=3_000)
    topic = begun(settings=settings)
    end = NOW - NOW % MINUTE + MINUTE
    closed = pushed(topic, end)[0]["data"][0]
    assert as_row(closed) != rest_row(end - MINUTE, end, settings)
    assert as_row(closed) == rest_row(end - MINUTE, end + 3_000, settings)


def test_a_late_confirmation_keeps_the_next_candle_waiting() -> None:
    topic = begun(settings=Settings(stream_confirm_delay_ms=1_500))
    end = NOW - NOW % MINUTE + MINUTE
    late = pushed(topic, end + 1_000)
    assert [(each["data"][0]["start"], each["data"][0]["confirm"]) for each in late] == [(end - MINUTE, False)]
    after = pushed(topic, end + 1_500)
    assert [(each["data"][0]["start"], each["data"][0]["confirm"]) for each in after] == [
        (end - MINUTE, True),
        (end, False),
    ]


@given(
    interval=st.sampled_from(INTERVALS),
    steps=st.lists(st.integers(1, 40 * 86_400_000), min_size=1, max_size=30),
    start_ms=st.integers(utc_ms(2023, 1, 1), NOW),
)
def test_every_candle_that_closes_is_confirmed_exactly_once_in_order(
    interval: str, steps: list[int], start_ms: int
) -> None:
    topic = begun(f"kline.{interval}.BTCUSDT", now_ms=start_ms)
    now_ms = start_ms
    confirmed: list[int] = []
    expected: list[int] = []
    open_ms = open_at_or_before(interval, start_ms)
    for step in steps:
        now_ms += step % (100 * (next_open(interval, open_ms) - open_ms)) + 1
        for message in pushed(topic, now_ms):
            (data,) = message["data"]
            assert data["end"] == next_open(interval, data["start"]) - 1
            if data["confirm"]:
                confirmed.append(data["start"])
            else:
                assert data["start"] == open_at_or_before(interval, now_ms)
        while next_open(interval, open_ms) <= now_ms:
            expected.append(open_ms)
            open_ms = next_open(interval, open_ms)
    assert confirmed == expected


def test_a_clock_that_leaps_very_far_begins_afresh() -> None:
    topic = begun()
    leap = NOW + 2 * MOST_AT_ONCE * MINUTE
    assert [each["data"][0]["start"] for each in pushed(topic, leap)] == [leap - leap % MINUTE]


def test_a_clock_that_is_set_back_begins_afresh() -> None:
    topic = begun()
    pushed(topic, NOW)
    back = NOW - 10 * MINUTE
    assert [each["data"][0]["start"] for each in pushed(topic, back)] == [back - back % MINUTE]


def test_minutes_without_trades_are_told_only_if_rest_fills_them() -> None:
    quiet = next(
        start
        for start in range(utc_ms(2026, 5, 3), utc_ms(2026, 5, 4), MINUTE)
        if candle(SEED, "kline", "linear", "GAPUSDT", "1", start, start + MINUTE) is None
    )
    for fills in (True, False):
        settings = Settings(kline_gap_fill=fills)
        topic = begun("kline.1.GAPUSDT", settings=settings, now_ms=quiet)
        told = [each for now_ms in (quiet, quiet + MINUTE - 1) for each in pushed(topic, now_ms)]
        assert bool(told) is fills


def test_a_delisted_symbol_is_silent() -> None:
    topic = begun("kline.1.OLDUSDT", now_ms=OLDUSDT_DELISTED_MS - MINUTE)
    assert pushed(topic, OLDUSDT_DELISTED_MS)[0]["data"][0]["confirm"] is True
    assert pushed(topic, OLDUSDT_DELISTED_MS + 5 * MINUTE) == []


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("linear", "kline.2.BTCUSDT"),
        ("linear", "kline.1.btcusdt"),
        ("linear", "kline.1"),
        ("linear", "candle.1.BTCUSDT"),
        ("spot", "kline.1.BTCPERP"),
        ("option", "kline.1.BTC-25DEC26-60000-C"),
        ("linear", ""),
    ],
)
def test_what_is_no_kline_topic_is_none(category: str, name: str) -> None:
    assert kline_topic(category, name, SEED, Settings(), NOW * 1000) is None

"""A message of the stream is exactly as documented, or nothing is made of it; and a hole is never taken for none."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.segments import Series
from policies.stream_rows import HOLES, TOLD, Line, Odd, Push, Row, Step, read
from policies.stream_words import topic_of
from tests.fake_bybit.candles import candle
from tests.fake_bybit.intervals import INTERVALS, next_open, open_at_or_before
from tests.fake_bybit.kline_topic import kline_topic
from tests.fake_bybit.settings import Settings

MINUTE = 60_000
SERIES = Series("kline", "linear", "BTCUSDT", "5")
TOPICS = {"kline.5.BTCUSDT": SERIES}
DOCUMENTED: dict[str, Any] = json.loads(
    """{"topic":"kline.5.BTCUSDT","data":[{"start":1672324800000,"end":1672325099999,"interval":"5","open":"16649.5",
    "close":"16677","high":"16677","low":"16608","volume":"2.081","turnover":"34666.4005","confirm":false,
    "timestamp":1672324988882}],"ts":1672324988882,"type":"snapshot"}"""
)
"""https://bybit-exchange.github.io/docs/v5/websocket/public/kline"""
ROW = b'["1672324800000","16649.5","16677","16608","16677","2.081","34666.4005"]'


def changed(**fields: Any) -> dict[str, Any]:
    """The documented message with other fields; those of the candle by its names, None takes one away."""
    message = deepcopy(DOCUMENTED)
    for name, value in fields.items():
        place = message["data"][0] if name in message["data"][0] else message
        if value is None:
            del place[name]
        else:
            place[name] = value
    return message


def test_the_documented_message_is_the_row_of_rest() -> None:
    assert read(DOCUMENTED, TOPICS) == Push(SERIES, (Row(1672324800000, ROW, False, 1672324988882),))


def test_a_closed_candle_is_said_to_be_one() -> None:
    push = read(changed(confirm=True, ts=1672325100154), TOPICS)
    assert push == Push(SERIES, (Row(1672324800000, ROW, True, 1672325100154),))


def test_a_message_may_hold_the_closed_and_the_next_candle() -> None:
    message = changed(confirm=True, ts=1672325100154)
    following = {**message["data"][0], "start": 1672325100000, "end": 1672325399999, "confirm": False}
    message["data"].append(following)
    push = read(message, TOPICS)
    assert isinstance(push, Push)
    assert [(row.open_ms, row.confirmed) for row in push.rows] == [(1672324800000, True), (1672325100000, False)]


def test_one_odd_candle_spoils_its_message() -> None:
    message = changed()
    message["data"].append({**message["data"][0], "open": "x"})
    assert read(message, TOPICS) is Odd.NUMBER


@pytest.mark.parametrize(
    ("fields", "odd"),
    [
        ({"topic": "kline.5.ETHUSDT"}, Odd.TOPIC),
        ({"topic": None}, Odd.TOPIC),
        ({"topic": 5}, Odd.TOPIC),
        ({"type": "delta"}, Odd.SHAPE),
        ({"type": None}, Odd.SHAPE),
        ({"ts": None}, Odd.SHAPE),
        ({"ts": "1672324988882"}, Odd.SHAPE),
        ({"ts": 1672324988882.0}, Odd.SHAPE),
        ({"ts": True}, Odd.SHAPE),
        ({"data": []}, Odd.SHAPE),
        ({"data": {}}, Odd.SHAPE),
        ({"data": [[]]}, Odd.SHAPE),
        ({"data": [DOCUMENTED["data"][0]] * 9}, Odd.SHAPE),
        ({"confirm": None}, Odd.SHAPE),
        ({"confirm": "true"}, Odd.SHAPE),
        ({"confirm": 1}, Odd.SHAPE),
        ({"start": "1672324800000"}, Odd.SHAPE),
        ({"start": -300_000}, Odd.SHAPE),
        ({"start": 10**15}, Odd.SHAPE),
        ({"end": None}, Odd.SHAPE),
        ({"interval": "1"}, Odd.INTERVAL),
        ({"interval": 5}, Odd.INTERVAL),
        ({"start": 1672324800001}, Odd.CALENDAR),
        ({"start": 1672324500000}, Odd.CALENDAR),
        ({"end": 1672325100000}, Odd.CALENDAR),
        ({"ts": 1672324799999}, Odd.TIME),
        ({"confirm": True}, Odd.TIME),
        ({"confirm": True, "ts": 1672325099999}, Odd.TIME),
        ({"open": None}, Odd.NUMBER),
        ({"open": 16649.5}, Odd.NUMBER),
        ({"open": ""}, Odd.NUMBER),
        ({"open": "-1"}, Odd.NUMBER),
        ({"high": "+1"}, Odd.NUMBER),
        ({"low": "1e5"}, Odd.NUMBER),
        ({"close": "01"}, Odd.NUMBER),
        ({"close": "1."}, Odd.NUMBER),
        ({"close": ".5"}, Odd.NUMBER),
        ({"volume": "NaN"}, Odd.NUMBER),
        ({"volume": "1 "}, Odd.NUMBER),
        ({"volume": "1\n"}, Odd.NUMBER),
        ({"volume": "١"}, Odd.NUMBER),
        ({"turnover": '1","2'}, Odd.NUMBER),
        ({"turnover": "1" * 25}, Odd.NUMBER),
    ],
)
def test_what_is_odd_is_refused_with_its_reason(fields: dict[str, Any], odd: Odd) -> None:
    assert read(changed(**fields), TOPICS) is odd


@pytest.mark.parametrize("message", [None, [], "x", 5, True])
def test_what_is_no_object_is_refused(message: object) -> None:
    assert read(message, TOPICS) is Odd.SHAPE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    name=st.sampled_from([*DOCUMENTED, *DOCUMENTED["data"][0]]),
    value=JSON | st.from_regex(r"[0-9.eE+-]{0,8}", fullmatch=True),
)
def test_whatever_stands_in_a_field_no_row_is_made_that_rest_could_not_write(name: str, value: Any) -> None:
    message = changed()
    (message["data"][0] if name in message["data"][0] else message)[name] = value
    push = read(message, TOPICS)
    if isinstance(push, Push):
        for row in push.rows:
            fields = json.loads(row.text)
            assert len(fields) == 7
            assert json.dumps(fields, separators=(",", ":")).encode() == row.text
            assert all(field.isascii() and field.replace(".", "", 1).isdigit() for field in fields)
            assert fields[0] == str(row.open_ms) == "1672324800000"


@given(
    interval=st.sampled_from(INTERVALS),
    category=st.sampled_from(["spot", "linear", "inverse"]),
    start_ms=st.integers(1_650_000_000_000, 1_760_000_000_000),
    steps=st.lists(st.integers(1, 90_000), min_size=1, max_size=20),
)
def test_every_message_of_the_exchange_is_the_row_that_rest_gives_at_the_same_instant(
    interval: str, category: str, start_ms: int, steps: list[int]
) -> None:
    symbol = "BTCUSD" if category == "inverse" else "BTCUSDT"
    series = Series("kline", category, symbol, interval)
    topic = kline_topic(category, topic_of(series), 7, Settings(), start_ms * 1000)
    assert topic is not None
    now_ms, closed = start_ms, []
    for step in steps:
        for message, confirms in topic.due(now_ms * 1000):
            push = read(json.loads(message), {topic_of(series): series})
            assert isinstance(push, Push), push
            (row,) = push.rows
            expected = candle(7, "kline", category, symbol, interval, row.open_ms, now_ms)
            assert row.text == json.dumps(expected, separators=(",", ":")).encode()
            assert (row.confirmed, row.sent_ms) == (confirms, now_ms)
            closed += [row.open_ms] * confirms
        now_ms += step
    assert len(closed) == len(set(closed))


# --- how messages follow upon one another ---


def at(minute: int, second: int = 0, *, closed: bool = False, text: bytes = b"") -> Row:
    """A row of the one-minute candle that opens then, sent so many seconds after its opening."""
    second = 60 if closed else second
    return Row(minute * MINUTE, text or b"%d" % minute, closed, minute * MINUTE + second * 1000)


def steps(*rows: Row) -> list[Step]:
    line = Line("1")
    return [line.take(row) for row in rows]


def test_a_candle_runs_closes_and_the_next_one_begins() -> None:
    assert steps(at(7, 1), at(7, 2), at(7, closed=True), at(8, 0), at(8, 1)) == [Step.FIRST, *[Step.NEXT] * 4]


def test_the_first_row_joins_on_to_nothing_whatever_it_is() -> None:
    assert steps(at(7, closed=True), at(8)) == [Step.FIRST, Step.NEXT]


def test_a_candle_that_was_not_heard_to_close_leaves_a_hole() -> None:
    assert steps(at(7, 59), at(8, 1))[1] is Step.JUMP
    assert steps(at(7, 59), at(8, closed=True))[1] is Step.JUMP


def test_a_missing_candle_is_a_hole() -> None:
    assert steps(at(7, closed=True), at(9))[1] is Step.JUMP


def test_after_a_hole_it_goes_on() -> None:
    assert steps(at(7), at(9), at(9, closed=True), at(10))[1:] == [Step.JUMP, Step.NEXT, Step.NEXT]


def test_a_confirmation_that_the_next_candle_has_overtaken_still_counts() -> None:
    told = steps(at(7), at(8, 0), at(7, closed=True), at(8, 1), at(8, closed=True), at(9))
    assert told == [Step.FIRST, Step.JUMP, *[Step.NEXT] * 4]


def test_what_is_older_than_what_is_known_is_late() -> None:
    assert steps(at(7, 5), at(7, 3))[1] is Step.LATE
    assert steps(at(7, closed=True), at(7, 59))[1] is Step.LATE
    assert steps(at(7, closed=True), at(8), at(7, 59))[2] is Step.LATE
    assert steps(at(6, closed=True), at(7, closed=True), at(6, closed=True))[2] is Step.LATE


def test_a_closed_candle_once_more_is_a_repetition_or_a_contradiction() -> None:
    assert steps(at(7, closed=True), at(7, closed=True))[1] is Step.REPEATED
    assert steps(at(7, closed=True), at(7, closed=True, text=b"other"))[1] is Step.CONTRADICTED
    assert steps(at(7, closed=True), at(8), at(7, closed=True, text=b"other"))[2] is Step.CONTRADICTED


def test_months_and_weeks_join_by_the_calendar() -> None:
    for interval in ("M", "W"):
        first = open_at_or_before(interval, 1_700_000_000_000)
        second = next_open(interval, first)
        line = Line(interval)
        line.take(Row(first, b"1", True, second))
        assert line.take(Row(second, b"2", False, second + 1)) is Step.NEXT


@given(data=st.data())
def test_between_two_holes_no_candle_is_missing(data: st.DataObject) -> None:
    """Whatever is lost, repeated or comes out of order: without a hole told, closed candles follow one another, each
    once, and the open one never goes back."""
    sent = [row for minute in range(20) for row in (at(minute, 1), at(minute, 30), at(minute, closed=True))]
    kept = data.draw(st.lists(st.sampled_from(sent), max_size=60)) if data.draw(st.booleans()) else sent
    arrived = list(kept)
    for _ in range(data.draw(st.integers(0, 8))):
        if not arrived:
            break
        place = data.draw(st.integers(0, len(arrived) - 1))
        what = data.draw(st.sampled_from(["lose", "repeat", "delay"]))
        row = arrived[place] if what == "repeat" else arrived.pop(place)
        if what != "lose":
            arrived.insert(data.draw(st.integers(0, len(arrived))), row)
    line = Line("1")
    closed: list[int] = []
    newest = -1
    for row in arrived:
        step = line.take(row)
        if step in HOLES:
            closed, newest = [], -1
        if step not in TOLD:
            continue
        if row.confirmed:
            # One that the next candle has overtaken comes after a hole: nothing was promised to lie before it.
            closed.append(row.open_ms)
            assert len(closed) == len(set(closed))
            assert closed == list(range(closed[0], closed[-1] + 1, MINUTE))
        else:
            assert row.open_ms >= newest
            if closed:
                assert row.open_ms == closed[-1] + MINUTE
        newest = max(newest, row.open_ms)

"""Candle answers as text: understood exactly, or not at all, and put together again without a byte changed."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import kline_text
from policies.kline_text import Envelope
from policies.segments import Series
from tests.policies.kline_answers import COMPACT, FIELDS, SPACED, Written, answers, written

SERIES = Series("kline", "linear", "BTCUSDT", "1")
AT_MS = 1_790_000_000_123
ROW = ["1670608800000", "17071", "17073", "17027", "17055.5", "268611", "15.74462667"]
OLDER = ["1670605200000", "17071.5", "17071.5", "17061", "17071", "4177", "0.24469757"]


def answer(table: Any, **changed: Any) -> dict[str, Any]:
    """A documented answer, with changes: `symbol`, `category` and `time` may be None, and are left out then."""
    named = {"symbol": "BTCUSDT", "category": "linear"} | {
        name: value for name, value in changed.items() if name != "time"
    }
    whole: dict[str, Any] = {"retCode": 0, "retMsg": "OK"}
    whole["result"] = {name: value for name, value in named.items() if value is not None} | {"list": table}
    whole["retExtInfo"] = {}
    if changed.get("time", AT_MS) is not None:
        whole["time"] = changed.get("time", AT_MS)
    return whole


@given(answers())
def test_any_documented_answer_is_understood_and_comes_back_unchanged(given_: Written) -> None:
    told = kline_text.read(given_.series, given_.text)

    assert told is not None
    assert told.at_ms == given_.at_ms
    assert told.rows.opens == [int(row[0]) for row in given_.table]
    assert [json.loads(text) for text in told.rows.texts] == given_.table
    assert told.envelope.around(told.envelope.joint.join(told.rows.texts), told.at_ms) == given_.text


@given(answers(), st.data())
def test_a_part_of_the_rows_in_the_same_envelope_is_as_the_exchange_would_have_written_it(
    given_: Written, data: st.DataObject
) -> None:
    told = kline_text.read(given_.series, given_.text)
    assert told is not None
    first = data.draw(st.integers(0, len(given_.table)))
    last = data.draw(st.integers(first, len(given_.table)))
    whole = json.loads(given_.text)
    whole["result"]["list"], whole["time"] = given_.table[first:last], AT_MS
    blanks = b'": ' in given_.text

    made = told.envelope.around(told.envelope.joint.join(told.rows.texts[first:last]), AT_MS)

    assert made == written(whole, SPACED if blanks else COMPACT)


@given(answers())
def test_rows_by_themselves_are_checked_like_those_of_an_answer(given_: Written) -> None:
    """As they come back from where they are kept."""
    told = kline_text.read(given_.series, given_.text)
    assert told is not None
    listed = told.envelope.joint.join(told.rows.texts)

    found = kline_text.rows_in(given_.series, listed)

    assert found is not None
    assert found[0] == told.rows
    assert not given_.table or found[1] == told.envelope.joint
    for odd in (listed + b"]", listed + b",", b"[" + listed, listed[:-1], b"]" + listed, listed + b"],["):
        assert not odd or kline_text.rows_in(given_.series, odd) is None


@given(answers(), st.data())
def test_what_is_understood_of_a_damaged_answer_is_what_stands_there(given_: Written, data: st.DataObject) -> None:
    """A byte more, less or other: it is not understood, or understood as any reader of JSON would."""
    text = bytearray(given_.text)
    at = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.sampled_from([at, at + 1, at + 2]))
    text[at:end] = data.draw(
        st.sampled_from([b"", b"0", b"7", b"-", b".", b'"', b"[", b"]", b",", b" ", b"e", b"\xff"])
    )
    told = kline_text.read(given_.series, bytes(text))

    if told is not None:
        assert told.envelope.around(told.envelope.joint.join(told.rows.texts), told.at_ms) == bytes(text)
        assert all(newer > older for newer, older in pairwise(told.rows.opens))
        try:
            whole = json.loads(bytes(text))
        except ValueError:
            return  # around the rows: proxy/answers.py looks at that
        assert [json.loads(row) for row in told.rows.texts] == whole["result"]["list"]
        assert told.at_ms == whole["time"]


@given(st.binary(max_size=200), st.sampled_from(sorted(FIELDS)))
def test_no_bytes_are_too_odd_to_be_looked_at(text: bytes, endpoint: str) -> None:
    series = SERIES._replace(endpoint=endpoint)

    assert kline_text.read(series, text) is None
    assert kline_text.read(series, b'{"result":{"list":[' + text + b'"time":1790000000123}') is None
    kline_text.rows_in(series, text)
    kline_text.stamp(text)


def changed(row: list[str], at: int, value: Any) -> list[Any]:
    return [*row[:at], value, *row[at + 1 :]]


ODD_TABLES: dict[str, Any] = {
    "a field too few": [ROW[:-1]],
    "a field too many": [[*ROW, "1"]],
    "fields of another endpoint": [ROW[:5]],
    "a row without fields": [[]],
    "rows of different lengths": [ROW, OLDER[:-1]],
    "out of order": [OLDER, ROW],
    "doubled": [ROW, ROW],
    "an empty field": [changed(ROW, 5, "")],
    "an empty instant": [changed(ROW, 0, "")],
    "a blank": [changed(ROW, 1, "17071 ")],
    "an exponent": [changed(ROW, 6, "1e-8")],
    "a plus": [changed(ROW, 1, "+17071")],
    "a word": [changed(ROW, 1, "NaN")],
    "a number that is not a text": [changed(ROW, 1, 17071)],
    "nothing": [changed(ROW, 1, None)],
    "a row within a row": [changed(ROW, 6, ["1"])],
    "rows in a list of their own": [[ROW, OLDER]],
    "an object": [{"start": "1670608800000"}],
    "an instant with a point": [changed(ROW, 0, "1670608800000.0")],
    "an instant with a sign": [changed(ROW, 0, "-1670608800000")],
    "an instant that begins with a zero": [changed(ROW, 0, "01670608800000")],
    "an instant as of microseconds": [changed(ROW, 0, "1670608800000000")],
    "an escape": [changed(ROW, 1, 'a"b')],
    "no list": "list",
}


@pytest.mark.parametrize("table", ODD_TABLES.values(), ids=ODD_TABLES.keys())
@pytest.mark.parametrize("separators", [COMPACT, SPACED], ids=["compact", "spaced"])
def test_of_odd_rows_nothing_is_learned(table: Any, separators: tuple[str, str]) -> None:
    assert kline_text.read(SERIES, written(answer([ROW, OLDER]), separators)) is not None
    assert kline_text.read(SERIES, written(answer(table), separators)) is None


GOOD = written(answer([ROW, OLDER]))
ODD_TEXTS: dict[str, bytes] = {
    "another symbol": written(answer([ROW], symbol="ETHUSDT")),
    "another category": written(answer([ROW], category="spot")),
    "no symbol": written(answer([ROW], symbol=None)),
    "no category": written(answer([ROW], category=None)),
    "an empty category": written(answer([ROW], category="")),
    "a symbol with an escape": GOOD.replace(b'"BTCUSDT"', b'"BTC\\u0055SDT"'),
    "two symbols": GOOD.replace(b'"retExtInfo":{}', b'"retExtInfo":{"symbol":"ETHUSDT"}'),
    "two lists": GOOD.replace(b'"retExtInfo":{}', b'"list":[],"retExtInfo":{}'),
    "a list behind the time": GOOD[:-1] + b',"list":[]}',
    "no time": written(answer([ROW], time=None)),
    "a time of seconds": written(answer([ROW], time=1_790_000_000)),
    "a time of microseconds": written(answer([ROW], time=1_790_000_000_000_000)),
    "a time that is a text": written(answer([ROW], time=str(AT_MS))),
    "two times": GOOD.replace(b'"retExtInfo":{}', b'"retExtInfo":{},"time":1'),
    "a time before the rows": b'{"time":1790000000123,' + written(answer([ROW], time=None))[1:],
    "rows over several lines": GOOD.replace(b"],[", b"],\n["),
    "blanks in one place only": GOOD.replace(b"],[", b"], ["),
    "a comma behind the last row": GOOD.replace(b"]]", b"],]"),
    "a comma before the first row": GOOD.replace(b'"list":[', b'"list":[,'),
    "a list that does not end": GOOD.replace(b"]]", b"]"),
    "a row that does not end": GOOD.replace(b"],[", b",["),
    "a quote too many": GOOD.replace(b'"17071"', b'"17071""'),
    "no quotes": GOOD.replace(b'"17071"', b"17071"),
    "numbers of another script": GOOD.replace(b'"17071"', '"١٧"'.encode()),
    "broken off": GOOD[:-20],
    "nothing": b"",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_of_an_odd_answer_nothing_is_learned(text: bytes) -> None:
    assert kline_text.read(SERIES, GOOD) is not None
    assert kline_text.read(SERIES, text) is None


@pytest.mark.parametrize("separators", [COMPACT, SPACED], ids=["compact", "spaced"])
def test_an_answer_without_rows_tells_how_rows_would_be_joined(separators: tuple[str, str]) -> None:
    """Else a series would be taken for another way of writing whenever an answer has no rows."""
    told = kline_text.read(SERIES, written(answer([]), separators))

    assert told is not None
    assert told.rows == ([], [])
    assert told.envelope.joint == separators[0].encode()


def test_the_stamp_is_found_behind_the_rows() -> None:
    found = kline_text.stamp(GOOD)

    assert found is not None
    assert int(found[1]) == AT_MS
    assert kline_text.stamp(b'{"time":"1790000000123"}') is None
    assert kline_text.stamp(b"{}") is None


def test_an_envelope_is_put_around_rows() -> None:
    envelope = Envelope(b'{"list":[', b",", b'],"time":', b"}")

    assert envelope.around(b'["1"]', 12) == b'{"list":[["1"]],"time":12}'

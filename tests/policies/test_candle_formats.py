"""Candles as text: what others can read is what the exchange has written."""

from __future__ import annotations

import csv
import io
import json

import pytest

from policies import candle_formats
from policies.candle_formats import Format, accepted
from policies.segments import Series

SERIES = Series("kline", "linear", "BTCUSDT", "1")
TEXTS = [b'["60000","1.50","2","1","1.5","10","15.25"]', b'["120000","1.5","2.00","1","1.75","0","0"]']
VALUES = [["60000", "1.50", "2", "1", "1.5", "10", "15.25"], ["120000", "1.5", "2.00", "1", "1.75", "0", "0"]]


def written(format_: Format, *parts: list[bytes], closed: bool | None = True, series: Series = SERIES) -> str:
    joint = b"," if format_ is Format.JSON else b""
    body = joint.join(candle_formats.rows(format_, part) for part in parts)
    ends = candle_formats.tail(format_, 125_000, closed=closed)
    return (candle_formats.head(format_, series, "asc") + body + ends).decode()


@pytest.mark.parametrize(("closed", "told"), [(True, True), (False, False), (None, None)])
def test_json_is_in_the_exchanges_envelope(closed: bool | None, told: bool | None) -> None:
    assert json.loads(written(Format.JSON, TEXTS, closed=closed)) == {
        "retCode": 0,
        "retMsg": "OK",
        "result": {
            "category": "linear",
            "symbol": "BTCUSDT",
            "kind": "kline",
            "interval": "1",
            "order": "asc",
            "list": VALUES,
            "closed": told,
        },
        "retExtInfo": {},
        "time": 125_000,
    }


def test_it_does_not_matter_how_rows_were_cut_into_pages() -> None:
    for format_ in Format:
        assert written(format_, TEXTS[:1], TEXTS[1:]) == written(format_, TEXTS)


def test_no_rows_are_an_empty_list_and_no_lines() -> None:
    assert json.loads(written(Format.JSON, []))["result"]["list"] == []
    assert written(Format.NDJSON, []) == ""
    assert written(Format.CSV, []) == "open_time,open,high,low,close,volume,turnover\n"


def test_ndjson_has_a_row_on_each_line() -> None:
    assert [json.loads(line) for line in written(Format.NDJSON, TEXTS).splitlines()] == VALUES


def test_csv_names_its_columns_and_quotes_nothing() -> None:
    text = written(Format.CSV, TEXTS)
    assert '"' not in text
    assert list(csv.reader(io.StringIO(text))) == [list(candle_formats.COLUMNS), *VALUES]


def test_prices_that_nobody_traded_at_have_no_volume() -> None:
    text = written(
        Format.CSV, [b'["60000", "-0.1", "2", "1", "1.5"]'], series=SERIES._replace(endpoint="mark-price-kline")
    )
    assert text == "open_time,open,high,low,close\n60000,-0.1,2,1,1.5\n"


def test_a_batch_lists_each_symbol_and_names_those_without() -> None:
    text = (
        candle_formats.batch_head(SERIES, "desc")
        + candle_formats.batch_list("BTCUSDT", TEXTS, first=True)
        + candle_formats.batch_list("ETHUSDT", [], first=False)
        + candle_formats.batch_tail({"BTCUSDT": True, "ETHUSDT": None}, {"NOPE": b'{"error":"x"}'}, 7)
    )
    assert json.loads(text)["result"] == {
        "category": "linear",
        "kind": "kline",
        "interval": "1",
        "order": "desc",
        "lists": {"BTCUSDT": VALUES, "ETHUSDT": []},
        "closed": {"BTCUSDT": True, "ETHUSDT": None},
        "errors": {"NOPE": {"error": "x"}},
    }


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.JSON),
        ("text/csv", Format.CSV),
        ("text/*", Format.CSV),
        ("application/x-ndjson", Format.NDJSON),
        ("application/ndjson", Format.NDJSON),
        ("application/json;q=0.5, text/csv", Format.CSV),
        ("text/csv;q=0.2, application/x-ndjson;q=0.4", Format.NDJSON),
        ("TEXT/CSV", Format.CSV),
        ("text/csv;q=0", Format.JSON),
        ("text/csv;q=lots", Format.JSON),
        ("image/png", Format.JSON),
    ],
)
def test_accept_chooses_the_format(accept: str | None, chosen: Format) -> None:
    assert accepted(accept, tuple(Format)) is chosen


def test_what_is_not_offered_is_not_chosen() -> None:
    assert accepted("text/csv", (Format.JSON, Format.NDJSON)) is Format.JSON

"""What of an answer may be written into a file, and what never."""

from __future__ import annotations

import json

import pytest

from policies.block_rows import NO_LINES, Unfit, first_open, read_block
from policies.blocks import Block
from policies.segments import Series

MINUTE = 60_000
SERIES = Series("kline", "linear", "BTCUSDT", "1")
BLOCK = Block("1", 29_000_000, 29_000_004)
OPENS = BLOCK.opens()


def row(open_ms: int, *values: str) -> list[str]:
    return [str(open_ms), *(values or ("1.50", "2", "1", "1.5", "10", "15.0"))]


def body(rows: list[list[str]], *, symbol: str = "BTCUSDT", category: str = "linear", between: str = ",") -> bytes:
    result = {"symbol": symbol, "category": category, "list": rows}
    told = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": 1_740_000_000_000}
    return json.dumps(told, separators=(between, ":")).encode()


def test_rows_become_lines_oldest_first_with_every_digit_kept() -> None:
    rows = [row(open_ms, "0.10", "-2", "3.000", "4", "5", "6.70") for open_ms in reversed(OPENS)]
    lines = read_block(SERIES, BLOCK, body(rows))

    assert lines.opens == OPENS
    assert lines.text == b"".join(b"%d,0.10,-2,3.000,4,5,6.70\n" % open_ms for open_ms in OPENS)


def test_blanks_between_values_are_not_written() -> None:
    assert (
        read_block(SERIES, BLOCK, body([row(OPENS[0])], between=", ")).text == b"%d,1.50,2,1,1.5,10,15.0\n" % OPENS[0]
    )


def test_candles_that_are_not_there_are_left_out() -> None:
    assert read_block(SERIES, BLOCK, body([row(OPENS[3]), row(OPENS[0])])).opens == [OPENS[0], OPENS[3]]
    assert read_block(SERIES, BLOCK, body([])) == NO_LINES


def test_the_other_prices_have_five_values() -> None:
    series = SERIES._replace(endpoint="mark-price-kline")
    rows = [[str(OPENS[0]), "1", "2", "-1", "1.5"]]

    assert read_block(series, BLOCK, body(rows)).text == b"%d,1,2,-1,1.5\n" % OPENS[0]
    with pytest.raises(Unfit):
        read_block(SERIES, BLOCK, body(rows))
    with pytest.raises(Unfit):
        read_block(series, BLOCK, body([row(OPENS[0])]))


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("oldest first", body([row(OPENS[0]), row(OPENS[1])])),
        ("one twice", body([row(OPENS[1]), row(OPENS[1])])),
        ("before the block", body([row(OPENS[0]), row(OPENS[0] - MINUTE)])),
        ("after the block", body([row(OPENS[3] + MINUTE), row(OPENS[3])])),
        ("beside the calendar", body([row(OPENS[2] + 1)])),
        ("six values", body([row(OPENS[0])[:6]])),
        ("eight values", body([[*row(OPENS[0]), "1"]])),
        ("a number for a string", body([row(OPENS[0])]).replace(b'"2"', b"2")),
        ("no decimal", body([row(OPENS[0], "1.2.3", "2", "1", "1.5", "10", "15")])),
        ("an exponent", body([row(OPENS[0], "1e5", "2", "1", "1.5", "10", "15")])),
        ("a sign alone", body([row(OPENS[0], "-", "2", "1", "1.5", "10", "15")])),
        ("nothing", body([row(OPENS[0], "", "2", "1", "1.5", "10", "15")])),
        ("a formula", body([row(OPENS[0], "=1", "2", "1", "1.5", "10", "15")])),
        ("a line of its own", body([row(OPENS[0], "1\n2", "2", "1", "1.5", "10", "15")])),
        ("another symbol", body([row(OPENS[0])], symbol="ETHUSDT")),
        ("another category", body([row(OPENS[0])], category="spot")),
        ("cut off", body([row(OPENS[1]), row(OPENS[0])])[:-60]),
        ("no list", b'{"retCode":0,"retMsg":"OK","result":{},"retExtInfo":{},"time":1740000000000}'),
        ("no JSON", b"<html>"),
    ],
)
def test_what_was_not_asked_for_is_not_written(what: str, answer: bytes) -> None:
    with pytest.raises(Unfit):
        read_block(SERIES, BLOCK, answer)


def test_the_first_open_time_of_whatever_lies_ahead() -> None:
    assert first_open(SERIES, body([row(OPENS[3] + 999 * MINUTE)])) == OPENS[3] + 999 * MINUTE
    assert first_open(SERIES, body([])) is None

"""Candle answers as the exchange may write them, for the tests of what reads them."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from policies.segments import Series

FIELDS: Final = {
    "kline": 7,
    "mark-price-kline": 5,
    "index-price-kline": 5,
    "premium-index-price-kline": 5,
}
COMPACT: Final = (",", ":")
SPACED: Final = (", ", ": ")


class Written(NamedTuple):
    """An answer, and what went into it."""

    text: bytes
    series: Series
    table: list[list[str]]
    at_ms: int


PRICES: Final = st.from_regex(r"-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,8})?", fullmatch=True)
STAMPS: Final = st.integers(1_500_000_000_000, 9_999_999_999_999)
SERIES: Final = st.builds(
    Series,
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from(["spot", "linear", "inverse"]),
    st.sampled_from(["BTCUSDT", "BTCUSD", "1000PEPEUSDT", "BTC-26DEC26"]),
    st.just("1"),
)


@st.composite
def tables(draw: st.DrawFn, fields: int, *, most: int = 6) -> list[list[str]]:
    """Rows, newest first. An opening price is often the close before it, as it is at the exchange."""
    opens = draw(st.lists(st.integers(1, 10**13), unique=True, max_size=most))
    found: list[list[str]] = []
    for open_ms in sorted(opens):
        row = [str(open_ms), *(draw(PRICES) for _ in range(fields - 1))]
        if found and draw(st.booleans()):
            row[1] = found[-1][4]
        found.append(row)
    return found[::-1]


@st.composite
def answers(draw: st.DrawFn) -> Written:
    """Everything that the documents show: both orders of keys, with and without blanks, no rows or some."""
    series, at_ms = draw(SERIES), draw(STAMPS)
    table = draw(tables(FIELDS[series.endpoint]))
    named = [("symbol", series.symbol), ("category", series.category)]
    result: dict[str, Any] = dict(draw(st.permutations(named)))
    around: dict[str, Any] = {"retCode": 0, "retMsg": draw(st.sampled_from(["OK", "", "success"]))}
    around["result"] = {**result, "list": table}
    around["retExtInfo"] = draw(st.sampled_from([{}, {"n": [1, {"x": "y"}]}]))
    around["time"] = at_ms
    return Written(written(around, draw(st.sampled_from([COMPACT, SPACED]))), series, table, at_ms)


def written(whole: Any, separators: tuple[str, str] = COMPACT) -> bytes:
    return json.dumps(whole, separators=separators).encode()

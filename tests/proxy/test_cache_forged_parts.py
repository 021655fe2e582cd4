"""Whatever bytes stand in a sealed value: reading them raises nothing, and nothing impossible is believed."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from policies import columns
from policies.segments import Series
from proxy import headers, level_two
from tests.planted import BEFORE

GOOD_HEAD: Final = (
    json.dumps(
        {"covered": [[1_770_000_000_000, 1_770_000_180_000]], "before": BEFORE, "joint": ",", "after": "}"}
        | {"between": ']},"retExtInfo":{},"time":'}
    ).encode()
    + b"\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
)
GOOD_BODY: Final = columns.packed(
    b",".join(b'["%d","1","2","0.5","1","7","8"]' % at for at in (1_770_000_120_000, 1_770_000_060_000)), b","
)
PIECES: Final = st.one_of(st.binary(max_size=12), st.sampled_from([bytes([each]) for each in b'[]{},:"\n01-']))
SPLICES: Final = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), PIECES), max_size=4)


def spliced(raw: bytes, splices: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, new in splices:
        at = place % (len(raw) + 1)
        raw = raw[:at] + new + raw[at + length :]
    return raw


@given(SPLICES, SPLICES)
def test_whatever_is_read_nothing_is_raised_and_nothing_impossible_believed(head: Any, body: Any) -> None:
    """Rows that are whole, in order and in their segment, around them an answer, before it a clean head."""
    series = Series("kline", "linear", "BTCUSDT", "1")
    kept = level_two._read_segment(series, 29_500, spliced(GOOD_HEAD, head), spliced(GOOD_BODY, body), 0)
    if not head and not body:
        assert kept is not None
    if kept is not None:
        answer = json.loads(kept.envelope.around(kept.segment.blob, 1_770_000_000_000))
        rows = answer["result"]["list"]
        assert answer["retCode"] == 0
        assert [int(row[0]) for row in rows] == sorted({int(row[0]) for row in rows}, reverse=True)
        assert all(len(row) == 7 and 29_500_000 <= int(row[0]) // 60_000 < 29_501_000 for row in rows)
        assert all(re.fullmatch(r"-?[0-9.-]+", cell) for row in rows for cell in row)
        assert b"\r\n\r\n" not in kept.lines
        assert all(29_500 * 60_000_000 <= at <= 29_501 * 60_000_000 for each in kept.covered for at in each)


@given(st.text(st.sampled_from('[]{},"0123456789-.enultrfas \n'), max_size=30))
def test_whatever_a_tail_says_of_its_request_nothing_is_raised(said: str) -> None:
    query = level_two._query(Series("kline", "linear", "BTCUSDT", "M"), said.encode())
    assert query is None or query.limit is None or 1 <= query.limit <= 1000


@given(
    st.lists(st.sampled_from([b"HTTP/1.1 200 OK", b"\r\n", b"\r", b"\n", b"X-A: 1", b"Server: x", b": ", b"\0", b" "]))
)
def test_a_head_that_is_believed_is_one_head(parts: list[bytes]) -> None:
    told = b"".join(parts)
    if headers.believable(told):
        assert told.startswith(b"HTTP/1.1 200 ")
        assert told.endswith(b"\r\n")
        assert all(told.split(b"\r\n")[:-1])
        assert not set(told.replace(b"\r\n", b"")) & set(b"\r\n\0")

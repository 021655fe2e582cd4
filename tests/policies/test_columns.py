"""Rows turned on their side: every byte comes back, and what was never turned does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import columns, kline_text
from tests.policies.kline_answers import FIELDS, SERIES, Written, answers, tables, written

CELLS = st.text("0123456789.-,\n\x00a", max_size=30)


@given(answers())
def test_every_byte_of_rows_that_were_understood_comes_back(given_: Written) -> None:
    told = kline_text.read(given_.series, given_.text)
    assert told is not None
    joint = told.envelope.joint
    listed = joint.join(told.rows.texts)

    assert columns.unpacked(columns.packed(listed, joint), joint) == listed


@given(st.binary(max_size=120) | CELLS.map(str.encode))
def test_what_is_not_columns_is_refused_or_comes_out_as_something_to_be_checked(text: bytes) -> None:
    unpacked = columns.unpacked(text, b",")

    assert unpacked is None or isinstance(unpacked, bytes)


@given(st.data())
def test_damaged_columns_do_not_come_out_as_rows_of_another_length(data: st.DataObject) -> None:
    """Whatever comes out, the rows that are read of it have as many fields as they should, or are not read."""
    series = data.draw(SERIES)
    table = data.draw(tables(FIELDS[series.endpoint]))
    listed = written(table)[1:-1]
    packed = bytearray(columns.packed(listed, b","))
    at = data.draw(st.integers(0, len(packed)))
    packed[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b"", b"0", b",", b"\n", b"-", b'"', b"]"])
    )
    unpacked = columns.unpacked(bytes(packed), b",")

    found = None if unpacked is None else kline_text.rows_in(series, unpacked)
    if found is not None:
        assert all(text.count(b'","') == FIELDS[series.endpoint] - 1 for text in found[0].texts)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"1\n2\n3\n4", "four columns"),
        (b"1,1\n2,2\n3,3\n4,4\n5", "columns of different lengths"),
        (b"-1\n2\n3\n4\n5", "an instant with a sign"),
        (b"\n2\n3\n4\n5", "no instant"),
        (b"123456789012345\n2\n3\n4\n5", "an instant as of microseconds"),
    ],
)
def test_what_cannot_be_columns_is_refused(packed: bytes, why: str) -> None:
    assert columns.unpacked(packed, b",") is None, why


def test_an_opening_price_that_is_the_close_before_it_costs_nothing() -> None:
    listed = b'["120000","7","9","6","8"],["60000","5","8","4","7"]'

    assert columns.packed(listed, b",") == b"120000,60000\n,5\n9,8\n6,4\n8,7"
    assert columns.unpacked(b"120000,60000\n,5\n9,8\n6,4\n8,7", b",") == listed


def test_no_rows_are_no_columns() -> None:
    assert columns.packed(b"", b",") == b""
    assert columns.unpacked(b"", b",") == b""

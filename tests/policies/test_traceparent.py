"""The trace of a client is understood as the recommendation says, https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.traceparent import Trace, read, state

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

HEX = "0123456789abcdef"
IDS = st.text(HEX, min_size=32, max_size=32).filter(lambda text: text.strip("0"))
SPANS = st.text(HEX, min_size=16, max_size=16).filter(lambda text: text.strip("0"))
FLAGS = st.integers(0, 255)


@given(IDS, SPANS, FLAGS)
def test_what_is_well_formed_is_read(trace_id: str, span_id: str, flags: int) -> None:
    """Of the flags one is known; the others may be anything."""
    assert read(f"00-{trace_id}-{span_id}-{flags:02x}") == Trace(trace_id, span_id, sampled=flags % 2 == 1)


@given(IDS, SPANS, FLAGS, st.integers(1, 254), st.from_regex(r"(-[^\n\r]*)?", fullmatch=True))
def test_of_a_version_to_come_what_is_known_is_read(
    trace_id: str, span_id: str, flags: int, version: int, more: str
) -> None:
    text = f"{version:02x}-{trace_id}-{span_id}-{flags:02x}{more}"
    assert read(text) == Trace(trace_id, span_id, sampled=flags % 2 == 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}-01-",
        f"00-{TRACE_ID}-{SPAN_ID}-01.",
        f"cc-{TRACE_ID}-{SPAN_ID}-01.more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID.upper()}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-0A",
        f"0A-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[1:]}-{SPAN_ID}-01",
        f"00-{TRACE_ID}0-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
        f"00-{TRACE_ID}-{SPAN_ID}-001",
        f"0-{TRACE_ID}-{SPAN_ID}-01",
        f"000-{TRACE_ID}-{SPAN_ID}-01",
        f"00_{TRACE_ID}_{SPAN_ID}_01",
        f"00-{TRACE_ID[:-1]}.-{SPAN_ID}-01",
        f"00-{TRACE_ID[:-1]}٣-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f"00-{TRACE_ID}-{SPAN_ID}-01,00-{TRACE_ID}-{SPAN_ID}-01",
        f"\u200300-{TRACE_ID}-{SPAN_ID}-01",
    ],
)
def test_what_is_odd_is_ignored(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize("text", [f" 00-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-01\t "])
def test_blanks_around_it_are_no_part_of_it(text: str) -> None:
    assert read(text) == Trace(TRACE_ID, SPAN_ID, sampled=True)


@given(st.text(max_size=80))
def test_nothing_raises(text: str) -> None:
    for each in (text, f"00-{TRACE_ID}-{SPAN_ID}-{text}", f"00-{text}-{SPAN_ID}-01"):
        found = read(each)
        assert found is None or (len(found.trace_id), len(found.span_id)) == (32, 16)
    state(text)


# What vendors say to each other

KEYS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_*/-]{0,20}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9_*/-]{0,20}@[a-z][a-z0-9_*/-]{0,13}", fullmatch=True),
)
VALUES = st.from_regex(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,30}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", fullmatch=True)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=32), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_a_state_goes_on_member_by_member(members: dict[str, str], between: str) -> None:
    """In their order, whatever stood between them."""
    written = [f"{key}={value}" for key, value in members.items()]

    assert state(between.join(written)) == ",".join(written)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "one",
        "one=",
        "=1",
        "One=1",
        "1ne=1",
        "one =1",
        "one=1=2",
        "one=\x7f",
        "one=ä",
        "one=\udcff",
        "one=1,one=2",
        "one=1,two",
        "a@=1",
        "@a=1",
        "a@b@c=1",
        f"{'a' * 257}=1",
        f"a={'1' * 257}",
        f"a@{'b' * 15}=1",
        ",".join(f"a{number}=1" for number in range(33)),
        ",".join(f"a{number}={'x' * 256}" for number in range(32)) + "," * 8192,
    ],
)
def test_a_state_that_is_odd_is_ignored_as_a_whole(text: str) -> None:
    assert state(text) == ""


@pytest.mark.parametrize("text", [f"{'a' * 256}=1", f"a={'1' * 256}", f"{'1' * 241}@{'b' * 14}=1"])
def test_a_state_may_be_as_long_as_the_recommendation_says(text: str) -> None:
    assert state(text) == text

"""What is asked of a bill, what is answered, and that an answer never looks more complete than it is."""

from __future__ import annotations

import csv
import io
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.usage import COUNTS, HOUR_US, Who
from policies.usage_report import (
    BadUsageQuestion,
    By,
    Question,
    Report,
    TooManyRows,
    csv_line,
    instant,
    understood,
    wholeness,
)

NOW_US = 1_795_193_430_123_000
"""2026-11-20T16:50:30.123Z."""
HOUR = NOW_US // HOUR_US
ROWS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "FREE"])),
    st.lists(st.integers(0, 10**12), min_size=len(COUNTS), max_size=len(COUNTS)),
    max_size=6,
)


def asked(query: str) -> Question:
    return understood(query, NOW_US)


def test_without_a_range_it_is_the_last_24_hours() -> None:
    """This hour, which is not over, and the 23 before."""
    question = asked("")

    assert (instant(question.from_us), instant(question.to_us)) == ("2026-11-19T17:00:00Z", "2026-11-20T16:50:30.123Z")
    assert list(question.hours) == list(range(HOUR - 23, HOUR + 1))
    assert (question.by, question.csv, question.client, question.tier) == (By.HOUR, False, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20", "2026-11-20T00:00:00Z"),
        ("2026-11-20T13:00Z", "2026-11-20T13:00:00Z"),
        ("2026-11-20T13:00", "2026-11-20T13:00:00Z"),
        ("2026-11-20T13:00:00%2B01:00", "2026-11-20T12:00:00Z"),
        ("2026-11-20T13:00+01:00", "2026-11-20T12:00:00Z"),
        ("1795150800000", "2026-11-20T05:00:00Z"),
    ],
)
def test_an_instant_may_be_written_in_several_ways(text: str, expected: str) -> None:
    assert instant(asked(f"from={text}").from_us) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("from=yesterday", "from: expected 2026-11-20, 2026-11-20T13:00Z (UTC unless it says otherwise) or epoch"),
        ("from=1795150800", "from: expected 2026-11-20, "),
        ("from=1795150800", "of the years 2000 to 2099, got '1795150800'"),
        ("to=" + "9" * 400, "to: expected 2026-11-20, "),
        ("to=0001-01-01", "of the years 2000 to 2099"),
        ("from=2026-11-20&to=2026-11-20", "from: expected an instant before to, which is 2026-11-20T00:00:00Z"),
        ("from=2027-01-01", "from: expected an instant before to, which is 2026-11-20T16:50:30.123Z"),
        ("from=2025-01-01&to=2026-11-01", "to: expected at most 366 days after from; ask for longer times in parts"),
        ("by=week", "by: expected hour, day or total, got 'week'"),
        ("format=xlsx", "format: expected json or csv, got 'xlsx'"),
        ("user=a", "'user': no such parameter, expected from, to, format, client, tier, by"),
        ("by=day&by=hour", "by: expected once, it is there twice"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(query: str, expected: str) -> None:
    with pytest.raises(BadUsageQuestion) as caught:
        asked(query)
    assert expected in str(caught.value)


@given(
    cuts=st.lists(st.integers(0, 40 * HOUR_US), min_size=2, max_size=6, unique=True),
)
def test_ranges_that_meet_share_no_hour_and_leave_none_out(cuts: list[int]) -> None:
    """Wherever they meet, in the middle of an hour too: bills of neighbouring times add up."""
    bounds = [1_700_000_000_000_000 + cut for cut in sorted(cuts)]
    parts = [hour for low, high in pairwise(bounds) for hour in Question(low, high, By.HOUR, csv=False).hours]

    assert parts == list(Question(bounds[0], bounds[-1], By.HOUR, csv=False).hours)


@given(hours=st.lists(ROWS, max_size=60), by=st.sampled_from(By))
def test_rows_add_up_to_what_was_counted(hours: list[dict[Who, list[int]]], by: By) -> None:
    """By the hour, by the day (UTC), and in all."""
    first = HOUR - len(hours)
    question = Question(first * HOUR_US, NOW_US, by, csv=False)
    report = Report(question)
    expected: Counter[tuple[str, str, str, int]] = Counter()
    for hour, rows in enumerate(hours, first):
        report.add(hour, rows)
        for who, sums in rows.items():
            start_us = {
                By.HOUR: hour * HOUR_US,
                By.DAY: hour // 24 * 24 * HOUR_US,
                By.TOTAL: question.from_us,
            }[by]
            for place, value in enumerate(sums):
                expected[(instant(start_us), *who, place)] += value

    got = [row for rows in report.periods() for row in rows]
    found = {(*row[:3], place): value for row in got for place, value in enumerate(row[3])}
    assert {key: value for key, value in found.items() if value} == {k: v for k, v in expected.items() if v}
    assert [row[:3] for row in got] == sorted({row[:3] for row in got})


def test_one_client_or_one_tier_may_be_asked_for() -> None:
    rows = {("a", "FREE"): [1] * 7, ("a", ""): [2] * 7, ("b", "FREE"): [4] * 7}

    def found(query: str) -> list[int]:
        report = Report(asked(query))
        report.add(HOUR, rows)
        return [row[3][0] for rows in report.periods() for row in rows]

    assert found("client=a") == [2, 1]
    assert found("tier=FREE") == [1, 4]
    assert found("tier=") == [2]
    assert found("client=a&tier=FREE") == [1]
    assert found("client=nobody") == []


def test_an_answer_is_bounded() -> None:
    report = Report(asked(""), most_rows=3)
    report.add(HOUR, {(name, ""): [1] * 7 for name in "abc"})
    report.add(HOUR, {("a", ""): [1] * 7})
    with pytest.raises(TooManyRows):
        report.add(HOUR - 1, {("a", ""): [1] * 7})


# How complete it is


def test_a_range_that_is_over_and_known_is_complete() -> None:
    """Hours in which nobody asked for anything are not in the store, and nothing is missing for that."""
    whole = wholeness(range(HOUR - 5, HOUR), [HOUR - 9, HOUR - 5, HOUR - 2], set(), HOUR)

    assert (whole.complete, whole.partial, whole.note, whole.since) == (True, (), "", HOUR - 9)


@pytest.mark.parametrize(
    ("known", "damaged", "settled", "lost", "partial", "note"),
    [
        ([HOUR - 9], set(), HOUR - 1, None, [HOUR - 1], "the last hours of the range can still grow"),
        ([HOUR - 9], {HOUR - 3}, HOUR, None, [HOUR - 3], "some hours have lost figures in the store"),
        ([HOUR - 3], set(), HOUR, None, [HOUR - 3], "nothing is known of the time before 2026-11-20T13:00:00Z"),
        ([HOUR - 5], set(), HOUR, None, [HOUR - 5], "nothing is known of the time before 2026-11-20T11:00:00Z"),
        ([HOUR], set(), HOUR, None, [], "nothing is known of the time before 2026-11-20T16:00:00Z"),
        ([], set(), HOUR, None, [], "nothing has been counted yet"),
        ([], set(range(HOUR - 5, HOUR)), HOUR, "timeout", list(range(HOUR - 5, HOUR)), "cannot be read (timeout)"),
    ],
)
def test_what_is_missing_is_said(
    known: list[int], damaged: set[int], settled: int, lost: str | None, partial: list[int], note: str
) -> None:
    whole = wholeness(range(HOUR - 5, HOUR), known, damaged, settled, lost)

    assert not whole.complete
    assert list(whole.partial) == partial
    assert note in whole.note


# CSV


@given(cells=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=5))
def test_every_name_comes_back_from_a_csv_line(cells: list[str]) -> None:
    """But for the apostrophe before what a spreadsheet would take for a formula."""
    (read,) = csv.reader(io.StringIO(csv_line(cells), newline=""), strict=True)

    for given_, cell in zip(cells, read, strict=True):
        assert cell in {given_, f"'{given_}"}
        assert not cell.lstrip(" ").startswith(tuple("=+-@\t\r\n"))


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ('=HYPERLINK("http://x","y")', '"\'=HYPERLINK(""http://x"",""y"")"'),
        ("a,b", '"a,b"'),
        ('a"b', '"a""b"'),
        ("a\nb", '"a\nb"'),
        ("token:desk-1", "token:desk-1"),
        ("", ""),
        (12, "12"),
    ],
)
def test_no_cell_is_a_formula(name: object, cell: str) -> None:
    assert csv_line([name]) == f"{cell}\r\n"

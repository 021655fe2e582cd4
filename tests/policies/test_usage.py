"""Sums for bills: however they are cut up, merged and squeezed into bounds, nothing is lost, nothing counted twice."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.usage import COUNTS, HOUR_US, NOBODY, OTHERS, Ledger, Who, hour_name, hour_of_name, named

WHO = st.tuples(st.sampled_from(["a", "b", "c", "d", "e", OTHERS]), st.sampled_from(["", "FREE", "PREMIUM"]))
SUMS = st.lists(st.integers(0, 2**60), min_size=len(COUNTS), max_size=len(COUNTS))
ADDED = st.lists(st.tuples(st.integers(0, 4), WHO, SUMS), max_size=40)


def totals(rows: list[tuple[int, Who, list[int]]]) -> dict[tuple[int, str, int], int]:
    """By hour, tier and count: what no bound may change."""
    found: Counter[tuple[int, str, int]] = Counter()
    for hour, (_, tier), sums in rows:
        for place, value in enumerate(sums):
            found[hour, tier, place] += value
    return {key: value for key, value in found.items() if value}


def listed(ledger: Ledger) -> list[tuple[int, Who, list[int]]]:
    return [(hour, who, list(sums)) for hour in ledger.hours() for who, sums in ledger.rows(hour).items()]


@given(rows=ADDED, clients=st.integers(1, 6), most=st.integers(1, 12))
def test_bounds_cost_names_and_never_sums(rows: list[tuple[int, Who, list[int]]], clients: int, most: int) -> None:
    """In every hour and tier the sums stay what they are. Beyond the bounds there are only rows of `others`."""
    ledger = Ledger(clients, most)
    for row in rows:
        ledger.add(*row)

    kept = listed(ledger)
    assert totals(kept) == totals(rows)
    assert len(ledger) == len(kept)
    for hour in ledger.hours():
        assert sum(name != OTHERS for name, _ in ledger.rows(hour)) <= clients
    if len(ledger) > most:
        assert {name for _, (name, _), _ in kept} == {OTHERS}


@given(rows=ADDED, parts=st.lists(st.integers(1, 3), min_size=1, max_size=30))
def test_sums_are_the_same_however_they_are_taken_and_put_together_again(
    rows: list[tuple[int, Who, list[int]]], parts: list[int]
) -> None:
    """Taken in parts of any size, while more comes in, and added up elsewhere."""
    here, there, straight = Ledger(100), Ledger(100), Ledger(100)
    for number, row in enumerate(rows):
        straight.add(*row)
        here.add(*row)
        most = parts[number % len(parts)]
        for hour in here.hours()[:1]:
            taken = here.take(hour, most)
            assert len(taken) <= most
            for who, sums in taken.items():
                there.add(hour, who, sums)
    for hour in here.hours():
        for who, sums in here.take(hour).items():
            there.add(hour, who, sums)

    assert sorted(listed(there)) == sorted(listed(straight))
    assert len(here) == 0
    assert here.hours() == []


def test_the_oldest_names_go_first() -> None:
    ledger = Ledger(10, most_rows=3)
    for hour in (7, 6, 8):
        ledger.add(hour, (f"client-{hour}", "FREE"), [1] * len(COUNTS))
        ledger.add(hour, (f"other-{hour}", "FREE"), [1] * len(COUNTS))

    assert ledger.rows(6) == {(OTHERS, "FREE"): [2] * len(COUNTS)}
    assert ledger.rows(7) == {(OTHERS, "FREE"): [2] * len(COUNTS)}
    assert {name for name, _ in ledger.rows(8)} == {OTHERS}


def test_who_is_named_already_stays_named() -> None:
    ledger = Ledger(2)
    for name in ("a", "b", "c", "a", "c", "d"):
        ledger.add(1, (name, ""), [1] * len(COUNTS))

    assert {name: sums[0] for (name, _), sums in ledger.rows(1).items()} == {"a": 2, "b": 1, OTHERS: 3}


def test_what_is_older_than_it_is_kept_is_forgotten() -> None:
    ledger = Ledger(10)
    for hour in range(5):
        ledger.add(hour, ("a", ""), [1] * len(COUNTS))
    ledger.forget_before(3)

    assert ledger.hours() == [3, 4]
    assert len(ledger) == 2


@pytest.mark.parametrize(
    ("client", "tier", "expected"),
    [
        ("token:desk", "PREMIUM", ("token:desk", "PREMIUM")),
        ("0123456789abcdef", None, ("account:alice", "")),
        ("fedcba9876543210", None, ("fedcba9876543210", "")),
        ("10.0.0.7", "FREE", ("10.0.0.7", "FREE")),
        (None, None, (NOBODY, "")),
        ("jwt:\udcff", None, ("jwt:\\udcff", "")),
        ("jwt:" + "x" * 1000, None, ("jwt:" + "x" * 252, "")),
    ],
)
def test_clients_have_names_that_can_be_stored(client: str | None, tier: str | None, expected: Who) -> None:
    """An account is called by its name, which stays the same when the key of the hashes changes."""
    assert named(client, tier, {"0123456789abcdef": "alice"}) == expected


@given(hour=st.integers(0, 1_100_000))
def test_an_hour_has_one_name(hour: int) -> None:
    name = hour_name(hour)

    assert hour_of_name(name) == hour
    begun = datetime.strptime(name, "%Y%m%d%H").replace(tzinfo=UTC)
    assert int(begun.timestamp()) * 1_000_000 == hour * HOUR_US


@pytest.mark.parametrize("text", ["", "2026", "20261399", "2026112025", "202611201", "2026112013.new", "lock"])
def test_other_names_are_of_no_hour(text: str) -> None:
    assert hour_of_name(text) is None

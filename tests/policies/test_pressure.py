"""Levels of pressure: they rise in earnest, fall in peace, and do not flap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.pressure import NAMES, NEVER, Level, Readings, Rules, State, judged, sheds
from policies.priority import Priority

RULES = Rules(Readings(100, 70, 500, 80, 1_000), Readings(500, 90, 2_000, NEVER, 4_000), 5_000_000)
STEP_US = 250_000
NORMAL, HIGH, CRITICAL = Level.NORMAL, Level.HIGH, Level.CRITICAL

readings = st.builds(
    Readings,
    st.integers(0, 700),
    st.integers(0, 100),
    st.integers(0, 3_000),
    st.integers(0, 100),
    st.integers(0, 6_000),
)


def levels(samples: list[Readings], state: State | None = None, rules: Rules = RULES) -> list[State]:
    """The states after each of them, a quarter of a second apart."""
    state, states = state or State(), []
    for number, sample in enumerate(samples):
        state = judged(state, sample, rules, number * STEP_US)
        states.append(state)
    return states


def lags(*values: int) -> list[Readings]:
    return [Readings(lag_us=value) for value in values]


def reached(*values: int) -> Level:
    return levels(lags(*values))[-1].level


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        ((0,), NORMAL),
        ((60_000_000,), NORMAL),
        ((60_000_000, 0, 60_000_000), NORMAL),
        ((100, 100), NORMAL),
        ((99, 99, 99, 99), NORMAL),
        ((100, 100, 100), HIGH),
        ((100, 0, 100, 100), HIGH),
        ((499, 499, 499), HIGH),
        ((500, 500, 500), CRITICAL),
        ((500, 500, 100), HIGH),
        ((500, 500, 100, 500), CRITICAL),
    ],
)
def test_most_of_the_last_samples_raise_it(seen: tuple[int, ...], level: Level) -> None:
    """A machine that stands still for a minute gives one bad sample, and nobody is turned away for it."""
    assert reached(*seen) is level


@pytest.mark.parametrize(("place", "name"), list(enumerate(NAMES)))
def test_every_signal_alone_raises_it_and_is_named(place: int, name: str) -> None:
    def at(rules: Readings) -> list[Readings]:
        return [Readings()._replace(**{Readings._fields[place]: rules[place]})] * 3

    high = levels(at(RULES.high))[-1]
    assert (high.level, high.because) == (HIGH, name)
    if RULES.critical[place] < NEVER:
        assert levels(at(RULES.critical))[-1].level is CRITICAL


def test_what_no_threshold_names_is_never_critical() -> None:
    """An archive that is full turns no live data away."""
    assert levels([Readings(archive_percent=100)] * 50)[-1].level is HIGH


def test_two_signals_do_not_add_up() -> None:
    one, other = Readings(lag_us=500), Readings(tasks=4_000)
    assert levels([one, other, one, other])[-1].level is NORMAL


def test_it_falls_one_step_at_a_time_after_five_seconds_of_calm_for_each() -> None:
    states = levels([*lags(*[600] * 4), *lags(*[0] * 60)])
    seen = [state.level for state in states]

    assert seen == sorted(seen[:3]) + sorted(seen[3:], reverse=True)
    for level in (CRITICAL, HIGH):
        assert STEP_US * seen.count(level) >= RULES.calm_us
    assert seen[-1] is NORMAL
    assert states[-1].because == ""
    assert states[seen.index(HIGH, 3)].because == "lag"


def test_what_is_not_clearly_below_keeps_it() -> None:
    """At 81 % of the threshold it stays high for as long as that lasts; at 79 % it falls."""
    assert levels([*lags(*[100] * 4), *lags(*[81] * 500)])[-1].level is HIGH
    assert levels([*lags(*[100] * 4), *lags(*[79] * 50)])[-1].level is NORMAL


def test_one_bad_sample_in_the_calm_does_not_begin_it_anew() -> None:
    calm = [0] * 10 + [60_000_000] + [0] * 14
    assert levels([*lags(*[100] * 4), *lags(*calm)])[-1].level is NORMAL


@given(st.lists(st.integers(81, 119), min_size=1, max_size=200))
def test_a_signal_that_swings_around_a_threshold_changes_the_level_once_at_most(values: list[int]) -> None:
    seen = [state.level for state in levels(lags(*values))]
    assert seen == sorted(seen)
    assert seen[-1] <= HIGH


@given(st.lists(readings, max_size=200))
def test_two_falls_are_five_seconds_apart_and_so_are_a_rise_and_its_fall(samples: list[Readings]) -> None:
    """Whatever the signals do, a level is held for its time."""
    since_us, before = 0, NORMAL
    for number, state in enumerate(levels(samples)):
        if state.level < before:
            assert number * STEP_US - since_us >= RULES.calm_us
            assert state.level == before - 1
        if state.level is not before:
            since_us, before = number * STEP_US, state.level


@given(st.lists(readings, max_size=100))
def test_it_always_recovers(samples: list[Readings]) -> None:
    """After two times five seconds of calm, and the few samples that are still looked at."""
    quiet = [Readings()] * (2 * RULES.calm_us // STEP_US + 4)
    assert levels([*samples, *quiet])[-1].level is NORMAL


@given(st.lists(st.tuples(readings, readings), max_size=150))
def test_more_of_anything_never_means_a_lower_level(pairs: list[tuple[Readings, Readings]]) -> None:
    less = levels([Readings(*map(min, *pair)) for pair in pairs])
    more = levels([Readings(*map(max, *pair)) for pair in pairs])
    for low, high in zip(less, more, strict=True):
        assert low.level <= high.level


@pytest.mark.parametrize(
    ("level", "turned_away"),
    [(NORMAL, set()), (HIGH, {Priority.HISTORY}), (CRITICAL, {Priority.HISTORY, Priority.LIVE})],
)
def test_history_goes_first_then_live_data_and_nothing_of_an_account_ever(
    level: Level, turned_away: set[Priority]
) -> None:
    assert {priority for priority in Priority if sheds(level, priority)} == turned_away

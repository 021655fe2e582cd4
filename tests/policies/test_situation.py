"""What is out of the ordinary is said in plain words, the worst first."""

from __future__ import annotations

import pytest

from policies.admission import WHOLE
from policies.circuit import State
from policies.sharing import Mode
from policies.situation import Facts, Level, in_words, notices


def test_of_a_gateway_in_order_nothing_is_said() -> None:
    assert notices(Facts()) == []


@pytest.mark.parametrize(
    ("facts", "name", "level", "words"),
    [
        (Facts(serving=False), "starting", Level.CARE, "starting"),
        (Facts(draining=True), "draining", Level.BAD, "no new ones are taken"),
        (Facts(banned=True, ban_left_us=581_000_001), "ban", Level.BAD, "for at least 9 min 42 s"),
        (Facts(banned=True), "ban", Level.BAD, "one question is being asked"),
        (Facts(part=WHOLE // 4), "part", Level.CARE, "Only 25 % of the budget"),
        (Facts(breaker=State.OPEN, breaker_left_us=4_000_000), "breaker", Level.BAD, "tried again in 4 s"),
        (Facts(breaker=State.HALF_OPEN), "breaker-trying", Level.CARE, "find out whether it works"),
        (Facts(blocked=1), "blocked", Level.CARE, "1 limit of accounts"),
        (Facts(blocked=2), "blocked", Level.CARE, "2 limits of accounts"),
        (Facts(store=Mode.HOLDING), "store-holding", Level.CARE, "lost its memory"),
        (Facts(store=Mode.EMERGENCY), "store-emergency", Level.CARE, "what was set aside"),
        (Facts(store=Mode.DIVIDED, share=0.25), "store-divided", Level.CARE, "own share, 25 % of the budget"),
        (Facts(store=Mode.RETURNING), "store-returning", Level.CARE, "is back"),
        (Facts(store=Mode.CLOSED), "store-closed", Level.BAD, "nothing is sent"),
        (Facts(store=Mode.OPEN), "store-open", Level.BAD, "a ban is possible"),
        (Facts(cold=True), "cold", Level.NOTE, "before"),
        (Facts(lost=("The archive",)), "lost-The archive", Level.CARE, "The archive does not answer"),
        (Facts(halted=True), "halted", Level.NOTE, "new orders are refused"),
        (Facts(pressure=1), "pressure", Level.CARE, "history are turned away"),
        (Facts(pressure=2), "critical", Level.BAD, "history and live data are turned away"),
        (Facts(config_errors=2, restart_wanted=True), "config", Level.CARE, "2 mistakes"),
        (Facts(restart_wanted=True), "restart", Level.NOTE, "needs a restart"),
        (Facts(workers_missing=1), "workers", Level.CARE, "1 worker process of"),
    ],
)
def test_each_has_its_sentence(facts: Facts, name: str, level: Level, words: str) -> None:
    (notice,) = notices(facts)

    assert (notice.id, notice.level) == (name, level)
    assert words in notice.text
    assert notice.text.endswith(".")


def test_the_worst_comes_first() -> None:
    found = notices(Facts(halted=True, pressure=1, banned=True))

    assert [notice.id for notice in found] == ["ban", "pressure", "halted"]


def test_a_ban_explains_the_smaller_budget() -> None:
    """Not two sentences for one thing."""
    assert [notice.id for notice in notices(Facts(banned=True, part=0))] == ["ban"]


@pytest.mark.parametrize(
    ("span_us", "words"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (1, "1 s"),
        (59_000_000, "59 s"),
        (60_000_000, "1 min"),
        (61_500_000, "1 min 2 s"),
        (3_600_000_000, "1 h"),
        (3_661_000_000, "1 h 1 min"),
    ],
)
def test_a_span_is_rounded_up_to_the_second(span_us: int, words: str) -> None:
    assert in_words(span_us) == words

"""Who is subscribed to, who gives way to whom, and how it is asked for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import stream_words as words
from policies.segments import Series
from policies.stream_demand import Changes, Demand, DemandRules, batches, halves

MINUTE_US = 60_000_000
RULES = DemandRules(asks=2, keep_us=10 * MINUTE_US, refused_us=10 * MINUTE_US, most_topics=3)
NOTHING = Changes((), ())


def series(name: str, category: str = "linear") -> Series:
    return Series("kline", category, f"{name}USDT", "5")


A, B, C, D, E = (series(name) for name in "ABCDE")


def demanded(*wanted: Series, rules: DemandRules = RULES, now_us: int = 0) -> Demand:
    """All of them asked for often enough."""
    demand = Demand(rules)
    for each in wanted:
        for _ in range(rules.asks):
            demand.want(each, now_us)
    return demand


def test_one_question_is_not_enough_two_are() -> None:
    demand = Demand(RULES)
    assert demand.want(A, 0) is False
    assert demand.plan((), 0) == NOTHING
    assert demand.want(A, 1) is True
    assert demand.plan((), 1) == Changes((), (A,))


def test_it_is_told_once_that_a_subscription_is_due() -> None:
    demand = Demand(RULES)
    assert [demand.want(A, now_us) for now_us in range(5)] == [False, True, False, False, False]


def test_two_questions_that_are_too_far_apart_are_one() -> None:
    demand = Demand(RULES)
    demand.want(A, 0)
    assert demand.want(A, RULES.keep_us) is False
    assert demand.plan((), RULES.keep_us) == NOTHING


def test_a_subscription_stays_while_it_is_asked_for_now_and_then() -> None:
    demand = demanded(A)
    for now_us in range(0, 60 * MINUTE_US, RULES.keep_us - 1):
        demand.want(A, now_us)
        assert demand.plan({A}, now_us + RULES.keep_us - 1) == NOTHING


@pytest.mark.parametrize(("interval", "stays"), [("1", True), ("15", True), ("60", True), ("120", False), ("D", False)])
def test_a_subscription_outlasts_its_candle(interval: str, *, stays: bool) -> None:
    """Bots ask once for each: it must not go before they ask again. A question in two hours is not worth one."""
    each = A._replace(interval=interval)
    demand = demanded(each)
    length_us = max(10, 1440 if interval == "D" else int(interval)) * MINUTE_US
    for number in range(1, 5):
        now_us = number * (length_us - 1)
        assert demand.plan({each}, now_us).remove == (() if stays else (each,))
        if not stays:
            return
        demand.want(each, now_us)


def test_a_subscription_goes_when_nobody_has_asked_for_long() -> None:
    demand = demanded(A)
    assert demand.plan({A}, RULES.keep_us) == Changes((A,), ())
    assert len(demand) == 0


def test_who_asks_last_comes_first_when_not_all_have_room() -> None:
    demand = Demand(RULES)
    for now_us, each in enumerate((A, B, C, D, E)):
        demand.want(each, now_us)
        demand.want(each, now_us)
    assert demand.plan((), 10).add == (E, D, C)


def test_in_a_full_connection_who_has_not_been_asked_for_gives_way() -> None:
    demand = demanded(A, B, C)
    half = RULES.keep_us // 2
    for each in (B, D, D):
        demand.want(each, half)
    assert demand.plan({A, B, C}, half) == Changes((C,), (D,))


def test_who_is_asked_for_gives_way_to_nobody() -> None:
    """Four series that are asked for all the time share three places: nothing changes."""
    demand = demanded(A, B, C)
    subscribed = {A, B, C}
    for now_us in range(0, 60 * MINUTE_US, MINUTE_US):
        for each in (A, B, C, D, D):
            demand.want(each, now_us)
        assert demand.plan(subscribed, now_us) == NOTHING


def test_what_was_refused_is_left_alone_for_a_while() -> None:
    demand = demanded(A)
    demand.refuse(A, 0)
    assert [demand.want(A, now_us) for now_us in (1, 2, RULES.refused_us - 1)] == [False] * 3
    assert demand.plan((), RULES.refused_us - 1) == NOTHING
    assert demand.want(A, RULES.refused_us) is False
    assert demand.want(A, RULES.refused_us + 1) is True
    assert demand.plan((), RULES.refused_us + 1) == Changes((), (A,))


def test_a_refusal_of_what_nobody_remembers_is_nothing() -> None:
    demand = Demand(RULES)
    demand.refuse(A, 0)
    assert len(demand) == 0


def test_what_is_remembered_is_bounded_and_renewed() -> None:
    """Ten thousand names that were asked for once do not keep out the next one for longer than they are kept."""
    demand = Demand(RULES)
    for number in range(20_000):
        demand.want(series(f"X{number}"), number % 7)
    assert len(demand) == 10_000
    demand.want(A, RULES.keep_us + 7)
    demand.want(A, RULES.keep_us + 8)
    assert demand.plan((), RULES.keep_us + 8) == Changes((), (A,))


def test_the_characters_of_a_connection_are_kept() -> None:
    rules = RULES._replace(most_topics=10_000)
    many = [series("LONGNAME" * 3 + f"{number:04d}") for number in range(2_000)]
    added = demanded(*many, rules=rules).plan((), 0).add
    args = json.dumps([words.topic_of(each) for each in added], separators=(",", ":"))
    assert len(args) <= words.CHARACTERS < len(args) + 50


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4 * MINUTE_US)), max_size=80))
def test_a_plan_never_exceeds_the_room_and_settles(asked: list[tuple[int, int]]) -> None:
    """Carrying out a plan leaves nothing to plan at the same instant."""
    demand = Demand(RULES)
    subscribed: set[Series] = set()
    now_us = 0
    for number, later_us in asked:
        now_us += later_us
        demand.want(series(str(number)), now_us)
        changes = demand.plan(subscribed, now_us)
        assert subscribed >= set(changes.remove)
        assert not subscribed & set(changes.add)
        subscribed = subscribed - set(changes.remove) | set(changes.add)
        assert len(subscribed) <= RULES.most_topics
        assert demand.plan(subscribed, now_us) == NOTHING


@pytest.mark.parametrize(("category", "sizes"), [("spot", [10, 10, 5]), ("linear", [25])])
def test_one_request_names_as_many_as_the_category_allows(category: str, sizes: list[int]) -> None:
    listed = [series(str(number), category) for number in range(25)]
    found = list(batches(category, listed))
    assert [len(batch) for batch in found] == sizes
    assert [each for batch in found for each in batch] == listed


@given(st.integers(0, 9), st.integers(1, 10))
def test_dividing_finds_the_bad_one_and_keeps_all_others(bad: int, count: int) -> None:
    """A request with one bad topic is refused as a whole; its halves are asked again, until only that one is left."""
    bad %= count
    waiting, accepted, refused = [[series(str(number)) for number in range(count)]], [], []
    while waiting:
        batch = waiting.pop()
        if series(str(bad)) not in batch:
            accepted += batch
        elif len(batch) == 1:
            refused += batch
        else:
            waiting += halves(batch)
    assert refused == [series(str(bad))]
    assert len(accepted) == count - 1


# --- words ---


@pytest.mark.parametrize(
    ("given_series", "streamed"),
    [
        (A, True),
        (A._replace(symbol="币安人生USDT"), True),
        (A._replace(category="option"), False),
        (A._replace(endpoint="mark-price-kline"), False),
        (A._replace(interval="2"), False),
        (A._replace(symbol=""), False),
        (A._replace(symbol="A\n"), False),
        (A._replace(symbol="A" * 41), False),
    ],
)
def test_what_has_a_stream(given_series: Series, *, streamed: bool) -> None:
    assert words.is_streamed(given_series) is streamed


def test_a_request_is_written_compactly() -> None:
    assert words.request("subscribe", [words.topic_of(A)], "7") == (
        '{"req_id":"7","op":"subscribe","args":["kline.5.AUSDT"]}'
    )


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"success": True, "ret_msg": "", "conn_id": "c", "req_id": "7", "op": "subscribe"}, (True, "7", False)),
        ({"success": True, "ret_msg": "subscribe", "conn_id": "c", "op": "subscribe"}, (True, "", False)),
        ({"success": False, "ret_msg": "args size >10", "conn_id": "c", "op": "subscribe"}, (False, "", False)),
        ({"success": True, "ret_msg": "pong", "conn_id": "c", "op": "ping"}, (True, "", True)),
        ({"topic": "kline.5.AUSDT", "success": True}, None),
        ({"success": "true"}, None),
        ({"req_id": "7"}, None),
        ([], None),
        (None, None),
    ],
)
def test_answers_are_told_from_all_else(message: object, answer: tuple[bool, str, bool] | None) -> None:
    assert words.answer_of(message) == answer

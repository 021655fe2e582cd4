"""What is read in an answer: how much of it was refused, and what it tells of a limit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import bybit
from policies.admission import Quota, WindowKind
from policies.bybit import LimitHeaders
from policies.descriptor import Descriptor
from policies.lessons import lesson_of, refused_of
from policies.pacing import Lesson
from tests.fake_bybit.answers import bapi_headers

SECOND, MINUTE = 1_000_000, 60_000_000
SENT = 1_800_000_000_000_000
STAMP = SENT // 1_000
A_SECOND = Quota("@order-create.futures", 9, SECOND, ("api_key",), window=WindowKind.LEARNED)
A_MINUTE = Quota("@asset", 54, MINUTE, ("api_key",), window=WindowKind.LEARNED)


def batch(cost: int) -> Descriptor:
    return Descriptor("POST", "/v5/order/create-batch", "", "order-create-batch", "default", "192.0.2.1", cost=cost)


def answer(*codes: object) -> bytes:
    return json.dumps({"retCode": 0, "retExtInfo": {"list": [{"code": code, "msg": ""} for code in codes]}}).encode()


def lesson(
    told: LimitHeaders | None, *, stamp_ms: int | None = None, quota: Quota = A_SECOND, refused: int = 0
) -> Lesson:
    return lesson_of(quota, told, stamp_ms=stamp_ms, sent_us=SENT, refused=refused, chance=7)


def read(**changes: str) -> LimitHeaders | None:
    """The usual headers but for some, read."""
    headers = dict(bapi_headers(10, 3, STAMP + 400))
    headers.update({f"X-Bapi-Limit{name}": text for name, text in changes.items()})
    return bybit.limit_headers(headers)


@pytest.mark.parametrize(
    ("ret_code", "text", "in_batch", "refused"),
    [
        (0, answer(0, 0, 0), False, 0),
        (10006, b"", False, 8),  # all of what was asked for
        (10006, b"", True, 8),
        (10001, answer(10006), True, 0),  # nothing was carried out, for another reason
        (None, answer(10006), True, 0),
        (0, answer(0, 10006, 0, 10006), True, 2),
        (0, answer(10006, 10006), False, 0),  # only a batch has items
        (0, answer(*[10006] * 50), True, 8),  # never more than was asked for
        (0, answer(110007, "10006", None), True, 0),
        (0, b"no JSON", True, 0),
        (0, b'{"retExtInfo":{}}', True, 0),
        (0, b'{"retExtInfo":{"list":[1]}}', True, 0),
        (0, b'{"retExtInfo":{"list":null}}', True, 0),
        (0, b'{"retExtInfo":[]}', True, 0),
        (0, b"[]", True, 0),
    ],
)
def test_how_much_was_refused_as_too_many(ret_code: int | None, text: bytes, *, in_batch: bool, refused: int) -> None:
    assert refused_of(batch(8), ret_code, text, batch=in_batch) == refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, LimitHeaders(10, 3, STAMP + 400)),
        ({"": "0"}, LimitHeaders(0, 3, STAMP + 400)),
        ({"-Status": "many"}, LimitHeaders(10, None, STAMP + 400)),
        ({"-Status": "-1", "-Reset-Timestamp": ""}, LimitHeaders(10, None, None)),
        ({"-Reset-Timestamp": "9" * 16}, LimitHeaders(10, 3, None)),
        ({"": "ten"}, None),
        ({"": "10.5"}, None),
        ({"": ""}, None),
        ({"": "٢٠"}, None),  # digits, but not of a header
        ({"": "9" * 16}, None),
    ],
)
def test_headers_that_are_unreadable_are_as_good_as_none(changes: dict[str, str], told: LimitHeaders | None) -> None:
    assert read(**changes) == told


def test_headers_that_are_missing_are_no_error() -> None:
    assert bybit.limit_headers({}) is None
    assert bybit.limit_headers({"X-Bapi-Limit": "10"}) == LimitHeaders(10, None, None)


def test_without_headers_only_the_refusal_is_a_lesson() -> None:
    assert lesson(None, stamp_ms=STAMP, refused=2) == Lesson(SENT, refused=2, chance=7)


def test_what_is_told_is_learned() -> None:
    assert lesson(LimitHeaders(10, 3, STAMP), stamp_ms=STAMP) == Lesson(SENT, 10, 3, STAMP, chance=7)
    assert lesson(LimitHeaders(10, None, None), stamp_ms=STAMP) == Lesson(SENT, 10, None, STAMP, chance=7)
    assert lesson(LimitHeaders(10, 4, None), refused=1) == Lesson(SENT, 10, 4, None, refused=1, chance=7)


@pytest.mark.parametrize(
    ("remaining", "reset_ms", "stamp_ms", "stamp", "reset_us"),
    [
        (3, STAMP, None, STAMP, None),  # not exceeded: the reset is about the exchange's present
        (None, STAMP, None, STAMP, None),
        (0, STAMP + 400, None, None, None),  # exceeded: it is not
        (3, None, None, None, None),
        (3, STAMP + 400, STAMP, STAMP, None),
        (0, STAMP + 400, STAMP, STAMP, 400_000),
        (0, STAMP, STAMP, STAMP, None),
        (0, STAMP - 1, STAMP, STAMP, None),  # over already
        (0, None, STAMP, STAMP, None),
    ],
)
def test_a_reset_is_a_difference_of_two_stamps_of_the_exchange(
    remaining: int | None, reset_ms: int | None, stamp_ms: int | None, stamp: int | None, reset_us: int | None
) -> None:
    """Nothing is compared with a clock of ours, and it counts only where nothing is left."""
    learned = lesson(LimitHeaders(10, remaining, reset_ms), stamp_ms=stamp_ms, refused=1)
    assert (learned.stamp_ms, learned.reset_us) == (stamp, reset_us)


@pytest.mark.parametrize(
    ("quota", "limit", "believed"),
    [
        (A_MINUTE, 60, True),
        (A_MINUTE, 6, True),
        (A_MINUTE, 5, False),  # of a minute's 54 this is a second's
        (A_MINUTE, 0, False),
        (A_MINUTE, 1_000, True),
        (A_SECOND, 1, True),  # a second has no smaller unit
        (A_SECOND, 0, True),
    ],
)
def test_a_header_that_speaks_of_seconds_says_nothing_of_a_minute(quota: Quota, limit: int, *, believed: bool) -> None:
    learned = lesson(LimitHeaders(limit, 0, STAMP + 400), stamp_ms=STAMP, quota=quota, refused=1)

    assert learned.limit == (limit if believed else None)
    assert (learned.reset_us is not None) is believed
    assert (learned.refused, learned.chance, learned.sent_us) == (1, 7, SENT)


@given(
    told=st.builds(
        LimitHeaders, st.integers(0, 10**15), st.none() | st.integers(0, 10**15), st.none() | st.integers(0, 10**15)
    ),
    stamp_ms=st.none() | st.integers(0, 10**13),
    refused=st.integers(0, 20),
)
def test_whatever_is_told_a_reset_lies_ahead(told: LimitHeaders, stamp_ms: int | None, refused: int) -> None:
    learned = lesson(told, stamp_ms=stamp_ms, refused=refused)
    assert learned.reset_us is None or learned.reset_us > 0
    assert (learned.refused, learned.limit, learned.remaining) == (refused, told.limit, told.remaining)

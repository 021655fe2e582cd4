"""The three limiters against plain counting, on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_bybit.books import AccountBook, Books, EndpointBook, IpBook, Verdict
from tests.fake_bybit.limits import MINUTE_US, SECOND_US, find_limit, listed
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.windows import FixedWindow, RollingWindow

T0 = 1_700_000_000_000_000
CREATE = "/v5/order/create"
BATCH = "/v5/order/create-batch"

gaps = st.lists(st.integers(0, 40), min_size=1, max_size=80)


def times(steps: list[int]) -> list[int]:
    total, made = T0, []
    for step in steps:
        total += step
        made.append(total)
    return made


def test_six_hundred_in_five_seconds_pass_and_the_next_one_begins_ten_minutes_of_ban() -> None:
    book = IpBook()
    assert {book.arrive("a", T0 + i) for i in range(600)} == {Verdict.OK}
    assert book.arrive("a", T0 + 4_999_999) is Verdict.BREACH
    assert book.banned_until_us("a") == T0 + 4_999_999 + 600_000_000
    assert book.arrive("a", T0 + 4_999_999 + 599_999_999) is Verdict.BANNED
    assert book.arrive("a", T0 + 4_999_999 + 600_000_000) is Verdict.OK
    assert (book.breaches, book.bans, book.max_in_window("a")) == (1, 1, 601)


def test_an_arrival_leaves_the_window_exactly_when_it_is_a_window_old() -> None:
    early, late = IpBook(limit=1), IpBook(limit=1)
    early.arrive("a", T0)
    late.arrive("a", T0)
    assert early.arrive("a", T0 + 4_999_999) is Verdict.BREACH
    assert late.arrive("a", T0 + 5_000_000) is Verdict.OK


def test_addresses_have_windows_and_bans_of_their_own() -> None:
    book = IpBook(limit=1)
    assert [book.arrive(ip, T0) for ip in ("a", "b", "a", "b")] == [
        Verdict.OK,
        Verdict.OK,
        Verdict.BREACH,
        Verdict.BREACH,
    ]
    assert book.arrive("c", T0) is Verdict.OK
    assert book.max_in_window() == 2
    assert book.max_in_window("nobody") == 0
    assert book.banned_until_us("nobody") == 0


@given(steps=gaps, limit=st.integers(1, 6), counts=st.booleans(), extends=st.booleans())
def test_ip_book_agrees_with_counting_by_hand(steps: list[int], limit: int, counts: bool, extends: bool) -> None:
    window_us, ban_us = 50, 130
    book = IpBook(limit, window_us, ban_us, ban_extends_on_hit=extends, rejected_counts=counts)
    held: list[int] = []
    everything: list[int] = []
    banned_until, peak = 0, 0
    for now in times(steps):
        everything.append(now)
        peak = max(peak, sum(1 for each in everything if each > now - window_us))
        if now < banned_until:
            expected = Verdict.BANNED
            banned_until = now + ban_us if extends else banned_until
        elif sum(1 for each in held if each > now - window_us) >= limit:
            expected, banned_until = Verdict.BREACH, now + ban_us
        else:
            expected = Verdict.OK
        if expected is Verdict.OK or counts:
            held.append(now)
        assert book.arrive("a", now) is expected
        assert book.banned_until_us("a") == banned_until
    assert book.max_in_window("a") == peak


def test_a_ban_can_be_given_and_lifted_by_hand() -> None:
    book = IpBook()
    assert book.ban("a", T0, ban_us=10) == T0 + 10
    assert book.arrive("a", T0 + 9) is Verdict.BANNED
    book.unban("a")
    assert book.arrive("a", T0 + 9) is Verdict.OK
    assert (book.bans, book.breaches) == (1, 0)


def test_the_ip_book_follows_settings_that_change() -> None:
    settings = Settings(ip_limit=1)
    books = Books(settings)
    books.ip.arrive("a", T0)
    settings.ip_limit = 2
    books.follow_settings()
    assert books.ip.arrive("a", T0) is Verdict.OK


def test_endpoint_book_lets_so_many_through_per_key() -> None:
    book = EndpointBook()
    assert [book.take("k", 2, SECOND_US, T0 + i) for i in range(3)] == [(True, 1), (True, 0), (False, 0)]
    assert book.take("other", 2, SECOND_US, T0) == (True, 1)
    assert book.take("k", 2, SECOND_US, T0 + SECOND_US) == (True, 0)
    assert (book.refused, book.max_in_window(), book.max_in_window("k"), book.max_in_window("x")) == (1, 2, 2, 0)


# --- accounts ---


@given(steps=st.lists(st.integers(0, 400_000), min_size=1, max_size=60), limit=st.integers(1, 5))
def test_no_rolling_second_admits_more_than_the_limit_and_nothing_is_refused_without_need(
    steps: list[int], limit: int
) -> None:
    book = AccountBook(Settings(account_limits={f"POST {CREATE}": limit}))
    admitted: list[int] = []
    for now in times(steps):
        held = sum(1 for each in admitted if each > now - SECOND_US)
        grant = book.take("1001", "POST", CREATE, "linear", 1, now)
        assert grant.allowed == (1 if held < limit else 0)
        assert grant.limit == limit
        if grant.allowed:
            admitted.append(now)
            assert grant.remaining == limit - held - 1
            assert grant.reset_ms == now // 1000
        else:
            oldest = min(each for each in admitted if each > now - SECOND_US)
            assert grant.remaining == 0
            assert grant.reset_ms == -(-(oldest + SECOND_US) // 1000)
            assert grant.reset_ms * 1000 > now
    assert book.max_admitted(("1001", "POST", CREATE, "futures")) <= limit


@given(
    steps=st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 20)), min_size=1, max_size=40),
    shared=st.booleans(),
)
def test_a_batch_gets_what_is_left_and_no_window_holds_more(steps: list[tuple[int, int]], shared: bool) -> None:
    book = AccountBook(Settings(linear_inverse_shared=shared))
    admitted: list[tuple[int, int]] = []
    now = T0
    for gap, cost in steps:
        now += gap
        left = 10 - sum(size for at, size in admitted if at > now - SECOND_US)
        grant = book.take("1001", "POST", BATCH, "linear", cost, now)
        assert grant.allowed == min(cost, left)
        admitted.append((now, grant.allowed))


def test_with_five_left_a_batch_of_eight_places_five() -> None:
    book = AccountBook()
    assert book.take("1001", "POST", BATCH, "linear", 5, T0).allowed == 5
    grant = book.take("1001", "POST", BATCH, "linear", 8, T0)
    assert (grant.allowed, grant.remaining) == (5, 0)
    assert grant.reset_ms == (T0 + SECOND_US) // 1000
    assert book.refused == 3
    assert book.max_in_window(("1001", "POST", BATCH, "futures")) == 13


def test_batches_have_a_budget_of_their_own() -> None:
    book = AccountBook()
    book.take("1001", "POST", BATCH, "linear", 10, T0)
    assert book.take("1001", "POST", CREATE, "linear", 1, T0).remaining == 9


def test_keys_of_one_account_share_and_accounts_do_not() -> None:
    book = AccountBook()
    for _ in range(10):
        book.take("1001", "POST", CREATE, "linear", 1, T0)
    assert book.take("1001", "POST", CREATE, "linear", 1, T0).allowed == 0
    assert book.take("2002", "POST", CREATE, "linear", 1, T0).allowed == 1


@pytest.mark.parametrize(("shared", "left"), [(True, 8), (False, 9)])
def test_linear_and_inverse_share_a_bucket_if_the_switch_says_so(shared: bool, left: int) -> None:
    book = AccountBook(Settings(linear_inverse_shared=shared))
    book.take("1001", "POST", CREATE, "linear", 1, T0)
    assert book.take("1001", "POST", CREATE, "inverse", 1, T0).remaining == left
    assert book.take("1001", "POST", CREATE, "spot", 1, T0).remaining == 19
    assert book.take("1001", "POST", CREATE, "option", 1, T0).remaining == 9


def test_a_fixed_window_starts_anew_at_the_full_second() -> None:
    book = AccountBook(Settings(account_window="fixed", account_limits={f"POST {CREATE}": 1}))
    late = T0 + 999_999
    assert book.take("1001", "POST", CREATE, "linear", 1, late).allowed == 1
    refused = book.take("1001", "POST", CREATE, "linear", 1, late)
    assert (refused.allowed, refused.reset_ms) == (0, (T0 + SECOND_US) // 1000)
    assert book.take("1001", "POST", CREATE, "linear", 1, T0 + SECOND_US).allowed == 1
    assert book.max_in_window(("1001", "POST", CREATE, "futures")) == 3


def test_the_window_switch_may_be_turned_while_it_runs() -> None:
    settings = Settings(account_limits={f"POST {CREATE}": 1})
    book = AccountBook(settings)
    assert book.take("1001", "POST", CREATE, "linear", 1, T0).allowed == 1
    settings.account_window = "fixed"
    assert book.take("1001", "POST", CREATE, "linear", 1, T0).allowed == 1
    assert book.take("1001", "POST", CREATE, "linear", 1, T0 + 999_999).allowed == 0
    assert book.max_in_window() == 3


def test_a_fixed_window_with_room_is_free_now() -> None:
    window = FixedWindow()
    window.add(T0, SECOND_US, 3)
    assert window.room_at_us(4, 1, T0 + 5, SECOND_US) == T0 + 5
    assert window.room_at_us(3, 1, T0 + 5, SECOND_US) == T0 + SECOND_US


@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=40), limit=st.integers(1, 9)
)
def test_room_comes_exactly_when_a_rolling_window_says(steps: list[tuple[int, int]], limit: int) -> None:
    window, now = RollingWindow(), T0
    booked: list[tuple[int, int]] = []
    for gap, size in steps:
        now += gap
        window.add(now, 50, size)
        booked.append((now, size))
    free = window.room_at_us(limit, 1, now, 50)

    def held(at: int) -> int:
        return sum(size for when, size in booked if when > at - 50)

    assert free >= now
    assert held(free) + 1 <= limit
    assert free == now or held(free - 1) + 1 > limit


def test_refused_requests_count_only_when_the_switch_says_so() -> None:
    strict = AccountBook(Settings(account_rejected_counts=True, account_limits={f"POST {CREATE}": 1}))
    for step in range(3):
        strict.take("1001", "POST", CREATE, "linear", 1, T0 + step * 600_000)
    assert strict.take("1001", "POST", CREATE, "linear", 1, T0 + 3 * 600_000).allowed == 0
    lenient = AccountBook(Settings(account_limits={f"POST {CREATE}": 1}))
    allowed = [lenient.take("1001", "POST", CREATE, "linear", 1, T0 + i * 600_000).allowed for i in range(3)]
    assert allowed == [1, 0, 1]


def test_minute_limits_are_held_over_a_minute() -> None:
    book, path = AccountBook(), "/v5/asset/transfer/inter-transfer"
    for step in range(60):
        assert book.take("1001", "POST", path, "", 1, T0 + step).allowed == 1
    assert book.take("1001", "POST", path, "", 1, T0 + MINUTE_US - 1).allowed == 0
    assert book.take("1001", "POST", path, "", 1, T0 + MINUTE_US).allowed == 1


def test_a_path_outside_the_table_is_free_unless_given_a_limit() -> None:
    settings = Settings()
    book = AccountBook(settings)
    assert book.take("1001", "GET", "/v5/own", "", 3, T0) == (3, 0, 0, T0 // 1000, SECOND_US)
    settings.unlisted_limit = 2
    assert book.take("1001", "GET", "/v5/own", "", 3, T0).allowed == 2


def test_a_limit_set_by_hand_goes_before_the_table_and_the_narrower_one_first() -> None:
    settings = Settings(account_limits={f"POST {CREATE}": 3, f"POST {CREATE} spot": 7, "GET /v5/own": 1})
    book = AccountBook(settings)
    assert book.take("1001", "POST", CREATE, "linear", 1, T0).limit == 3
    assert book.take("1001", "POST", CREATE, "spot", 1, T0).limit == 7
    assert book.take("1001", "GET", "/v5/own", "spot", 1, T0).limit == 1


def test_a_limit_of_nothing_lets_nothing_through() -> None:
    book = AccountBook(Settings(account_limits={f"POST {CREATE}": 0}))
    grant = book.take("1001", "POST", CREATE, "linear", 1, T0)
    assert (grant.allowed, grant.reset_ms) == (0, (T0 + SECOND_US) // 1000)


@pytest.mark.parametrize(
    ("method", "path", "category", "level", "expected"),
    [
        ("POST", "/v5/order/create", "linear", "default", (10, SECOND_US)),
        ("POST", "/v5/order/create", "spot", "default", (20, SECOND_US)),
        ("POST", "/v5/order/create", "", "default", (10, SECOND_US)),
        ("POST", "/v5/order/create", "linear", "vip1", (20, SECOND_US)),
        ("POST", "/v5/order/create", "option", "vip2", (40, SECOND_US)),
        ("POST", "/v5/order/create", "spot", "vip3", (40, SECOND_US)),
        ("POST", "/v5/order/cancel-all", "option", "default", (1, SECOND_US)),
        ("POST", "/v5/order/cancel-all", "option", "vip3", (1, SECOND_US)),
        ("GET", "/v5/order/realtime", "linear", "vip3", (50, SECOND_US)),
        ("GET", "/v5/account/transaction-log", "", "default", (25, SECOND_US)),
        ("GET", "/v5/asset/coin/query-info", "", "default", (5, SECOND_US)),
        ("GET", "/v5/asset/deposit/query-record", "", "default", (100, MINUTE_US)),
        ("GET", "/v5/user/query-api", "", "default", (10, SECOND_US)),
    ],
)
def test_the_table_says(method: str, path: str, category: str, level: str, expected: tuple[int, int]) -> None:
    found = find_limit(method, path, category, level)
    assert found is not None
    assert (found.number, found.window_us) == expected


def test_a_category_an_endpoint_does_not_offer_has_no_limit() -> None:
    assert find_limit("POST", "/v5/position/set-leverage", "spot") is None
    assert len(listed()) > 130

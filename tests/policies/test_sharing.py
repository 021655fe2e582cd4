"""What each of several gateways may send when their store is lost, and when it may."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Counts, Quota, WindowKind
from policies.sharing import WHOLE, Mode, Standing, divided, set_aside, spare

SECOND = 1_000_000
LOST_AFTER_US = 1_500_000
SLACK_US = 500_000
WINDOW_US = 5 * SECOND
START = 10**15


def exact(limit: int) -> Quota:
    return Quota("bybit-ip", limit, WINDOW_US, ("egress",), window=WindowKind.HELD)


@st.composite
def shares(draw: st.DrawFn) -> list[int]:
    """Any partition that the table could hold: together never more than the whole."""
    parts = draw(st.lists(st.integers(0, WHOLE), min_size=1, max_size=20))
    total = max(WHOLE, sum(parts))
    return [part * WHOLE // total for part in parts]


@given(limit=st.integers(1, 100_000), parts=shares())
def test_shares_never_add_up_to_more_than_the_limit(limit: int, parts: list[int]) -> None:
    quota = exact(limit)
    assert sum(divided(quota, share) for share in parts) <= limit
    assert sum(spare(quota, share) for share in parts) <= set_aside(quota)


@given(limit=st.integers(1, 100_000))
def test_no_more_than_a_fiftieth_is_set_aside(limit: int) -> None:
    assert set_aside(exact(limit)) <= limit * 0.02


def test_a_rule_that_nobody_is_banned_for_leaves_everybody_something() -> None:
    own = Quota("kline", 2, SECOND, ("egress",), counts=Counts.UPSTREAM, window=WindowKind.SENT)
    assert set_aside(own) == 0
    assert divided(own, WHOLE // 3) == 1


def standing(replicas: int = 3) -> Standing:
    """One that spends from the shared windows, and has just said so."""
    one = Standing(replicas, LOST_AFTER_US, START)
    one.found([WINDOW_US], START)
    one.heard(WHOLE // replicas, START)
    assert one.says(START)
    assert one.mode([WINDOW_US], START) is Mode.SHARED
    return one


def test_its_own_share_is_used_only_when_the_others_have_known_for_a_window() -> None:
    one = standing()
    one.lost(START + 200_000)
    safe = START + LOST_AFTER_US + SLACK_US + WINDOW_US

    assert one.mode([WINDOW_US], START + 200_001) is Mode.EMERGENCY
    assert not one.divides(WINDOW_US, safe - 1)
    assert one.divides(WINDOW_US, safe)
    assert one.mode([WINDOW_US], safe) is Mode.DIVIDED


def test_a_shorter_window_is_divided_sooner() -> None:
    one = standing()
    one.lost(START)
    now = START + LOST_AFTER_US + SLACK_US + SECOND
    assert one.divides(SECOND, now)
    assert not one.divides(WINDOW_US, now)
    assert one.mode([SECOND, WINDOW_US], now) is Mode.EMERGENCY


def test_a_store_that_is_back_soon_is_shared_at_once() -> None:
    """Nobody has used more than what was set aside: nothing is missing in the store."""
    one = standing()
    one.lost(START + SECOND)
    one.found([WINDOW_US], START + 2 * SECOND)
    assert one.mode([WINDOW_US], START + 2 * SECOND) is Mode.SHARED


def test_a_share_that_was_used_is_handed_back_for_one_window() -> None:
    one = standing()
    one.lost(START)
    back = START + 60 * SECOND
    one.found([WINDOW_US], back)
    assert one.mode([WINDOW_US], back) is Mode.RETURNING
    assert one.divides(WINDOW_US, back + WINDOW_US - 1)
    assert not one.shared(back + WINDOW_US - 1)
    assert one.mode([WINDOW_US], back + WINDOW_US) is Mode.SHARED
    assert not one.divides(WINDOW_US, back + WINDOW_US)


def test_a_store_that_is_lost_again_while_it_is_handed_back_interrupts_nothing() -> None:
    """The others have not counted on our share meanwhile."""
    one = standing()
    one.lost(START)
    one.found([WINDOW_US], START + 60 * SECOND)
    one.lost(START + 61 * SECOND)
    assert one.mode([WINDOW_US], START + 61 * SECOND) is Mode.DIVIDED


def test_signs_of_life_count_only_while_the_shared_windows_are_spent() -> None:
    """While it hands back, the others see that it goes by its own share: its silence tells them nothing new."""
    one = standing()
    one.lost(START)
    back = START + 60 * SECOND
    one.found([WINDOW_US], back)
    assert not one.says(back + SECOND)
    one.lost(back + 2 * SECOND)
    assert one.divides(WINDOW_US, back + 2 * SECOND)


def test_a_sign_of_life_counts_although_its_answer_was_lost() -> None:
    """The others may have heard it, and go on to count on us."""
    one = standing()
    assert one.says(START + SECOND)
    one.lost(START + SECOND + 50_000)
    assert not one.divides(WINDOW_US, START + SECOND + LOST_AFTER_US + WINDOW_US)


def test_a_gateway_alone_that_starts_while_the_store_is_away_waits_as_long_as_one_that_has_lost_it() -> None:
    one = Standing(1, LOST_AFTER_US, START)
    assert one.share == WHOLE
    assert one.mode([WINDOW_US], START) is Mode.EMERGENCY
    assert not one.divides(WINDOW_US, START + LOST_AFTER_US + WINDOW_US)
    assert one.divides(WINDOW_US, START + LOST_AFTER_US + SLACK_US + WINDOW_US)


def test_one_of_several_that_the_others_do_not_know_of_keeps_to_what_was_set_aside() -> None:
    """Nobody leaves a share alone for a gateway that has never given a sign of life."""
    one = Standing(4, LOST_AFTER_US, START)
    assert one.share == WHOLE // 4
    assert not one.divides(WINDOW_US, START + 3_600 * SECOND)
    one.heard(WHOLE // 4, START + 3_600 * SECOND)
    one.found([WINDOW_US], START + 3_600 * SECOND)
    assert one.mode([WINDOW_US], START + 3_600 * SECOND) is Mode.SHARED


def test_a_store_without_memory_holds() -> None:
    one = standing()
    one.holds(START + WINDOW_US)
    assert one.mode([WINDOW_US], START) is Mode.HOLDING
    assert not one.divides(WINDOW_US, START + WINDOW_US - 1), "only what was set aside"
    assert one.mode([WINDOW_US], START + WINDOW_US) is Mode.SHARED

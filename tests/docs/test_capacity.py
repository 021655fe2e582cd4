"""The capacity plan's table is what its program makes of its inputs, and the program does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.capacity import FLEETS, Bot, Figures, Rules, plan, table

PAGE = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()


def test_the_table_on_the_page_is_the_programs() -> None:
    """Whoever changes an input or the arithmetic prints the table again: python -m tools.capacity."""
    assert table() in PAGE


def test_the_inputs_on_the_page_are_the_programs() -> None:
    figures, bot, rules = Figures(), Bot(), Rules()
    for said in (
        f"cache | {figures.hit_us:g} µs",
        f"brought back | {figures.sent_us:g} µs",
        f"two calls) | {figures.store_us:g} µs",
        f"the same | {figures.redis_us:g} µs",
        f"planned with {figures.idle_mb:g}",
        f"gateway's memory | {figures.candle_bytes:g} bytes",
        f"in Redis | {figures.candle_redis_bytes:g} bytes",
        f"gzip | {figures.answer_kb:g} KB",
        f"{bot.pairs} pairs in timeframes",
        f"{rules.planned:.0%} are planned for".replace("%", " %"),
        f"{rules.core:.0%} of a processor".replace("%", " %"),
        f"account reads {rules.read_per_s} a second",
    ):
        assert said in PAGE, said


def test_a_hundred_bots_by_hand() -> None:
    """The arithmetic that the page spells out."""
    told = plan(100)

    assert told.asked_per_s == pytest.approx(100 * (40 * 17 / 3600 + 0.2 + 0.5))
    assert told.sent_per_s == pytest.approx(200 * 17 / 3600 + 1 + 50)
    assert told.addresses == 1
    assert told.gateways == 2
    assert told.peak_cores == pytest.approx((51.944 * 332 + 36.944 * 106 + 1_000 * 106) / 1e6, rel=1e-3)
    assert told.candles_mb == pytest.approx(200 * 3 * 2 * 1_000 * 95 / 1e6)


def test_addresses_follow_from_what_is_sent_and_not_from_what_is_asked() -> None:
    """Bots that ask for no more than candles need no second address, however many they are."""
    readers = Bot(signed_per_s=0.0, tickers_per_s=0.0)

    assert [plan(bots, readers).addresses for bots in FLEETS] == [1] * len(FLEETS)
    assert plan(1_000, Bot(signed_per_s=1.0)).addresses == 13


@pytest.mark.parametrize("bots", FLEETS)
def test_no_address_is_asked_for_more_than_it_has(bots: int) -> None:
    told, rules = plan(bots), Rules()

    assert told.sent_per_s / told.addresses <= rules.address_per_s * rules.usable * rules.planned
    assert told.gateways >= told.addresses
    assert told.peak_cores / told.gateways <= rules.core

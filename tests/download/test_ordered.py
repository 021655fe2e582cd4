"""The blocks of a series in order: complete, nothing twice, no doubt about what is missing, few questions for nothing.

The exchange here is the fake one without its sockets, with a hand in between that spoils answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest

from policies.blocks import Span, span_of
from policies.segments import Series, open_of_slot
from proxy.download.asking import Asker, SymbolRefused
from proxy.download.fetching import Fetcher
from proxy.download.ordered import InOrder
from tests.fake_bybit.candles import candle
from tests.fake_bybit.klines import kline_result
from tests.fake_bybit.params import Query, Refusal
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.symbols import NEWUSDT_LISTED_MS, OLDUSDT_DELISTED_MS, utc_ms

NOW_MS = utc_ms(2026, 9, 1)
MINUTE = 60_000
Question = dict[str, str]
Spoil = Callable[[Question, dict[str, Any], bool], dict[str, Any]]


def as_it_is(_: Question, result: dict[str, Any], __: bool) -> dict[str, Any]:
    return result


class Exchange:
    """Answers what an Asker is asked, late and in any order."""

    def __init__(self, spoil: Spoil = as_it_is, *, gap_fill: bool = True) -> None:
        self.asked: list[Question] = []
        self.most = 0
        self._spoil = spoil
        self._settings = Settings(kline_gap_fill=gap_fill)
        self._dice = random.Random(1)
        self._open = 0

    async def ask(self, target: str, *, anew: bool = False) -> bytes:
        parts = urlsplit(target)
        question = dict(parse_qsl(parts.query))
        self.asked.append(question)
        self._open += 1
        self.most = max(self.most, self._open)
        for _ in range(self._dice.randrange(5)):
            await asyncio.sleep(0)
        self._open -= 1
        try:
            result = kline_result(parts.path, Query(parse_qsl(parts.query)), 1, self._settings, NOW_MS)
        except Refusal as refusal:
            raise SymbolRefused(refusal.ret_msg) from None
        result = self._spoil(question, result, anew)
        return orjson.dumps({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOW_MS})


async def fetched(
    exchange: Exchange, symbol: str, low_ms: int, high_ms: int, interval: str = "1", *, ahead: int = 8
) -> tuple[list[int], bytes, Span]:
    """All open times and lines; that the stretches join without a hole is checked on the way."""
    series = Series("kline", "linear", symbol, interval)
    span = span_of("linear", interval, low_ms, high_ms)
    opens: list[int] = []
    text = b""
    at, blocks = span.first, 0
    in_order = InOrder(Fetcher(series, span, cast("Asker", exchange)), span, ahead)
    async with aclosing(in_order.stretches()) as stretches:
        async for stretch in stretches:
            assert stretch.end > at
            assert all(open_of_slot(interval, at) <= open_ms for open_ms in stretch.lines.opens)
            assert all(open_ms < open_of_slot(interval, stretch.end) for open_ms in stretch.lines.opens)
            at, blocks = stretch.end, blocks + stretch.blocks
            opens += stretch.lines.opens
            text += stretch.lines.text
    assert at == span.end
    assert blocks == span.block_count
    return opens, text, span


def really(symbol: str, low_ms: int, high_ms: int, interval: str = "1", *, gap_fill: bool = True) -> list[list[str]]:
    """What there is, candle by candle."""
    span = span_of("linear", interval, low_ms, high_ms)
    rows = []
    for slot in range(span.first, span.end):
        open_ms = open_of_slot(interval, slot)
        row = candle(1, "kline", "linear", symbol, interval, open_ms, NOW_MS, gap_fill=gap_fill)
        if row is not None:
            rows.append(row)
    return rows


def lines(rows: list[list[str]]) -> bytes:
    return b"".join(",".join(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("interval", ["1", "5", "60", "D", "W", "M"])
async def test_what_comes_is_what_there_is(interval: str) -> None:
    low, high = utc_ms(2024, 2, 3, 4, 5), utc_ms(2024, 2, 7) if interval in {"1", "5"} else utc_ms(2026, 5, 6)
    opens, text, span = await fetched(exchange := Exchange(), "BTCUSDT", low, high, interval)

    assert text == lines(really("BTCUSDT", low, high, interval))
    assert opens == [open_of_slot(interval, slot) for slot in range(span.first, span.end)]
    assert len(exchange.asked) == span.block_count


async def test_never_more_blocks_are_under_way_than_memory_is_meant_for() -> None:
    low, high = utc_ms(2024, 2, 3), utc_ms(2024, 3, 3)
    await fetched(exchange := Exchange(), "BTCUSDT", low, high, ahead=5)
    assert exchange.most <= 5


async def test_every_gap_is_asked_about_twice_and_then_believed() -> None:
    low, high = utc_ms(2024, 2, 3), utc_ms(2024, 2, 6)
    _, text, span = await fetched(exchange := Exchange(gap_fill=False), "GAPUSDT", low, high)

    expected = really("GAPUSDT", low, high, gap_fill=False)
    assert text == lines(expected)
    assert len(expected) < (high - low) // MINUTE
    assert len(exchange.asked) == 2 * span.block_count


async def test_a_gap_that_was_none_is_filled() -> None:
    """An answer that was not whole, once: the second asking shows it."""

    def spoil(question: Question, result: dict[str, Any], anew: bool) -> dict[str, Any]:
        return result if anew else {**result, "list": result["list"][:400] + result["list"][401:]}

    low, high = utc_ms(2024, 2, 3), utc_ms(2024, 2, 5)
    _, text, _ = await fetched(Exchange(spoil), "BTCUSDT", low, high)
    assert text == lines(really("BTCUSDT", low, high))


async def test_an_exchange_that_says_something_else_each_time_is_not_believed() -> None:
    dice = random.Random(2)

    def spoil(_: Question, result: dict[str, Any], __: bool) -> dict[str, Any]:
        at = dice.randrange(len(result["list"]) or 1)
        return {**result, "list": result["list"][:at] + result["list"][at + 1 :]}

    with pytest.raises(SymbolRefused, match="something else each time"):
        await fetched(Exchange(spoil), "BTCUSDT", utc_ms(2024, 2, 3), utc_ms(2024, 2, 4))


async def test_an_answer_that_does_not_fit_is_asked_for_again_and_then_told() -> None:
    bad = 2

    def spoil(_: Question, result: dict[str, Any], __: bool) -> dict[str, Any]:
        nonlocal bad
        bad -= 1
        return result if bad < 0 else {**result, "symbol": "ETHUSDT"}

    low, high = utc_ms(2024, 2, 3), utc_ms(2024, 2, 4)
    _, text, _ = await fetched(Exchange(spoil), "BTCUSDT", low, high)
    assert text == lines(really("BTCUSDT", low, high))

    bad = 1_000
    with pytest.raises(SymbolRefused, match="no good answer about BTCUSDT from 1706918400000"):
        await fetched(Exchange(spoil), "BTCUSDT", low, high)


async def test_a_late_listing_costs_a_few_questions_and_loses_nothing() -> None:
    """A year and a half of nothing: 788 blocks, of which those under way are asked for, and some to be sure."""
    low, high = utc_ms(2025, 1, 1), NEWUSDT_LISTED_MS + 3 * 86_400_000
    _, text, span = await fetched(exchange := Exchange(), "NEWUSDT", low, high)

    assert text == lines(really("NEWUSDT", NEWUSDT_LISTED_MS - 600_000, high))
    assert span.block_count > 700
    assert len(exchange.asked) < 30


async def test_what_is_gone_costs_a_few_questions_too() -> None:
    low, high = OLDUSDT_DELISTED_MS - 3 * 86_400_000, utc_ms(2026, 8, 1)
    _, text, span = await fetched(exchange := Exchange(), "OLDUSDT", low, high)

    assert text == lines(really("OLDUSDT", low, OLDUSDT_DELISTED_MS + 600_000))
    assert span.block_count > 200
    assert len(exchange.asked) < 30


async def test_a_range_before_the_listing_is_empty() -> None:
    opens, _, _ = await fetched(exchange := Exchange(), "NEWUSDT", utc_ms(2025, 1, 1), utc_ms(2026, 1, 1))
    assert opens == []
    assert len(exchange.asked) < 30


async def test_a_month_without_candles_in_the_middle_is_crossed_and_nothing_behind_it_is_lost() -> None:
    away = (utc_ms(2024, 3, 1, 7), utc_ms(2024, 4, 1, 9))

    def spoil(question: Question, result: dict[str, Any], _: bool) -> dict[str, Any]:
        kept = [row for row in result["list"] if not away[0] <= int(row[0]) < away[1]]
        if "end" not in question and not kept:  # start alone runs forward, past the hole
            kept = [next(iter(really("BTCUSDT", away[1], away[1] + MINUTE)))]
        return {**result, "list": kept}

    low, high = utc_ms(2024, 2, 28), utc_ms(2024, 4, 5)
    _, text, span = await fetched(exchange := Exchange(spoil), "BTCUSDT", low, high, ahead=3)

    assert text == lines(really("BTCUSDT", low, away[0]) + really("BTCUSDT", away[1], high))
    assert len(exchange.asked) < span.block_count - 30


@pytest.mark.parametrize("lie", ["the newest", "the one asked for", "nothing"])
async def test_an_exchange_that_understands_start_otherwise_is_asked_for_every_block(lie: str) -> None:
    """Where a series goes on is a question that the documents do not pin. Whatever comes back, nothing is left out."""
    away = (utc_ms(2024, 2, 3), utc_ms(2024, 2, 9))

    def spoil(question: Question, result: dict[str, Any], _: bool) -> dict[str, Any]:
        kept = [row for row in result["list"] if not away[0] <= int(row[0]) < away[1]]
        if "end" not in question:
            match lie:
                case "the newest":
                    kept = really("BTCUSDT", high - MINUTE, high)
                case "the one asked for":
                    kept = really("BTCUSDT", int(question["start"]), int(question["start"]) + MINUTE)
                case _:
                    kept = []
        return {**result, "list": kept}

    low, high = away[0] - 600 * MINUTE, away[1] + 3_000 * MINUTE
    _, text, _ = await fetched(Exchange(spoil), "BTCUSDT", low, high, ahead=2)
    assert text == lines(really("BTCUSDT", low, away[0]) + really("BTCUSDT", away[1], high))


async def test_what_came_before_a_refusal_is_not_lost() -> None:
    """Blocks are given out up to the one that fails, although later ones are here already."""

    def spoil(question: Question, result: dict[str, Any], _: bool) -> dict[str, Any]:
        if int(question["start"]) >= utc_ms(2024, 2, 5):
            raise SymbolRefused("Not supported symbols")
        return result

    low, high = utc_ms(2024, 2, 3), utc_ms(2024, 2, 9)
    series, span = Series("kline", "linear", "BTCUSDT", "1"), span_of("linear", "1", low, high)
    in_order = InOrder(Fetcher(series, span, cast("Asker", Exchange(spoil))), span, 16)
    opens: list[int] = []

    async def collect() -> None:
        async with aclosing(in_order.stretches()) as stretches:
            async for stretch in stretches:
                opens.extend(stretch.lines.opens)

    with pytest.raises(SymbolRefused):
        await collect()
    assert len(opens) > 2_000
    assert opens == list(range(low, opens[-1] + 1, MINUTE))

"""The candle generator: a pure function of seed, series, opening time and now.

A price at a minute boundary is a sum of slow waves over hashed nodes. A candle opens at the price of its opening
boundary and closes at the price of its closing one, so neighbours meet and all intervals agree on both. While a
candle runs, high and low only widen, volume only grows, and the close moves with every 100 ms. Once it has closed
(and settled, see `settle_ms`) nothing about it depends on now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from math import isqrt
from typing import Final, Literal

from tests.fake_bybit import noise, symbols
from tests.fake_bybit.decimals import fixed, rescaled, trimmed
from tests.fake_bybit.intervals import MINUTE_MS, next_open

Kind = Literal["kline", "mark", "index", "premium"]

BUCKET_MS: Final = 100
PARTS: Final = 1_000_000_000  # waves are in parts of 10**9 of the anchor price
# Node distance (2**shift minutes) and reach of each wave: half a year, three days, an hour.
PRICE_WAVES: Final = ((18, 300_000_000), (12, 40_000_000), (6, 5_000_000))
PRICE_MINUTE_REACH: Final = 300_000
# bybit.md 3.1: premium rows may be negative. In units of 0.000001.
PREMIUM_WAVES: Final = ((18, 400), (12, 400), (6, 200))
PREMIUM_MINUTE_REACH: Final = 80

GAP_BLOCK_MINUTES: Final = 200
GAP_LONGEST_MINUTES: Final = 11


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line of candles. Prices are in ticks of `tick_units` units of 10**-decimals."""

    kind: Kind
    instrument: symbols.Instrument
    path_key: int
    minute_key: int
    shape_key: int
    gap_key: int
    tick_units: int
    anchor_ticks: int
    decimals: int


@cache
def series_of(seed: int, kind: Kind, category: str, symbol: str) -> Series | None:
    """The series of a listed name, or None for a name that was never listed."""
    instrument = symbols.find(category, symbol)
    if instrument is None:
        return None
    is_trade = kind == "kline"
    # Mark and index prices are finer than the order book's tick.
    tick_units = instrument.tick_units if is_trade else 1
    return Series(
        kind=kind,
        instrument=instrument,
        # One path per base coin: spot, perpetuals, mark and index move together.
        path_key=noise.key_of(seed, "path", instrument.base),
        minute_key=noise.key_of(seed, "minute", kind, category, symbol),
        shape_key=noise.key_of(seed, "shape", kind, category, symbol),
        gap_key=noise.key_of(seed, "gap", category, symbol),
        tick_units=tick_units,
        anchor_ticks=0 if kind == "premium" else instrument.anchor_ticks * instrument.tick_units // tick_units,
        decimals=6 if kind == "premium" else instrument.price_decimals,
    )


def candle(
    seed: int,
    kind: Kind,
    category: str,
    symbol: str,
    interval: str,
    open_ms: int,
    now_ms: int,
    *,
    settle_ms: int = 0,
    gap_fill: bool = False,
) -> list[str] | None:
    """The row of the candle opened at `open_ms` as seen at `now_ms`, or None where there is none.

    Seven strings for kline (start, open, high, low, close, volume, turnover), five for the other kinds.
    """
    series = series_of(seed, kind, category, symbol)
    if series is None:
        return None
    return row(series, interval, open_ms, now_ms, settle_ms=settle_ms, gap_fill=gap_fill)


def row(
    series: Series, interval: str, open_ms: int, now_ms: int, *, settle_ms: int = 0, gap_fill: bool = False
) -> list[str] | None:
    """`candle`, for a series already at hand."""
    instrument = series.instrument
    end_ms = next_open(interval, open_ms)
    begin_ms = max(open_ms, instrument.listed_ms)
    stop_ms = end_ms if instrument.ended_ms is None else min(end_ms, instrument.ended_ms)
    if begin_ms >= stop_ms or now_ms < begin_ms:
        return None
    if instrument.has_gaps and (gap_minute := _gap_around(series, open_ms, end_ms)) is not None:
        return _flat(series, open_ms, gap_minute) if gap_fill else None
    shape = _closed(series, interval, open_ms, end_ms)
    if now_ms < stop_ms + settle_ms:
        shape = _running(
            series,
            shape,
            open_ms,
            elapsed_ms=now_ms - begin_ms,
            life_ms=stop_ms - begin_ms,
            settle_ms=settle_ms,
        )
    return _written(series, open_ms, shape)


def last_price_ticks(series: Series, now_ms: int) -> int:
    """The last traded price: the close of the running one-minute candle, or of the last one before the end."""
    ended_ms = series.instrument.ended_ms
    if ended_ms is not None and now_ms >= ended_ms:
        return price_at(series, ended_ms // MINUTE_MS)
    begin_ms = now_ms - now_ms % MINUTE_MS
    shape = _closed(series, "1", begin_ms, begin_ms + MINUTE_MS)
    elapsed_ms = now_ms - begin_ms
    return _running(series, shape, begin_ms, elapsed_ms=elapsed_ms, life_ms=MINUTE_MS, settle_ms=0).close


@lru_cache(maxsize=65_536)
def price_at(series: Series, minute: int) -> int:
    """The price in ticks at a minute boundary."""
    if series.kind == "premium":
        waves, reach = PREMIUM_WAVES, PREMIUM_MINUTE_REACH
    else:
        waves, reach = PRICE_WAVES, PRICE_MINUTE_REACH
    key = series.path_key
    parts = noise.swing(series.minute_key, minute, reach)
    for shift, wave_reach in waves:
        parts += noise.wave(key, shift, minute, wave_reach)
    if series.kind == "premium":
        return parts
    return series.anchor_ticks + series.anchor_ticks * parts // PARTS


@dataclass(slots=True)
class _Shape:
    open: int
    high: int
    low: int
    close: int
    qty_units: int
    # Turnover is volume times this one price, so that it can only grow while volume grows.
    turnover_ticks: int


def _closed(series: Series, interval: str, open_ms: int, end_ms: int) -> _Shape:
    open_minute, minutes = open_ms // MINUTE_MS, (end_ms - open_ms) // MINUTE_MS
    first, last = price_at(series, open_minute), price_at(series, open_minute + minutes)
    bits = noise.mix(series.shape_key ^ minutes, open_minute)
    wick = _longest_wick(series, minutes)
    high = max(first, last) + 1 + ((bits & 0xFFFFF) * wick >> 20)
    low = min(first, last) - 1 - ((bits >> 20 & 0xFFFFF) * wick >> 20)
    qty_units = series.instrument.minute_qty_units * minutes * (512 + (bits >> 54)) >> 10
    return _Shape(first, high, low, last, qty_units, (first + high + low + last) // 4)


def _longest_wick(series: Series, minutes: int) -> int:
    if series.kind == "premium":
        return 8 * isqrt(minutes)
    return series.anchor_ticks * isqrt(minutes) * 120 // 1_000_000


def _running(series: Series, final: _Shape, open_ms: int, *, elapsed_ms: int, life_ms: int, settle_ms: int) -> _Shape:
    bucket = elapsed_ms // BUCKET_MS
    first, last = final.open, final.close
    if bucket == 0:
        return _Shape(first, first, first, first, 0, final.turnover_ticks)
    elapsed_ms = bucket * BUCKET_MS
    # The whole range is reached half-way; from then on only close and volume move.
    reached_ms = min(2 * elapsed_ms, life_ms)
    high = first + max(1, (final.high - first) * reached_ms // life_ms)
    low = first - max(1, (first - final.low) * reached_ms // life_ms)
    centre = first + (last - first) * min(elapsed_ms, life_ms) // life_ms
    close = centre + noise.swing(series.shape_key ^ open_ms, bucket, (high - low) // 8 + 1)
    close = min(max(close, low), high)
    # Odd buckets stand an odd number of ticks from the open: two neighbouring buckets never agree.
    if (close - first - bucket) & 1:
        close += 1 if close < high else -1
    qty_units = final.qty_units * elapsed_ms // (life_ms + settle_ms)
    return _Shape(first, high, low, close, qty_units, final.turnover_ticks)


def _written(series: Series, open_ms: int, shape: _Shape) -> list[str]:
    units, decimals = series.tick_units, series.decimals
    # bybit.md 3.1: traded and mark prices drop zeros at the end ("17073"), index and premium keep them ("17167.00")
    write = trimmed if series.kind in {"kline", "mark"} else fixed
    prices = [
        str(open_ms),
        write(shape.open * units, decimals),
        write(shape.high * units, decimals),
        write(shape.low * units, decimals),
        write(shape.close * units, decimals),
    ]
    if series.kind == "kline":
        prices += _volume(series, shape)
    return prices


def _volume(series: Series, shape: _Shape) -> list[str]:
    instrument = series.instrument
    price_units = shape.turnover_ticks * series.tick_units
    volume = trimmed(shape.qty_units, instrument.qty_decimals)
    if instrument.category == "inverse":
        # bybit.md 3.1: inverse volume in USD, turnover in base coin
        coins = shape.qty_units * 10 ** (8 + series.decimals) // price_units
        return [volume, trimmed(coins, 8)]
    # bybit.md 3.1: linear and spot volume in base coin, turnover in quote
    decimals = instrument.qty_decimals + series.decimals
    kept = min(decimals, 8 if instrument.category == "spot" else 4)
    return [volume, trimmed(rescaled(shape.qty_units * price_units, decimals, kept), kept)]


def _gap_around(series: Series, open_ms: int, end_ms: int) -> int | None:
    # A candle is missing when all of its minutes are. Runs keep away from the block's edges, so one block decides.
    open_minute, end_minute = open_ms // MINUTE_MS, end_ms // MINUTE_MS
    if end_minute - open_minute > GAP_LONGEST_MINUTES:
        return None
    block = open_minute // GAP_BLOCK_MINUTES
    bits = noise.mix(series.gap_key, block)
    length = 1 + (bits & 0xFFFF) % GAP_LONGEST_MINUTES
    room = GAP_BLOCK_MINUTES - GAP_LONGEST_MINUTES - 1
    start = block * GAP_BLOCK_MINUTES + 1 + (bits >> 16 & 0xFFFF) % room
    return start if start <= open_minute and end_minute <= start + length else None


def _flat(series: Series, open_ms: int, gap_minute: int) -> list[str]:
    # bybit.md 3.1: no-trade minutes on perps are normally filled with flat candles
    price = price_at(series, gap_minute)
    return _written(series, open_ms, _Shape(price, price, price, price, 0, max(price, 1)))

"""What is listed on the exchange in a box: every instrument, its scales and its lifetime.

Names worth knowing in tests:

BTCUSDT, ETHUSDT, SOLUSDT   old and liquid, in linear and spot
GAPUSDT                     misses about 3 % of its one-minute candles, in runs of 1 to 11
NEWUSDT                     listed at 2026-06-15 10:37 UTC, in the middle of every interval but the shortest
OLDUSDT                     delisted at 2026-03-01 00:00 UTC
ALT000USDT ...              enough linear names to need a second page of instruments-info
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.fake_bybit.noise import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CATEGORIES: Final = ("linear", "inverse", "spot", "option")
LINEAR_ALTCOINS: Final = 560
SPOT_ALTCOINS: Final = 60


def utc_ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    """Milliseconds since 1970 of a UTC date and time."""
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1000


NEWUSDT_LISTED_MS: Final = utc_ms(2026, 6, 15, 10, 37)
OLDUSDT_DELISTED_MS: Final = utc_ms(2026, 3, 1)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable name. Prices are in units of 10**-price_decimals, sizes in units of 10**-qty_decimals."""

    category: str
    symbol: str
    base: str
    quote: str
    settle: str
    contract: str
    price_decimals: int
    tick_units: int
    anchor_ticks: int
    qty_decimals: int
    minute_qty_units: int
    listed_ms: int
    ended_ms: int | None = None
    delivery_ms: int = 0
    funding_minutes: int = 480
    has_gaps: bool = False

    def status(self, now_ms: int) -> str:
        """Trading, PreLaunch before the listing, Closed after the end."""
        if now_ms < self.listed_ms:
            return "PreLaunch"
        if self.ended_ms is not None and now_ms >= self.ended_ms:
            return "Closed"
        return "Trading"

    def is_trading(self, now_ms: int) -> bool:
        """Whether orders are taken."""
        return self.status(now_ms) == "Trading"


def find(category: str, symbol: str) -> Instrument | None:
    """The instrument of that exact (upper-case) name, listed, delisted or still to come."""
    return _catalogue().get(category, {}).get(symbol)


def listed(category: str) -> list[Instrument]:
    """Every instrument of a category, in symbol order."""
    return list(_catalogue().get(category, {}).values())


@cache
def _catalogue() -> dict[str, dict[str, Instrument]]:
    books: dict[str, dict[str, Instrument]] = {category: {} for category in CATEGORIES}
    for instrument in sorted(_everything(), key=lambda item: item.symbol):
        books[instrument.category][instrument.symbol] = instrument
    return books


def _everything() -> Iterator[Instrument]:
    yield from _linear()
    yield from _inverse()
    yield from _spot()
    yield from _options()


class _Scale(NamedTuple):
    decimals: int
    tick_units: int
    anchor_ticks: int
    qty_decimals: int
    minute_qty_units: int


def _perpetual(
    base: str,
    scale: _Scale,
    listed_ms: int,
    *,
    ended_ms: int | None = None,
    has_gaps: bool = False,
    symbol: str = "",
    quote: str = "USDT",
) -> Instrument:
    return Instrument(
        "linear", symbol or f"{base}{quote}", base, quote, quote, "LinearPerpetual", *scale,
        listed_ms, ended_ms, delivery_ms=ended_ms or 0, has_gaps=has_gaps,
    )  # fmt: skip


def _linear() -> Iterator[Instrument]:
    yield _perpetual("BTC", _Scale(2, 10, 652_000, 3, 42_000), utc_ms(2020, 3, 30))
    yield _perpetual("ETH", _Scale(2, 1, 310_000, 2, 58_000), utc_ms(2020, 10, 21))
    yield _perpetual("SOL", _Scale(3, 10, 14_500, 1, 31_000), utc_ms(2021, 6, 29))
    yield _perpetual("XRP", _Scale(4, 1, 21_000, 1, 900_000), utc_ms(2021, 5, 13))
    yield _perpetual("DOGE", _Scale(5, 1, 18_500, 0, 600_000), utc_ms(2021, 6, 2))
    yield _perpetual("GAP", _Scale(4, 1, 52_000, 1, 40_000), utc_ms(2022, 1, 1), has_gaps=True)
    yield _perpetual("NEW", _Scale(4, 1, 13_000, 1, 70_000), NEWUSDT_LISTED_MS)
    yield _perpetual("OLD", _Scale(4, 1, 44_000, 1, 20_000), utc_ms(2022, 1, 1), ended_ms=OLDUSDT_DELISTED_MS)
    yield _perpetual("BTC", _Scale(2, 10, 652_000, 3, 4_000), utc_ms(2022, 8, 1), symbol="BTCPERP", quote="USDC")
    yield _perpetual("ETH", _Scale(2, 1, 310_000, 2, 6_000), utc_ms(2022, 8, 1), symbol="ETHPERP", quote="USDC")
    for number in range(LINEAR_ALTCOINS):
        anchor_ticks = 10_000 + key_of("altcoin", number) % 80_000
        # Staggered listings, so that histories of unequal length exist.
        listed_ms = utc_ms(2021, 1, 1) + number * 86_400_000
        yield _perpetual(f"ALT{number:03d}", _Scale(4, 1, anchor_ticks, 1, 20_000 + number), listed_ms)


def _inverse() -> Iterator[Instrument]:
    perpetuals = (("BTC", 50, 130_400, 2018), ("ETH", 5, 62_000, 2019))
    for base, tick_units, anchor_ticks, year in perpetuals:
        yield Instrument(
            "inverse", f"{base}USD", base, "USD", base, "InversePerpetual",
            2, tick_units, anchor_ticks, 0, 260_000, utc_ms(year, 11, 15),
        )  # fmt: skip
    delivery_ms = utc_ms(2026, 12, 25, 8)
    yield Instrument(
        "inverse", "BTCUSDZ26", "BTC", "USD", "BTC", "InverseFutures",
        2, 50, 131_000, 0, 40_000, utc_ms(2026, 1, 2, 8), delivery_ms, delivery_ms, funding_minutes=0,
    )  # fmt: skip


def _pair(
    base: str,
    quote: str,
    scale: _Scale,
    listed_ms: int,
    ended_ms: int | None = None,
    *,
    has_gaps: bool = False,
) -> Instrument:
    # The finer the size, the more units a minute needs: volume has to grow with every 100 ms.
    scale = scale._replace(minute_qty_units=3 * 10 ** max(scale.qty_decimals, 4))
    return Instrument("spot", f"{base}{quote}", base, quote, quote, "", *scale, listed_ms, ended_ms, has_gaps=has_gaps)


def _spot() -> Iterator[Instrument]:
    yield _pair("BTC", "USDT", _Scale(2, 1, 6_520_000, 6, 0), utc_ms(2021, 7, 5))
    yield _pair("ETH", "USDT", _Scale(2, 1, 310_000, 5, 0), utc_ms(2021, 7, 5))
    yield _pair("SOL", "USDT", _Scale(2, 1, 14_500, 3, 0), utc_ms(2021, 10, 14))
    yield _pair("XRP", "USDT", _Scale(4, 1, 21_000, 2, 0), utc_ms(2021, 7, 5))
    yield _pair("DOGE", "USDT", _Scale(5, 1, 18_500, 1, 0), utc_ms(2021, 9, 14))
    yield _pair("BTC", "USDC", _Scale(2, 1, 6_520_000, 6, 0), utc_ms(2022, 6, 1))
    yield _pair("ETH", "BTC", _Scale(6, 1, 47_500, 4, 0), utc_ms(2021, 7, 5))
    yield _pair("USDC", "USDT", _Scale(4, 1, 10_000, 2, 0), utc_ms(2022, 1, 10))
    yield _pair("GAP", "USDT", _Scale(4, 1, 52_000, 2, 0), utc_ms(2022, 1, 1), has_gaps=True)
    yield _pair("NEW", "USDT", _Scale(4, 1, 13_000, 2, 0), NEWUSDT_LISTED_MS)
    yield _pair("OLD", "USDT", _Scale(4, 1, 44_000, 2, 0), utc_ms(2022, 1, 1), OLDUSDT_DELISTED_MS)
    for number in range(SPOT_ALTCOINS):
        anchor_ticks = 10_000 + key_of("altcoin", number) % 80_000
        yield _pair(
            f"ALT{number:03d}", "USDT", _Scale(4, 1, anchor_ticks, 2, 0), utc_ms(2022, 1, 1) + number * 86_400_000
        )


def _options() -> Iterator[Instrument]:
    coins = (("BTC", (55_000, 60_000, 65_000, 70_000, 80_000)), ("ETH", (2_500, 2_800, 3_100, 3_500, 4_000)))
    expiries = (("25SEP26", utc_ms(2026, 9, 25, 8)), ("25DEC26", utc_ms(2026, 12, 25, 8)))
    for base, strikes in coins:
        for expiry, delivery_ms in expiries:
            for strike in strikes:
                for side in "CP":
                    yield Instrument(
                        "option", f"{base}-{expiry}-{strike}-{side}", base, "USD", "USDC", "",
                        1, 1, strike, 2, 2_000, utc_ms(2026, 1, 2, 8), delivery_ms, delivery_ms, 0,
                    )  # fmt: skip

"""From measured figures to machines: the table of docs/capacity.md, so that its arithmetic is never out of date.

python -m tools.capacity        # prints it as Markdown, as it stands on the page
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

FLEETS: Final = (1, 10, 100, 1_000, 5_000)

_PER_HOUR: Final = (12, 4, 1)
"""How often a candle of 5, 15 and 60 minutes ends."""


@dataclass(frozen=True)
class Figures:
    """What was measured, on one processor of the machine that docs/capacity.md names."""

    hit_us: float = 40
    sent_us: float = 200
    store_us: float = 132
    redis_us: float = 55
    idle_mb: float = 80
    candle_bytes: float = 95
    candle_redis_bytes: float = 17
    answer_kb: float = 27


@dataclass(frozen=True)
class Bot:
    """What one bot does. Others do other things: change the numbers and print the table again."""

    pairs: int = 40
    timeframes: int = len(_PER_HOUR)
    rows: int = 1_000
    signed_per_s: float = 0.5
    tickers_per_s: float = 0.2
    apart_s: float = 0.1

    @property
    def candles_per_s(self) -> float:
        return self.pairs * sum(_PER_HOUR) / 3600

    @property
    def peak_per_s(self) -> float:
        """At the full hour, when candles of all timeframes end, one request after the other."""
        return 1 / self.apart_s


@dataclass(frozen=True)
class Rules:
    """What is allowed, and how much of it is planned for."""

    address_per_s: float = 120
    usable: float = 0.98
    planned: float = 0.70
    read_per_s: int = 50
    listed_pairs: int = 600
    core: float = 0.60
    replicas: int = 2


class Plan(NamedTuple):
    bots: int
    asked_per_s: float
    hits: float
    """The part that is answered without the exchange."""
    sent_per_s: float
    addresses: int
    accounts: int
    gateways: int
    cores: float
    peak_per_s: float
    peak_cores: float
    candles_after_s: float
    """How long until the candles of all timeframes that have ended at the full hour are known."""
    redis_calls_per_s: float
    redis_cores_at_peak: float
    candles_mb: float
    candles_redis_mb: float
    megabits_at_peak: float


def plan(bots: int, bot: Bot = Bot(), figures: Figures = Figures(), rules: Rules = Rules()) -> Plan:
    """What so many bots need. All divisions round up."""
    pairs = min(rules.listed_pairs, bot.pairs * lists(bots))
    candles = bots * bot.candles_per_s
    tickers = bots * bot.tickers_per_s
    signed = bots * bot.signed_per_s
    asked = candles + tickers + signed
    sent = min(candles, pairs * sum(_PER_HOUR) / 3600) + min(tickers, 1.0) + signed
    addresses = ceil(sent / (rules.address_per_s * rules.usable * rules.planned))
    shared = addresses > 1 or bots > 1
    store_us, redis_us = (figures.store_us, figures.redis_us) if shared else (0.0, 0.0)
    cores = (sent * (figures.sent_us + store_us) + (asked - sent) * (figures.hit_us + store_us / 2)) / 1e6
    peak = bots * bot.peak_per_s
    peak_cores = cores + peak * (figures.hit_us + store_us / 2) / 1e6
    gateways = max(addresses * (rules.replicas if shared else 1), ceil(peak_cores / rules.core))
    series = pairs * bot.timeframes
    candles_kept = series * 2 * bot.rows  # a range of a thousand lies in two segments of a thousand
    return Plan(
        bots=bots,
        asked_per_s=asked,
        hits=1 - sent / asked,
        sent_per_s=sent,
        addresses=addresses,
        accounts=ceil(signed / (rules.read_per_s * rules.planned)),
        gateways=gateways,
        cores=cores,
        peak_per_s=peak,
        peak_cores=peak_cores,
        candles_after_s=series / (addresses * rules.address_per_s * rules.usable),
        redis_calls_per_s=(2 * sent + (asked - sent)) if shared else 0.0,
        redis_cores_at_peak=(sent * redis_us + (asked - sent + peak) * redis_us / 2) / 1e6,
        candles_mb=candles_kept * figures.candle_bytes / 1e6,
        candles_redis_mb=candles_kept * figures.candle_redis_bytes / 1e6,
        megabits_at_peak=peak * figures.answer_kb * 8 / 1e3,
    )


def lists(bots: int) -> int:
    """How many different lists of pairs so many bots have: the more bots, the fewer new ones."""
    return max(1, round(math.pow(bots, 0.33)))


def table() -> str:
    """The table of the page."""
    plans = [plan(bots) for bots in FLEETS]
    rows: list[tuple[str, list[str]]] = [
        ("bots", [_whole(each.bots) for each in plans]),
        ("asked of the gateway, a second", [_number(each.asked_per_s) for each in plans]),
        ("answered without the exchange", [f"{each.hits:.0%}" for each in plans]),
        ("sent to the exchange, a second", [_number(each.sent_per_s) for each in plans]),
        ("**addresses**", [_whole(each.addresses) for each in plans]),
        ("accounts at least, for their reads", [_whole(each.accounts) for each in plans]),
        ("**gateway processes**", [_whole(each.gateways) for each in plans]),
        ("processors busy, all of them together", [f"{each.cores:.2f}" for each in plans]),
        ("asked at the full hour, a second", [_number(each.peak_per_s) for each in plans]),
        ("processors busy then", [f"{each.peak_cores:.2f}" for each in plans]),
        ("all new candles are known after, s", [_number(each.candles_after_s) for each in plans]),
        ("Redis: calls a second", [_number(each.redis_calls_per_s) for each in plans]),
        ("Redis: processors busy at the full hour", [f"{each.redis_cores_at_peak:.2f}" for each in plans]),
        ("candles in memory, MB", [_number(each.candles_mb) for each in plans]),
        ("candles in Redis, MB", [_number(each.candles_redis_mb) for each in plans]),
        ("to the bots at the full hour, Mbit/s", [_number(each.megabits_at_peak) for each in plans]),
    ]
    return "".join(f"{line}\n" for line in _lines(rows))


def _lines(rows: list[tuple[str, list[str]]]) -> Iterator[str]:
    name, heads = rows[0]
    yield f"| {name} | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for name, cells in rows[1:]:
        yield f"| {name} | {' | '.join(cells)} |"


def _whole(value: int) -> str:
    return f"{value:,}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201

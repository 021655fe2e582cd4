"""What a fleet of bots costs the exchange, and what its candles take in Redis: counts, the same on every machine.

Hours pass in seconds: the gateway and the exchange in a box go by a clock that is moved on (tests/fleet.py).
"""

from __future__ import annotations

import asyncio

import structlog

from bench import shared
from bench.report import Report, Row
from tests.at_rest import measure as measure_rest
from tests.fleet import Fleet, Played, play

_SAVED_BAR = 95.0
_REST_BAR = 70.0


def measure(report: Report, *, quick: bool) -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    together = Fleet(pairs=10, hours=1) if quick else Fleet()
    apart = together._replace(own_order=True, apart_ms=100)
    for how, fleet in (("one list of pairs", together), ("each its own order and pace", apart)):
        for stream in (False, True):
            played = asyncio.run(play(fleet, stream=stream))
            if played.wrong:
                raise RuntimeError(f"{len(played.wrong)} wrong answers, such as {played.wrong[0]}")
            label = f"{fleet.bots} bots x {fleet.pairs} pairs x {len(fleet.intervals)}, {fleet.hours} h, {how}"
            what = f"{label}: {'candles.stream' if stream else 'as shipped'}"
            bar = _SAVED_BAR if stream else None
            report.rows.append(Row("fleet", what, "%", (100 * played.saved,), bar, _told(played)))


def measure_at_rest(report: Report) -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with shared.redis(None) as url:
        found = asyncio.run(measure_rest(url))
    for each in found:
        what = " ".join(each.series)
        note = f"{each.plain_bytes / 2000:.1f} to {each.kept_bytes / 2000:.1f} bytes per candle"
        report.rows.append(Row("rest", what, "%", (100 * each.saved,), None, note))
    plain, kept = sum(each.plain_bytes for each in found), sum(each.kept_bytes for each in found)
    report.rows.append(Row("rest", "altogether", "%", (100 - 100 * kept / plain,), _REST_BAR))


def _told(played: Played) -> str:
    later, later_upstream = played.asked - played.at_start, played.upstream - played.upstream_at_start
    return (
        f"{played.asked:,} asked, {played.upstream:,} sent; "
        f"after the start {later:,} and {later_upstream:,}: {100 - 100 * later_upstream / later:.1f} %"
    )

"""What candles take in Redis, against what they take in the exchange's answers."""

from __future__ import annotations

from typing import Final, NamedTuple

from redis.asyncio import Redis

from policies.segments import Series, bounds_of, segment_of
from tests.by_hand import KLINE, Desk, desk, target
from tests.hand_clock import until

_SEGMENTS: Final = 2
KINDS: Final = (
    *(Series("kline", "linear", symbol, interval) for symbol in ("BTCUSDT", "ALT007USDT") for interval in ("1", "60")),
    Series("kline", "spot", "ETHUSDT", "5"),
    Series("kline", "inverse", "BTCUSD", "15"),
    Series("mark-price-kline", "linear", "BTCUSDT", "1"),
    Series("index-price-kline", "linear", "BTCUSDT", "1"),
    Series("premium-index-price-kline", "linear", "BTCUSDT", "1"),
)


class AtRest(NamedTuple):
    series: Series
    plain_bytes: int
    """The rows as the exchange writes them."""
    kept_bytes: int
    """The values in Redis, with all that stands around the rows."""

    @property
    def saved(self) -> float:
        return 1 - self.kept_bytes / self.plain_bytes


async def measure(redis_url: str) -> list[AtRest]:
    """Whole segments of each kind, fetched through a gateway that keeps them there."""
    found = []
    async with desk(cache__l2__url=redis_url, cache__l2__timeout="1s") as here, Redis.from_url(redis_url) as client:
        for series in KINDS:
            plain = sum([await _fetched(here, series, back) for back in range(1, _SEGMENTS + 1)])
            two = here.app.caches.two
            assert two is not None
            await here.clock.leap(6)  # segments are written every five seconds
            await here.settled()
            await until(lambda two=two: not two.l2.status().queued)
            names = [name async for name in client.scan_iter(match=f"{series.key()}:segment:*")]
            assert len(names) == _SEGMENTS
            kept = sum([await client.strlen(name) for name in names])
            found.append(AtRest(series, plain, kept))
    return found


async def _fetched(here: Desk, series: Series, back: int) -> int:
    """A segment of the past; the bytes of its rows."""
    low_ms, high_ms = bounds_of(series.interval, segment_of(series.interval, here.now_ms) - back)
    path = KLINE.removesuffix("kline") + series.endpoint
    asked = {"start": low_ms, "end": high_ms - 1, "limit": 1000}
    told = await here.client.get(target(series.symbol, series.interval, path=path, category=series.category, **asked))
    rows = told.body[told.body.index(b"[[") + 1 : told.body.index(b"]]") + 1]
    assert rows.count(b"[") == 1000
    return len(rows)

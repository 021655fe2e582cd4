"""Ten bots, forty pairs, three timeframes: what the exchange sees of them."""

from __future__ import annotations

from tests.fleet import Fleet, play


async def test_as_shipped_a_candle_costs_one_request_however_many_bots_there_are() -> None:
    """Each series is asked for once when its candle has ended, which is the least there can be without streams: of ten
    bots nine cost nothing. Nobody gets a stale answer."""
    fleet = Fleet(pairs=10)
    played = await play(fleet)
    candles = fleet.pairs * (12 + 4 + 1) * fleet.hours

    assert played.wrong == []
    assert played.asked - played.at_start >= fleet.bots * (candles - fleet.pairs)
    assert played.upstream - played.upstream_at_start <= candles


async def test_with_streams_at_least_95_percent_of_all_requests_are_saved() -> None:
    """The start of all bots within twenty seconds included; from then on, in hours, there is no request at all."""
    played = await play(Fleet(hours=1), stream=True)

    assert played.wrong == []
    assert played.asked >= 8_000
    assert played.saved >= 0.95
    assert played.upstream == played.upstream_at_start


async def test_bots_that_pace_themselves_are_served_too() -> None:
    """Each goes through the pairs in an order of its own, ten in a second, as ccxt does by itself: their questions come
    seconds apart, and an open candle that is older than two is not given. With streams that costs nothing either."""
    fleet = Fleet(pairs=12, hours=1, apart_ms=100, own_order=True)
    shipped, streamed = await play(fleet), await play(fleet, stream=True)

    assert shipped.wrong == streamed.wrong == []
    assert shipped.upstream - shipped.upstream_at_start < (shipped.asked - shipped.at_start) / 3
    assert streamed.upstream == streamed.upstream_at_start

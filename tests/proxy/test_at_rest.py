"""Candles that are kept for all gateways take little room."""

from __future__ import annotations

from tests.at_rest import KINDS, measure
from tests.redis_servers import needs_redis, redis_server

pytestmark = needs_redis


async def test_closed_candles_take_less_than_a_third_of_their_room_in_redis() -> None:
    """Bytes of all values, seals and headers included, against bytes of the rows: trades of all categories, mark, index
    and premium prices. Each kind by itself, and at least 70 % altogether."""
    with redis_server() as redis:
        found = await measure(redis.url)

    assert [each.series for each in found] == list(KINDS)
    assert min(each.saved for each in found) > 2 / 3
    assert 1 - sum(each.kept_bytes for each in found) / sum(each.plain_bytes for each in found) >= 0.70

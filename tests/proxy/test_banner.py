"""What `check` and the start say is enforced: every condition of a rule is in it."""

from __future__ import annotations

from typing import Any

import pytest

from policies.schema import LimitSection
from proxy.banner import banner
from proxy.config import Config


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({}, "per egress, counts upstream"),
        ({"endpoint": "kline"}, "per egress on kline, counts upstream"),
        ({"endpoint": ["kline", "tickers", "orderbook", "risk-limit"]}, "per egress on 4 endpoints, counts upstream"),
        ({"path": "/v5/market/time"}, "per egress on /v5/market/time, counts upstream"),
        ({"method": "POST", "signed": True}, "per egress on POST of signed requests, counts upstream"),
        ({"signed": False}, "per egress on unsigned requests, counts upstream"),
        ({"tier": ["FREE", "PREMIUM"]}, "per egress on tier FREE, PREMIUM, counts upstream"),
        ({"endpoint": "kline", "tier": "FREE"}, "per egress on kline of tier FREE, counts upstream"),
    ],
    ids=str,
)
def test_a_rule_is_told_with_everything_that_narrows_it(match: dict[str, Any], said: str) -> None:
    """Somebody who reads it must not take a rule for some requests for one that holds for all."""
    rule = LimitSection.model_validate(
        {"name": "it", "match": match, "partition": ["egress"], "quota": "5/1s", "counts": "upstream"}
    )

    lines = banner(Config(limits=(rule,)), 8080)

    assert [line for line in lines if said in line] == [line for line in lines if "limit it:" in line] != []

"""The trade switch: with `halt-new` no order is placed or changed any more, and every cancel still passes."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

_ORDER_PATHS: Final = ("/v5/order/", "/v5/spread/order/", "/v5/rfq/")
_PASSING: Final = frozenset({"cancel", "cancel-all", "cancel-batch", "disconnected-cancel-all", "pre-check"})
_RFQ: Final = "/v5/rfq/"
"""Block trades: what ends one is named cancel-something there."""
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_ODD: Final = re.compile(r"[^a-z0-9/_-]")
"""No path of the exchange by which anything is changed holds anything else."""
_OTHERS: Final = frozenset(
    {
        "fcombobot-create",
        "fgridbot-create",
        "fmartingalebot-create",
        "grid-create-grid",
        "dca-create-bot",
        "strategy-create",
    }
)
"""Endpoints that begin to trade by themselves."""


class TradingMode(StrEnum):
    """The labels of the metric `gateway_trading_mode`, and the words of the switch."""

    NORMAL = "normal"
    HALT_NEW = "halt-new"


def places_orders(method: str, path: str, endpoint: str) -> bool:
    """Whether a request creates or changes orders. What lies beside the known cancels is taken for one that does, and
    so is a path in a spelling that the exchange may read otherwise than we do."""
    if method in _READS:
        return False
    if endpoint in _OTHERS or _ODD.search(path):
        return True
    parts = [part for part in path.split("/") if part]  # some servers take //v5//order/ for the same
    plain = f"/{'/'.join(parts)}"
    if plain.startswith(_RFQ):
        return not parts[-1].startswith("cancel")
    return plain.startswith(_ORDER_PATHS) and parts[-1] not in _PASSING

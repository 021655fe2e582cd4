"""The classes of requests, and which request belongs to which."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from policies.routing import Access, Route


class Priority(IntEnum):
    """Most urgent first."""

    CANCEL = 0
    ORDER = 1
    ACCOUNT = 2
    LIVE = 3
    HISTORY = 4


_CANCELS: Final = ("order-cancel", "order-disconnected-cancel")
_TRADING: Final = frozenset({"order", "position"})
_HISTORY: Final = frozenset(
    {
        "funding-history",
        "open-interest",
        "account-ratio",
        "historical-volatility",
        "instruments-info",
        "risk-limit",
        "delivery-price",
        "new-delivery-price",
        "insurance",
        "fee-group-info",
        "announcements",
    }
)


def priority_of(route: Route, method: str, path: str, query: str, *, signed: bool) -> Priority:
    """Cancels before orders before the account before live data before history.

    A candle request that names a start or an end fills a chart; one without wants the newest. What the route table does
    not list is judged by its path and by whether it is signed.
    """
    if method not in {"GET", "HEAD", "OPTIONS"}:
        if not signed:
            return Priority.HISTORY  # the exchange will refuse it: nobody else should wait for that
        if route.endpoint.startswith(_CANCELS) or path.endswith(("/cancel", "/cancel-all", "/cancel-batch")):
            return Priority.CANCEL
        trading = route.group in _TRADING or path.startswith(("/v5/order/", "/v5/position/", "/v5/spread/order/"))
        return Priority.ORDER if trading else Priority.ACCOUNT
    if route.access is Access.PUBLIC or not signed:
        ranged = route.candles and ("start=" in query or "end=" in query)
        return Priority.HISTORY if ranged or route.endpoint in _HISTORY else Priority.LIVE
    return Priority.ACCOUNT

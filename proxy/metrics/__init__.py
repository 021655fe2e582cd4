"""Every metric, declared once. Labels are names of the route table and of rules, never symbols, keys or raw paths.

traffic    requests of clients and how they were answered
limits     rules, windows, queues, what was learned
caching    answers, candles, the level in Redis
exchange   what the upstream says, bans, streams
storage    the common store and the archive
system     memory, event loop, dependencies, configuration
page       docs/metrics.md
bounds     of buckets;  merging: what becomes of the gauges of several workers
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from proxy.metrics.caching import Caching
from proxy.metrics.exchange import Exchange
from proxy.metrics.limits import Limits
from proxy.metrics.merging import GAUGES
from proxy.metrics.storage import Storage
from proxy.metrics.system import System
from proxy.metrics.traffic import Traffic

__all__ = ["GAUGES", "GROUPS", "Metrics"]

GROUPS: Final = (Traffic, Limits, Caching, Exchange, Storage, System)


class Metrics(Traffic, Limits, Caching, Exchange, Storage, System):
    """One instance per gateway; `registry` is what /metrics shows."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        for group in GROUPS:
            group.__init__(self, registry)

"""Which store a configuration asks for."""

from __future__ import annotations

import secrets
from hashlib import blake2b

from policies.sharing import Standing
from proxy.clock import Clock
from proxy.config import Config
from proxy.metrics import Metrics
from proxy.store.client import connect_s, connected
from proxy.store.local import LocalShare
from proxy.store.members import Members
from proxy.store.memory import MemoryStore
from proxy.store.neighbours import LOST_AFTER_US
from proxy.store.remote import RemoteWindows
from proxy.store.shared import SharedStore

_AFTER_TOTAL_US = 6_000_000
"""A request whose fate is unknown is held for a second beyond its time; the rest is for a slow machine."""


def opened(config: Config, clock: Clock, metrics: Metrics, keyed_by: str) -> MemoryStore | SharedStore:
    """`keyed_by` is a fingerprint of what keys the hashes of API keys. Nothing is connected before start()."""
    if not config.store.shared:
        return MemoryStore(clock)
    store = config.store
    remote = RemoteWindows(
        connected(store),
        egress=config.egress.id,
        replica=secrets.token_hex(6),
        lease_us=config.upstream.timeouts.total + _AFTER_TOTAL_US,
        timeout_us=store.timeout,
        connect_s=connect_s(store),
        clock=clock,
        metrics=metrics,
    )
    replicas = store.replicas * config.workers  # each process has a share of its own
    members = Members(
        remote,
        replicas=replicas,
        towards=store.address.hosts[0],
        keyed_by=blake2b(keyed_by.encode(), digest_size=4).hexdigest(),
        clock=clock,
    )
    standing = Standing(replicas, LOST_AFTER_US, clock())
    return SharedStore(remote, LocalShare(clock, store.on_failure), standing, members, clock)

"""What is allowed in a configuration and still looks like a mistake. `check` says it, nothing refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from policies.admission import Counts, Match, Quota
from policies.quantities import Rate, duration_text
from policies.resilience_schema import TEN_MINUTES_US
from proxy.config import Config

_LONG_US: Final = 60_000_000
_NEW, _STANDING = Rate(500, 300_000_000), 1000
"""Connections of one address that the exchange allows: https://bybit-exchange.github.io/docs/v5/ws/connect"""


def advice(config: Config) -> Iterator[str]:
    """Warnings in words, each with the place it is about."""
    if config.upstream.plain_and_remote:
        yield f"upstream.url: {config.upstream.url} is plain http beyond this machine: orders go unencrypted"
    for field, url in (("upstream.url", config.upstream.url), ("upstream.stream_url", config.upstream.stream_url)):
        if _is_itself(url, config):
            yield f"{field}: {url} is this gateway itself: each request would come back to it, again and again"
    if config.pacing.ban < TEN_MINUTES_US:
        yield (
            f"pacing.ban: {duration_text(config.pacing.ban)} is shorter than the ten minutes that the exchange asks "
            "for: good for tests only"
        )
    if config.store.shared and config.store.replicas == 1:
        yield (
            "store.replicas: 1, with a store that gateways can share: one that starts while it is away takes the whole "
            "budget; say how many gateways there can be"
        )
    if config.store.shared and config.identity.hash_key is None and not config.store.address.password:
        yield "identity.hash_key: nothing secret keys the hashes of API keys in the store: it has no password either"
    if config.candles.stream and _is_mainnet(config.upstream.url) != _is_mainnet(config.upstream.stream_url):
        yield (
            f"upstream.stream_url: {config.upstream.stream_url} is of another exchange than {config.upstream.url}: "
            "candles of the one would be given for those of the other"
        )
    if not config.cache.enabled and (config.archive.url is not None or config.candles.stream):
        without = "archive.url" if config.archive.url is not None else "candles.stream"
        yield f"{without}: of no effect while cache.enabled is false"
    new = config.streams.new
    if new.limit * _NEW.window_us > _NEW.limit * new.window_us or config.streams.concurrent > _STANDING:
        yield "streams: more connections than the exchange allows one address, 500 new in 5m and 1000 to one stream"
    if config.cache.open_ttl > _LONG_US:
        yield (
            f"cache.open_ttl: {duration_text(config.cache.open_ttl)}: for so long a running candle may be given "
            "whose price no longer holds"
        )
    redis = config.cache.l2.address or (config.store.address if config.store.shared else None)
    keeps = redis is not None and config.cache.enabled and config.cache.l2.enabled
    if keeps and redis is not None and not redis.password and config.cache.l2.secret is None:
        yield (
            "cache.l2.secret: nothing secret seals what is kept in Redis, which has no password either: who can write "
            "to it can put words into the exchange's mouth"
        )
    if config.cache.lock == "always" and config.cache.l2.url is None and not config.store.shared:
        yield "cache.lock: always, without a Redis: each gateway fetches for itself (cache.l2.url, or store.url)"
    enforced = [quota for counts in Counts for quota in config.quotas(counts) if not quota.shadow]
    shared = [quota for quota in enforced if _protects_the_address(quota)]
    if not shared:
        yield (
            "limits: no rule counts all that is sent (counts: upstream, partition: [egress], no match): "
            "nothing keeps this address from a ban"
        )
        return
    tightest = min(shared, key=lambda quota: quota.limit / quota.window_us)
    for quota in enforced:
        if "ip" in quota.partition and quota.limit * tightest.window_us > tightest.limit * quota.window_us:
            yield (
                f"limits: {quota.name} lets one address ask for {_rate(quota)}, "
                f"more than {tightest.name} has for everybody ({_rate(tightest)})"
            )


def _is_itself(url: str, config: Config) -> bool:
    """As far as can be seen without asking a name server."""
    parts, host = urlsplit(url), config.listen.host
    port = parts.port or (443 if parts.scheme in {"https", "wss"} else 80)
    if port != config.listen.port:
        return False
    return parts.hostname == host or (_is_this_machine(host) and _is_this_machine(parts.hostname or ""))


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _is_mainnet(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".bybit.com", ".bytick.com")) and "-testnet" not in host and "-demo" not in host


def _protects_the_address(quota: Quota) -> bool:
    everything = quota.match == Match()
    return quota.counts is Counts.UPSTREAM and everything and set(quota.partition) <= {"egress"}


def _rate(quota: Quota) -> str:
    return f"{quota.limit} in {duration_text(quota.window_us)}"

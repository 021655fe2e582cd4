"""What the person who starts the gateway is told of what it does."""

from __future__ import annotations

import sys
from collections.abc import Collection

import structlog

from policies.admission import Counts, Match, Quota, WhenFull
from policies.quantities import duration_text
from proxy.advice import advice
from proxy.config import Config


def greet(config: Config, port: int) -> None:
    """Tell the person who starts the gateway what it does, and what looks like a mistake."""
    lines = [*banner(config, port), *(f"WARNING: {warning}" for warning in advice(config))]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()
    for warning in advice(config):
        structlog.get_logger().warning("doubtful_configuration", warning=warning)


def banner(config: Config, port: int) -> list[str]:
    """What is enforced, in words for the person who starts the gateway."""
    cache = config.cache
    lines = [
        f"bybit-gateway on http://{config.listen.host}:{port} -> {config.upstream.url}",
        f"  egress {config.egress.id}, store {config.store.address.shown}",
    ]
    quotas = config.quotas(Counts.REQUESTS) + config.quotas(Counts.UPSTREAM)
    lines += [f"  limit {_in_words(quota)}" for quota in quotas] or ["  NO LIMITS are configured"]
    pacing = config.pacing
    lines.append(
        f"  accounts: limits as published less {pacing.headroom} %, then as the exchange tells"
        if pacing.enabled
        else "  accounts: their limits are not kept"
    )
    if not cache.enabled:
        return [*lines, "  cache: off", *_beside(config)]
    places = ["memory", *(["Redis"] if cache.l2.enabled and (cache.l2.url or config.store.shared) else [])]
    lines.append(
        f"  cache: candles, open {duration_text(cache.open_ttl)}, closed {duration_text(cache.closed_ttl)} after "
        f"{duration_text(cache.settle)}, and {len(cache.answer_rules())} other endpoints, in {' and '.join(places)}"
    )
    if config.candles.enabled:
        live = ", the newest from the exchange's streams" if config.candles.stream else ""
        lines.append(f"  candles: ranges are put together from what is known{live}")
    return [*lines, *_beside(config)]


def _beside(config: Config) -> list[str]:
    """What does not decide whether a request is sent."""
    streams, new = config.streams, config.streams.quota()
    admin, tracing = config.admin, config.tracing
    passed = f"{new.limit} new in {duration_text(new.window_us)}, {streams.concurrent} at one time"
    traced = f"{tracing.sample} % of requests, to {tracing.endpoint or 'where OTEL_EXPORTER_OTLP_ENDPOINT says'}"
    place = "on the traffic port" if admin.port is None else f"on {admin.host}:{admin.port}"
    said = {
        "streams": f"to {config.upstream.stream_url}, {passed}" if streams.enabled else "off",
        "archive": "off" if config.archive.url is None else config.archive.shown,
        "backpressure": "turns away the least urgent first" if config.backpressure.enabled else "off",
        "usage": f"counted, kept for {duration_text(config.usage.retention)}" if config.usage.enabled else "off",
        "tracing": traced if tracing.enabled else "off",
        "pages": f"{place}, {'without admin.token' if admin.token is None else 'admin.token is set'}",
    }
    return [f"  {what}: {words}" for what, words in said.items()]


def _in_words(quota: Quota) -> str:
    each = " and ".join(quota.partition) or "everybody"
    full = "waits" if quota.when_full is WhenFull.WAIT else "refuses"
    shadow = ", SHADOW: not enforced" if quota.shadow else ""
    return (
        f"{quota.name}: {quota.limit} in {duration_text(quota.window_us)} per {each}{_scope(quota.match)}, "
        f"counts {quota.counts}, {quota.window}, {full}{shadow}"
    )


def _scope(match: Match) -> str:
    """Which requests a rule is for; nothing where it is for all."""
    words = [
        _few(names, noun)
        for names, noun in ((match.endpoint, "endpoints"), (match.path, "paths"), (match.method, "methods"))
        if names
    ]
    words += [f"tier {_few(match.tier, 'tiers')}"] if match.tier else []
    words += [] if match.signed is None else ["signed requests" if match.signed else "unsigned requests"]
    return f" on {' of '.join(words)}" if words else ""


def _few(names: Collection[str], noun: str) -> str:
    return ", ".join(sorted(names)) if len(names) < 4 else f"{len(names)} {noun}"

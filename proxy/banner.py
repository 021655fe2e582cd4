"""What the person who starts the gateway is told of what it does."""

from __future__ import annotations

import sys

import structlog

from policies.admission import Counts, Quota, WhenFull
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
        return [*lines, "  cache: off"]
    places = ["memory", *(["Redis"] if cache.l2.enabled and (cache.l2.url or config.store.shared) else [])]
    lines.append(
        f"  cache: candles, open {duration_text(cache.open_ttl)}, closed {duration_text(cache.closed_ttl)} after "
        f"{duration_text(cache.settle)}, and {len(cache.answer_rules())} other endpoints, in {' and '.join(places)}"
    )
    if config.candles.enabled:
        live = ", the newest from the exchange's streams" if config.candles.stream else ""
        lines.append(f"  candles: ranges are put together from what is known{live}")
    if config.archive.url is not None:
        lines.append(f"  archive: {config.archive.shown}")
    return lines


def _in_words(quota: Quota) -> str:
    each = " and ".join(quota.partition) or "everybody"
    full = "waits" if quota.when_full is WhenFull.WAIT else "refuses"
    on = sorted(quota.match.endpoint) if quota.match.endpoint else []
    scope = f" on {', '.join(on) if len(on) < 4 else f'{len(on)} endpoints'}" if on else ""
    shadow = ", SHADOW: not enforced" if quota.shadow else ""
    return (
        f"{quota.name}: {quota.limit} in {duration_text(quota.window_us)} per {each}{scope}, "
        f"counts {quota.counts}, {quota.window}, {full}{shadow}"
    )

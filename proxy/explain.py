"""What the gateway would do with a request, and why: the same corridor as for a real one, with nothing sent.

Headers decide who asks and until when; their values are never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from multidict import CIMultiDict

from policies import answer_rules, bybit, caching, selection
from policies.admission import Charge, Counts, Quota, Rulebook, WhenFull, WindowKind
from policies.answer_rules import AnswerQuery
from policies.descriptor import Descriptor
from policies.quantities import duration_text
from policies.routing import RouteTable
from policies.skew import AHEAD_US, Skew
from proxy.admin import reserved
from proxy.app import describer_of
from proxy.ask import understood
from proxy.clock import Clock
from proxy.config import Config
from proxy.describe import Asked
from proxy.identity import Rejected
from proxy.marketdata import marketdata

_HASHED: Final = frozenset({"api_key", "client"})
"""Parts of a partition that may be a hash: it means nothing in another process."""


class Question(NamedTuple):
    """A request as somebody describes it. `peer` is the address of its connection."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes
    peer: str


class Fate(NamedTuple):
    forwarded: bool
    status: int | None
    """Of the gateway's own answer; None when the exchange answers."""
    why: str


class Met(NamedTuple):
    """A rule that the request meets, and how full its window is where a running gateway told."""

    charge: Charge
    used: int | None
    remaining: int | None


class Explanation(NamedTuple):
    question: Question
    fate: Fate
    asked: Asked
    descriptor: Descriptor
    cache: str
    deadline_in_us: int | None
    met: tuple[Met, ...]
    not_met: tuple[str, ...]


def explain(
    question: Question,
    config: Config,
    routes: RouteTable,
    clock: Clock,
    usage: Sequence[Mapping[str, Any]] | None = None,
) -> Explanation:
    """`usage`: the rows of a running gateway's /gateway/limits."""
    now_us = clock()
    describer = describer_of(config, routes, clock)
    if marketdata.owns(question.target):
        name = marketdata.endpoint_of(question.target)
        asked = describer.describe_own(name, question.method, question.target, question.peer, question.headers)
        upstream = Rulebook(())  # what it asks of the exchange depends on what is known here
    else:
        asked = describer.describe(question.method, question.target, question.peer, question.headers)
        upstream = Rulebook(config.quotas(Counts.UPSTREAM), config.learned(routes))
    descriptor, _ = understood(asked, question.body)
    spends = asked.refusal is None and not _own(question)
    charges = (*asked.claim.charges, *upstream.charges(descriptor)) if spends else ()
    met = tuple(_met(charge, usage) for charge in charges)
    names = {charge.quota.name for charge in charges}
    quotas = (*config.quotas(Counts.REQUESTS), *config.quotas(Counts.UPSTREAM))
    deadline_us = descriptor.deadline_us
    return Explanation(
        question=question,
        fate=_fate(question, config, asked, descriptor, met, now_us),
        asked=asked,
        descriptor=descriptor,
        cache=_cache(question, config, asked, now_us),
        deadline_in_us=None if deadline_us is None else Skew().latest_send_us(deadline_us) - now_us,
        met=met,
        not_met=tuple(quota.name for quota in quotas if quota.name not in names),
    )


def _own(question: Question) -> bool:
    return reserved(question.target)


def _fate(
    question: Question, config: Config, asked: Asked, descriptor: Descriptor, met: tuple[Met, ...], now_us: int
) -> Fate:
    listen = config.listen
    if _own(question):
        port = config.admin.port
        there = "" if port is None else f": on the port of the traffic it is a 404, they are on admin.port, {port}"
        return Fate(forwarded=False, status=None if port is None else 404, why=f"one of the gateway's own pages{there}")
    if len(question.target) > listen.max_target:
        return Fate(
            forwarded=False, status=431, why=f"the target is longer than listen.max_target, {listen.max_target}"
        )
    if isinstance(asked.refusal, Rejected):
        return Fate(forwarded=False, status=401, why=asked.refusal.detail)
    if asked.refusal is not None:
        return Fate(forwarded=False, status=400, why=asked.refusal)
    if question.headers.get("Upgrade", "").lower() == "websocket":
        if not config.streams.enabled:
            return Fate(
                forwarded=False, status=501, why="WebSocket streams are not forwarded: streams.enabled is false"
            )
        return Fate(
            forwarded=True, status=None, why=f"as a WebSocket, to {config.upstream.stream_url}, within `streams`"
        )
    if len(question.body) > listen.max_body:
        return Fate(forwarded=False, status=413, why=f"the body is longer than listen.max_body, {listen.max_body}")
    if (clock := _clock(question, descriptor, now_us)) is not None:
        return Fate(forwarded=False, status=200, why=clock)
    for rule in met:
        quota = rule.charge.quota
        full = rule.remaining is not None and rule.remaining < rule.charge.cost
        if full and quota.when_full is WhenFull.REFUSE and not quota.shadow:
            return Fate(forwarded=False, status=429, why=f"the rule {quota.name} is full now")
    if marketdata.owns(question.target):
        why = "answered by the gateway itself; what it asks of the exchange for it meets the rules of kline or tickers"
        return Fate(forwarded=False, status=None, why=why)
    return Fate(forwarded=True, status=None, why=f"forwarded to {config.upstream.url}")


def _clock(question: Question, descriptor: Descriptor, now_us: int) -> str | None:
    """As the gateway judges once it has seen an answer of the exchange, if this machine's clock is right."""
    stamp_us, expiry_us = bybit.timestamp_us(question.headers), descriptor.deadline_us
    if not descriptor.signed or stamp_us is None or expiry_us is None:
        return None
    if stamp_us >= now_us + AHEAD_US:
        return f"its timestamp is {(stamp_us - now_us) // 1000} ms ahead, the exchange takes less than 1000"
    if expiry_us < now_us:
        return f"its signature expired {about(now_us - expiry_us)} ago: timestamp and recv_window have passed"
    return None


def _cache(question: Question, config: Config, asked: Asked, now_us: int) -> str:
    if marketdata.owns(question.target):
        return "made of what is cached, and of what is fetched"
    if not config.cache.enabled:
        return "passes by: cache.enabled is false"
    if isinstance(asked.kept, AnswerQuery):
        lifetime_us = answer_rules.lifetime_us(asked.kept.rule, now_us)
        return f"by a rule of cache.rules, kept up to {about(lifetime_us)}, key {asked.key}; a hit is not sent"
    if asked.kept is not None:
        lifetime_us = caching.life(asked.kept, None, config.cache.lifetimes(), now_us).fresh_us
        closed = lifetime_us == config.cache.closed_ttl and lifetime_us > config.cache.open_ttl
        kind = "closed candles" if closed else "may hold an open candle"
        by_row = config.candles.enabled and selection.select(asked.kept, now_us // 1000) is not None
        how = "put together from known candles where they suffice" if by_row else "kept by request only"
        return f"{kind}, kept up to {about(lifetime_us)}, key {asked.key}; a hit is not sent; {how}"
    if not asked.route.candles and asked.route.endpoint not in config.cache.answer_rules():
        return "passes by: no rule of cache.rules names its endpoint, and it is not of candles"
    if question.method != "GET":
        return "passes by: only GET is kept"
    if asked.descriptor.signed:
        return "passes by: signed requests are private"
    return "passes by: a parameter is missing, unknown, doubled, empty, escaped or out of range"


def _met(charge: Charge, usage: Sequence[Mapping[str, Any]] | None) -> Met:
    if usage is None:
        return Met(charge, None, None)
    quota = charge.quota
    partition = dict(zip(quota.partition, charge.key[1:], strict=True))
    for row in usage:
        if row["rule"] == quota.name and row["partition"] == partition:
            return Met(charge, row["used"], row["remaining"])
    hashed = not _HASHED.isdisjoint(quota.partition)
    return Met(charge, None, None) if hashed else Met(charge, 0, quota.burst or quota.limit)


def guarantee(quota: Quota) -> str:
    """What a kind of window promises, in a few words; docs/limits.md has more."""
    window = duration_text(quota.window_us)
    match quota.window:
        case WindowKind.HELD:
            return f"exact at the exchange: occupied until the reply plus {window}"
        case WindowKind.SENT:
            return f"exact at our door: occupied for {window} from sending"
        case WindowKind.SLOTTED:
            return "never above the quota, up to 1/64 of the window longer than sent"
        case WindowKind.LEARNED:
            return "begins so; from then on what the exchange itself allows this account"
        case WindowKind.BUCKET:
            return f"{quota.burst} at once, then one every {about(quota.window_us // quota.limit)}"


def about(value_us: int) -> str:
    """A duration for people: three digits, not its last microsecond."""
    for unit, size_us in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if value_us >= size_us:
            return f"{value_us / size_us:.3g} {unit}"
    return f"{value_us / 1000:.3g} ms"

"""An explanation as text for people and as JSON for scripts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import orjson

from policies.admission import Counts
from policies.quantities import duration_text
from proxy.explain import Explanation, Met, about, guarantee
from proxy.log import redact_text

_WIDTH = 110


def as_json(explanation: Explanation) -> bytes:
    descriptor, asked, fate = explanation.descriptor, explanation.asked, explanation.fate
    deadline_us = explanation.deadline_in_us
    body: dict[str, Any] = {
        "method": descriptor.method,
        "target": shown_target(explanation.question.target),
        "forwarded": fate.forwarded,
        "fate": fate.why,
        "status": fate.status,
        "endpoint": descriptor.endpoint,
        "group": asked.route.group,
        "access": asked.route.access.value,
        "address": descriptor.ip,
        "account": descriptor.api_key,
        "client": descriptor.client,
        "tier": descriptor.tier,
        "signed": descriptor.signed,
        "priority": descriptor.priority.name.lower(),
        "cost": descriptor.cost,
        "deadline_in_ms": None if deadline_us is None else deadline_us // 1000,
        "cache": explanation.cache,
        "rules": [_rule(met) for met in explanation.met],
        "not_met": list(explanation.not_met),
    }
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def as_text(explanation: Explanation) -> Iterator[str]:
    """Lines."""
    descriptor, asked, fate = explanation.descriptor, explanation.asked, explanation.fate
    yield f"{descriptor.method} {shown_target(explanation.question.target)}"
    answered = "" if fate.status is None else f", answered with {fate.status}"
    yield _line("fate", fate.why if fate.forwarded else f"not forwarded: {fate.why}{answered}")
    yield _line("endpoint", f"{descriptor.endpoint} (group {asked.route.group}, {asked.route.access})")
    yield _line("asking", _who(explanation))
    yield _line("class", f"{descriptor.priority.name.lower()}, cost {descriptor.cost}")
    yield _line("deadline", _deadline(explanation.deadline_in_us))
    yield _line("cache", explanation.cache)
    yield ""
    if not explanation.met:
        yield "meets no rule"
    for met in explanation.met:
        yield from _rule_lines(met)
    if explanation.not_met:
        count = len(explanation.not_met)
        names = f"{count} rule{'s' if count > 1 else ''} not met: {', '.join(explanation.not_met)}"
        yield from textwrap.wrap(names, _WIDTH, subsequent_indent="  ")


def shown_target(target: str) -> str:
    """Old clients sign in the query."""
    return redact_text(target)


def _line(name: str, text: str) -> str:
    return f"  {name:<9} {text}"


def _who(explanation: Explanation) -> str:
    descriptor = explanation.descriptor
    account = "no account" if descriptor.api_key is None else f"account {descriptor.api_key} (a hash)"
    client = "" if descriptor.client in {None, descriptor.ip, descriptor.api_key} else f", client {descriptor.client}"
    tier = "no tier" if descriptor.tier is None else f"tier {descriptor.tier}"
    signed = "signed" if descriptor.signed else "not signed"
    return f"{descriptor.ip}, {account}{client}, {tier}, {signed}"


def _deadline(in_us: int | None) -> str:
    if in_us is None:
        return "none: it may wait as long as queue.max_wait"
    if in_us < 0:
        return f"passed {about(-in_us)} ago: too late to leave in time for its signature"
    return f"must leave within {about(in_us)}, or its signature is too old"


def _rule_lines(met: Met) -> Iterator[str]:
    quota, charge = met.charge.quota, met.charge
    per = ", ".join(f"{part} {value}" for part, value in zip(quota.partition, charge.key[1:], strict=True))
    shadow = ", SHADOW: counted, not enforced" if quota.shadow else ""
    counts = "sent to the exchange" if quota.counts is Counts.UPSTREAM else "asked by clients"
    yield f"meets {quota.name}: {quota.limit} in {duration_text(quota.window_us)} {counts}, takes {charge.cost}{shadow}"
    yield _line("window", f"{quota.window}: {guarantee(quota)}")
    yield _line("of", per or "everybody together")
    yield _line("when full", f"{quota.when_full}, refuses with {quota.refuse_with}")
    if met.used is not None:
        yield _line("now", f"{met.used} used, {met.remaining} remaining")


def _rule(met: Met) -> dict[str, Any]:
    quota = met.charge.quota
    return {
        "name": quota.name,
        "counts": quota.counts.value,
        "limit": quota.limit,
        "period": duration_text(quota.window_us),
        "window": quota.window.value,
        "guarantee": guarantee(quota),
        "partition": dict(zip(quota.partition, met.charge.key[1:], strict=True)),
        "cost": met.charge.cost,
        "when_full": quota.when_full.value,
        "refuse_with": quota.refuse_with.value,
        "shadow": quota.shadow,
        "used": met.used,
        "remaining": met.remaining,
    }

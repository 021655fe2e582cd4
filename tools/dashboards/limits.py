"""The limits: what is used and left, who waits and who is refused, what was learned, bans, the common store."""

from __future__ import annotations

from typing import Final

from tools.dashboards.kinds import bars, dial, happened, lines, number, piled, states, table
from tools.dashboards.parts import (
    BLUE,
    GREEN,
    RED,
    Board,
    Choice,
    Panel,
    Query,
    Section,
    Word,
    above,
    below,
)

_BAN: Final = {0: Word("none", GREEN), 1: Word("banned", RED)}
_USED: Final = "max by (rule) (gateway_window_used{INSTANCE}) / max by (rule) (gateway_window_limit{INSTANCE})"
_FULL: Final = above(0.9, 0.8)
_HOLDS: Final = {0: Word("no", BLUE), 1: Word("yes", GREEN)}

_GLANCE: Final[tuple[Panel, ...]] = (
    dial(
        "Fullest window",
        "How full the fullest window of any rule is. At 100 % requests wait, or are refused, as the rule says.",
        "percentunit",
        Query(f"max({_USED})", "fullest"),
        steps=_FULL,
        alerts=("BudgetNearlyExhausted",),
    ),
    number(
        "Ban",
        "Whether the exchange has banned the address. Then nothing is sent, and only what is in the cache is answered. "
        "It should never happen: see docs/pacing.md.",
        "none",
        Query("max(gateway_banned{INSTANCE})", "ban"),
        words=_BAN,
        alerts=("Banned",),
    ),
    number(
        "Ban left",
        "How long nothing will be sent, at least. Then one gateway asks once whether it is over.",
        "s",
        Query("max(gateway_ban_left_seconds{INSTANCE})", "left"),
        steps=above(1),
    ),
    number(
        "Part of the budget",
        "The part of the address's budget that may be used: less than all of it for a while after a ban, and while the "
        "exchange protects itself.",
        "percentunit",
        Query("min(gateway_budget_part_ratio{INSTANCE})", "may be used"),
        steps=below(0.5, 1),
        alerts=("BudgetThrottled",),
    ),
    number(
        "Limits exceeded",
        "Answers of the exchange that say a limit was exceeded, in the time shown. Must be 0 while nobody else uses "
        "the address and its accounts: otherwise look for another program.",
        "short",
        Query("sum(increase(bybit_rate_limit_hits_total{INSTANCE}[$__range]))", "exceeded"),
        steps=above(5, 1),
    ),
    number(
        "Waiting",
        "Requests that wait for their turn now. Worry when it does not fall again: bots ask for more than the limits "
        "allow.",
        "short",
        Query("sum(gateway_queue_depth{INSTANCE})", "waiting"),
    ),
)

_WINDOWS: Final[tuple[Panel, ...]] = (
    bars(
        "Windows, now",
        "How full the fullest window of each rule is. Rules that begin with `@` were learned from the exchange.",
        "percentunit",
        Query(_USED, "{{rule}}"),
        steps=_FULL,
        most=1,
    ),
    lines(
        "Windows over time",
        "The same as a plot. A rule that stays at the top is what your bots wait for: cache more, ask less, or raise "
        "it if the exchange allows.",
        "percentunit",
        Query(_USED, "{{rule}}"),
        steps=_FULL,
        alerts=("BudgetNearlyExhausted",),
    ),
    table(
        "Rules",
        "What each rule allows in a window, and what is in the fullest of its windows.",
        "short",
        Query("max by (rule) (gateway_window_limit{INSTANCE})", "limit"),
        Query("max by (rule) (gateway_window_used{INSTANCE})", "used"),
        columns={"rule": "rule", "Value #A": "limit", "Value #B": "used"},
    ),
    piled(
        "Decisions",
        "Requests that rules looked at: well within, near the limit (over 80 %), over it, or over one that is only "
        "on trial (shadow). Each request counts once for each rule that it meets.",
        "ops",
        Query("sum by (result) (rate(gateway_rule_decisions_total{INSTANCE}[RATE]))", "{{result}}"),
        width=12,
    ),
    lines(
        "Near or over, by rule",
        "Which rules are met near their limit or beyond it. Before you enforce a rule that is on trial, its `shadow` "
        "line says whom it would have refused.",
        "ops",
        Query(
            'sum by (rule, result) (rate(gateway_rule_decisions_total{INSTANCE, result!="within"}[RATE]))',
            "{{rule}} {{result}}",
        ),
        nothing="none so far",
        width=12,
    ),
)

_REFUSALS: Final[tuple[Panel, ...]] = (
    lines(
        "Refusals by rule and reason",
        "full: the rule says refuse. queue: too many wait already. deadline: the turn would come too late. ban: "
        "nothing is sent at present. Worry about rules that count `upstream`: your bots then miss answers.",
        "reqps",
        Query("sum by (rule, reason) (rate(gateway_refusals_total{INSTANCE}[RATE]))", "{{rule}}: {{reason}}"),
        nothing="none so far",
    ),
    lines(
        "Refused part, by tier",
        "The part of clients' requests that was refused, by what identifies the client and by its tier. A tier above "
        "10 % has outgrown its quota, or has a bot that does not listen to Retry-After.",
        "percentunit",
        Query(
            "sum by (identifier_type, tier) (rate(rate_limit_blocks_total{INSTANCE, ROUTE, TIER}[RATE]))"
            " / sum by (identifier_type, tier) (rate(rate_limit_hits_total{INSTANCE, ROUTE, TIER}[RATE]))",
            "{{identifier_type}} {{tier}}",
        ),
        steps=above(0.1),
        alerts=("ClientsRefused",),
        nothing="none so far",
    ),
    piled(
        "Requests by tier",
        "Requests that were checked against the limits, by what identifies the client and by its tier.",
        "reqps",
        Query(
            "sum by (identifier_type, tier) (rate(rate_limit_hits_total{INSTANCE, ROUTE, TIER}[RATE]))",
            "{{identifier_type}} {{tier}}",
        ),
    ),
    lines(
        "Refusals by route",
        "The ten routes with most refused requests.",
        "reqps",
        Query(
            "topk(10, sum by (endpoint) (rate(rate_limit_blocks_total{INSTANCE, ROUTE, TIER}[RATE])))",
            "{{endpoint}}",
        ),
        nothing="none so far",
        width=12,
    ),
    lines(
        "Left to clients",
        "What is left in the fullest window of a client, by what identifies it and by its tier. At 0 somebody is "
        "refused.",
        "short",
        Query(
            "min by (identifier_type, tier) (rate_limit_remaining_requests{INSTANCE, TIER})",
            "{{identifier_type}} {{tier}}",
        ),
        nothing="no client is limited",
        width=12,
    ),
)

_QUEUE: Final[tuple[Panel, ...]] = (
    piled(
        "Waiting by class",
        "Requests that wait for their turn. Cancels go before orders, orders before the account, live data before "
        "history. Worry when cancels or orders wait at all.",
        "short",
        Query("sum by (priority) (gateway_queue_depth{INSTANCE})", "{{priority}}"),
        width=12,
    ),
    lines(
        "Waited, on average",
        "How long those who were sent had waited, by class. `queue.max_wait` bounds it.",
        "s",
        Query(
            "sum by (priority) (rate(gateway_queue_wait_seconds_sum{INSTANCE}[RATE]))"
            " / sum by (priority) (rate(gateway_queue_wait_seconds_count{INSTANCE}[RATE]))",
            "{{priority}}",
        ),
        nothing="nobody had to wait so far",
        width=12,
    ),
)

_LEARNED: Final[tuple[Panel, ...]] = (
    lines(
        "Learned limits",
        "The smallest limit that any account has by the exchange's own word, by learned rule. A step is a change of "
        "the account's level.",
        "short",
        Query("min by (rule) (gateway_learned_limit{INSTANCE})", "{{rule}}"),
        nothing="nothing learned so far",
    ),
    lines(
        "Drift",
        "Learned limit over the published one. 1 where they agree; elsewhere the published table or your "
        "configuration is out of date: `GET /gateway/limits?drift=1` writes what to paste.",
        "short",
        Query("min by (rule) (gateway_limit_drift_ratio{INSTANCE})", "{{rule}}"),
        steps=below(1),
        alerts=("LimitDrift",),
        nothing="nothing learned so far",
    ),
    lines(
        "Left to other programs",
        "What other programs on an account seem to use, and is left to them. Above 0 somebody else trades with your "
        "account.",
        "short",
        Query("max by (rule) (gateway_learned_others{INSTANCE})", "{{rule}}"),
        nothing="nothing learned so far",
    ),
    lines(
        "Accounts nearly used up",
        "Times an account had less than a fifth of a limit left, by learned rule; at most once a minute for each.",
        "short",
        Query(happened("gateway_account_nearly_used_total{INSTANCE}", "$__rate_interval", by="rule"), "{{rule}}"),
        nothing="none so far",
    ),
    lines(
        "Backed off",
        "Refusals of the exchange as too many that named no limit, by route: nothing is sent there for a second, and "
        "for longer when it happens again. Another program uses the same limit.",
        "short",
        Query(happened("gateway_backed_off_total{INSTANCE, ROUTE}", "$__rate_interval", by="endpoint"), "{{endpoint}}"),
        nothing="none so far",
    ),
    lines(
        "Limits exceeded over time",
        "Answers of the exchange that say a limit was exceeded, in ten minutes. Must stay 0 while nobody else uses "
        "the budget.",
        "short",
        Query("sum by (instance) (increase(bybit_rate_limit_hits_total{INSTANCE}[10m]))", "{{instance}}"),
        steps=above(5, 1),
        alerts=("ExchangeSaysTooMany",),
    ),
)

_BANS: Final[tuple[Panel, ...]] = (
    states(
        "Bans over time",
        "When nothing was sent because the exchange had banned the address. Gateways of one egress know of it "
        "together.",
        Query("max by (instance) (gateway_banned{INSTANCE})", "{{instance}}"),
        words=_BAN,
        alerts=("Banned",),
        width=12,
    ),
    lines(
        "Answers with 403",
        "In ten minutes, by what they were: a ban, a blocked country, a page of the CDN, other. Bans are also heard "
        "of from other gateways. Worry about `country` and `page`: the address itself is not wanted.",
        "short",
        Query(happened("gateway_forbidden_total{INSTANCE}", "10m", by="reason"), "{{reason}}"),
        Query("max(increase(gateway_bans_total{INSTANCE}[10m]))", "bans heard of"),
        steps=above(5),
        alerts=("AddressForbidden",),
        width=12,
    ),
    lines(
        "Budget and how often it was halved",
        "The part of the budget that may be used, and the times it was halved because the exchange answered 429. It "
        "comes back by a twentieth with every clean second.",
        "percentunit",
        Query("min by (instance) (gateway_budget_part_ratio{INSTANCE})", "part, {{instance}}"),
        Query("sum by (instance) (increase(gateway_throttled_total{INSTANCE}[RATE]))", "halved, {{instance}}"),
        width=12,
    ),
    states(
        "Trade switch",
        "Whether orders may be created and amended. halt-new: somebody has switched that off, cancels pass.",
        Query("max by (mode) (gateway_trading_mode{INSTANCE})", "{{mode}}"),
        words=_HOLDS,
        width=12,
    ),
)

_STORE: Final[tuple[Panel, ...]] = (
    states(
        "How the budget is spent",
        "shared: through Redis, by all gateways together. All others mean that Redis is lost or was emptied, and each "
        "gateway goes by its own share: safe, but less than the whole. docs/store.md tells of each.",
        Query("max by (mode) (gateway_store_mode{INSTANCE})", "{{mode}}"),
        words=_HOLDS,
        alerts=("StoreDegraded",),
        nothing="no common store",
        width=12,
    ),
    lines(
        "Gateways and shares",
        "Gateways that give signs of life in the store, as each of them sees it, and the part of the budget that one "
        "may use when it is cut off.",
        "short",
        Query("max by (instance) (gateway_store_replicas{INSTANCE})", "gateways, {{instance}}"),
        Query("max by (instance) (gateway_store_share_ratio{INSTANCE})", "share, {{instance}}"),
        nothing="no common store",
        width=12,
    ),
)

LIMITS: Final = Board(
    name="limits",
    title="Bybit gateway: limits and pacing",
    tells="The limits: what is used and left, who waits and who is refused, what was learned, bans, the common store.",
    choices=(Choice.ROUTE, Choice.TIER),
    sections=(
        Section("At a glance", _GLANCE),
        Section("Windows", _WINDOWS),
        Section("Refusals", _REFUSALS),
        Section("Queue", _QUEUE),
        Section("Learned from the exchange", _LEARNED),
        Section("Bans and brakes", _BANS),
        Section("The common store", _STORE),
    ),
)

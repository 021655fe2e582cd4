"""What the cache saves, whether it can be trusted, and what lies behind it."""

from __future__ import annotations

from typing import Final

from tools.dashboards.kinds import dial, happened, lines, number, piled, quantiles
from tools.dashboards.parts import ZERO, Board, Choice, Panel, Query, Section, above, below

_LOOKED_UP: Final = 'rate(bybit_cache_operations_total{INSTANCE, operation="get"}[RATE])'
_FOUND: Final = 'rate(bybit_cache_operations_total{INSTANCE, operation="get", result=~"hit|stale"}[RATE])'
_SPARED: Final = 'rate(bybit_cache_operations_total{INSTANCE, operation="get", result=~"hit|stale|collapsed"}[RATE])'
_HIT_RATIO: Final = Query(f"(sum({_FOUND}) or vector(0)) / sum({_LOOKED_UP})", "hit ratio")
_HALF: Final = below(0.5, 0.7)

_GLANCE: Final[tuple[Panel, ...]] = (
    dial(
        "Hit ratio",
        "Look-ups that found an answer, of all look-ups. Below a half the cache is of little use: bots ask for things "
        "that cannot be shared, or everything expires before it is asked again.",
        "percentunit",
        _HIT_RATIO,
        steps=_HALF,
        alerts=("CacheHitRateLow",),
    ),
    number(
        "Requests spared",
        "Requests a second for which the exchange was not asked: found in the cache, or shared with another's. This is "
        "budget that you have for something else.",
        "reqps",
        Query(f"sum({_SPARED})", "spared"),
    ),
    number(
        "Bytes held",
        "Memory of the cache and of the candle store together. `cache.l1.max_bytes` and `candles.max_bytes` bound "
        "them.",
        "bytes",
        Query(
            "sum(bybit_cache_size_bytes{INSTANCE}) + sum(gateway_candle_store_bytes{INSTANCE})",
            "held",
        ),
    ),
    number(
        "Differences found",
        "Answers that were put together from candles and were not what the exchange answered to the same, in the time "
        "shown. Must be 0: otherwise switch the candle store off (`candles.enabled`) and report it.",
        "short",
        Query(
            'sum(increase(gateway_shadow_comparisons_total{INSTANCE, result="different"}[$__range])) or vector(0)',
            "different",
        ),
        steps=ZERO,
        alerts=("CandlesDiffer",),
    ),
    number(
        "Candles revised",
        "Rows of settled candles that were different when they were read again, in the time shown. Rare; many of "
        "them mean that `cache.settle` is too short.",
        "short",
        Query(happened("gateway_candles_revised_total{INSTANCE, ROUTE}", "$__range") + " or vector(0)", "revised"),
        steps=ZERO,
    ),
    number(
        "Candles dropped",
        "Candles that found no room in the archive's queue, in the time shown. Must be 0: PostgreSQL is too slow, or "
        "away. They are asked for again when somebody wants them.",
        "short",
        Query(
            'sum(increase(bybit_db_stores_total{INSTANCE, result=~"dropped|failed"}[$__range])) or vector(0)', "dropped"
        ),
        steps=ZERO,
        alerts=("ArchiveDropsCandles",),
    ),
)

_LOOKUPS: Final[tuple[Panel, ...]] = (
    lines(
        "Hit ratio over time",
        "The same as a plot, of each gateway. It begins at zero with every restart, unless there is a second level. "
        "A fall without a restart: what bots ask for has changed.",
        "percentunit",
        Query(
            f"(sum by (instance) ({_FOUND}) or 0 * sum by (instance) ({_LOOKED_UP}))"
            f" / sum by (instance) ({_LOOKED_UP})",
            "{{instance}}",
        ),
        steps=_HALF,
        alerts=("CacheHitRateLow",),
        most=1,
    ),
    piled(
        "Operations",
        "Look-ups (get) and stores (set), by how they ended. `stale`: an answer past its time was given, because the "
        "exchange could not be asked; worry when there are many.",
        "ops",
        Query(
            "sum by (operation, result) (rate(bybit_cache_operations_total{INSTANCE}[RATE]))",
            "{{operation}} {{result}}",
        ),
    ),
    piled(
        "Requests spared over time",
        "Requests that did not cost the exchange anything, by why: a hit, a stale answer, or one that another had "
        "asked for at the same moment.",
        "reqps",
        Query(f"sum by (result) ({_SPARED})", "{{result}}"),
    ),
    lines(
        "Shared requests",
        "Requests that were given another's answer, by route: several bots wanted the same at once.",
        "reqps",
        Query("sum by (endpoint) (rate(gateway_collapsed_requests_total{INSTANCE, ROUTE}[RATE]))", "{{endpoint}}"),
        nothing="none so far",
        width=12,
    ),
    lines(
        "Memory",
        "Bytes of answers and of candles in each process. A plateau at the bound is as it should be; what is asked for "
        "least is then thrown out.",
        "bytes",
        Query("sum by (instance) (bybit_cache_size_bytes{INSTANCE})", "answers, {{instance}}"),
        Query("sum by (instance) (gateway_candle_store_bytes{INSTANCE})", "candles, {{instance}}"),
        width=12,
    ),
)

_CANDLES: Final[tuple[Panel, ...]] = (
    piled(
        "Candles given",
        "Rows of candles a second that clients got, by where they came from.",
        "short",
        Query("sum by (source) (rate(bybit_candles_fetched_total{INSTANCE}[RATE]))", "{{source}}"),
    ),
    lines(
        "Refreshes when a candle ends",
        "Series that were asked for lately, when their candle ended: fetched ahead of their readers, or why not. "
        "`failed` and `held-back` mean that the exchange or the budget was not there.",
        "ops",
        Query("sum by (result) (rate(gateway_boundary_refreshes_total{INSTANCE}[RATE]))", "{{result}}"),
        nothing="no candle ended so far",
    ),
    lines(
        "Comparisons",
        "Answers put together from candles beside the exchange's own (`candles.shadow`), by what came of it. "
        "`different` must stay 0.",
        "ops",
        Query("sum by (result) (rate(gateway_shadow_comparisons_total{INSTANCE}[RATE]))", "{{result}}"),
        nothing="none so far",
    ),
    lines(
        "Revised and odd answers",
        "Rows of settled candles that had changed, and answers about candles that are not as documented, by route. "
        "Both are rare.",
        "short",
        Query(
            happened("gateway_candles_revised_total{INSTANCE, ROUTE}", "$__rate_interval", by="endpoint"),
            "revised, {{endpoint}}",
        ),
        Query(
            happened("gateway_candles_odd_answers_total{INSTANCE, ROUTE}", "$__rate_interval", by="endpoint"),
            "odd, {{endpoint}}",
        ),
        nothing="none so far",
    ),
    piled(
        "Histories",
        "Histories asked of `/api/v1/marketdata`, by how they ended. `failed` got no candle, `broken` ended in the "
        "middle.",
        "ops",
        Query("sum by (result) (rate(bybit_historical_fetches_total{INSTANCE}[RATE]))", "{{result}}"),
    ),
    lines(
        "Time of a history",
        "How long they took, at their readers' pace: a slow reader is not a slow gateway.",
        "s",
        *quantiles("bybit_historical_fetch_duration_seconds_bucket{INSTANCE}"),
        nothing="none so far",
    ),
)

_LEVEL_TWO: Final[tuple[Panel, ...]] = (
    piled(
        "Level two: look-ups and stores",
        "What the cache's level in Redis was asked (get) and given (put), by how it ended. Words other than hit, "
        "miss and stored say what went wrong; clients then get the same, only later.",
        "ops",
        Query(
            'sum by (operation, result) (rate(gateway_l2_operations_total{INSTANCE, operation!="lease"}[RATE]))',
            "{{operation}} {{result}}",
        ),
        nothing="no level two",
        width=12,
    ),
    piled(
        "Level two: who fetches",
        "Leases, by which gateways agree who asks the exchange for something that all of them want. `taken` and "
        "`released` are those who fetched, `followed` those who were spared it.",
        "ops",
        Query(
            'sum by (result) (rate(gateway_l2_operations_total{INSTANCE, operation="lease"}[RATE]))',
            "{{result}}",
        ),
        nothing="no level two",
        width=12,
    ),
    lines(
        "Level two: time, p95",
        "How long Redis took, unpacking included. Worry above 10 ms: then a miss costs more than it should.",
        "s",
        Query(
            "histogram_quantile(0.95, sum by (le, operation) (rate(gateway_l2_seconds_bucket{INSTANCE}[RATE])))",
            "{{operation}}",
        ),
        steps=above(0.01),
        nothing="no level two",
        width=12,
    ),
    lines(
        "Level two: bytes",
        "Values read from Redis and written to it.",
        "Bps",
        Query("sum by (direction) (rate(gateway_l2_bytes_total{INSTANCE}[RATE]))", "{{direction}}"),
        nothing="no level two",
        width=12,
    ),
)

_ARCHIVE: Final[tuple[Panel, ...]] = (
    piled(
        "Archive: candles written",
        "Candles given to PostgreSQL, by what became of them. `dropped` found no room in the queue, `failed` were "
        "not such as the exchange writes: both must stay 0.",
        "short",
        Query("sum by (result) (rate(bybit_db_stores_total{INSTANCE}[RATE]))", "{{result}}"),
    ),
    lines(
        "Archive: candles that wait",
        "Candles that wait to be written. It empties every `archive.flush`; worry when it grows.",
        "short",
        Query("sum by (instance) (backpressure_db_queue_size{INSTANCE})", "{{instance}}"),
        steps=above(50_000),
        alerts=("ArchiveQueueFilling",),
        nothing="no archive",
    ),
    piled(
        "Archive: ranges read",
        "Ranges that the archive was asked for before the exchange was: whole means that nothing had to be fetched. "
        "`failed` and `skipped`: PostgreSQL was away, or had too much to do.",
        "ops",
        Query("sum by (result) (rate(gateway_archive_reads_total{INSTANCE}[RATE]))", "{{result}}"),
    ),
)

CACHE: Final = Board(
    name="cache",
    title="Bybit gateway: cache efficiency",
    tells="What the cache saves, whether it can be trusted, and what lies behind it: candles, Redis, PostgreSQL.",
    choices=(Choice.ROUTE,),
    sections=(
        Section("At a glance", _GLANCE),
        Section("Look-ups", _LOOKUPS),
        Section("Candles", _CANDLES),
        Section("Level two, in Redis", _LEVEL_TWO),
        Section("The archive, in PostgreSQL", _ARCHIVE),
    ),
)

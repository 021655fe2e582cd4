"""The process itself: its load, its memory, what it depends on, its configuration."""

from __future__ import annotations

from typing import Final

from tools.dashboards.kinds import happened, lines, number, piled, states
from tools.dashboards.parts import GREEN, ORANGE, RED, ZERO, Board, Panel, Query, Section, Word, above

_LEVELS: Final = {0: Word("normal", GREEN), 1: Word("high", ORANGE), 2: Word("critical", RED)}
_GOOD: Final = {0: Word("mistake", RED), 1: Word("good", GREEN)}
_RECENT: Final = "$__rate_interval"
_OF_RESULT: Final = "{{endpoint}}: {{result}}"
_UP: Final = {0: Word("down", RED), 1: Word("up", GREEN)}

_GLANCE: Final[tuple[Panel, ...]] = (
    number(
        "Version",
        "What runs; several names while a new version is rolled out.",
        "string",
        Query("count by (version) (gateway_build_info{INSTANCE})", "{{version}}"),
    ),
    number(
        "Running since",
        "How long the youngest process has been running. Worry when it is young and you have not restarted it: look "
        "for the reason in the log of what went before.",
        "s",
        Query("min(time() - gateway_started_seconds{INSTANCE})", "uptime"),
    ),
    number(
        "Load",
        "Whether the gateway has too much to do. high: history is turned away with 503. critical: live market data "
        "too; accounts and orders are served to the end. docs/backpressure.md says by what it is measured.",
        "none",
        Query("max(gateway_backpressure_level{INSTANCE})", "load"),
        words=_LEVELS,
    ),
    number(
        "Memory",
        "Memory in RAM, of all processes that are chosen.",
        "bytes",
        Query("sum(memory_rss_bytes{INSTANCE})", "in RAM"),
    ),
    number(
        "Depends on, down",
        "How many of the things that the gateway depends on do not answer. It goes on without Redis and PostgreSQL, "
        "with less; see *Dependencies*.",
        "short",
        Query("sum(1 - dependency_health_status{INSTANCE})", "down"),
        steps=above(1),
    ),
    number(
        "Configuration",
        "Whether the file could be loaded when it was last changed. A mistake leaves the old configuration in force, "
        "and a restart would fail.",
        "none",
        Query("min(gateway_config_last_reload_successful{INSTANCE})", "configuration"),
        words=_GOOD,
        alerts=("ReloadFailed",),
    ),
)

_LOAD: Final[tuple[Panel, ...]] = (
    lines(
        "Event-loop lag",
        "How much later than it should the event loop came to its work, the most in the last seconds. Everything the "
        "gateway does waits that long. Worry above 50 ms: something blocks, or the processor is taken.",
        "s",
        Query("max by (instance) (backpressure_event_loop_lag_seconds{INSTANCE})", "{{instance}}"),
        steps=above(0.05),
        alerts=("EventLoopLagging",),
    ),
    states(
        "Load over time",
        "When there was too much to do. Short spells are what shedding is for; worry when it stays.",
        Query("max by (instance) (gateway_backpressure_level{INSTANCE})", "{{instance}}"),
        words=_LEVELS,
        alerts=("WorkIsShed", "OverloadCritical"),
    ),
    lines(
        "Turned away",
        "Requests that were answered 503 because of too much to do, by class: history first, then live data. Worry "
        "when it goes on: the machine is too small for what is asked, or one bot asks for too much.",
        "reqps",
        Query("sum by (priority) (rate(gateway_shed_requests_total{INSTANCE}[RATE]))", "{{priority}}"),
        nothing="none so far",
    ),
    piled(
        "Tasks",
        "Tasks that have not ended, by type. Worry when one kind grows and does not fall again.",
        "short",
        Query("sum by (task_type) (backpressure_async_tasks_pending{INSTANCE})", "{{task_type}}"),
        steps=above(10_000),
        alerts=("TasksPilingUp",),
    ),
    piled(
        "Processor time",
        "Cores that each mode takes. One process can use one core: near 1 it is at its end, and `workers` helps.",
        "short",
        Query("sum by (mode) (rate(gateway_cpu_seconds_total{INSTANCE}[RATE]))", "{{mode}}"),
    ),
    lines(
        "Calls that wait for Redis",
        "Calls that Redis has not answered yet. A few at each moment are normal; worry when they pile up: Redis or "
        "the way to it is slow, and every request that is sent waits for one of them.",
        "short",
        Query("sum by (instance) (backpressure_redis_queue_size{INSTANCE})", "{{instance}}"),
        steps=above(250),
        alerts=("RedisQueueFilling",),
    ),
)

_MEMORY: Final[tuple[Panel, ...]] = (
    lines(
        "Memory over time",
        "In RAM, and address space. In RAM it should reach a plateau when the caches are full; worry when it does "
        "not, or comes near what the machine or the container has.",
        "bytes",
        Query("sum by (instance) (memory_rss_bytes{INSTANCE})", "in RAM, {{instance}}"),
        Query("sum by (instance) (memory_vms_bytes{INSTANCE})", "address space, {{instance}}"),
        steps=above(2**30),
        alerts=("MemoryHigh",),
    ),
    lines(
        "Growth",
        "Slope of the memory in RAM over the last half hour. Positive while the cache fills; worry when it stays so "
        "for an hour.",
        "Bps",
        Query("sum by (instance) (memory_growth_rate_bytes_per_second{INSTANCE})", "{{instance}}"),
        steps=above(100 * 1024),
        alerts=("MemoryGrowing",),
        least=None,
    ),
    lines(
        "What is kept",
        "Things that the process keeps, by type. When memory grows, the line that grows with it names the room to "
        "look at.",
        "short",
        Query("topk(10, sum by (type) (memory_objects_count{INSTANCE}))", "{{type}}"),
    ),
    lines(
        "Garbage collections",
        "Runs of the garbage collector, by generation. Generation 2 should be rare: it stops everything for a moment.",
        "ops",
        Query("sum by (generation) (rate(memory_gc_collections_total{INSTANCE}[RATE]))", "generation {{generation}}"),
        steps=above(1),
        alerts=("GarbageCollectorBusy",),
        width=12,
    ),
    lines(
        "Garbage",
        "Objects that the garbage collector has freed, by generation. Most objects go without it; a lot of them here "
        "are cycles.",
        "short",
        Query("sum by (generation) (rate(memory_gc_collected_total{INSTANCE}[RATE]))", "generation {{generation}}"),
        width=12,
    ),
)

_DEPENDENCIES: Final[tuple[Panel, ...]] = (
    states(
        "Dependencies",
        "What the gateway depends on, and when it did not answer: the exchange, Redis of the limits and of the cache, "
        "PostgreSQL, the exchange's stream.",
        Query("min by (dependency) (dependency_health_status{INSTANCE})", "{{dependency}}"),
        words=_UP,
        alerts=("ExchangeDown", "DependencyDown", "StreamDown"),
    ),
    lines(
        "Latency of dependencies",
        "Time of the latest answer of each. Worry when one stays far above what it usually takes.",
        "s",
        Query("max by (dependency) (gateway_dependency_latency_seconds{INSTANCE})", "{{dependency}}"),
    ),
    lines(
        "Calls of the limits' store, p95",
        "How long calls of Redis took, by script. Worry above 10 ms: each request that is sent waits for one.",
        "s",
        Query(
            "histogram_quantile(0.95, sum by (le, script) (rate(gateway_store_call_seconds_bucket{INSTANCE}[RATE])))",
            "{{script}}",
        ),
        steps=above(0.01),
        nothing="no common store",
    ),
    lines(
        "Failures of the limits' store",
        "Calls that failed, by reason. The gateway then goes by its share of the budget.",
        "ops",
        Query("sum by (reason) (rate(gateway_store_failures_total{INSTANCE}[RATE]))", "{{reason}}"),
        nothing="none so far",
    ),
    lines(
        "Slow queries",
        "Calls of Redis or PostgreSQL that took long, by what they were for.",
        "ops",
        Query("sum by (query_type) (rate(slow_query_count_total{INSTANCE}[RATE]))", "{{query_type}}"),
        steps=above(0.5),
        alerts=("SlowQueries",),
    ),
    lines(
        "Queries without an answer",
        "Calls of Redis or PostgreSQL that were not answered in time, in ten minutes. Worry about more than a few.",
        "short",
        Query("sum by (query_type) (increase(query_timeout_count_total{INSTANCE}[10m]))", "{{query_type}}"),
        steps=above(5),
        alerts=("QueryTimeouts",),
    ),
)

_STREAMS: Final[tuple[Panel, ...]] = (
    lines(
        "Connections",
        "WebSocket connections that stand, by kind.",
        "short",
        Query("sum by (endpoint) (websocket_connections_active{INSTANCE})", "{{endpoint}}"),
        nothing="no streams",
    ),
    lines(
        "Reconnects",
        "Connections to the exchange's streams that were lost or could not be had, in a quarter of an hour, by "
        "reason. A few a day are normal.",
        "short",
        Query(
            happened("gateway_stream_reconnects_total{INSTANCE}", "15m", by="endpoint, reason"),
            "{{endpoint}}: {{reason}}",
        ),
        steps=above(5),
        alerts=("StreamFlapping",),
        nothing="none so far",
    ),
    lines(
        "Messages",
        "Messages of the exchange's streams, by what they were. `contradicted` and `jump` mean that something was "
        "missed: those candles are asked for again.",
        "mps",
        Query(
            "sum by (endpoint, result) (rate(gateway_stream_messages_total{INSTANCE}[RATE]))",
            "{{endpoint}}: {{result}}",
        ),
        nothing="no streams",
    ),
    lines(
        "Clients' WebSockets",
        "WebSocket connections that clients asked for in a quarter of an hour, by what came of it. `refused` was the "
        "exchange's word; worry about `failed`: the exchange could not be reached.",
        "short",
        Query(happened("gateway_websocket_connections_total{INSTANCE}", "15m", by="endpoint, result"), _OF_RESULT),
        steps=above(10),
        alerts=("WebSocketsRefused",),
        nothing="none so far",
    ),
    lines(
        "Ends of clients' WebSockets",
        "By who ended them. Worry about `stream-lost` and `client-gone`: they ended without a word, and messages may "
        "be missing.",
        "short",
        Query(happened("gateway_websocket_ends_total{INSTANCE}", _RECENT, by="endpoint, by"), "{{endpoint}}: {{by}}"),
        nothing="none so far",
    ),
    lines(
        "Messages of clients' WebSockets",
        "From clients (in) and to them (out), pings and pongs included. A stream that falls silent while its "
        "connection stands has been forgotten by the exchange.",
        "mps",
        Query(
            "sum by (endpoint, direction) (rate(gateway_websocket_messages_total{INSTANCE}[RATE]))",
            "{{endpoint}}: {{direction}}",
        ),
        nothing="none so far",
    ),
)

_PROCESS: Final[tuple[Panel, ...]] = (
    lines(
        "Workers",
        "Processes that answer, and how many there should be; only with `workers` above 1. Worry when they differ.",
        "short",
        Query("sum by (state) (gateway_workers{INSTANCE})", "{{state}}"),
        alerts=("WorkersMissing",),
        nothing="one process",
    ),
    lines(
        "Reloads",
        "Loads of a changed configuration, by result. `refused`: the file has a mistake, and the old one stays in "
        "force.",
        "short",
        Query("sum by (result) (increase(gateway_config_reloads_total{INSTANCE}[RATE]))", "{{result}}"),
    ),
    lines(
        "Log events that are missing",
        "In ten minutes: events dropped because the reader of the log was too slow, which must be 0, and hits that "
        "`log.sample_hits` left out, as it was asked to.",
        "short",
        Query("sum(delta(gateway_log_dropped_events{INSTANCE}[10m]))", "dropped"),
        Query("sum(increase(gateway_log_sampled_out_events_total{INSTANCE}[10m]))", "left out"),
        steps=ZERO,
        alerts=("LogEventsDropped",),
    ),
    lines(
        "Usage figures that wait",
        "Rows of usage (who has used how much, for billing) that are not in the store yet. It empties with every "
        "flush; worry when it grows: they are lost if the process dies.",
        "short",
        Query("sum by (instance) (gateway_usage_waiting_rows{INSTANCE})", "{{instance}}"),
        nothing="no usage is kept",
    ),
    lines(
        "Batches of usage",
        "Batches put into the store: stored, repeated (was there already), failed (is tried again). Worry when they "
        "keep failing.",
        "ops",
        Query("sum by (result) (rate(gateway_usage_flushes_total{INSTANCE}[RATE]))", "{{result}}"),
        nothing="no usage is kept",
    ),
    lines(
        "Spans that are missing",
        "In ten minutes: spans of traces that came faster than they could be delivered, or that the collector did not "
        "take. Requests do not suffer from it.",
        "short",
        Query("sum by (reason) (increase(gateway_spans_dropped_total{INSTANCE}[10m]))", "{{reason}}"),
        nothing="none so far",
    ),
)

SYSTEM: Final = Board(
    name="system",
    title="Bybit gateway: system",
    tells="The process itself: its load, its memory, what it depends on, its streams, its configuration.",
    choices=(),
    sections=(
        Section("At a glance", _GLANCE),
        Section("Load", _LOAD),
        Section("Memory", _MEMORY),
        Section("What it depends on", _DEPENDENCIES),
        Section("Streams", _STREAMS),
        Section("Process and configuration", _PROCESS),
    ),
)

"""The process itself: its configuration, its memory, its event loop, and what it depends on."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.tally import TallyCounter


class System:
    """The process itself: its configuration, its memory, its event loop, and what it depends on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.config_reloads = Counter(
            "gateway_config_reloads", "Loads of a changed configuration, by result.", ["result"], registry=registry
        )
        for result in ("applied", "refused", "unchanged"):
            self.config_reloads.labels(result)
        self.config_good = Gauge(
            "gateway_config_last_reload_successful", "0 while the file has a mistake.", registry=registry
        )
        self.loop_lag = Gauge(
            "backpressure_event_loop_lag_seconds",
            "How much later than it should the event loop came to its work, the most in the last seconds.",
            registry=registry,
        )
        self.tasks_pending = Gauge(
            "backpressure_async_tasks_pending", "Tasks that have not ended, by type.", ["task_type"], registry=registry
        )
        self.pressure = Gauge(
            "gateway_backpressure_level",
            "0 normal, 1 high (history is shed), 2 critical (live data too).",
            registry=registry,
        )
        self.rss = Gauge("memory_rss_bytes", "Memory of this process that is in RAM.", registry=registry)
        self.vms = Gauge("memory_vms_bytes", "Address space of this process.", registry=registry)
        self.objects = Gauge(
            "memory_objects_count", "Things that this process keeps, by type.", ["type"], registry=registry
        )
        self.gc_collections = TallyCounter(
            "memory_gc_collections", "Runs of the garbage collector, by generation.", ["generation"], registry
        )
        self.gc_collected = TallyCounter(
            "memory_gc_collected", "Objects that it has freed, by generation.", ["generation"], registry
        )
        self.memory_growth = Gauge(
            "memory_growth_rate_bytes_per_second",
            "Slope of the memory in RAM over the last half hour.",
            registry=registry,
        )
        self.dependency_up = Gauge(
            "dependency_health_status",
            "1 while what the gateway depends on answers, 0 while it does not or may not be asked; absent while nobody "
            "knows.",
            ["dependency"],
            registry=registry,
        )
        self.dependency_latency = Gauge(
            "gateway_dependency_latency_seconds", "Time of its latest answer.", ["dependency"], registry=registry
        )
        self.build = Gauge("gateway_build_info", "1; the version is a label.", ["version"], registry=registry)
        self.started = Gauge(
            "gateway_started_seconds", "When this process began, in seconds since 1970.", registry=registry
        )
        self.cpu = Counter(
            "gateway_cpu_seconds", "Processor time of this process, by mode: user, system.", ["mode"], registry=registry
        )
        self.spans_dropped = Counter(
            "gateway_spans_dropped",
            "Spans that no collector got: queue-full (they came faster than they could be delivered), not-delivered.",
            ["reason"],
            registry=registry,
        )
        for reason in ("queue-full", "not-delivered"):
            self.spans_dropped.labels(reason)
        self.log_dropped = Gauge(
            "gateway_log_dropped_events", "Log events dropped because their reader was too slow.", registry=registry
        )

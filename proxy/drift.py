"""The drift report: rules, published table and reality side by side, as a page and as a metric (policies/drift.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from policies import drift
from policies.admission import Quota
from policies.drift import Opinions
from policies.quantities import Rate, duration_text
from policies.routing import RouteTable
from proxy.metrics import Metrics
from proxy.store import Usage


class Drift:
    """`rules`: the operator's own, as they are in force."""

    def __init__(self, routes: RouteTable, rules: Callable[[], Sequence[Quota]]) -> None:
        self._routes = routes
        self._rules = rules

    def report(self, usages: Iterable[Usage]) -> dict[str, Any]:
        """As JSON; `yaml` is ready to be pasted into the configuration."""
        found = self._opinions(usages)
        return {
            "drifting": sum(each.drifts for each in found),
            "limits": [
                {
                    "endpoint": each.endpoint,
                    "category": each.line or None,
                    "rule": _shown(each.stated),
                    "published": _shown(each.published),
                    "learned": _shown(each.learned),
                    "ratio": None if each.ratio is None else round(each.ratio, 4),
                    "drifts": each.drifts,
                }
                for each in found
            ],
            "yaml": drift.as_yaml(found),
        }

    def show(self, usages: Iterable[Usage], metrics: Metrics) -> None:
        usages = list(usages)
        for gauge in (metrics.learned_limit, metrics.learned_others, metrics.drift):
            gauge.clear()
        for each in self._opinions(usages):
            rule = f"@{each.endpoint}.{each.line}" if each.line else f"@{each.endpoint}"
            metrics.learned_limit.labels(rule).set(each.learned.limit)
            if each.ratio is not None:
                metrics.drift.labels(rule).set(each.ratio)
        others: dict[str, int] = {}
        for usage in usages:
            if usage.learned is not None:
                name = usage.quota.name
                others[name] = max(others.get(name, 0), usage.learned.others)
        for name, count in others.items():
            metrics.learned_others.labels(name).set(count)

    def _opinions(self, usages: Iterable[Usage]) -> list[Opinions]:
        learned = [(usage.quota, usage.learned) for usage in usages if usage.learned is not None]
        return drift.opinions(learned, self._rules(), self._routes)


def _shown(rate: Rate | None) -> str | None:
    return None if rate is None else f"{rate.limit}/{duration_text(rate.window_us)}"

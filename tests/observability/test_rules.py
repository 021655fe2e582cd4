"""Rules as they are shipped: whole, explained, and shown to fire and to be quiet."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.registry import Collector

from proxy.metrics import Metrics
from proxy.metrics.page import labels_of
from tests.docs.blocks import named
from tests.observability.programs import PROMETHEUS, ROOT, needs_prometheus
from tests.observability.rulebooks import RULES, alerts, asked, raw, records

CASES: Final = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTS: Final = alerts()
WRITTEN_BY_PROMETHEUS: Final = {"up": ("job", "instance")}
OF_THE_WORKERS_PAGE: Final = {"gateway_workers": ("state",)}
"""Added where the pages of several processes become one (proxy/siblings.py)."""
AT_LEAST: Final = {
    "backpressure": 4,
    "memory": 3,
    "api": 4,
    "ratelimiting": 2,
    "dependencies": 3,
    "websocket": 2,
}
NAMED: Final = {
    "a cache that seldom hits": "CacheHitRateLow",
    "errors above 5 %": "ErrorRateHigh",
    "the exchange above 2 s": "ApiLatencyHigh",
    "a ban": "Banned",
    "a budget near its end": "BudgetNearlyExhausted",
    "limits that drift": "LimitDrift",
    "candles that are not archived": "ArchiveDropsCandles",
    "a store that is lost": "StoreDegraded",
    "a file with a mistake": "ReloadFailed",
    "writes of unknown fate": "WriteFateUnknown",
}
RUNBOOK: Final = ROOT / "docs" / "runbook.md"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


@needs_prometheus
def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    told = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")

    assert told.count("rules found") == 2
    run("promtool", "check", "rules", *RULES)


@needs_prometheus
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_rules_do_what_their_unit_tests_say(case: Path) -> None:
    """As docs/runbook.md has it, for one file after the other."""
    (command,) = named("docs/runbook.md", "rules").commands
    assert "*.yml" in command.text
    run("sh", "-ec", command.text.replace("*.yml", case.name), cwd=ROOT)


def test_every_alert_is_shown_firing_and_not_firing() -> None:
    """Firing with the very words of its annotations; quiet before that, in ordinary traffic, without any, and bare."""
    fires: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for each in test.get("alert_rule_test", ()):
                (fires if each["exp_alerts"] else quiet)[each["alertname"]] += 1
                assert all("exp_annotations" in alert for alert in each["exp_alerts"])

    assert [alert.name for alert in ALERTS if not fires[alert.name]] == []
    assert [alert.name for alert in ALERTS if quiet[alert.name] < 4] == []


def test_every_recording_rule_is_shown() -> None:
    case = yaml.safe_load((PROMETHEUS / "tests" / "recording.yml").read_text())
    shown = {
        name
        for test in case["tests"]
        for each in test["promql_expr_test"]
        for name in records()
        if name in each["expr"]
    }

    assert shown == set(records())


def test_there_are_alerts_for_everything_that_was_promised() -> None:
    groups = Counter(alert.group for alert in ALERTS)
    names = {alert.name for alert in ALERTS}

    assert {group: least for group, least in AT_LEAST.items() if groups[group] < least} == {}
    assert {about: name for about, name in NAMED.items() if name not in names} == {}
    assert len(names) == len(ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_tells_what_it_is_and_where_to_read_on(alert: Any) -> None:
    anchors = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)

    assert alert.labels["severity"] in {"critical", "warning", "info"}
    assert alert.labels["group"] == alert.group
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == f"docs/runbook.md#{alert.name.lower()}"
    assert alert.name in anchors
    assert "{{" in alert.annotations["description"]


def test_the_runbook_explains_every_alert_and_no_other() -> None:
    """Each with its three questions."""
    sections = re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0]: section for section in sections}

    assert sorted(told) == sorted(alert.name for alert in ALERTS)
    for name, section in told.items():
        for question in ("**Means.**", "**Look at.**", "**Do.**"):
            assert section.count(question) == 1, f"{name}: {question}"


def test_rules_ask_for_metrics_and_labels_that_the_gateway_has() -> None:
    known = {**declared(), **WRITTEN_BY_PROMETHEUS, **OF_THE_WORKERS_PAGE}
    of_every_series = {"job", "instance"}
    unknown = set()
    for expr in [alert.expr for alert in ALERTS] + list(records().values()):
        for each in raw(expr):
            labels = known.get(each.metric)
            if labels is None or not each.labels <= {*labels, *of_every_series}:
                unknown.add(each)

    assert unknown == set()


def test_alerts_are_made_of_recorded_rules_that_exist() -> None:
    used = {each.metric for alert in ALERTS for each in asked(alert.expr) if ":" in each.metric}

    assert used <= set(records())
    assert used  # else this would show nothing


def test_errors_that_count_as_failures_are_words_of_the_gateway() -> None:
    """The list of error types that `instance:gateway_failures` looks at: each of its words is one of the code's."""
    pattern = re.search(r'error_type=~"([^"]*)"', records()["instance_endpoint:gateway_failures:rate5m"])
    assert pattern is not None
    sources = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    plain = [word for word in pattern[1].split("|") if re.fullmatch(r"[a-z-]+[a-z0-9]", word)]
    plain = [word for word in plain if not word.startswith("limit")]

    assert len(plain) >= 6
    assert [word for word in plain if f'"{word}"' not in sources] == []


def declared() -> dict[str, tuple[str, ...]]:
    """Names as Prometheus stores them, and their labels."""
    registry = Metrics().registry
    found: dict[str, tuple[str, ...]] = {}
    collectors: list[Collector] = list(registry._collector_to_names)
    for collector in collectors:
        for metric in collector.describe():
            labels = labels_of(collector)
            match metric.type:
                case "counter":
                    found[f"{metric.name}_total"] = labels
                case "histogram":
                    found |= {f"{metric.name}_{part}": labels for part in ("count", "sum")}
                    found[f"{metric.name}_bucket"] = (*labels, "le")
                case _:
                    found[metric.name] = labels
    return found

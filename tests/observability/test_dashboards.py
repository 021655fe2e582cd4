"""The dashboards hold together: rules that a reader would check by hand, and names that the gateway really has."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
import yaml

from proxy.metrics import Metrics
from proxy.metrics.page import labels_of
from tests.observability.boards import FILES, WRITTEN, everything_asked, panels
from tests.observability.programs import DEPLOYED
from tests.observability.promql import groupings, legend_labels, selectors
from tools.dashboards import BOARDS, DIRECTORY, PAGE, as_markdown, text
from tools.dashboards.performance import FAILURES

EVERY_PANEL: Final = [(name, panel) for name in FILES for panel in panels(WRITTEN[name])]
EVERY_QUERY: Final = [asked for name in FILES for asked in everything_asked(name)]
KINDS: Final = {"timeseries", "stat", "gauge", "bargauge", "table", "heatmap", "state-timeline"}
UNITS: Final = {
    "none", "short", "percentunit", "s", "bytes", "Bps", "reqps", "ops", "mps", "string",
}  # fmt: skip
OF_PROMETHEUS: Final = {"instance"}
OF_SIBLINGS: Final = {"gateway_workers": frozenset({"state"})}
"""What the page of several workers has beside the registry (proxy/siblings.py)."""
NOT_SHOWN: Final[dict[str, str]] = {}
"""Metrics that no panel shows, and why."""
NOT_DRAWN: Final = {
    "GatewayDown": "what cannot be asked has no metrics: its plots end",
    "GatewayAbsent": "as GatewayDown",
}
"""Alerts that no panel draws, and why."""


def panel_names() -> list[str]:
    return [f"{name}: {panel['title']}" for name, panel in EVERY_PANEL]


def known() -> dict[str, frozenset[str]]:
    """The labels of every sample that /metrics can show."""
    found: dict[str, frozenset[str]] = dict(OF_SIBLINGS)
    for collector in Metrics().registry._collector_to_names:
        for metric in collector.describe():
            labels = frozenset(labels_of(collector))
            if metric.type == "histogram":
                found |= {f"{metric.name}_{part}": labels for part in ("sum", "count")}
                found[f"{metric.name}_bucket"] = labels | {"le"}
            else:
                found[f"{metric.name}_total" if metric.type == "counter" else metric.name] = labels
    return found


KNOWN: Final = known()


def test_the_files_are_what_the_description_makes() -> None:
    """`make dashboards` would change nothing, and there is no file beside its four."""
    assert {path.name for path in DIRECTORY.iterdir()} == set(FILES)
    for board in BOARDS:
        written = (DIRECTORY / f"{board.name}.json").read_text()
        assert written == text(board, BOARDS), f"{board.name}.json is out of date: make dashboards"
    assert PAGE.read_text() == as_markdown(BOARDS), "docs/dashboards.md is out of date: make dashboards"


def test_there_are_enough_panels() -> None:
    counts = {name: len(panels(board)) for name, board in WRITTEN.items()}
    assert sum(counts.values()) >= 32
    assert min(counts.values()) >= 8
    assert counts["performance.json"] + counts["cache.json"] >= 16


def test_no_two_dashboards_and_no_two_panels_share_an_id() -> None:
    assert len({board["uid"] for board in WRITTEN.values()}) == len(FILES)
    assert len({board["title"] for board in WRITTEN.values()}) == len(FILES)
    for board in WRITTEN.values():
        assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(ids)) == len(ids)
        assert len(set(titles)) == len(titles)


def test_a_panel_keeps_its_id_when_others_come_and_go() -> None:
    """Links to a panel, and what people have built on it, survive."""
    ids = {(name, panel["title"]): panel["id"] for name, panel in EVERY_PANEL}
    assert ids["performance.json", "Requests by source"] == 218681
    assert ids["limits.json", "Fullest window"] == 574119


@pytest.mark.parametrize("name", FILES)
def test_panels_lie_beside_and_below_each_other(name: str) -> None:
    """In 24 columns, none over another, and no hole between them."""
    taken: dict[tuple[int, int], str] = {}
    for panel in WRITTEN[name]["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


@pytest.mark.parametrize(("name", "panel"), EVERY_PANEL, ids=panel_names())
def test_a_panel_says_what_it_shows(name: str, panel: dict[str, Any]) -> None:
    """Title, what it tells, unit, and a legend for each query; of the data source that is chosen above."""
    assert panel["title"]
    assert len(panel["title"]) <= 40
    assert re.search(r"[.:]", panel["description"]), "no sentence"
    assert len(panel["description"]) >= 40
    assert panel["type"] in KINDS
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"].strip()
        assert target["instant"] != target["range"]
        assert (target["format"] == "heatmap") == (panel["type"] == "heatmap")
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
    values = [step["value"] for step in steps[1:]]
    assert not steps or steps[0]["value"] is None
    assert values == sorted(set(values))


@pytest.mark.parametrize("asked", EVERY_QUERY, ids=lambda asked: asked.where)
def test_a_query_asks_for_what_the_gateway_has(asked: Any) -> None:
    """Every metric and label is in the registry, and every series belongs to the chosen instances."""
    found = list(selectors(asked.expr))
    assert found
    for selector in found:
        assert selector.metric in KNOWN, f"{selector.metric} is no metric of the gateway"
        assert selector.labels <= KNOWN[selector.metric] | OF_PROMETHEUS
    labels = frozenset().union(*(KNOWN[selector.metric] for selector in found)) | OF_PROMETHEUS
    assert groupings(asked.expr) <= labels
    assert legend_labels(asked.legend) <= groupings(asked.expr)
    assert asked.expr.count('instance=~"$instance"') == len(found)


@pytest.mark.parametrize("asked", EVERY_QUERY, ids=lambda asked: asked.where)
def test_a_query_looks_back_as_far_as_it_has_to(asked: Any) -> None:
    """Rates over $__rate_interval, which is never shorter than four scrapes; sums over the whole time that is shown."""
    windows = re.findall(r"\b(\w+)\(\w+(?:\{[^{}]*\})?\[([^\]]*)\]\)", asked.expr)
    assert len(windows) == asked.expr.count("[")
    for function, window in windows:
        if function == "increase" and asked.kind == "stat":
            assert window == "$__range"
        elif function in {"increase", "delta"}:
            assert window in {"$__rate_interval", "10m", "15m"}  # the last two as the alerts that are drawn there
        else:
            assert function in {"rate", "changes"}
            assert window == "$__rate_interval"


@pytest.mark.parametrize("name", FILES)
def test_what_is_shown_can_be_chosen(name: str) -> None:
    """The data source, one or several instances or all; route and tier where the dashboard goes by them."""
    variables = {each["name"]: each for each in WRITTEN[name]["templating"]["list"]}
    asked = " ".join(each.expr for each in everything_asked(name))
    assert list(variables)[:2] == ["datasource", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    assert set(re.findall(r"\$(?!__)(\w+)", asked)) == set(variables) - {"datasource"}
    for variable in list(variables.values())[1:]:
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["datasource"]["uid"] == "${datasource}"


def test_route_and_tier_are_offered_where_they_mean_something() -> None:
    offered = {
        name: {each["name"] for each in board["templating"]["list"]} - {"datasource", "instance"}
        for name, board in WRITTEN.items()
    }
    assert offered == {
        "performance.json": {"route"},
        "cache.json": {"route"},
        "limits.json": {"route", "tier"},
        "system.json": set(),
    }


@pytest.mark.parametrize("name", FILES)
def test_one_comes_from_each_dashboard_to_the_others(name: str) -> None:
    """With the same time and the same choices."""
    links = WRITTEN[name]["links"]
    assert {link["url"] for link in links} == {
        f"/d/{board['uid']}" for other, board in WRITTEN.items() if other != name
    }
    assert all(link["keepTime"] and link["includeVars"] for link in links)


@pytest.mark.parametrize("name", FILES)
def test_bans_reloads_and_restarts_are_marked_in_every_plot(name: str) -> None:
    annotations = WRITTEN[name]["annotations"]["list"]
    assert [each["name"] for each in annotations] == ["Bans", "Reloads", "Restarts"]
    for each in annotations:
        assert each["enable"]
        assert each["datasource"]["uid"] == "${datasource}"
        assert each["expr"] == each["target"]["expr"]


def test_alerts_are_drawn_where_they_ring() -> None:
    """A panel that names an alert has its threshold among its lines or words; every alert is named by a panel."""
    file = yaml.safe_load((DEPLOYED / "prometheus" / "alerts.yml").read_text())
    rules = {rule["alert"]: rule["expr"] for group in file["groups"] for rule in group["rules"]}
    drawn = set()
    for board in BOARDS:
        for panel in (panel for section in board.sections for panel in section.panels):
            shown = {step.start for step in panel.steps} | set(panel.words)
            for alert in panel.alerts:
                assert alert in rules, f"{panel.title}: no alert {alert}"
                rings = rules[alert].partition("unless")[0]
                bounds = {float(text) for text in re.findall(r"[<>=] (\d+(?:\.\d+)?)\b", rings)}
                if "> 0" in rings:
                    bounds.add(1)  # the least of what can be counted
                assert not bounds or shown & bounds, f"{panel.title}: {alert} rings at {bounds}, drawn is {shown}"
                drawn.add(alert)
    assert set(rules) - drawn == set(NOT_DRAWN)


def test_failures_are_the_same_for_the_dashboard_and_the_alert() -> None:
    file = yaml.safe_load((DEPLOYED / "prometheus" / "recording.yml").read_text())
    rules = {rule["record"]: rule["expr"] for group in file["groups"] for rule in group["rules"]}

    assert f'error_type=~"{FAILURES}"' in rules["instance_endpoint:gateway_failures:rate5m"]


def test_every_metric_is_shown_somewhere() -> None:
    """Whoever adds a metric adds it to a panel, or says why nobody needs to see it."""
    shown = {selector.metric for asked in EVERY_QUERY for selector in selectors(asked.expr)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in KNOWN}
    seen = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert families - seen == set(NOT_SHOWN), "give it a panel in tools/dashboards, or say in NOT_SHOWN why not"


def test_grafana_is_told_where_everything_lies() -> None:
    """The provisioning names the directory that holds the files, and the scrape interval that Prometheus has."""
    grafana = DEPLOYED / "grafana" / "provisioning"
    source = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((grafana / "dashboards" / "gateway.yml").read_text())["providers"][0]
    scraped = yaml.safe_load((DEPLOYED / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]

    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraped
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"

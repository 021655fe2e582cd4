"""A dashboard as Grafana's JSON: its variables, links, annotations, and every panel in its place."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from tools.dashboards.looks import Json, field_config, options, transformations
from tools.dashboards.parts import Board, Choice, Kind, Panel, Query, Section

COLUMNS: Final = 24
TAG: Final = "bybit-gateway"
SCHEMA_VERSION: Final = 39
"""Of Grafana 11.0; later versions bring it up to their own."""
SOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
_INSTANT: Final = frozenset({Kind.TABLE, Kind.BARS})


def text(board: Board, boards: Iterable[Board]) -> str:
    """The file."""
    return json.dumps(dashboard(board, boards), indent=2, ensure_ascii=False) + "\n"


def dashboard(board: Board, boards: Iterable[Board]) -> Json:
    return {
        "uid": _uid(board),
        "title": board.title,
        "description": board.tells,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "id": None,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "links": [_link(other) for other in boards if other.name != board.name],
        "annotations": {"list": list(_annotations())},
        "templating": {"list": list(_variables(board))},
        "panels": list(_placed(board)),
    }


def _uid(board: Board) -> str:
    return f"{TAG}-{board.name}"


def _id(board: Board, title: str) -> int:
    """Follows from the title, so that links to a panel survive that others come and go."""
    return zlib.crc32(f"{board.name}/{title}".encode()) % 1_000_000 + 1


def _link(other: Board) -> Json:
    return {
        "title": other.title,
        "tooltip": other.tells,
        "type": "link",
        "url": f"/d/{_uid(other)}",
        "icon": "dashboard",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _annotations() -> Iterator[Json]:
    """What happened to the gateway, in every plot."""
    banned = "max by (instance) (gateway_banned{INSTANCE}) > 0"
    reloaded = (
        'sum by (instance, result) (changes(gateway_config_reloads_total{INSTANCE, result!="unchanged"}[RATE])) > 0'
    )
    started = "max by (instance) (gateway_started_seconds{INSTANCE}) * 1000"
    yield _annotation("Bans", "red", banned, "Banned", "{{instance}} sends nothing")
    yield _annotation("Reloads", "blue", reloaded, "Configuration {{result}}", "{{instance}}")
    yield _annotation("Restarts", "purple", started, "Started", "{{instance}}", value_is_time=True)


def _annotation(name: str, color: str, promql: str, title: str, words: str, *, value_is_time: bool = False) -> Json:
    """`expr` and `step` are where Grafana before 12 looks, `target` where later versions do."""
    expr = Query(promql, "").expr
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": color,
        "target": {"refId": "Anno", "expr": expr, "interval": ""},
        "expr": expr,
        "step": "",
        "titleFormat": title,
        "textFormat": words,
        "tagKeys": "instance",
        "useValueForTime": value_is_time,
    }


def _variables(board: Board) -> Iterator[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    yield _variable("instance", "Instance", "label_values(gateway_build_info, instance)")
    if Choice.ROUTE in board.choices:
        asked = Query("label_values(bybit_api_requests_total{INSTANCE}, endpoint)", "")
        yield _variable("route", "Route", asked.expr)
    if Choice.TIER in board.choices:
        asked = Query("label_values(rate_limit_hits_total{INSTANCE}, tier)", "")
        yield _variable("tier", "Tier", asked.expr)


def _variable(name: str, label: str, query: str) -> Json:
    """`All` is everything, also what appears after the page was opened."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(board: Board) -> Iterator[Json]:
    """Left to right, then the next line; every section begins a line of its own."""
    y = 0
    for section in board.sections:
        yield _heading(board, section, y)
        y += 1
        x = height = 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield _panel(board, panel, x, y)
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _heading(board: Board, section: Section, y: int) -> Json:
    return {
        "id": _id(board, f"# {section.title}"),
        "type": "row",
        "title": section.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        "panels": [],
    }


def _panel(board: Board, panel: Panel, x: int, y: int) -> Json:
    made: Json = {
        "id": _id(board, panel.title),
        "type": panel.kind.value,
        "title": panel.title,
        "description": _description(panel),
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(panel, place, query) for place, query in enumerate(panel.queries)],
        "options": options(panel),
        "fieldConfig": field_config(panel),
    }
    changes = transformations(panel)
    if changes:
        made["transformations"] = changes
    return made


def _description(panel: Panel) -> str:
    alerts = ", ".join(f"`{alert}`" for alert in panel.alerts)
    return f"{panel.tells} Alerts: {alerts}, see docs/runbook.md." if alerts else panel.tells


def _target(panel: Panel, place: int, query: Query) -> Json:
    instant = panel.kind in _INSTANT
    form = {Kind.TABLE: "table", Kind.HEAT: "heatmap"}.get(panel.kind, "time_series")
    return {
        "refId": chr(ord("A") + place),
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": form,
        "instant": instant,
        "range": not instant,
    }

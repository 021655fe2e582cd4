"""How a panel of each kind looks: Grafana's `options` and `fieldConfig`."""

from __future__ import annotations

from typing import Any, assert_never

from tools.dashboards.parts import Kind, Panel

Json = dict[str, Any]

_LAST: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_TOOLTIP: Json = {"mode": "multi", "sort": "desc"}


def options(panel: Panel) -> Json:
    match panel.kind:
        case Kind.LINES:
            return {"legend": _legend(panel), "tooltip": _TOOLTIP}
        case Kind.NUMBER:
            return {
                "colorMode": "value",
                "graphMode": "none" if panel.words else "area",
                "justifyMode": "auto",
                "orientation": "auto",
                "reduceOptions": _LAST,
                "textMode": "name" if panel.unit == "string" else "value",
                "wideLayout": True,
            }
        case Kind.DIAL:
            return {
                "orientation": "auto",
                "reduceOptions": _LAST,
                "showThresholdLabels": False,
                "showThresholdMarkers": True,
            }
        case Kind.BARS:
            return {
                "displayMode": "basic",
                "orientation": "horizontal",
                "reduceOptions": _LAST,
                "showUnfilled": True,
                "valueMode": "color",
            }
        case Kind.TABLE:
            return {
                "showHeader": True,
                "cellHeight": "sm",
                "sortBy": [{"displayName": _last_column(panel), "desc": True}],
            }
        case Kind.HEAT:
            return _heat(panel)
        case Kind.STATES:
            return {
                "alignValue": "left",
                "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
                "mergeValues": True,
                "rowHeight": 0.9,
                "showValue": "auto",
                "tooltip": {"mode": "single", "sort": "none"},
            }
        case _:
            assert_never(panel.kind)


def field_config(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "color": {"mode": _color(panel)}, "custom": _custom(panel)}
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.nothing:
        defaults["noValue"] = panel.nothing
    if panel.words:
        named = {
            str(value): {"text": word.text, "color": word.color, "index": place}
            for place, (value, word) in enumerate(panel.words.items())
        }
        defaults["mappings"] = [{"type": "value", "options": named}]
    if panel.steps:
        steps = [{"color": step.color, "value": step.start} for step in panel.steps]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if not defaults["custom"]:
        del defaults["custom"]
    return {"defaults": defaults, "overrides": _overrides(panel)}


def transformations(panel: Panel) -> list[Json]:
    """A table's queries become its columns, in our order and under our names."""
    if panel.kind is not Kind.TABLE:
        return []
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(panel.columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: place for place, name in enumerate(panel.columns)},
                "renameByName": dict(panel.columns),
            },
        },
    ]


def _legend(panel: Panel) -> Json:
    """Where many lines may be, with figures beside their names."""
    if any("{{" in query.legend for query in panel.queries):
        return {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True}
    return {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}


def _heat(panel: Panel) -> Json:
    """Of Prometheus' own buckets: nothing is calculated. `le` buckets end at their label."""
    return {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "scale": "exponential",
            "exponent": 0.5,
            "fill": "dark-orange",
            "reverse": False,
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
    }


def _color(panel: Panel) -> str:
    if panel.kind is Kind.LINES:
        return "palette-classic"
    return "thresholds" if panel.steps or panel.words else "palette-classic"


def _custom(panel: Panel) -> Json:
    match panel.kind:
        case Kind.LINES:
            return {
                "drawStyle": "line",
                "fillOpacity": 25 if panel.stacked else 5,
                "lineWidth": 1,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
            }
        case Kind.STATES:
            return {"fillOpacity": 80, "lineWidth": 0}
        case Kind.HEAT:
            return {"scaleDistribution": {"type": "linear"}}
        case Kind.TABLE:
            return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
        case Kind.NUMBER | Kind.DIAL | Kind.BARS:
            return {}
        case _:
            assert_never(panel.kind)


def _overrides(panel: Panel) -> list[Json]:
    """A table's thresholds colour its last column."""
    if panel.kind is not Kind.TABLE or not panel.steps:
        return []
    colored = {"id": "custom.cellOptions", "value": {"type": "color-text"}}
    return [{"matcher": {"id": "byName", "options": _last_column(panel)}, "properties": [colored]}]


def _last_column(panel: Panel) -> str:
    return list(panel.columns.values())[-1]

"""The dashboards as they lie in deploy/grafana, taken apart for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from tools.dashboards import DIRECTORY

Json = dict[str, Any]

FILES: Final = ("performance.json", "cache.json", "limits.json", "system.json")
WRITTEN: Final[dict[str, Json]] = {name: orjson.loads((DIRECTORY / name).read_bytes()) for name in FILES}


class Asked(NamedTuple):
    """One query, and where it stands."""

    where: str
    expr: str
    legend: str
    kind: str


def panels(board: Json) -> list[Json]:
    """Without the headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def everything_asked(name: str) -> Iterator[Asked]:
    """The queries of panels and annotations."""
    board = WRITTEN[name]
    for panel in panels(board):
        for target in panel["targets"]:
            where = f"{name}: {panel['title']} {target['refId']}"
            yield Asked(where, target["expr"], target["legendFormat"], panel["type"])
    for annotation in board["annotations"]["list"]:
        words = f"{annotation['titleFormat']} {annotation['textFormat']}"
        yield Asked(f"{name}: annotation {annotation['name']}", annotation["target"]["expr"], words, "annotation")

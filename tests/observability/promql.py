"""Which metrics and labels a query of Prometheus names. Enough of the language for what our dashboards ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_STRING: Final = re.compile(r'"(?:\\.|[^"\\])*"')
_TIMES: Final = re.compile(r"\[[^\]]*\]|\boffset [\w$]+")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^{}]*\}|\(|)")
_MATCHER: Final = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_OPERATORS: Final = frozenset({"and", "or", "unless", "sum", "max", "min", "count", "avg", "topk"})


@dataclass(frozen=True, slots=True)
class Selector:
    metric: str
    labels: frozenset[str]
    """That it asks for by value."""


def selectors(expr: str) -> Iterator[Selector]:
    """Every metric that is read, with the labels that choose its series."""
    text = _GROUPING.sub(" ", _TIMES.sub(" ", _STRING.sub('""', expr)))
    for name, behind in _SELECTOR.findall(text):
        if behind == "(" or name in _OPERATORS:
            continue
        yield Selector(name, frozenset(_MATCHER.findall(behind)))


def groupings(expr: str) -> frozenset[str]:
    """Every label that results are told apart by."""
    named = ",".join(_GROUPING.findall(_STRING.sub('""', expr)))
    return frozenset(label.strip() for label in named.split(",") if label.strip())


def legend_labels(legend: str) -> frozenset[str]:
    return frozenset(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend))

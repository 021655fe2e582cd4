"""The rules of deploy/prometheus as they are written, and what they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import promql_parser
import yaml

from tests.observability.programs import PROMETHEUS

RULES: Final = (PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml")
_OFFSET: Final = re.compile(r" offset \w+$")


class Alert(NamedTuple):
    name: str
    group: str
    expr: str
    for_: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Asked(NamedTuple):
    """A series selector; `labels` are those by whose values it chooses."""

    metric: str
    labels: frozenset[str]
    text: str
    """As it is written, matchers and all, but of now."""


def alerts() -> list[Alert]:
    return [
        Alert(rule["alert"], group, rule["expr"], rule.get("for", "0s"), rule["labels"], rule["annotations"])
        for group, rule in _rules()
        if "alert" in rule
    ]


@cache
def records() -> dict[str, str]:
    """Expressions by name."""
    return {rule["record"]: rule["expr"] for _, rule in _rules() if "record" in rule}


def asked(expr: str) -> frozenset[Asked]:
    """Every selector in an expression. ValueError: it is none."""
    found: set[Asked] = set()

    def visit(node: Any) -> None:
        match node:
            case promql_parser.VectorSelector():
                labels = frozenset(each.name for each in node.matchers.matchers)
                found.add(Asked(node.name, labels, _OFFSET.sub("", node.prettify().strip())))
            case promql_parser.MatrixSelector():
                visit(node.vector_selector)
            case promql_parser.BinaryExpr():
                visit(node.lhs)
                visit(node.rhs)
            case promql_parser.Call():
                for argument in node.args:
                    visit(argument)
            case promql_parser.AggregateExpr():
                visit(node.expr)
                visit(node.param)
            case promql_parser.ParenExpr() | promql_parser.SubqueryExpr() | promql_parser.UnaryExpr():
                visit(node.expr)
            case promql_parser.NumberLiteral() | promql_parser.StringLiteral() | None:
                pass
            case _:
                raise AssertionError(f"unknown: {type(node)}")

    visit(promql_parser.parse(expr))
    return frozenset(found)


def raw(expr: str) -> frozenset[Asked]:
    """The same, with every recording rule followed to what it is made of."""
    known = records()
    found: set[Asked] = set()
    for each in asked(expr):
        found |= raw(known[each.metric]) if each.metric in known else {each}
    return frozenset(found)


def _rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield group["name"], rule

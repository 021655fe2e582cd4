"""Every event that the gateway can log, read from its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from tests.docs.blocks import ROOT

LEVELS: Final = frozenset({"debug", "info", "warning", "error"})
_LOGGER: Final = re.compile(r"(?:\blog|_log|logger|get_logger\(\))\.(?P<level>debug|info|warning|error|log)$")
_NAME: Final = re.compile(r"[a-z]+(?:_[a-z]+)*")
OF_REQUESTS: Final = frozenset({"request", "slow_request"})
"""Written by a way of their own: proxy/log.py."""


class Event(NamedTuple):
    name: str
    levels: frozenset[str]
    fields: frozenset[str]


@cache
def events() -> dict[str, Event]:
    """By name, those of requests left out."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "proxy").rglob("*.py"))]
    stores = {name for tree in trees for name in _stores(tree)}
    found: dict[str, Event] = {}
    for tree in trees:
        for event in _events(tree, stores):
            before = found.get(event.name, Event(event.name, frozenset(), frozenset()))
            found[event.name] = Event(event.name, before.levels | event.levels, before.fields | event.fields)
    return {name: event for name, event in found.items() if name not in OF_REQUESTS}


def _events(tree: ast.AST, stores: set[str]) -> Iterator[Event]:
    tellers = {name: levels for function in ast.walk(tree) for name, levels in _tellers(function)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        match = _LOGGER.search(called)
        levels = tellers.get(called) if match is None else {match["level"]} & LEVELS
        if levels is None:
            continue
        fields = frozenset(each.arg for each in node.keywords if each.arg)
        for name in _names(node, stores):
            if _NAME.fullmatch(name):
                yield Event(name, frozenset(levels), fields)


def _names(call: ast.Call, stores: set[str]) -> list[str]:
    """A word, or as `f"{self._event}_lost"` a word for each store that has a name of its own."""
    for each in call.args:
        match each:
            case ast.Constant(value=str(name)):
                return [name]
            case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value=str(ending))]):
                return [f"{store.replace('-', '_')}{ending}" for store in sorted(stores)]
    return []


def _stores(tree: ast.AST) -> Iterator[str]:
    """Names that clients of a Redis go by in the log: `name: str = "cache-store"`, `name="usage-store"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z]+-store", node.value):
            yield node.value


def _tellers(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """`tell = self._log.info if ... else self._log.warning`"""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        ways = [each for each in ast.walk(node.value) if isinstance(each, ast.Attribute)]
        levels = {match["level"] for each in ways if (match := _LOGGER.search(ast.unparse(each)))}
        if levels & LEVELS:
            yield node.targets[0].id, levels

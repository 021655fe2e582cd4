"""Reads YAML without its surprises, and remembers the line of everything.

PyYAML takes the last of two equal keys, reads `on` as True, `1:30` as 90, `010` as 8 and `1e3` as text. Here two equal
keys are an error, and a plain scalar is a number only when it is written in decimal, true or false only when it says
so, and text otherwise: the schema then says what it expected instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from policies.identity_schema import holds_secrets, nameable

Place = tuple[str | int, ...]

_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_NAMED: Final = re.compile(r" '[A-Za-z0-9_!-]{2,}'")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}
_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq", "map")
)
_MAX_NODES: Final = 100_000
_MAX_DEPTH: Final = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it stands and what was expected there."""

    source: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.place}: {self.message}" if self.place else f"{where}: {self.message}"


@dataclass(slots=True)
class Document:
    """The data of a file, the line of every place in it, and the mistakes of writing found on the way."""

    source: str
    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, place: Place) -> int | None:
        """The line of a place, or of the nearest one above it that stands in the file."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return None


def parse(text: str, source: str) -> Document:
    """Read one document. Never raises for what the text says: problems are in the answer."""
    document = Document(source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = None if mark is None else mark.line + 1
        # A password that begins with * is an alias to YAML: names of the file's own are not repeated.
        problem = _NAMED.sub(" of this name", error.problem or "")
        document.problems.append(Problem(source, line, "", f"not readable as YAML: {problem}"))
        return document
    except yaml.YAMLError as error:
        document.problems.append(Problem(source, None, "", f"not readable as YAML: {error}"))
        return document
    except RecursionError:
        document.problems.append(Problem(source, None, "", "too large or too deep for a configuration"))
        return document
    if node is not None:
        document.data = _Builder(document).build(node, ())
    return document


def scalar(text: str) -> Any:
    """What a plain scalar means: also used for single values of the environment."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def place_text(place: Place) -> str:
    """`limits[0].quota`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _is_only_a_name(node: yaml.ScalarNode) -> bool:
    """An anchor on nothing. A password that begins with & would be none."""
    return node.style is None and not node.value and node.end_mark.index > node.start_mark.index


class _Builder:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def build(self, node: yaml.Node, place: Place) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        self._document.lines.setdefault(place, line)
        if self._nodes > _MAX_NODES or len(place) > _MAX_DEPTH:
            # Aliases can make a few lines mean millions of values.
            if self._nodes == _MAX_NODES + 1 or len(place) == _MAX_DEPTH + 1:
                self._problem(line, place, "too large or too deep for a configuration")
            return None
        if node.tag not in _PLAIN_TAGS:
            tag = "a tag" if holds_secrets(place) else f"the tag {node.tag}"
            self._problem(line, place, f"expected a plain value, got {tag}")
            return None
        if isinstance(node, yaml.ScalarNode):
            if _is_only_a_name(node):
                self._problem(line, place, "expected a value, got a name for one: text that begins with & needs quotes")
            return scalar(node.value) if node.style is None else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*place, index)) for index, child in enumerate(node.value)]
        return self._mapping(node, place)

    def _mapping(self, node: yaml.Node, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, place, "expected a word as the key, got a list or a mapping")
                continue
            key = key_node.value
            here = (*place, key)
            if key in data:
                first = self._document.lines[here]
                self._problem(line, here, f"expected each key once, it stands in line {first} already")
                continue
            self._document.lines[here] = line
            data[key] = self.build(value_node, here)
        return data

    def _problem(self, line: int, place: Place, message: str) -> None:
        self._document.problems.append(Problem(self._document.source, line, place_text(nameable(place)), message))

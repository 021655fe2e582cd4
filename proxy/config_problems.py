"""What a mistake in the configuration is called: pydantic's errors in the words of the file, with line and place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from policies.identity_schema import Mistakes, holds_secrets, nameable
from proxy.yamlfile import Document, Place, Problem, place_text

_KEY: Final = re.compile(r"[A-Z]?[a-z0-9_-]{1,23}|[A-Z_]{1,23}")
_COLLECTIONS: Final = frozenset({"model_type", "model_attributes_type", "dict_type", "tuple_type", "list_type"})


class Origin(NamedTuple):
    """The variable that has set a place, and what its file holds, if it names one: no message repeats that."""

    name: str
    held: str | None = None


class ConfigError(Exception):
    """The configuration cannot be used. `problems` are all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def spread(errors: Iterable[ErrorDetails]) -> Iterator[ErrorDetails]:
    """One error for each mistake: a section may find several at once, each with a place of its own."""
    for error in errors:
        found = error.get("ctx", {}).get("error")
        if not isinstance(found, Mistakes):
            yield error
            continue
        for place, message in found.found:
            yield {**error, "loc": (*error["loc"], *place), "ctx": {"error": message}}


def explained(
    error: ErrorDetails, document: Document, origins: Mapping[Place, Origin], schema: type[BaseModel]
) -> Problem:
    """One error of `schema` as a problem of the file, or of the environment variable that set the place."""
    place: Place = tuple(part for part in error["loc"] if not str(part).startswith("function-"))
    place = _without_union_branches(place)
    message, shown = _expectation(error, place, schema), place_text(_nameable(error, place))
    for length in range(len(place), 0, -1):
        if (origin := origins.get(place[:length])) is not None:
            return Problem(f"environment {origin.name}", None, shown, _discreet(message, origin.held))
    return Problem(document.source, document.line_of(place), shown, message)


def _discreet(message: str, held: str | None) -> str:
    if held is None:
        return message
    message = message.partition(", got ")[0]
    return message if held not in message else "expected another value; what the file holds is not repeated"


def _nameable(error: ErrorDetails, place: Place) -> Place:
    """Without what looks like no key: `token: abc` without its colon is a key to YAML, and `abc` is part of it."""
    if error["type"] == "extra_forbidden" and not _KEY.fullmatch(str(place[-1])):
        return (*nameable(place[:-1]), "?")
    return nameable(place)


def _without_union_branches(place: Place) -> Place:
    """Pydantic names the branch of an optional value (`port.int`); the file does not."""
    if place and place[-1] in {"int", "str", "none", "constrained-int"}:
        return place[:-1]
    return place


def _expectation(error: ErrorDetails, place: Place, schema: type[BaseModel]) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    got = f", got {given!r}" if isinstance(given, str | int | float | bool) and not holds_secrets(place) else ""
    if isinstance(given, str) and kind in _COLLECTIONS:
        got = ""  # a URL with its password, where a section was expected that has a field for it
    if given is None:
        got = ", got nothing"
    match kind:
        case "missing":
            return "expected a value, it is missing"
        case "extra_forbidden":
            known = keys_beside(place, schema)
            return f"unknown key; known here are {', '.join(known)}" if known else "unknown key"
        case "value_error":
            return str(context.get("error", error["msg"]))
        case "literal_error" | "enum":
            return f"expected {context.get('expected')}{got}"
        case "int_type" | "int_parsing":
            return f"expected a whole number{got}"
        case "bool_type" | "bool_parsing":
            return f"expected true or false{got}"
        case "string_type":
            return f"expected text{got}"
        case "tuple_type" | "list_type":
            return f"expected a list{got}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected a mapping{got}"
        case "string_pattern_mismatch":
            return f"expected letters, digits, '.', '_' or '-', at most 64{got}"
        case "too_short":
            return "expected at least one"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = next(iter(context.values()))
            words = {"greater_than": "more than", "less_than": "less than"}.get(
                kind, "at least" if kind.startswith("greater") else "at most"
            )
            return f"expected {words} {bound}{got}"
        case _:
            return error["msg"]


def keys_beside(place: Place, schema: type[BaseModel]) -> list[str]:
    """The keys that the schema knows where an unknown one was found."""
    model: type[BaseModel] | None = schema
    for part in place[:-1]:
        if isinstance(part, int):
            continue
        if model is not None and part not in model.model_fields:
            continue  # the name of an entry, such as a tier's
        info = None if model is None else model.model_fields.get(part)
        model = None if info is None else _model_in(info.annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None

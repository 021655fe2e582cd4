"""Checks a JSON value against a type annotation, and says in words what was wrong."""

from __future__ import annotations

import types
import typing
from typing import Any


def problem(value: Any, wanted: Any) -> str | None:
    """What is wrong with `value` as a `wanted`, or None. Knows the shapes that settings and faults use."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        names = ", ".join(repr(each) for each in arguments)
        return None if value in arguments else f"expected one of {names}, got {value!r}"
    if origin in (typing.Union, types.UnionType):
        return _union_problem(value, arguments)
    if origin is list:
        return _list_problem(value, arguments[0])
    if origin is dict:
        return _dict_problem(value, arguments[1])
    return _scalar_problem(value, wanted)


def _scalar_problem(value: Any, wanted: type | None) -> str | None:
    if wanted is None or wanted is types.NoneType:
        return None if value is None else f"expected null, got {value!r}"
    if wanted is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif wanted is int:  # True is an int in Python, yet nobody means it as a number
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, wanted)
    return None if fits else f"expected {wanted.__name__}, got {value!r}"


def _union_problem(value: Any, members: tuple[Any, ...]) -> str | None:
    found = [problem(value, member) for member in members]
    return None if None in found else found[0]


def _list_problem(value: Any, member: Any) -> str | None:
    if not isinstance(value, list):
        return f"expected a list, got {value!r}"
    for index, each in enumerate(value):
        if (found := problem(each, member)) is not None:
            return f"item {index}: {found}"
    return None


def _dict_problem(value: Any, member: Any) -> str | None:
    if not isinstance(value, dict):
        return f"expected an object, got {value!r}"
    for key, each in value.items():
        if not isinstance(key, str):
            return f"key {key!r}: expected a string"
        if (found := problem(each, member)) is not None:
            return f"{key}: {found}"
    return None

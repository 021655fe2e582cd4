"""The environment as a part of the configuration: which variable sets which field, itself or by a file.

GATEWAY__LISTEN__PORT=8080 sets a field by its path, lists and maps as JSON; four short names are kept for container
platforms. NAME_FILE names a file that holds the value of NAME, for secrets: such files are read here and nowhere else,
and no message repeats what stands in one. A field whose own name ends in _file is found by the schema before that:
GATEWAY__UPSTREAM__CA_FILE is upstream.ca_file, and GATEWAY__UPSTREAM__CA_FILE_FILE names a file that holds it.
"""

from __future__ import annotations

import os
import stat
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import orjson
from pydantic import BaseModel, SecretStr

from policies.identity_schema import nameable
from policies.schema import nearest
from proxy import yamlfile
from proxy.config_problems import Origin, keys_beside
from proxy.yamlfile import Place, Problem, place_text

PREFIX: Final = "GATEWAY__"
SHORT_NAMES: Final[Mapping[str, Place]] = {
    "REDIS_URL": ("store", "url"),
    "LOG_LEVEL": ("log", "level"),
    "WORKERS": ("workers",),
    "CACHE_TTL": ("cache", "open_ttl"),
}
FILE: Final = "_FILE"
"""What the name of a variable ends in that names a file."""

_MOST_BYTES: Final = 64 << 10
_TEXT: Final = frozenset({str, SecretStr, types.NoneType})
_COMPOUND: Final = ("[", "{")
_NULL: Final = frozenset({"null", "~"})


class Setting(NamedTuple):
    """One variable: what it sets, and whether it holds the value or names the file that does."""

    name: str
    place: Place
    by_file: bool

    @property
    def plain_name(self) -> str:
        return self.name.removesuffix(FILE) if self.by_file else self.name


class Overlaid(NamedTuple):
    """Which places come from which variable, and what is wrong with variables themselves."""

    origins: dict[Place, Origin]
    problems: list[Problem]


def overlay(data: dict[str, Any], environment: Mapping[str, str], schema: type[BaseModel]) -> Overlaid:
    """Lay the environment over `data`. What a variable with a mistake would have set stays as it is."""
    overlaid = Overlaid({}, [])
    given = _settings(environment, schema)
    names = {setting.name for setting in given}
    for setting in given:
        kind = _kind(setting.place, schema)
        try:
            if setting.by_file and setting.plain_name in names:
                raise ValueError(f"expected either {setting.plain_name} or {setting.name}, got both")
            if kind is None:
                raise ValueError(_unknown(setting, schema))
            text = environment[setting.name]
            held = _held(text) if setting.by_file else None
            value = _value(setting, text if held is None else held, kind)
        except ValueError as error:
            place = place_text(nameable(setting.place))
            overlaid.problems.append(Problem(f"environment {setting.name}", None, place, str(error)))
            continue
        _put(data, setting.place, value)
        overlaid.origins[setting.place] = Origin(setting.name, held)
    return overlaid


def files(environment: Mapping[str, str], schema: type[BaseModel]) -> tuple[Path, ...]:
    """Those that variables name."""
    return tuple(Path(environment[each.name]) for each in _settings(environment, schema) if each.by_file)


def fields(schema: type[BaseModel]) -> Iterator[tuple[Place, Any]]:
    """The path and the type of every field, sections and what stands in them."""
    for name, info in schema.model_fields.items():
        yield (name,), info.annotation
        for kind in _kinds(info.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from (((name, *below), inner) for below, inner in fields(kind))


def variable(place: Place) -> str:
    """The name that sets a place."""
    return PREFIX + "__".join(map(str, place)).upper()


def _settings(environment: Mapping[str, str], schema: type[BaseModel]) -> list[Setting]:
    """The short names first, so that the long ones win; a section before what stands in it."""
    short = [
        Setting(f"{name}{ending}", place, bool(ending))
        for name, place in SHORT_NAMES.items()
        for ending in ("", FILE)
        if f"{name}{ending}" in environment
    ]
    long = [_understood(name, schema) for name in environment if name.startswith(PREFIX)]
    return short + sorted(long, key=lambda setting: (setting.place, setting.name))


def _understood(name: str, schema: type[BaseModel]) -> Setting:
    place: Place = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
    if name.endswith(FILE) and _kind(place, schema) is None:
        held = _understood(name.removesuffix(FILE), schema).place
        if _kind(held, schema) is not None:
            return Setting(name, held, by_file=True)
    return Setting(name, place, by_file=False)


def _kind(place: Place, schema: type[BaseModel]) -> Any:
    """The type of what stands at a place; None: nothing can stand there."""
    kind: Any = schema
    for part in place:
        below: Any = None
        for each in _kinds(kind):
            if isinstance(each, type) and issubclass(each, BaseModel):
                info = each.model_fields.get(str(part))
                below = None if info is None else info.annotation
            elif get_origin(each) is dict:  # entries have names of their own
                below = get_args(each)[1]
        if below is None:
            return None
        kind = below
    return kind


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, without what else is said of them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return tuple(kind for each in get_args(annotation) for kind in _kinds(each))
    return (annotation,)


def _unknown(setting: Setting, schema: type[BaseModel]) -> str:
    names = (variable(place).removeprefix(PREFIX) for place, _ in fields(schema))
    close = nearest(setting.name.removeprefix(PREFIX).removesuffix(FILE), names, most=1, cutoff=0.8)
    if close:
        return f"unknown key{close.replace('mean ', f'mean {PREFIX}')}"
    known = keys_beside(setting.place, schema)
    return f"unknown key; known here are {', '.join(known)}" if known else "unknown key"


def _value(setting: Setting, text: str, kind: Any) -> Any:
    kinds = _kinds(kind)
    if _TEXT.issuperset(kinds):  # a password may look like anything: a number, a list
        return None if not text or (types.NoneType in kinds and text in _NULL) else text
    if text.lstrip().startswith(_COMPOUND):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not readable as JSON: {error}") from None
    if setting.plain_name == "CACHE_TTL" and text.isdigit():
        return f"{text}s"  # the short names follow the custom of their platforms: whole seconds
    return yamlfile.scalar(text)


def _put(data: dict[str, Any], place: Place, value: Any) -> None:
    for part in place[:-1]:
        below = data.get(str(part))
        if not isinstance(below, dict):
            below = data[str(part)] = {}
        data = below
    data[str(place[-1])] = value


def _held(path: str) -> str:
    """What a file holds, without the newline at its end. Raises ValueError."""
    # Who writes the secret itself where its file is to be named must not find it in a log. One may begin with a slash.
    parent = os.path.dirname(path)  # noqa: PTH120  # with isdir, which never raises
    shown = repr(path) if parent not in {"", "/"} and os.path.isdir(parent) else "what it names"  # noqa: PTH112
    try:
        with open(path, "rb", opener=_at_once) as file:  # whose open() takes no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"expected a file, {shown} is none")
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"expected a file that can be read, {shown} cannot: {error.strerror}") from None
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"expected a file of at most {_MOST_BYTES >> 10} KiB, {shown} is longer")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, {shown} holds none at byte {error.start}") from None
    text = text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
    if not text:  # to the environment nothing is null: no token, and nobody would be asked for one
        raise ValueError(f"expected a value, {shown} is empty")
    if text in _NULL:  # what `jq -r` writes where there is none
        raise ValueError(f"expected a value, {shown} says {text}")
    return text


def _at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes to is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)

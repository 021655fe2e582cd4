"""YAML and environment become one frozen Config, or a list of every mistake in them. Only this file opens config files.

The environment overrides any field by its path: GATEWAY__LISTEN__PORT=8080, lists and maps as JSON. Four short names
are kept for container platforms: REDIS_URL, LOG_LEVEL, WORKERS, CACHE_TTL; the long name wins over the short one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from policies.admission import Counts, Quota
from policies.routing import Access, Route, RouteTable
from policies.schema import (
    DEFAULT_LIMITS,
    CacheSection,
    LimitSection,
    Name,
    PositiveDurationUs,
    QueueSection,
    Section,
    SizeBytes,
    unique_names,
)
from proxy import yamlfile
from proxy.yamlfile import Place, Problem

PREFIX: Final = "GATEWAY__"
SHORT_NAMES: Final[Mapping[str, Place]] = {
    "REDIS_URL": ("store", "url"),
    "LOG_LEVEL": ("log", "level"),
    "WORKERS": ("workers",),
    "CACHE_TTL": ("cache", "open_ttl"),
}
TABLES: Final = Path(__file__).parent.parent / "policies" / "bybit.yaml"

Port = Annotated[int, Field(ge=0, le=65535)]


class ListenSection(Section):
    host: str = "0.0.0.0"  # noqa: S104  # a sidecar is reached from outside its container
    port: Port = 8080
    trusted_proxies: tuple[str, ...] = Field(default=(), strict=False)
    max_body: SizeBytes = 10 << 20
    max_target: SizeBytes = 16 << 10
    max_header: SizeBytes = 16 << 10
    max_headers: Annotated[int, Field(ge=8, le=1000)] = 128
    body_timeout: PositiveDurationUs = 20_000_000
    keepalive: PositiveDurationUs = 75_000_000

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(f"expected addresses or networks such as 10.0.0.0/8, got {text!r}") from None
        return value


class AdminSection(Section):
    host: str = "127.0.0.1"
    port: Port | None = None


class TimeoutSection(Section):
    connect: PositiveDurationUs = 10_000_000
    read: PositiveDurationUs = 20_000_000
    total: PositiveDurationUs = 30_000_000


class PoolSection(Section):
    total: Annotated[int, Field(ge=1, le=10_000)] = 300
    per_host: Annotated[int, Field(ge=1, le=10_000)] = 100
    keepalive: PositiveDurationUs = 60_000_000
    dns_ttl: PositiveDurationUs = 300_000_000


class UpstreamSection(Section):
    url: str = "https://api.bybit.com"
    ca_file: str | None = None
    timeouts: TimeoutSection = TimeoutSection()
    pool: PoolSection = PoolSection()
    prewarm: Annotated[int, Field(ge=0, le=100)] = 0

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        expected = "expected a base URL such as https://api.bybit.com, with nothing behind the host"
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError(f"{expected}, got {value!r}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise ValueError(f"{expected}, got {value!r}")
        if "@" in parts.netloc:
            raise ValueError(f"{expected}, got one with a user name")
        if parts.path.strip("/") or "?" in value or "#" in value:
            raise ValueError(f"{expected}, got {value!r}")
        return f"{parts.scheme}://{parts.netloc}"

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_file():
            raise ValueError(f"expected a file of PEM certificates, there is none at {value!r}")
        return value

    @property
    def plain_and_remote(self) -> bool:
        """Orders would cross a network unencrypted."""
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return False
        host = parts.hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"


class StoreSection(Section):
    url: str = "memory://"

    @field_validator("url")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value != "memory://":
            scheme = value.partition("://")[0]
            raise ValueError(f"expected memory:// (this version has no other store), got the scheme {scheme!r}")
        return value


class EgressSection(Section):
    id: Name = "default"


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Config(Section):
    """Everything an operator can set. Durations are microseconds, sizes bytes, quotas a limit and a window."""

    listen: ListenSection = ListenSection()
    admin: AdminSection = AdminSection()
    workers: Annotated[int, Field(ge=1)] = 1
    upstream: UpstreamSection = UpstreamSection()
    store: StoreSection = StoreSection()
    egress: EgressSection = EgressSection()
    limits: tuple[LimitSection, ...] = Field(
        default=tuple(LimitSection.model_validate(rule) for rule in DEFAULT_LIMITS), strict=False
    )
    queue: QueueSection = QueueSection()
    cache: CacheSection = CacheSection()
    log: LogSection = LogSection()

    @field_validator("limits")
    @classmethod
    def _rules_have_names(cls, value: tuple[LimitSection, ...]) -> tuple[LimitSection, ...]:
        unique_names(value)
        return value

    @field_validator("workers")
    @classmethod
    def _one_process_in_memory(cls, value: int) -> int:
        if value > 1:
            raise ValueError(f"expected 1, got {value}: processes cannot share the limits of a memory:// store")
        return value

    def quotas(self, counts: Counts) -> tuple[Quota, ...]:
        return tuple(rule.compiled() for rule in self.limits if rule.counts is counts)


class ConfigError(Exception):
    """The configuration cannot be used. `problems` are all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(path: Path | None, environment: Mapping[str, str], routes: RouteTable) -> Config:
    """Read and check everything; raises ConfigError with every problem at once."""
    document = _read(path) if path is not None else yamlfile.Document("the defaults", {})
    if document.problems:
        raise ConfigError(document.problems)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise ConfigError(
            [Problem(document.source, 1, "", "expected a mapping of sections such as listen: and limits:")]
        )
    origins = _override(data, environment)
    try:
        return Config.model_validate(data, context={"endpoints": routes.endpoints()})
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_explain(item, document, origins) for item in details]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0)) from None


def load_routes(path: Path = TABLES) -> RouteTable:
    """The exchange's published table of endpoints, shipped with the gateway."""
    document = _read(path)
    if document.problems:
        raise ConfigError(document.problems)
    routes = [
        Route(
            endpoint=row["endpoint"],
            group=group,
            access=Access(section["access"]),
            method=row["method"],
            path=row["path"],
            candles=row.get("candles", False),
        )
        for group, section in document.data.items()
        if isinstance(section, dict)
        for row in section["routes"]
    ]
    return RouteTable.of(routes)


def _read(path: Path) -> yamlfile.Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), None, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, "", f"not UTF-8 at byte {error.start}")]) from None
    return yamlfile.parse(text, str(path))


def _override(data: dict[str, Any], environment: Mapping[str, str]) -> dict[Place, str]:
    """Lay the environment over `data`; the answer tells which places come from which variable."""
    settings: list[tuple[str, Place]] = [(name, place) for name, place in SHORT_NAMES.items() if name in environment]
    settings += [
        (name, tuple(part.lower() for part in name.removeprefix(PREFIX).split("__")))
        for name in sorted(environment)
        if name.startswith(PREFIX)
    ]
    origins: dict[Place, str] = {}
    for name, place in settings:
        target = data
        for part in place[:-1]:
            below = target.get(str(part))
            if not isinstance(below, dict):
                below = target[str(part)] = {}
            target = below
        target[str(place[-1])] = _environment_value(name, environment[name])
        origins[place] = name
    return origins


def _environment_value(name: str, text: str) -> Any:
    if text[:1] in {"[", "{"}:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ConfigError([Problem(f"environment {name}", None, "", f"not readable as JSON: {error}")]) from None
    if name == "CACHE_TTL" and text.isdigit():
        return f"{text}s"  # the short names follow the custom of their platforms: whole seconds
    return yamlfile.scalar(text)


def _explain(error: ErrorDetails, document: yamlfile.Document, origins: Mapping[Place, str]) -> Problem:
    place: Place = tuple(part for part in error["loc"] if not str(part).startswith("function-"))
    place = _without_union_branches(place)
    message = _expectation(error, place)
    for length in range(len(place), 0, -1):
        if (name := origins.get(place[:length])) is not None:
            return Problem(f"environment {name}", None, yamlfile.place_text(place), message)
    return Problem(document.source, document.line_of(place), yamlfile.place_text(place), message)


def _without_union_branches(place: Place) -> Place:
    """Pydantic names the branch of an optional value (`port.int`); the file does not."""
    if place and place[-1] in {"int", "str", "none", "constrained-int"}:
        return place[:-1]
    return place


def _expectation(error: ErrorDetails, place: Place) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    got = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    if given is None:
        got = ", got nothing"
    match kind:
        case "missing":
            return "expected a value, it is missing"
        case "extra_forbidden":
            known = _keys_beside(place)
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


def _keys_beside(place: Place) -> list[str]:
    """The keys that the schema knows where an unknown one was found."""
    model: type[BaseModel] | None = Config
    for part in place[:-1]:
        if isinstance(part, int):
            continue
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

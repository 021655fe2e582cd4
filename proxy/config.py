"""YAML and environment become one frozen Config, or a list of every mistake in them.

Only this file opens config files; what variables say, and the files of secrets that they name, are read in
proxy/config_environment.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from policies import bybit
from policies.admission import Counts, Quota
from policies.archive_schema import ArchiveSection
from policies.cache_schema import CacheSection, CandlesSection
from policies.identity_schema import IdentitySection, Mistakes
from policies.pressure_schema import BackpressureSection
from policies.published import Learned, learned_quotas, lines_of
from policies.quantities import Rate, rate
from policies.resilience_schema import BreakerSection, PacingSection, Percent, RetrySection
from policies.routing import Access, Route, RouteTable
from policies.schema import (
    DEFAULT_LIMITS,
    DurationUs,
    LimitSection,
    Name,
    PositiveDurationUs,
    QueueSection,
    Section,
    SizeBytes,
    unique_names,
)
from policies.secret_text import TokenText
from policies.streams_schema import StreamsSection
from policies.tracing_schema import TracingSection
from policies.usage_schema import UsageSection
from proxy import yamlfile
from proxy.config_environment import overlay
from proxy.config_problems import ConfigError, explained, spread
from proxy.config_store import StoreSection
from proxy.config_upstream import UpstreamSection
from proxy.yamlfile import Problem

TABLES: Final = Path(__file__).parent.parent / "policies" / "bybit.yaml"

_OTEL: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")

Port = Annotated[int, Field(ge=0, le=65535)]


class ListenSection(Section):
    host: str = Field(
        default="0.0.0.0",  # noqa: S104  # a sidecar is reached from outside its container
        description="Address of the traffic port.",
    )
    port: Port = Field(default=8080, description="Traffic port.")
    trusted_proxies: tuple[str, ...] = Field(
        default=(), strict=False, description="Networks whose word about a client's address is believed."
    )
    trusted_header: Literal["x-forwarded-for", "forwarded"] = Field(
        default="x-forwarded-for", description="The header by which they give it; the other one is never read."
    )
    max_body: SizeBytes = Field(
        default=10 << 20, ge=1 << 10, le=1 << 30, description="A longer request body is refused with 413."
    )
    max_bodies: SizeBytes = Field(
        default=256 << 20, ge=1 << 10, le=1 << 40, description="All request bodies at one time; beyond it, 503."
    )
    max_target: SizeBytes = Field(
        default=16 << 10, ge=1 << 10, le=1 << 20, description="A longer request line is refused with 431."
    )
    max_header: SizeBytes = Field(
        default=16 << 10, ge=1 << 10, le=1 << 20, description="A longer header line is refused with 431."
    )
    max_headers: Annotated[int, Field(ge=8, le=1000)] = Field(default=128, description="Header lines of a request.")
    body_timeout: PositiveDurationUs = Field(
        default=20_000_000, description="A request body must have arrived within this time."
    )
    keepalive: PositiveDurationUs = Field(
        default=75_000_000, description="Idle connections of clients are closed after this time."
    )

    drain_delay: DurationUs = Field(
        default=0, description="SIGTERM: how long to go on taking connections, though not ready, before the drain."
    )

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
    host: str = Field(default="127.0.0.1", description="Address of the port of the pages, when they have one.")
    token: TokenText | None = Field(
        default=None, description="Asked for on /gateway pages: `Authorization: Bearer ...`. Null: nobody is asked."
    )
    port: Port | None = Field(
        default=None, description="Null: /health, /metrics and /gateway on the traffic port; a number: on their own."
    )


class EgressSection(Section):
    id: Name = Field(default="default", description="Names the address that the exchange sees.")


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important events that are written."
    )
    format: Literal["json", "console"] = Field(default="json", description="json, or console for people.")
    sample_hits: Percent = Field(
        default=100,
        description="Percent of the plain hits of the cache that are written; all other requests always are.",
    )
    slow: PositiveDurationUs | None = Field(
        default=5_000_000,
        description="A request that took longer is counted, and told as slow_request, with where its time has gone. "
        "Null: none is.",
    )


class Config(Section):
    """Everything an operator can set. Durations are microseconds, sizes bytes, quotas a limit and a window."""

    listen: ListenSection = Field(default=ListenSection(), description="Where clients come in.")
    admin: AdminSection = Field(default=AdminSection(), description="The gateway's own pages.")
    workers: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Processes; more than one needs a store that they can share."
    )
    upstream: UpstreamSection = Field(default=UpstreamSection(), description="The exchange.")
    streams: StreamsSection = Field(
        default=StreamsSection(), description="WebSocket connections of clients, passed through to the exchange."
    )
    store: StoreSection = Field(default=StoreSection(), description="Where the windows are kept.")
    egress: EgressSection = Field(default=EgressSection(), description="The address that the exchange sees.")
    identity: IdentitySection = Field(default=IdentitySection(), description="Who clients are, and their tiers.")
    limits: tuple[LimitSection, ...] = Field(
        default=tuple(LimitSection.model_validate(rule) for rule in DEFAULT_LIMITS),
        strict=False,
        description="Rules: each a quota, a partition (whose budget is spent) and a match (which requests spend it). "
        "They replace the default ones.",
    )
    queue: QueueSection = Field(default=QueueSection(), description="Where requests wait for room in a full quota.")
    backpressure: BackpressureSection = Field(
        default=BackpressureSection(), description="What is turned away when the gateway has too much to do."
    )
    pacing: PacingSection = Field(
        default=PacingSection(), description="What is learned from the exchange's answers, and its bans."
    )
    retry: RetrySection = Field(default=RetrySection(), description="What is sent again, and how often.")
    breaker: BreakerSection = Field(default=BreakerSection(), description="When an upstream that fails is left alone.")
    cache: CacheSection = Field(default=CacheSection(), description="Answers of public endpoints, by request.")
    candles: CandlesSection = Field(default=CandlesSection(), description="Closed candles, whatever range is asked.")
    archive: ArchiveSection = Field(default=ArchiveSection(), description="Closed candles in PostgreSQL, for good.")
    usage: UsageSection = Field(default=UsageSection(), description="What clients have asked for, by hour, for bills.")
    log: LogSection = Field(default=LogSection(), description="One event per request, on stdout.")
    tracing: TracingSection = Field(default=TracingSection(), description="Spans for an OpenTelemetry collector.")

    @field_validator("limits")
    @classmethod
    def _rules_have_names(cls, value: tuple[LimitSection, ...], info: ValidationInfo) -> tuple[LimitSection, ...]:
        unique_names(value)
        identity: IdentitySection | None = info.data.get("identity")
        if identity is not None:
            identity.judge(value)
        return value

    @model_validator(mode="after")
    def _processes_share_a_store(self) -> Config:
        if self.workers > 1 and not self.store.shared:
            reason = (
                f"expected 1, got {self.workers}: processes cannot share the limits of a memory:// store; "
                "set store.url to redis://HOST for more"
            )
            raise Mistakes([(("workers",), reason)])
        return self

    @model_validator(mode="after")
    def _archive_has_its_driver(self) -> Config:
        if self.archive.url is not None and find_spec("asyncpg") is None:
            remedy = "needs asyncpg, which is not installed: pip install asyncpg"
            raise Mistakes([(("archive", "url"), remedy)])
        return self

    @model_validator(mode="after")
    def _tracing_has_its_library(self) -> Config:
        if self.tracing.enabled and not all(map(_is_installed, _OTEL)):
            remedy = "true needs OpenTelemetry, which is not installed: pip install '.[otel]' in the checkout"
            raise Mistakes([(("tracing", "enabled"), remedy)])
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> Config:
        if self.admin.port is not None and self.admin.port == self.listen.port != 0:
            raise ValueError(f"admin.port: expected another port than listen.port, got {self.admin.port} for both")
        return self

    def quotas(self, counts: Counts) -> tuple[Quota, ...]:
        rules = tuple(rule.compiled() for rule in self.limits if rule.counts is counts)
        return (*rules, *self.identity.quotas()) if counts is Counts.REQUESTS else rules

    def learned(self, routes: RouteTable) -> Learned:
        """The quotas of accounts."""
        pacing = self.pacing
        if not pacing.enabled:
            return {}
        return learned_quotas(routes, pacing.headroom, [bound.compiled() for bound in pacing.accounts])


def load(path: Path | None, environment: Mapping[str, str], routes: RouteTable) -> Config:
    """Read and check everything; raises ConfigError with every problem at once."""
    return judged(read(path), environment, routes)


def judged(document: yamlfile.Document, environment: Mapping[str, str], routes: RouteTable) -> Config:
    """What the document and the environment say together; raises ConfigError with every problem at once."""
    data = {} if document.data is None else document.data
    wrong = list(document.problems)
    if not isinstance(data, dict):
        wrong.append(Problem(document.source, 1, "", "expected a mapping of sections such as listen: and limits:"))
        data = {}
    origins, problems = overlay(data, environment, Config)
    if wrong:
        raise ConfigError([*wrong, *problems])
    config = None
    try:
        config = Config.model_validate(data, context=_context(routes))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [explained(item, document, origins, Config) for item in spread(details)]
    if config is None or problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return config


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is part of
        return False


def _context(routes: RouteTable) -> dict[str, Any]:
    return {"endpoints": routes.endpoints(), "routes": routes, "key_file": _fingerprint}


def _fingerprint(source: str, path: str, algorithms: Sequence[str]) -> str:
    from proxy import tokens  # noqa: PLC0415  # cryptography costs 20 MB: only those who use it pay

    return tokens.fingerprint(source, path, algorithms)


def load_routes(path: Path = TABLES) -> RouteTable:
    """The exchange's published table of endpoints, shipped with the gateway."""
    document = read(path)
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
            params=tuple(row.get("params", ())),
            limits=_published(row["limit"], by_category=section.get("by_category", False)) if "limit" in row else (),
        )
        for group, section in document.data.items()
        if isinstance(section, dict)
        for row in section["routes"]
    ]
    return RouteTable.of(routes)


def _published(limit: Any, *, by_category: bool) -> tuple[tuple[str, Rate | None], ...]:
    """A figure for all, or one for each category; null where there is none."""
    if isinstance(limit, dict):
        return lines_of({category: rate(text.replace("/min", "/m")) for category, text in limit.items()})
    figure = None if limit is None else rate(limit.replace("/min", "/m"))
    if by_category and figure is not None:
        return lines_of(dict.fromkeys(bybit.LINES, figure))
    return (("", figure),)


def read(path: Path | None) -> yamlfile.Document:
    """The file as it stands, mistakes of writing included; without one nothing is said. Raises ConfigError."""
    if path is None:
        return yamlfile.Document("the defaults", {})
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), None, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, "", f"not UTF-8 at byte {error.start}")]) from None
    return yamlfile.parse(text, str(path))

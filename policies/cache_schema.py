"""YAML becomes types here: the sections `cache` and `candles`. As schema.py."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from policies import store_url
from policies.answer_rules import LIVE, LONGEST_LIVE_US, LONGEST_US, AnswerRule, why_never_kept
from policies.caching import CandleLifetimes
from policies.identity_schema import Mistakes
from policies.quantities import duration_text, size_text
from policies.resilience_schema import Percent
from policies.routing import OWN, STREAMS, RouteTable
from policies.schema import DurationUs, EndpointWords, PositiveDurationUs, Section, SizeBytes
from policies.secret_text import SharedSecret
from policies.store_url import StoreAddress, StoreKind

_DAY_US: Final = 86_400_000_000
_SECOND_US: Final = 1_000_000
_LEAST_VALUE: Final = 1 << 10
_LARGEST_VALUE: Final = 64 << 20


class CacheRuleSection(Section):
    """One rule of `cache.rules`: how long the answers of some public endpoints are kept."""

    endpoint: EndpointWords = Field(description="Public endpoints of policies/bybit.yaml other than candles.")
    ttl: PositiveDurationUs = Field(description="How long an answer is fresh.")
    boundary: PositiveDurationUs | None = Field(
        default=None,
        description="Never past the next multiple of this on the clock (UTC), where new rows appear. Null: no such.",
    )
    stale: DurationUs | None = Field(
        default=None,
        description="How much longer it is given while the exchange cannot be asked. Null: as cache.stale_if_error.",
    )

    @field_validator("endpoint")
    @classmethod
    def _may_be_kept(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        routes: RouteTable | None = (info.context or {}).get("routes")
        if not OWN.isdisjoint(value):
            raise ValueError(f"can never be kept: {min(OWN & frozenset(value))} is a page of the gateway's own")
        if not STREAMS.isdisjoint(value):
            raise ValueError(f"can never be kept: {min(STREAMS & frozenset(value))} is a WebSocket stream")
        for route in () if routes is None else (*routes.routes, routes.unknown):
            if route.endpoint in value and (why := why_never_kept(route)) is not None:
                raise ValueError(f"can never be kept: {why}")
        return value

    @field_validator("boundary")
    @classmethod
    def _divides_a_day(cls, value: int | None) -> int | None:
        if value is not None and (value % _SECOND_US or _DAY_US % value):
            raise ValueError(f"expected whole seconds that divide a day, such as 5m or 1h, got {duration_text(value)}")
        return value

    @model_validator(mode="after")
    def _not_for_too_long(self) -> CacheRuleSection:
        for name in self.endpoint:
            if name in LIVE and self.ttl > LONGEST_LIVE_US:
                reason = f"{name} changes all the time, and somebody may trade by it"
                longest_us = LONGEST_LIVE_US
            else:
                reason, longest_us = "only closed candles stay as they are for longer", LONGEST_US
            if self.ttl > longest_us:
                expected = f"expected at most {duration_text(longest_us)}, got {duration_text(self.ttl)}: {reason}"
                raise Mistakes([(("ttl",), expected)])
        return self


class L1Section(Section):
    max_bytes: SizeBytes = Field(default=64 << 20, description="Memory of this process.")


class L2Section(Section):
    enabled: bool = Field(default=True, description="Whether answers are kept in Redis too, where there is one.")
    url: str | None = Field(
        default=None,
        description="A Redis of its own, as store.url. Null: the one of `store`; none when that is memory://.",
        json_schema_extra={"pattern": store_url.PATTERN.replace("memory://|", "")},
    )
    timeout: PositiveDurationUs = Field(
        default=50_000, description="A Redis that has not answered by then is done without."
    )
    max_value: SizeBytes = Field(
        default=1 << 20,
        description="A longer answer, uncompressed, is neither kept there nor believed when it is found there.",
    )
    secret: SharedSecret | None = Field(
        default=None,
        description="Keys the seal on every value, the same in all gateways, for a Redis that others can write to. "
        "Null: the password of that Redis.",
    )

    @field_validator("url")
    @classmethod
    def _a_redis(cls, value: str | None) -> str | None:
        if value is not None and store_url.parse(value).kind is StoreKind.MEMORY:
            raise ValueError(
                "expected redis://HOST or another Redis, or null for the one of `store`; memory is cache.l1"
            )
        return value

    @field_validator("timeout")
    @classmethod
    def _neither_hasty_nor_patient(cls, value: int) -> int:
        if not 5_000 <= value <= 1_000_000:
            raise ValueError(f"expected a time from 5ms to 1s, got {duration_text(value)}: requests wait for it")
        return value

    @field_validator("max_value")
    @classmethod
    def _of_sane_size(cls, value: int) -> int:
        if not _LEAST_VALUE <= value <= _LARGEST_VALUE:
            raise ValueError(f"expected a size from 1KiB to 64MiB, got {size_text(value)}")
        return value

    @property
    def address(self) -> StoreAddress | None:
        """Of the Redis of its own; None: that of the store."""
        return None if self.url is None else store_url.parse(self.url)


DEFAULT_RULES: Final[tuple[dict[str, Any], ...]] = (
    {"endpoint": ["instruments-info", "spread-instrument"], "ttl": "1m"},
    {
        "endpoint": ["risk-limit", "delivery-price", "new-delivery-price", "fee-group-info"],
        "ttl": "5m",
    },
    {"endpoint": ["announcements"], "ttl": "1m"},
    {"endpoint": ["insurance", "adl-alert", "system-status"], "ttl": "30s"},
    {
        "endpoint": ["funding-history", "open-interest", "account-ratio", "historical-volatility"],
        "ttl": "1m",
        "boundary": "5m",
    },
    {"endpoint": ["index-price-components", "price-limit"], "ttl": "1s"},
)
"""What config.yaml spells out, with the reasons. A test holds the two together."""


class CacheSection(Section):
    enabled: bool = Field(default=True, description="Whether any answer is cached at all.")
    open_ttl: DurationUs = Field(
        default=2_000_000,
        description="An answer that can still change; never past the end of a candle (short name: CACHE_TTL).",
    )
    closed_ttl: DurationUs = Field(default=7 * _DAY_US, description="An answer that lies wholly in the past.")
    settle: DurationUs = Field(
        default=5_000_000,
        description="A candle counts as open for this long after its end; less than 5s is for tests.",
    )
    stale_while_revalidate: DurationUs = Field(
        default=1_000_000,
        description="So long past its time an answer is given while a newer one is fetched; never past the end of a "
        "candle. At most 1s.",
    )
    stale_if_error: DurationUs = Field(
        default=60_000_000,
        description="So long past its time an answer that can still change is given while the exchange cannot be "
        "asked; one that lies wholly in the past is given however old.",
    )
    lock: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="One fetch for all gateways that share a Redis: always, never, or auto: while more than "
        "lock_above of the budget is used, and for ranges of candles.",
    )
    lock_above: Percent = Field(default=70, description="Percent of the budget, for lock: auto.")
    etag: bool = Field(default=True, description="Whether answers are tagged, so that who has one already gets a 304.")
    compress: bool = Field(
        default=True, description="Whether gzip and zstd are kept too, for clients that accept them."
    )
    l1: L1Section = Field(default=L1Section(), description="The level in this process.")
    l2: L2Section = Field(default=L2Section(), description="The level in Redis, shared by all gateways.")
    rules: tuple[CacheRuleSection, ...] = Field(
        default=tuple(CacheRuleSection.model_validate(rule) for rule in DEFAULT_RULES),
        strict=False,
        description="Public endpoints other than candles. What no rule names is never kept. They replace the default "
        "ones.",
    )

    @field_validator("stale_while_revalidate")
    @classmethod
    def _not_for_long(cls, value: int) -> int:
        if value > _SECOND_US:
            raise ValueError(
                f"expected 0s to 1s, got {duration_text(value)}: it is given although the exchange could be asked, "
                "and prices move on"
            )
        return value

    @field_validator("rules")
    @classmethod
    def _one_rule_each(cls, value: tuple[CacheRuleSection, ...]) -> tuple[CacheRuleSection, ...]:
        first: dict[str, int] = {}
        found: list[tuple[tuple[str | int, ...], str]] = []
        for number, rule in enumerate(value):
            for name in rule.endpoint:
                if name in first:
                    other = "this rule" if first[name] == number else f"rules[{first[name]}]"
                    found.append(((number, "endpoint"), f"expected {name} once, it stands in {other} already"))
                first.setdefault(name, number)
        if found:
            raise Mistakes(found)
        return value

    def lifetimes(self) -> CandleLifetimes:
        return CandleLifetimes(
            self.open_ttl, self.closed_ttl, self.settle, self.stale_while_revalidate, self.stale_if_error
        )

    def answer_rules(self) -> dict[str, AnswerRule]:
        """By endpoint."""
        return {
            name: AnswerRule(
                rule.ttl,
                rule.boundary,
                self.settle,
                self.stale_if_error if rule.stale is None else rule.stale,
            )
            for rule in self.rules
            for name in rule.endpoint
        }


class BoundarySection(Section):
    enabled: bool = Field(
        default=True, description="Whether series asked for lately are fetched once when their candle ends."
    )
    spread: DurationUs = Field(
        default=1_000_000, description="These fetches are spread over so long, to leave room for others."
    )
    below: Percent = Field(
        default=50, description="Percent of the budget; while more of it is used, nothing is fetched ahead."
    )


class CandlesSection(Section):
    enabled: bool = Field(
        default=True, description="Whether closed candles are kept as such, and ranges put together from them."
    )
    max_bytes: SizeBytes = Field(default=64 << 20, description="Memory of this process for candles, uncompressed.")
    parallel: Annotated[int, Field(ge=1, le=50)] = Field(
        default=4, description="Fetches at one time for what one range lacks."
    )
    shadow: Percent = Field(
        default=0,
        description="Percent of the answers put together here that the exchange is asked for too, and compared with.",
    )
    boundary: BoundarySection = Field(default=BoundarySection(), description="What is done when a candle ends.")
    stream: bool = Field(
        default=False, description="Whether open candles are taken from the exchange's stream, upstream.stream_url."
    )
    stream_max_age: PositiveDurationUs = Field(
        default=2_000_000, description="An open candle of the stream that is older is not given."
    )

    @field_validator("stream_max_age")
    @classmethod
    def _still_live(cls, value: int) -> int:
        if value > 60 * _SECOND_US:
            raise ValueError(f"expected at most 1m, got {duration_text(value)}: the shortest candle has ended by then")
        return value

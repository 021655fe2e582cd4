"""YAML becomes types here: the sections `pacing`, `retry` and `breaker`. As schema.py."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from policies.admission import Match
from policies.circuit import CircuitRules
from policies.published import Bounds
from policies.reach import only_own
from policies.retry import RetryRules
from policies.routing import OWN, UNKNOWN, RouteTable
from policies.schema import DurationUs, EndpointWords, MatchSection, PositiveDurationUs, Section

TEN_MINUTES_US: Final = 600_000_000
Percent = Annotated[int, Field(ge=0, le=100)]
_Number = Annotated[int, Field(ge=1, le=1_000_000)]

_ORDERS: Final = (
    "order-create",
    "order-amend",
    "order-cancel",
    "order-cancel-all",
    "order-create-batch",
    "order-amend-batch",
    "order-cancel-batch",
    "order-disconnected-cancel-all",
    "position-trading-stop",
)


class PaceSection(Section):
    """What holds for the limits of some endpoints, whatever the exchange says. Numbers are per the published window."""

    endpoint: EndpointWords = Field(description="Names of policies/bybit.yaml: a word or a list.")
    category: Literal["futures", "spot", "option"] | None = Field(
        default=None, description="futures (linear and inverse), spot or option; null: all."
    )
    start: _Number | None = Field(
        default=None, description="What holds until an answer tells; null: the published figure less the head-room."
    )
    floor: _Number = Field(default=1, description="A learned limit is never taken for less.")
    ceiling: _Number | None = Field(default=None, description="Nor for more; null: what the exchange says.")

    @model_validator(mode="after")
    def _in_order(self) -> PaceSection:
        ceiling = self.ceiling
        if ceiling is not None and self.floor > ceiling:
            raise ValueError(f"expected a floor of at most the ceiling, {ceiling}, got {self.floor}")
        if ceiling is not None and self.start is not None and self.start > ceiling:
            raise ValueError(f"expected a start of at most the ceiling, {ceiling}, got {self.start}")
        return self

    @model_validator(mode="after")
    def _something_is_bound(self, info: ValidationInfo) -> PaceSection:
        routes: RouteTable | None = (info.context or {}).get("routes")
        for route in () if routes is None else routes.routes:
            if route.endpoint in self.endpoint and not route.limits:
                raise ValueError(f"can never apply: {route.endpoint} is public, the exchange limits no account there")
            if route.endpoint in self.endpoint and self.category is not None and not route.by_line:
                raise ValueError(f"can never apply: {route.endpoint} has one limit for all categories")
        if not OWN.isdisjoint(self.endpoint):
            raise ValueError(f"can never apply: {min(OWN & frozenset(self.endpoint))} is a page of the gateway's own")
        if UNKNOWN in self.endpoint:
            raise ValueError("can never apply: of endpoints that the table does not list nothing is learned")
        return self

    def compiled(self) -> Bounds:
        return Bounds(frozenset(self.endpoint), self.category, self.start, self.floor, self.ceiling)


class PacingSection(Section):
    enabled: bool = Field(
        default=True, description="Whether the limits of accounts are kept and learned. Bans are heeded in any case."
    )
    headroom: Annotated[int, Field(ge=0, le=90)] = Field(
        default=10, description="Percent of a published limit left unused until an answer has told the account's own."
    )
    accounts: tuple[PaceSection, ...] = Field(
        default=(), strict=False, description="Bounds for the limits of accounts; the first that fits counts."
    )
    ban: PositiveDurationUs = Field(
        default=TEN_MINUTES_US, description="How long nothing is sent after a ban; doubled when another follows soon."
    )
    ramp: DurationUs = Field(
        default=60_000_000, description="After a ban the shared budget grows from a quarter to the whole in this time."
    )


class RetrySection(Section):
    enabled: bool = Field(default=True, description="Whether anything is sent again that is safe to send again.")
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3, description="How often a request is sent at most, the first time included."
    )
    backoff: PositiveDurationUs = Field(
        default=100_000, description="The longest pause before the second attempt; doubled for each further one."
    )
    max_backoff: PositiveDurationUs = Field(default=2_000_000, description="The longest pause of all.")
    budget: Percent = Field(default=10, description="Percent of all requests that may be sent again.")

    def compiled(self) -> RetryRules:
        attempts = self.attempts if self.enabled else 1
        return RetryRules(attempts, self.backoff, max(self.backoff, self.max_backoff), self.budget)


class BreakerSection(Section):
    enabled: bool = Field(default=True, description="Whether an upstream that fails is left alone for a while.")
    window: PositiveDurationUs = Field(default=10_000_000, description="So far back calls are looked at.")
    least_calls: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=20, description="With fewer calls in the window nothing is concluded."
    )
    failures: Annotated[int, Field(ge=1, le=100)] = Field(
        default=50, description="Percent of failed calls that opens it: no connection, no answer, 5xx."
    )
    slow: PositiveDurationUs = Field(default=5_000_000, description="A call that takes so long is a slow one.")
    slow_calls: Annotated[int, Field(ge=1, le=100)] = Field(
        default=80, description="Percent of slow calls that opens it."
    )
    open: PositiveDurationUs = Field(default=5_000_000, description="How long nothing is sent before it is tried.")
    probes: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="So many calls try it, and all must succeed to close it."
    )
    exempt: tuple[MatchSection, ...] = Field(
        default=(MatchSection(endpoint=_ORDERS),),
        strict=False,
        description="Requests that are sent all the same. Orders, unless this is changed.",
    )

    @field_validator("exempt")
    @classmethod
    def _not_everything(cls, value: tuple[MatchSection, ...]) -> tuple[MatchSection, ...]:
        if any(match.everything for match in value):
            raise ValueError("expected a match that leaves something out; to switch it off, set breaker.enabled: false")
        for match in value:
            if (why := only_own(match.endpoint)) is not None:
                raise ValueError(f"can never apply: {why}")
        return value

    def compiled(self) -> CircuitRules:
        return CircuitRules(
            self.window, self.least_calls, self.failures, self.slow, self.slow_calls, self.open, self.probes
        )

    def exempted(self) -> tuple[Match, ...]:
        return tuple(match.compiled() for match in self.exempt)

"""YAML becomes types here: the sections of the configuration that are policies.

Past this door there are no dicts, no defaults and no strings that mean durations. A mistake is a PolicyError that
collects every problem with its place; proxy/config.py adds file and line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from policies import quantities, spacing
from policies.admission import Counts, Match, Quota, RefuseWith, WhenFull, WindowKind
from policies.reach import never_matches, only_own
from policies.routing import RouteTable


class Section(BaseModel):
    """A mapping of the configuration: every key is known, every value has the type it says, nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _duration(value: Any) -> int:
    if isinstance(value, str):
        return quantities.duration_us(value)
    raise ValueError(f"expected a duration with a unit such as 5s or 250ms, got {_shown(value)}")


def _size(value: Any) -> int:
    if isinstance(value, str):
        return quantities.size_bytes(value)
    raise ValueError(f"expected a size with a unit such as 64MiB, got {_shown(value)}")


def _rate(value: Any) -> quantities.Rate:
    if isinstance(value, str):
        return quantities.rate(value)
    raise ValueError(f"expected a quota such as 600/5s, got {_shown(value)}")


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """A number where a name is wanted was meant as a name."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _written(pattern: str, *examples: str) -> WithJsonSchema:
    """What an editor is told of a quantity: it is text, and looks like this."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "examples": list(examples)})


DURATION: Final = _written(quantities.DURATION, "250ms", "10m")
DurationUs = Annotated[int, BeforeValidator(_duration), DURATION]
PositiveDurationUs = Annotated[
    int, BeforeValidator(_duration), Field(gt=0), _written(f"(?!0+[a-z]){quantities.DURATION}", "250ms", "10m")
]
SizeBytes = Annotated[int, BeforeValidator(_size), _written(quantities.SIZE, "512KiB", "64MiB")]
RateText = Annotated[
    quantities.Rate, BeforeValidator(_rate), _written(f"(?!0+/){quantities.QUOTA}", "600/5s", "10000/1h")
]
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[
    str,
    BeforeValidator(_text),
    Field(pattern=_NAME),
    WithJsonSchema({"type": ["string", "integer"], "pattern": _NAME}),
]
Partition = Literal["egress", "ip", "endpoint", "api_key", "client", "tier"]


TAKEN: Final = frozenset({"stream-new", "stream-concurrent", "order-lane"})
"""Names of rules that stand in no list."""


def one_or_many(**item: Any) -> WithJsonSchema:
    """What an editor is told where a text may stand for a list of one."""
    word = {"type": "string", **item}
    return WithJsonSchema({"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]})


def endpoints_known(value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Every name is one of the table."""
    known: frozenset[str] = (info.context or {}).get("endpoints", frozenset())
    for name in value:
        if known and name not in known:
            raise ValueError(f"expected the name of an endpoint, got {name!r}{nearest(name, known)}")
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1, strict=False), one_or_many()]
EndpointWords = Annotated[Words, AfterValidator(endpoints_known)]
Paths = Annotated[Words, one_or_many(pattern="^/[^?]*$")]
Methods = Annotated[Words, one_or_many(pattern="^[A-Z]+$")]
Parts = Annotated[
    tuple[Partition, ...],
    BeforeValidator(_one_or_many, json_schema_input_type=Partition | list[Partition]),
    Field(strict=False),
]


class MatchSection(Section):
    """Which requests a rule applies to. A word or a list of words; what is left out matches everything."""

    endpoint: EndpointWords | None = Field(
        default=None,
        description="Names of policies/bybit.yaml, or of the gateway's own pages; `unknown` is all that is not listed.",
    )
    path: Paths | None = Field(default=None, description="Exact paths, without a query.")
    method: Methods | None = Field(default=None, description="Methods in capitals.")
    tier: Words | None = Field(default=None, description="Tiers of the client.")
    signed: bool | None = Field(default=None, description="Whether the request speaks for an account.")

    @field_validator("path")
    @classmethod
    def _paths_are_paths(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for path in value or ():
            if not path.startswith("/") or "?" in path:
                raise ValueError(f"expected a path such as /v5/market/kline, without a query, got {path!r}")
        return value

    @field_validator("method")
    @classmethod
    def _methods_are_capitals(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for method in value or ():
            if not (method.isascii() and method.isalpha() and method.isupper()):
                raise ValueError(f"expected a method in capitals such as GET, got {method!r}")
        return value

    @model_validator(mode="after")
    def _something_matches(self, info: ValidationInfo) -> MatchSection:
        routes: RouteTable | None = (info.context or {}).get("routes")
        if routes is not None and (why := never_matches(self.compiled(), routes)) is not None:
            raise ValueError(f"can never match: {why}")
        return self

    @property
    def everything(self) -> bool:
        """Nothing is left out."""
        return (self.endpoint, self.path, self.method, self.tier, self.signed) == (None, None, None, None, None)

    def compiled(self) -> Match:
        def many(words: tuple[str, ...] | None) -> frozenset[str] | None:
            return None if words is None else frozenset(words)

        return Match(many(self.endpoint), many(self.path), many(self.method), many(self.tier), self.signed)


class LimitSection(Section):
    """One rule of `limits`."""

    name: Name = Field(description="Names the rule in metrics, logs and answers; a reload keeps windows by it.")
    quota: RateText = Field(description="At most so many in any window of that length, wherever it begins.")
    match: MatchSection = Field(default=MatchSection(), description="Which requests spend it.")
    partition: Parts = Field(
        default=("egress",), description="Whose budget is spent. A request that lacks a part does not meet the rule."
    )
    counts: Annotated[Counts, Field(strict=False)] = Field(
        default=Counts.UPSTREAM,
        description="upstream: requests sent to the exchange; requests: all that clients make, cached answers too.",
    )
    window: Literal["held", "sent", "slotted", "bucket"] | None = Field(
        default=None,
        description="held: from sending until the reply plus the window; sent: one window from sending; slotted: as "
        "sent, in 64 slots; bucket: a steady rate with a burst. Null: what is safe for the rule (docs/limits.md).",
    )
    burst: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Makes the window a bucket that holds so many at once."
    )
    when_full: Annotated[WhenFull, Field(strict=False)] | None = Field(
        default=None,
        description="wait: in a bounded queue, in order; refuse: at once. Null: wait upstream, refuse for requests.",
    )
    refuse_with: Annotated[RefuseWith, Field(strict=False)] = Field(
        default=RefuseWith.HTTP,
        description="http: 429 with Retry-After; bybit: 200 with retCode 10006, as the exchange would.",
    )
    shadow: bool = Field(default=False, description="Evaluated and counted, never enforced.")

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, value: str) -> str:
        if value in TAKEN:
            raise ValueError(f"expected another name than {value!r}, which is a rule of the gateway's own")
        return value

    @field_validator("partition")
    @classmethod
    def _parts_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"expected each part once, got {', '.join(value)}")
        return value

    @field_validator("window")
    @classmethod
    def _held_needs_a_reply(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "held" and info.data.get("counts") is Counts.REQUESTS:
            raise ValueError(
                "expected 'sent': a held window ends with the exchange's reply, which requests may not need"
            )
        return value

    @field_validator("burst")
    @classmethod
    def _burst_needs_a_bucket(cls, value: int | None, info: ValidationInfo) -> int | None:
        window, quota = info.data.get("window"), info.data.get("quota")
        if value is not None and window not in {None, WindowKind.BUCKET}:
            raise ValueError(f"expected no burst beside window: {window}: only a bucket has one")
        if value is not None and quota is not None and value > quota.limit:
            raise ValueError(f"expected a burst of at most the quota's {quota.limit}, got {value}")
        return value

    @model_validator(mode="after")
    def _bucket_needs_a_burst(self) -> LimitSection:
        if self.window == "bucket" and self.burst is None:
            raise ValueError("expected a burst beside window: bucket: how many may go at once")
        return self

    @model_validator(mode="after")
    def _somebody_spends_it(self) -> LimitSection:
        if "api_key" in self.partition and self.match.signed is False:
            raise ValueError("can never match: an unsigned request has no API key, so it meets no api_key rule")
        if self.counts is Counts.UPSTREAM and (why := only_own(self.match.endpoint)) is not None:
            raise ValueError(f"can never match with counts: upstream: {why}")
        return self

    def _window(self) -> WindowKind:
        """Safe by purpose and length: see docs/limits.md."""
        if self.window is not None:
            return WindowKind(self.window)
        if self.burst is not None:
            return WindowKind.BUCKET
        if self.refuse_with is RefuseWith.BYBIT and self.counts is Counts.UPSTREAM:
            return WindowKind.HELD
        long = self.quota.window_us >= _LONG_US and self.quota.limit > _FEW
        return WindowKind.SLOTTED if long or self.quota.limit > _MANY else WindowKind.SENT

    def _is_shared_by_all(self) -> bool:
        """One window for every request that is sent: the one in which the less urgent are spaced out."""
        return (
            self.counts is Counts.UPSTREAM
            and not self.shadow
            and set(self.partition) <= {"egress"}
            and self.match.everything
            and self.quota.limit >= spacing.LEAST
        )

    def compiled(self) -> Quota:
        """The quota, with the defaults that are safe for its purpose.

        A rule that answers in the exchange's name models the exchange's own limit, so it is held until the reply; a
        long one must not cost memory per request; a client's own quota refuses, a quota on what is sent waits.
        """
        upstream = self.counts is Counts.UPSTREAM
        return Quota(
            name=self.name,
            limit=self.quota.limit,
            window_us=self.quota.window_us,
            partition=self.partition,
            match=self.match.compiled(),
            counts=self.counts,
            window=self._window(),
            burst=self.burst or 0,
            when_full=self.when_full or (WhenFull.WAIT if upstream else WhenFull.REFUSE),
            refuse_with=self.refuse_with,
            shadow=self.shadow,
            spaces=self._is_shared_by_all(),
        )


class QueueSection(Section):
    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=5_000, description="Beyond that, requests are refused at once."
    )
    max_waiting_per_client: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=1_000, description="The same for one client."
    )
    max_wait: DurationUs = Field(
        default=8_000_000, description="Clients give up at about 10 s, so waiting longer is pointless."
    )


_LONG_US: Final = 60_000_000
"""From a minute on a window is kept in slots, unless it holds so few that keeping each is as cheap, and exact."""
_FEW: Final = 100
_MANY: Final = 10_000
"""A window of more than that is kept in slots whatever its length: a stamp for each is memory without need."""

_OTHER_MARKET: Final = (
    "mark-price-kline",
    "index-price-kline",
    "premium-index-price-kline",
    "server-time",
    "instruments-info",
    "rpi-orderbook",
    "full-orderbook",
    "funding-history",
    "open-interest",
    "account-ratio",
    "historical-volatility",
    "insurance",
    "adl-alert",
    "risk-limit",
    "delivery-price",
    "new-delivery-price",
    "index-price-components",
    "price-limit",
    "fee-group-info",
)

DEFAULT_LIMITS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "bybit-ip",
        "partition": ["egress"],
        "quota": "600/5s",
        "counts": "upstream",
        "window": "held",
        "when_full": "wait",
        "refuse_with": "bybit",
    },
    *(
        {
            "name": name,
            "match": {"endpoint": endpoint},
            "partition": ["egress", "endpoint"] if isinstance(endpoint, str) else ["egress"],
            "quota": quota,
            "counts": "upstream",
            "when_full": "wait",
        }
        for name, endpoint, quota in (
            ("kline", "kline", "120/1s"),
            ("orderbook", "orderbook", "50/1s"),
            ("recent-trade", "recent-trade", "60/1s"),
            ("tickers", "tickers", "60/1s"),
            ("other-market", list(_OTHER_MARKET), "100/1s"),
        )
    ),
    {
        "name": "per-ip",
        "partition": ["ip"],
        "quota": "300/5s",
        "counts": "requests",
        "when_full": "refuse",
        "refuse_with": "http",
    },
)
"""What config.yaml spells out, for configurations that say nothing about limits. A test holds the two together."""


def unique_names(rules: Iterable[LimitSection]) -> None:
    """Two rules of one name would share their windows and their place in metrics."""
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise ValueError(f"expected each rule to have a name of its own, {rule.name!r} stands twice")
        seen.add(rule.name)


def nearest(word: str, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> str:
    """What may have been meant, to be put behind a message; nothing where nothing is like it."""
    from difflib import get_close_matches  # noqa: PLC0415  # only on the way to an error

    close = get_close_matches(word, list(known), n=most, cutoff=cutoff)
    return f" (did you mean {' or '.join(close)}?)" if close else ""

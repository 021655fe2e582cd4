"""YAML becomes types here: the section `backpressure`. As schema.py."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from policies.identity_schema import Mistakes
from policies.pressure import NEVER, Readings, Rules
from policies.quantities import duration_text
from policies.schema import PositiveDurationUs, Section

Share = Annotated[int, Field(ge=1, le=100)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

_LONGEST_US: Final = 60_000_000
_PAIRS: Final = ("lag", "queue", "redis", "tasks")


class BackpressureSection(Section):
    enabled: bool = Field(default=True, description="Whether anything is turned away. It is measured in any case.")
    lag_high: PositiveDurationUs = Field(
        default=100_000, description="The event loop comes so late to its work: history is turned away;"
    )
    lag_critical: PositiveDurationUs = Field(default=500_000, description="live market data too.")
    queue_high: Share = Field(default=70, description="Requests that wait, in percent of queue.max_waiting.")
    queue_critical: Share = Field(default=90, description="The same.")
    redis_high: Count = Field(default=500, description="Calls that wait to be sent to Redis.")
    redis_critical: Count = Field(default=2_000, description="The same.")
    archive_high: Share = Field(
        default=80,
        description="Rows that wait for PostgreSQL, in percent of archive.queue, while it can be reached. Live data "
        "is never turned away for it.",
    )
    tasks_high: Count = Field(default=20_000, description="Tasks that have not ended.")
    tasks_critical: Count = Field(default=40_000, description="The same.")
    calm: PositiveDurationUs = Field(
        default=5_000_000, description="All must be below 80 % of a threshold for so long before the level falls."
    )

    @field_validator("calm", "lag_high", "lag_critical")
    @classmethod
    def _not_for_ever(cls, value: int) -> int:
        if value > _LONGEST_US:
            raise ValueError(f"expected at most 1m, got {duration_text(value)}")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> BackpressureSection:
        found: list[tuple[tuple[str | int, ...], str]] = []
        for name in _PAIRS:
            high, critical = getattr(self, f"{name}_high"), getattr(self, f"{name}_critical")
            if critical <= high:
                shown = duration_text if name == "lag" else str
                reason = f"expected more than {name}_high, {shown(high)}, got {shown(critical)}"
                found.append(((f"{name}_critical",), reason))
        if found:
            raise Mistakes(found)
        return self

    def compiled(self) -> Rules:
        return Rules(
            Readings(self.lag_high, self.queue_high, self.redis_high, self.archive_high, self.tasks_high),
            Readings(self.lag_critical, self.queue_critical, self.redis_critical, NEVER, self.tasks_critical),
            self.calm,
        )

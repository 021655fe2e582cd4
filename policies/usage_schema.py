"""YAML becomes types here: the section `usage`, what is counted for bills. As schema.py."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator

from policies.archive_schema import LongDurationUs
from policies.quantities import duration_text
from policies.schema import PositiveDurationUs, Section

_DAY_US: Final = 86_400_000_000


class UsageSection(Section):
    enabled: bool = Field(default=True, description="Whether requests are counted by hour, client and tier.")
    flush: PositiveDurationUs = Field(
        default=10_000_000, description="How often what was counted is put into the store; a crash loses that much."
    )
    retention: LongDurationUs = Field(default=90 * _DAY_US, description="How long the figures of an hour are kept.")
    clients: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10_000, description="Clients of an hour that are counted by name; the rest are added up as `others`."
    )

    @field_validator("flush")
    @classmethod
    def _neither_hasty_nor_late(cls, value: int) -> int:
        if not 1_000_000 <= value <= 600_000_000:
            raise ValueError(f"expected a time from 1s to 10m, got {duration_text(value)}: a crash loses that much")
        return value

    @field_validator("retention")
    @classmethod
    def _at_least_a_day(cls, value: int) -> int:
        if value < _DAY_US:
            raise ValueError(f"expected at least 1d, got {duration_text(value)}: a bill asks for whole days")
        return value

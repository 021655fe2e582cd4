"""What is to be downloaded, and into which kind of file."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from policies.segments import Series

COLUMNS: Final = ("start", "open", "high", "low", "close", "volume", "turnover")
_TRADED: Final = "kline"


class Kind(StrEnum):
    """The candles of trades, or of one of the three computed prices."""

    KLINE = "kline"
    MARK = "mark-price-kline"
    INDEX = "index-price-kline"
    PREMIUM = "premium-index-price-kline"


class Form(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class Request(BaseModel):
    """One file's worth of candles: those of one series that open within [from, to). Kept beside the file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Kind
    category: str
    symbol: str
    interval: str
    from_ms: int
    to_ms: int | None
    """None: until now, whenever that is."""
    form: Form
    exact: bool = False
    """Parquet holds the exchange's strings instead of floating-point numbers."""

    @property
    def series(self) -> Series:
        return Series(self.kind.value, self.category, self.symbol, self.interval)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values of a row. Only trades have a volume."""
        return COLUMNS if self.kind.value == _TRADED else COLUMNS[:5]

    def differences(self, other: Request) -> list[str]:
        """In words, what another request has otherwise."""
        words = [
            f"{name} {getattr(self, name)}, not {getattr(other, name)}"
            for name in ("kind", "category", "symbol", "interval", "form", "exact")
            if getattr(self, name) != getattr(other, name)
        ]
        if self.from_ms != other.from_ms:
            words.append(f"from {instant_text(self.from_ms)}, not {instant_text(other.from_ms)}")
        if self.to_ms != other.to_ms:
            words.append(f"to {_end_text(self.to_ms)}, not {_end_text(other.to_ms)}")
        return words


def instant_text(instant_ms: int) -> str:
    """As a person writes it: no more of it than there is."""
    moment = datetime.fromtimestamp(instant_ms / 1000, UTC)
    if instant_ms % 86_400_000 == 0:
        return f"{moment:%Y-%m-%d}"
    if instant_ms % 60_000 == 0:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _end_text(instant_ms: int | None) -> str:
    return "now" if instant_ms is None else instant_text(instant_ms)

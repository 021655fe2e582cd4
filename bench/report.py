"""What was measured, as a table for people and as JSON for programs.

A row is the median over the rounds with the extremes beside it. Bars are information: nothing here passes or fails.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

_SATURATED: Final = 0.85
"""A server that had time to spare was not measured; the load or the rest of the machine was."""


@dataclass(frozen=True)
class Row:
    """One figure: `values` has an entry per round; `unit` is x for a ratio, %, ms, us or ns."""

    group: str
    what: str
    unit: str
    values: tuple[float, ...]
    bar: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def cells(self) -> tuple[str, ...]:
        bar = "" if self.bar is None else f"bar >= {self.bar:.2f}"
        low, high = min(self.values), max(self.values)
        return self.group, self.what, *(_figure(v, self.unit) for v in (self.median, low, high)), bar, self.note


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Rows that were not measured, with the reason."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Rows whose contender failed."""

    warnings: list[str] = field(default_factory=list)
    """Why a ratio means nothing."""

    def ratio(self, group: str, subject: Rates, other: Rates, bar: float | None = None) -> None:
        """The ratio of each round to the other contender's round beside it."""
        values = tuple(a / b for a, b in zip(subject.rates, other.rates, strict=True))
        note = f"{_rate(subject.rates)} to {_rate(other.rates)} req/s"
        for side in (subject, other):
            if side.busy < _SATURATED:
                self.warnings.append(f"{group}: {side.name} was busy for {side.busy:.0%} only: do not use its ratio")
        self.rows.append(Row(group, f"{subject.name} / {other.name}", "x", values, bar, note))
        if subject.cpu_us and other.cpu_us:
            values = tuple(b / a for a, b in zip(subject.cpu_us, other.cpu_us, strict=True))
            note = (
                f"{statistics.median(subject.cpu_us):.1f} to {statistics.median(other.cpu_us):.1f} us CPU per request"
            )
            self.rows.append(Row(group, "  the same per CPU time", "x", values, None, note))

    def text(self) -> str:
        parts = [_table([("row", "what", "median", "min", "max", "bar", "note"), *(row.cells() for row in self.rows)])]
        parts += [f"NOT SATURATED: {warning}" for warning in dict.fromkeys(self.warnings)]
        parts += [f"skipped: {row}: {why}" for row, why in self.skipped]
        parts += [f"FAILED: {row}: {why}" for row, why in self.failed]
        return "\n".join(parts)

    def write_json(self, file: Path, settings: dict[str, Any]) -> None:
        document = {
            "settings": settings,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "rows": [{**asdict(row), "median": row.median} for row in self.rows],
            "not_saturated": list(dict.fromkeys(self.warnings)),
            "skipped": [{"row": row, "reason": why} for row, why in self.skipped],
            "failed": [{"row": row, "reason": why} for row, why in self.failed],
        }
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@dataclass
class Rates:
    """What one contender reached in each round."""

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Per request; empty where the system does not tell."""

    @property
    def busy(self) -> float:
        """How much of its processor the contender used, in the median round; 1 where the system does not tell."""
        shares = [per_s * cpu_us / 1e6 for per_s, cpu_us in zip(self.rates, self.cpu_us, strict=False)]
        return statistics.median(shares) if shares else 1.0

    def add(self, per_s: float, cpu_us: float | None) -> None:
        self.rates.append(per_s)
        if cpu_us is not None:
            self.cpu_us.append(cpu_us)


def _figure(value: float, unit: str) -> str:
    match unit:
        case "x":
            return f"{value:.2f} x"
        case "us":
            return f"{value:.1f} us" if value < 100 else f"{value:.0f} us"
        case "%":
            return f"{value:.1f} %"
        case _:
            return f"{value:.0f} {unit}"


def _rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numbers = {2, 3, 4}
    shown = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:]])

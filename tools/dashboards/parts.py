"""What a dashboard is made of, in our words. How Grafana writes it is the business of `looks` and `written`.

Queries are PromQL with a few words of our own, so that they can be read:

    INSTANCE   instance=~"$instance"    the gateways that are chosen above the dashboard
    ROUTE      endpoint=~"$route"       the routes
    TIER       tier=~"$tier"            the tiers
    [RATE]     [$__rate_interval]       long enough for at least two scrapes, whatever is zoomed to
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

_WORDS: Final = {
    "INSTANCE": 'instance=~"$instance"',
    "ROUTE": 'endpoint=~"$route"',
    "TIER": 'tier=~"$tier"',
    "[RATE]": "[$__rate_interval]",
}

GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"


class Kind(StrEnum):
    """Grafana's names of its panels."""

    LINES = "timeseries"
    NUMBER = "stat"
    DIAL = "gauge"
    BARS = "bargauge"
    TABLE = "table"
    HEAT = "heatmap"
    STATES = "state-timeline"


class Query(NamedTuple):
    """`legend` may name labels of the result: {{endpoint}}."""

    promql: str
    legend: str

    @property
    def expr(self) -> str:
        text = self.promql
        for word, meaning in _WORDS.items():
            text = text.replace(word, meaning)
        return text


class Step(NamedTuple):
    """From this value on, this colour; None: from the bottom."""

    start: float | None
    color: str


class Word(NamedTuple):
    """What a value is called, where values stand for states."""

    text: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    kind: Kind
    title: str
    tells: str
    """What it answers, and when to worry."""
    unit: str
    queries: tuple[Query, ...]
    steps: tuple[Step, ...] = ()
    """Drawn as lines in plots, as colours elsewhere."""
    alerts: tuple[str, ...] = ()
    """Alerts whose threshold is among the steps."""
    words: Mapping[int, Word] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a table: what a label, or `Value #A`, is called; others are not shown."""
    stacked: bool = False
    least: float | None = None
    most: float | None = None
    nothing: str = ""
    """What stands there while no such thing has happened yet; empty: Grafana's own `No data`."""
    width: int = 8
    height: int = 8


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    panels: tuple[Panel, ...]


class Choice(StrEnum):
    """Variables beside those that every dashboard has."""

    ROUTE = "route"
    TIER = "tier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    name: str
    """Of its file, and in its uid."""
    title: str
    tells: str
    choices: tuple[Choice, ...]
    sections: tuple[Section, ...]


def above(red: float, orange: float | None = None) -> tuple[Step, ...]:
    """Worrying from there on."""
    between = () if orange is None else (Step(orange, ORANGE),)
    return (Step(None, GREEN), *between, Step(red, RED))


def below(red: float, orange: float | None = None) -> tuple[Step, ...]:
    """Worrying until there."""
    if orange is None:
        return (Step(None, RED), Step(red, GREEN))
    return (Step(None, RED), Step(red, ORANGE), Step(orange, GREEN))


ZERO: Final = above(1)
"""Of what must not happen at all."""

"""The panels we use, each with the size and shape that suits it."""

from __future__ import annotations

from typing import Any, Final

from tools.dashboards.parts import Kind, Panel, Query

_QUANTILES: Final = (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))


def lines(title: str, tells: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """How something went over time."""
    return Panel(kind=Kind.LINES, title=title, tells=tells, unit=unit, queries=queries, **{"least": 0, **more})


def piled(title: str, tells: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """The same of parts that add up to a whole."""
    return lines(title, tells, unit, *queries, **{"stacked": True, **more})


def number(title: str, tells: str, unit: str, query: Query, **more: Any) -> Panel:
    """One figure as it stands."""
    size = {"width": 4, "height": 4}
    return Panel(kind=Kind.NUMBER, title=title, tells=tells, unit=unit, queries=(query,), **{**size, **more})


def dial(title: str, tells: str, unit: str, query: Query, **more: Any) -> Panel:
    """One figure within its bounds."""
    size = {"width": 4, "height": 4, "least": 0, "most": 1}
    return Panel(kind=Kind.DIAL, title=title, tells=tells, unit=unit, queries=(query,), **{**size, **more})


def bars(title: str, tells: str, unit: str, query: Query, **more: Any) -> Panel:
    """Many figures as they stand, side by side."""
    return Panel(kind=Kind.BARS, title=title, tells=tells, unit=unit, queries=(query,), **{"least": 0, **more})


def table(title: str, tells: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """Figures as they stand, one column for each query. The legends are not shown; `columns` are."""
    return Panel(kind=Kind.TABLE, title=title, tells=tells, unit=unit, queries=queries, **more)


def heat(title: str, tells: str, unit: str, query: Query, **more: Any) -> Panel:
    """How many observations fell into each bucket, over time."""
    return Panel(kind=Kind.HEAT, title=title, tells=tells, unit=unit, queries=(query,), **more)


def states(title: str, tells: str, *queries: Query, **more: Any) -> Panel:
    """Which state held when; `words` say what the values mean."""
    return Panel(kind=Kind.STATES, title=title, tells=tells, unit="none", queries=queries, **more)


def quantiles(buckets: str, *, by: str = "") -> tuple[Query, ...]:
    """p50, p95 and p99 out of a histogram; `by`: a label that they are told apart by."""
    labels = f"le, {by}" if by else "le"
    return tuple(
        Query(f"histogram_quantile({part}, sum by ({labels}) (rate({buckets}[RATE])))", name)
        for part, name in _QUANTILES
    )


def happened(counter: str, window: str, *, by: str = "") -> str:
    """How often something rare happened. increase() misses the first time: before it the counter was not there."""
    of_each = f"({counter} unless {counter} offset {window}) or increase({counter}[{window}])"
    return f"sum by ({by}) ({of_each})" if by else f"sum({of_each})"

"""A bill's figures: which hours are asked for, how they are added up, what is missing, and how it is written.

An hour belongs to the range in which it begins, so ranges that meet share no hour and leave none out.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import unquote

from policies.usage import COUNTS, HOUR_US, Sums, Who, added

MOST_ROWS: Final = 50_000
COLUMNS: Final = ("start", "client", "tier", *COUNTS)

_DAY_US: Final = 24 * HOUR_US
_LONGEST_US: Final = 366 * _DAY_US
_EARLIEST_US: Final = 946_684_800_000_000
"""2000-01-01: what is earlier was meant as seconds."""
_LATEST_US: Final = 4_102_444_800_000_000
_INSTANT: Final = "expected 2026-11-20, 2026-11-20T13:00Z (UTC unless it says otherwise) or epoch milliseconds"
_PARAMETERS: Final = ("from", "to", "format", "client", "tier", "by")
_SHOWN: Final = 60
_FORMULA: Final = frozenset("=+-@＝＋－＠\t\r\n")  # noqa: RUF001  # a spreadsheet takes the wide ones for the same


class By(StrEnum):
    HOUR = "hour"
    DAY = "day"
    TOTAL = "total"


class BadUsageQuestion(ValueError):
    """Names the parameter, and what was expected of it."""


class TooManyRows(Exception):
    """More than an answer may have."""


class Question(NamedTuple):
    """`client`, `tier`: None for all; an empty tier is that of clients without one."""

    from_us: int
    to_us: int
    by: By
    csv: bool
    client: str | None = None
    tier: str | None = None

    @property
    def hours(self) -> range:
        """Those that begin in the range, counted from 1970."""
        return range(-(-self.from_us // HOUR_US), -(-self.to_us // HOUR_US))

    def wants(self, who: Who) -> bool:
        return self.client in {None, who[0]} and self.tier in {None, who[1]}

    def start_us(self, hour: int) -> int:
        """Of the row that an hour is added to."""
        match self.by:
            case By.HOUR:
                return hour * HOUR_US
            case By.DAY:
                return hour * HOUR_US // _DAY_US * _DAY_US
            case _:
                return self.from_us


class Wholeness(NamedTuple):
    """What is known of how complete an answer is. `since`: the first hour that there are figures of, None for none."""

    since: int | None
    partial: tuple[int, ...]
    """Hours of the range that are not over, or of which something is known to be missing."""
    note: str

    @property
    def complete(self) -> bool:
        return not self.note


def understood(query: str, now_us: int) -> Question:
    """The query of /gateway/usage. Raises BadUsageQuestion."""
    given = _parameters(query)
    to_us = now_us if (to := given.get("to")) is None else _instant_us("to", to)
    day_before_us = -(-(to_us - _DAY_US) // HOUR_US) * HOUR_US
    from_us = day_before_us if (begin := given.get("from")) is None else _instant_us("from", begin)
    if from_us >= to_us:
        raise BadUsageQuestion(
            f"from: expected an instant before to, which is {instant(to_us)}, got {instant(from_us)}"
        )
    if to_us - from_us > _LONGEST_US:
        raise BadUsageQuestion("to: expected at most 366 days after from; ask for longer times in parts")
    by, form = given.get("by", By.HOUR), given.get("format", "json")
    if by not in set(By):
        raise BadUsageQuestion(f"by: expected hour, day or total, got {_shown(by)}")
    if form not in {"json", "csv"}:
        raise BadUsageQuestion(f"format: expected json or csv, got {_shown(form)}")
    return Question(from_us, to_us, By(by), form == "csv", given.get("client"), given.get("tier"))


class Report:
    """Rows as they are asked for. Raises TooManyRows instead of growing beyond `most_rows`."""

    def __init__(self, question: Question, most_rows: int = MOST_ROWS) -> None:
        self._question = question
        self._most_rows = most_rows
        self._rows: dict[int, dict[Who, list[int]]] = {}
        self._count = 0

    def add(self, hour: int, rows: Mapping[Who, Sums]) -> None:
        """Of an hour of the range."""
        start_us = self._question.start_us(hour)
        for who, sums in rows.items():
            if not self._question.wants(who):
                continue
            period = self._rows.setdefault(start_us, {})
            if who not in period:
                self._count += 1
                if self._count > self._most_rows:
                    raise TooManyRows
                period[who] = [0] * len(COUNTS)
            added(period[who], sums)

    def periods(self) -> Iterator[list[tuple[str, str, str, Sums]]]:
        """Start, client, tier and sums of all rows, by time and then by name."""
        for start_us in sorted(self._rows):
            start, rows = instant(start_us), self._rows[start_us]
            yield [(start, *who, rows[who]) for who in sorted(rows)]


def wholeness(
    hours: range, known: Sequence[int], damaged: Container[int], settled: int, lost: str | None = None
) -> Wholeness:
    """What is known to be missing of `hours`.

    `known` are all hours that there should be figures of, `damaged` those whose figures are gone or have a hole,
    `settled` is the first hour that may still grow, `lost` says why the store could not be read. In the first known
    hour counting began, or began anew because the store had lost everything: how much came before is not known.
    """
    since = min(known, default=None)
    partial = tuple(hour for hour in hours if hour >= settled or hour == since or (hour in damaged))
    notes = []
    if lost is not None:
        notes.append(f"the store cannot be read ({lost}): what is only there is missing")
    elif since is None:
        notes.append("nothing has been counted yet")
    elif hours and hours[0] <= since:
        notes.append(f"nothing is known of the time before {instant(since * HOUR_US)} and little of that hour")
    if any(hour in damaged for hour in partial):
        notes.append("some hours have lost figures in the store")
    if hours and hours[-1] >= settled:
        notes.append("the last hours of the range can still grow")
    return Wholeness(since, partial, "; ".join(notes))


def csv_line(cells: Sequence[object]) -> str:
    """RFC 4180, and no cell is a formula: a name that looks like the beginning of one gets an apostrophe before it."""
    return ",".join(_cell(str(cell)) for cell in cells) + "\r\n"


def instant(at_us: int) -> str:
    """2026-11-20T13:00:00Z; with milliseconds where there are any."""
    moment = datetime.fromtimestamp(at_us // 1000 / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds") + "Z"


def _cell(text: str) -> str:
    if text.lstrip(" ")[:1] in _FORMULA and text:
        text = f"'{text}"
    if any(mark in text for mark in '",\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        name = unquote(name)
        if name not in _PARAMETERS:
            raise BadUsageQuestion(f"{_shown(name)}: no such parameter, expected {', '.join(_PARAMETERS)}")
        if name in given:
            raise BadUsageQuestion(f"{name}: expected once, it is there twice")
        given[name] = unquote(value)  # a plus is one: +01:00
    return given


def _instant_us(name: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        value_us = int(text[:20]) * 1000
    else:
        try:
            moment = datetime.fromisoformat(text)
            value_us = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000) * 1000
        except (ValueError, OverflowError):
            raise BadUsageQuestion(f"{name}: {_INSTANT}, got {_shown(text)}") from None
    if not _EARLIEST_US <= value_us <= _LATEST_US:
        raise BadUsageQuestion(f"{name}: {_INSTANT}, of the years 2000 to 2099, got {_shown(text)}")
    return value_us


def _shown(text: str) -> str:
    """Somebody's own text, as it can be shown to him."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")

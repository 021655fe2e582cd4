"""What is counted for bills: for each hour (UTC), client and tier, sums that only ever grow.

Sums are added up in any order, in any number of parts, by any number of gateways; what has to be left out for want of
room are names, never sums: such clients are added up as `others`. A part travels as a Batch, which is numbered, so that
one whose answer was lost can be sent again and is counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

HOUR_US: Final = 3_600_000_000

COUNTS: Final = ("requests", "upstream", "hits", "refusals", "errors", "bytes_in", "bytes_out")
"""requests: all that came. upstream: attempts sent to the exchange for them. hits: answers from what is kept here,
stale ones included. refusals: by a limit. errors: other answers of the gateway's own in place of the exchange's. Bytes
are those of bodies, as the client sent and got them."""
OTHERS: Final = "others"
"""Whom there was no room to name."""
NOBODY: Final = "unknown"
"""Requests that were not understood so far, or whose client could not prove who it is."""

MOST: Final = 10**15
"""Of an hour: what is more has been made up, and would not fit in an answer when it is added up."""
MOST_ROWS: Final = 50_000
"""Of a Ledger: about 20 MB."""
_LONGEST_NAME: Final = 256

Who = tuple[str, str]
"""Client and tier; an empty tier is none."""
Sums = Sequence[int]
"""In the order of COUNTS."""


class Batch(NamedTuple):
    """A part of an hour. `source` names the process that counted, and numbers its batches of an hour from 1 on."""

    hour: int
    source: str
    number: int
    rows: tuple[tuple[Who, tuple[int, ...]], ...]


class Ledger:
    """Sums by hour, client and tier. Beyond `most_clients` in an hour, and `most_rows` in all, names are left out."""

    def __init__(self, most_clients: int, most_rows: int = MOST_ROWS) -> None:
        self.most_clients = most_clients
        self._most_rows = most_rows
        self._hours: dict[int, dict[Who, list[int]]] = {}
        self._rows = 0

    def __len__(self) -> int:
        """How many rows there are."""
        return self._rows

    def hours(self) -> list[int]:
        return sorted(self._hours)

    def rows(self, hour: int) -> Mapping[Who, Sums]:
        return self._hours.get(hour, {})

    def add(self, hour: int, who: Who, sums: Sums) -> None:
        rows = self._hours.setdefault(hour, {})
        if who not in rows and len(rows) >= self.most_clients:
            who = (OTHERS, who[1])
        if who not in rows:
            rows[who] = [0] * len(COUNTS)
            self._rows += 1
        added(rows[who], sums)
        while self._rows > self._most_rows and self._fold():
            pass

    def take(self, hour: int, most: int | None = None) -> dict[Who, list[int]]:
        """Rows of an hour, all or at most so many, which are somebody else's from now on."""
        rows = self._hours.pop(hour, {})
        taken = rows
        if most is not None and len(rows) > most:
            taken = {who: rows.pop(who) for who in list(islice(rows, most))}
            self._hours[hour] = rows
        self._rows -= len(taken)
        return taken

    def forget_before(self, hour: int) -> None:
        for old in [each for each in self._hours if each < hour]:
            self.take(old)

    def _fold(self) -> bool:
        """The oldest hour that names anybody names nobody any more."""
        oldest = next((hour for hour in self.hours() if any(name != OTHERS for name, _ in self._hours[hour])), None)
        if oldest is None:
            return False
        rows = self.take(oldest)
        folded: dict[Who, list[int]] = {}
        for (_, tier), sums in rows.items():
            added(folded.setdefault((OTHERS, tier), [0] * len(COUNTS)), sums)
        self._hours[oldest] = folded
        self._rows += len(folded)
        return True


def added(to: list[int], sums: Sums) -> None:
    for place, value in enumerate(sums):
        to[place] += value


def named(client: str | None, tier: str | None, accounts: Mapping[str, str]) -> Who:
    """How a client is called in a bill. `accounts`: the names of accounts by the hashes that stand for them, which
    other processes may make otherwise. What is no Unicode is written as \\udcXX."""
    if client is None:
        return NOBODY, tier or ""
    account = accounts.get(client)
    name = client if account is None else f"account:{account}"
    return name.encode("utf-8", "backslashreplace").decode()[:_LONGEST_NAME], tier or ""


def hour_name(hour: int) -> str:
    """YYYYMMDDHH."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y%m%d%H")


def hour_of_name(name: str) -> int | None:
    """None: it is no name of an hour."""
    try:
        hour = int(datetime.strptime(name, "%Y%m%d%H").replace(tzinfo=UTC).timestamp()) // 3600
    except ValueError:
        return None
    return hour if hour_name(hour) == name else None

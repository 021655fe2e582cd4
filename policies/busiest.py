"""Who has asked the most in the last minutes, in bounded memory.

Counts are kept in slices of time, so that what is old falls away by whole slices. A slice knows only so many names: who
comes to a full one is counted with all the others that did, and has another chance in the next.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

EVERYBODY_ELSE: Final = ""
"""No client is called this."""


class Asker(NamedTuple):
    name: str
    requests: int
    cached: int
    """Of them answered from the cache."""
    refused: int
    """Of them that the gateway has turned away."""


class Busiest:
    """`find(name)` gives the counts of the present slice to be increased in place: requests, cached, refused."""

    def __init__(self, slice_us: int, slices: int, names: int) -> None:
        self._slice_us = slice_us
        self._names = names
        self._slices: deque[dict[str, list[int]]] = deque([{}], maxlen=slices)
        self._began_us = 0

    @property
    def span_us(self) -> int:
        """How far back top() reaches, at most."""
        return self._slice_us * (self._slices.maxlen or 1)

    def find(self, name: str) -> list[int]:
        rows = self._slices[-1]
        row = rows.get(name)
        if row is None:
            if len(rows) >= self._names:
                name = EVERYBODY_ELSE
            row = rows.setdefault(name, [0, 0, 0])
        return row

    def turn(self, now_us: int) -> None:
        """Begin another slice when it is time; called now and then, not for every request."""
        if not self._began_us:
            self._began_us = now_us
        passed = (now_us - self._began_us) // self._slice_us
        if passed > 0:
            self._began_us += passed * self._slice_us
            for _ in range(min(passed, self._slices.maxlen or 1)):
                self._slices.append({})

    def top(self, most: int) -> list[Asker]:
        """The busiest first; between equals by name. Those without a place of their own stand last, under no name."""
        sums: dict[str, list[int]] = {}
        for rows in self._slices:
            for name, row in rows.items():
                known = sums.get(name)
                sums[name] = row if known is None else [a + b for a, b in zip(known, row, strict=True)]
        others = sums.pop(EVERYBODY_ELSE, None)
        found = sorted(
            (Asker(name, *row) for name, row in sums.items()), key=lambda asker: (-asker.requests, asker.name)
        )
        top = found[:most]
        rest = [*found[most:], *([] if others is None else [Asker(EVERYBODY_ELSE, *others)])]
        if rest:
            requests, cached, refused = zip(*((each.requests, each.cached, each.refused) for each in rest), strict=True)
            top.append(Asker(EVERYBODY_ELSE, sum(requests), sum(cached), sum(refused)))
        return top

"""Rows turned on their side for keeping: compressed by columns they take a fifth, and a third as they stand.

Open times become the steps between them, and an opening price that is the close before it (as it nearly always is)
becomes nothing. Every byte comes back.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from operator import sub
from typing import Final

_ROWS: Final = b"\n"
_CELLS: Final = b","


def packed(listed: bytes, joint: bytes) -> bytes:
    """Of rows as they stand in a list, newest first, that kline_text has understood."""
    if not listed:
        return b""
    between = b'"' + joint + b'"'
    rows = [row.split(between) for row in listed[2:-2].split(b'"]' + joint + b'["')]
    opens, prices, *rest = zip(*rows, strict=True)
    closes = rest[2]
    times = list(map(int, opens))
    steps = [b"%d" % times[0], *(b"%d" % (newer - older) for newer, older in pairwise(times))]
    before = (*closes[1:], b"")
    implied = [b"" if price == close else price for price, close in zip(prices, before, strict=True)]
    return _ROWS.join(_CELLS.join(column) for column in (steps, implied, *rest))


def unpacked(columns: bytes, joint: bytes) -> bytes | None:
    """The rows again; None when these are no such columns. What comes out is still to be checked."""
    if not columns:
        return b""
    table = [line.split(_CELLS) for line in columns.split(_ROWS)]
    if len(table) < 5 or len({len(column) for column in table}) != 1:  # open time, and four prices
        return None
    steps, implied, *rest = table
    if not all(step.isdigit() and len(step) < 15 for step in steps):  # digits of an instant
        return None
    newest, *back = map(int, steps)
    opens = [b"%d" % at for at in accumulate(back, sub, initial=newest)]
    closes = rest[2]
    before = (*closes[1:], b"")
    prices = [price or close for price, close in zip(implied, before, strict=True)]
    between = b'"' + joint + b'"'
    rows = (b'["' + between.join(row) + b'"]' for row in zip(opens, prices, *rest, strict=True))
    return joint.join(rows)

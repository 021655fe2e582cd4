"""A candle answer as text: cut into its envelope and its rows, and put together again, without a byte changed.

The exchange's envelope is learned from its answers, not written here: the order of its keys varies. What is not exactly
of the known shape is not understood, and then nothing is learned from it.
"""

from __future__ import annotations

import re
from operator import gt
from typing import Final, NamedTuple

from policies.segments import Rows, Series

_LIST: Final = re.compile(rb'"list": ?\[')
_STAMP: Final = re.compile(rb'"time": ?([1-9][0-9]{12})(?=[,}])')
_DIGITS: Final = b"0123456789.-"
_FIELDS: Final = {"kline": 7}
_OTHER_FIELDS: Final = 5
_JOINTS: Final = (b",", b", ")
_ONCE: Final = (b'"result"', b'"list"', b'"time"')
"""Of two it could not be told which is meant."""
_NO_ROWS: Final = b"]"
_LONGEST: Final = 14


class Envelope(NamedTuple):
    """An answer without its rows and its stamp."""

    before: bytes
    joint: bytes
    """What stands between two rows."""
    between: bytes
    after: bytes

    def around(self, rows: bytes, now_ms: int) -> bytes:
        """The answer that holds these rows."""
        return b"%b%b%b%d%b" % (self.before, rows, self.between, now_ms, self.after)


class Told(NamedTuple):
    """What an answer says."""

    envelope: Envelope
    rows: Rows
    at_ms: int
    """The exchange's stamp."""


def read(series: Series, text: bytes) -> Told | None:
    """The parts of a successful answer about the series; None when anything about it is not as documented."""
    begin, at = _LIST.search(text), stamp(text)
    if begin is None or at is None or at.start() < begin.end():
        return None
    before, rest = text[: begin.end()], text[begin.end() :]
    cut = _cut(rest, _FIELDS.get(series.endpoint, _OTHER_FIELDS))
    if cut is None:
        return None
    listed, joint = cut
    if not listed and before.endswith(b" ["):
        joint = b", "  # it is written with blanks everywhere
    between = text[begin.end() + len(listed) : at.start(1)]
    envelope = Envelope(before, joint, between, text[at.end(1) :])
    around = b"".join((envelope.before, envelope.between, envelope.after))
    if not _names(around, b"symbol", series.symbol) or not _names(around, b"category", series.category):
        return None
    if any(around.count(name) != 1 for name in _ONCE):
        return None
    rows = _rows(listed, joint)
    return None if rows is None else Told(envelope, rows, int(at[1]))


def stamp(text: bytes) -> re.Match[bytes] | None:
    """The exchange's clock in an answer.

    It stands behind the rows in every answer that has been seen, so they need not be searched.
    """
    at = text.rfind(b'"time":')
    return None if at < 0 else _STAMP.match(text, at)


def rows_in(series: Series, listed: bytes) -> tuple[Rows, bytes] | None:
    """Rows as they stand in a list, and what joins them; None when they are not as documented."""
    cut = _cut(listed + _NO_ROWS, _FIELDS.get(series.endpoint, _OTHER_FIELDS))
    if cut is None or cut[0] != listed:
        return None
    rows = _rows(*cut)
    return None if rows is None else (rows, cut[1])


def _cut(rest: bytes, fields: int) -> tuple[bytes, bytes] | None:
    """The rows at the beginning of `rest`, up to the end of their list, and what joins them.

    Digits, points and signs taken away, all rows of a list are the same: that tells in one comparison that each has its
    fields, and that nothing but decimals stands in them. That these stand between quotes, and nowhere else, is told by
    the number of places where quotes meet.
    """
    if rest.startswith(_NO_ROWS):
        return b"", _JOINTS[0]
    end = rest.find(b"]]")
    if end < 0:
        return None
    listed = rest[: end + 1]
    if not listed.startswith(b'["') or not listed.endswith(b'"]'):
        return None
    skeleton = listed.translate(None, _DIGITS)
    for joint in _JOINTS:
        row = b"[" + joint.join([b'""'] * fields) + b"]"
        count, odd = divmod(len(skeleton) + len(joint), len(row) + len(joint))
        if not odd and skeleton == joint.join([row] * count):
            fields_meet, rows_meet = listed.count(b'"' + joint + b'"'), listed.count(b'"]' + joint + b'["')
            whole = fields_meet == count * (fields - 1) and rows_meet == count - 1
            return (listed, joint) if whole else None
    return None


def _rows(listed: bytes, joint: bytes) -> Rows | None:
    """Newest first, strictly; None when they are not, when a field is empty, or an instant begins with a zero."""
    if not listed:
        return Rows([], [])
    if b'""' in listed or b'["0' in listed:
        return None
    parts = listed[1:-1].split(b"]" + joint + b"[")
    written = [part[1 : part.index(b'"', 1)] for part in parts]
    if not b"".join(written).isdigit() or len(max(written, key=len)) > _LONGEST:
        return None
    opens = list(map(int, written))
    if not all(map(gt, opens, opens[1:])):
        return None
    return Rows(opens, [b"[%b]" % part for part in parts])


def _names(around: bytes, name: bytes, value: str) -> bool:
    """Whether the answer says of itself what was asked for."""
    stated = re.findall(rb'"%b": ?"([^"\\]*)"' % name, around)
    return stated == [value.encode()]

"""Candles as text for those who ask the convenience API: JSON, NDJSON, CSV.

Rows are the exchange's own texts: arrays of strings, which are decimals and go through no float. The parts of an answer
are made so that one of millions of rows can be written while it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from policies.segments import Series

COLUMNS: Final = ("open_time", "open", "high", "low", "close", "volume", "turnover")
_PRICES_ONLY: Final = 5
_MARKS: Final = b'[]" '


class Format(Enum):
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        return {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}[self.value]


def accepted(accept: str | None, offered: Sequence[Format]) -> Format:
    """The one that an Accept header likes best. Where it likes none, or says nothing, the first: who asks in a browser
    sees something."""
    best, best_quality = offered[0], 0.0
    for part in (accept or "").split(","):
        media_range, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = _quality(parameters)
        for each in offered:
            if quality > best_quality and _covers(media_range, each.media_type):
                best, best_quality = each, quality
    return best


def columns(kind: str) -> tuple[str, ...]:
    """Of a row: prices that were never traded at have no volume."""
    return COLUMNS if kind == "kline" else COLUMNS[:_PRICES_ONLY]


def head(format_: Format, series: Series, order: str) -> bytes:
    """What comes before the first row. The words of a series need no escaping."""
    if format_ is Format.JSON:
        return (
            f'{{"retCode":0,"retMsg":"OK","result":{{"category":"{series.category}","symbol":"{series.symbol}",'
            f'"kind":"{series.endpoint}","interval":"{series.interval}","order":"{order}","list":['
        ).encode()
    return ",".join(columns(series.endpoint)).encode() + b"\n" if format_ is Format.CSV else b""


def rows(format_: Format, texts: Sequence[bytes]) -> bytes:
    """Rows in the order in which they are given. In JSON a comma belongs between these and others."""
    if format_ is Format.JSON or not texts:
        return b",".join(texts)
    lines = b"\n".join(texts) + b"\n"
    return lines.translate(None, _MARKS) if format_ is Format.CSV else lines


def tail(format_: Format, at_ms: int, *, closed: bool | None) -> bytes:
    """What comes after the last row. `closed`: whether the newest one had ended by `at_ms`, when the exchange told of
    it."""
    if format_ is not Format.JSON:
        return b""
    return b'],"closed":%b},"retExtInfo":{},"time":%d}' % (_json(closed), at_ms)


def batch_head(series: Series, order: str) -> bytes:
    """JSON of several symbols, up to where they are listed. Of the series all but the symbol counts."""
    return (
        f'{{"retCode":0,"retMsg":"OK","result":{{"category":"{series.category}","kind":"{series.endpoint}",'
        f'"interval":"{series.interval}","order":"{order}","lists":{{'
    ).encode()


def batch_list(symbol: str, texts: Sequence[bytes], *, first: bool) -> bytes:
    return b'%b"%b":[%b]' % (b"" if first else b",", symbol.encode(), b",".join(texts))


def batch_tail(closed: dict[str, bool | None], errors: dict[str, bytes], at_ms: int) -> bytes:
    """`errors`: JSON objects by symbol."""
    ended = b",".join(b'"%b":%b' % (symbol.encode(), _json(each)) for symbol, each in closed.items())
    failed = b",".join(b'"%b":%b' % (symbol.encode(), each) for symbol, each in errors.items())
    return b'},"closed":{%b},"errors":{%b}},"retExtInfo":{},"time":%d}' % (ended, failed, at_ms)


def batch_line(symbol: str, texts: Sequence[bytes], *, closed: bool | None) -> bytes:
    """NDJSON of several symbols: a line for each."""
    return b'{"symbol":"%b","list":[%b],"closed":%b}\n' % (symbol.encode(), b",".join(texts), _json(closed))


def batch_error_line(symbol: str, error: bytes) -> bytes:
    return b'{"symbol":"%b","error":%b}\n' % (symbol.encode(), error)


def _json(flag: bool | None) -> bytes:  # noqa: FBT001
    return b"null" if flag is None else b"true" if flag else b"false"


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _covers(media_range: str, media_type: str) -> bool:
    kind = media_type.partition("/")[0]
    return media_range in {media_type, f"{kind}/*", "*/*"} or media_range == media_type.replace("/x-", "/")

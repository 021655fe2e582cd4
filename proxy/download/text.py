"""The two forms that are text: a line for each candle, oldest first, its values as the exchange wrote them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.download.request import Form, Request

Writer = Callable[[bytes], bytes]
"""From lines of values with commas between to lines of the file."""


def header(request: Request) -> bytes:
    """What the file begins with."""
    return ",".join(request.columns).encode() + b"\n" if request.form is Form.CSV else b""


def writer(request: Request) -> Writer:
    """How the lines of the part file are written. Parquet is made of it at the end."""
    return _as_objects(request.columns) if request.form is Form.NDJSON else _as_they_are


def _as_they_are(lines: bytes) -> bytes:
    return lines


def _as_objects(columns: tuple[str, ...]) -> Writer:
    """The start is a number, everything else the exchange's string."""
    values = "".join(f',"{name}":"%b"' for name in columns[1:])
    template: Final = f'{{"{columns[0]}":%b{values}}}'.encode()

    def written(lines: bytes) -> bytes:
        return b"".join([template % tuple(line.split(b",")) + b"\n" for line in lines.splitlines()])

    return written

"""The trace that a request belongs to: W3C Trace Context, https://www.w3.org/TR/trace-context/ (level 1)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class Trace(NamedTuple):
    """In lower-case hexadecimal digits, 32 and 16 of them. `span_id` is the client's own span."""

    trace_id: str
    span_id: str
    sampled: bool


def read(traceparent: str) -> Trace | None:
    """None for what the recommendation says to ignore. Of a version to come, what this one knows is read."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Trace(trace_id, span_id, sampled=bool(int(flags, 16) & 1))

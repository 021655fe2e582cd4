"""The trace that a request belongs to: W3C Trace Context, https://www.w3.org/TR/trace-context/ (level 1)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER: Final = re.compile(rf"({_KEY})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e])")
_MOST_MEMBERS: Final = 32
_MOST_TEXT: Final = 8192


class Trace(NamedTuple):
    """In lower-case hexadecimal digits, 32 and 16 of them. `span_id` is the client's own span; empty where the trace
    begins here."""

    trace_id: str
    span_id: str
    sampled: bool


def read(traceparent: str) -> Trace | None:
    """None for what the recommendation says to ignore. Of a version to come, what this one knows is read."""
    match = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Trace(trace_id, span_id, sampled=bool(int(flags, 16) & 1))


def state(tracestate: str) -> str:
    """What vendors of tracing say to each other, as one line (several header lines joined by commas); empty when it is
    not well-formed, or says one thing twice: then all of it is to be ignored."""
    if len(tracestate) > _MOST_TEXT:
        return ""
    members = [member for member in (part.strip(" \t") for part in tracestate.split(",")) if member]
    matches = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in matches if match is not None}
    if len(keys) != len(members) or len(members) > _MOST_MEMBERS:
        return ""
    return ",".join(members)

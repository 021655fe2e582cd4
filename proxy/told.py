"""What is said about an answer: how old it is, where it came from, what took so long, and whether it need be sent."""

from __future__ import annotations

from typing import Final

from aiohttp.hdrs import ACCEPT, AUTHORIZATION, CACHE_CONTROL, IF_NONE_MATCH
from multidict import MultiMapping

from policies.conditions import NONE, Directives, acceptable, directives, matches, ours_only
from proxy.cache import Entry, Variant
from proxy.errors import Banned, Broken, Shed
from proxy.telemetry import Story
from proxy.wire import Whole, head

_CONDITIONS: Final = (
    "Range",
    "If-Modified-Since",
    "If-Match",
    "If-Unmodified-Since",
    "If-Range",
    "Origin",
    "Cookie",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
)
"""Headers by which one client's answer may differ from another's: such a request is not fetched for others."""
_JSON: Final = frozenset({"*/*", "application/*", "application/json"})


def for_everybody(headers: MultiMapping[str], *, bearer: bool) -> bool:
    """Whether the answer may be given to others: nothing in the request asks for another one. `bearer`: Authorization
    spoke to us."""
    if any(name in headers for name in _CONDITIONS) or (AUTHORIZATION in headers and not bearer):
        return False
    if ACCEPT in headers and not _takes_json(",".join(headers.getall(ACCEPT))):
        return False
    return IF_NONE_MATCH not in headers or all(map(ours_only, headers.getall(IF_NONE_MATCH)))


def said_in(headers: MultiMapping[str]) -> Directives:
    """By Cache-Control, on however many lines."""
    return directives(",".join(headers.getall(CACHE_CONTROL))) if CACHE_CONTROL in headers else NONE


def has_it(headers: MultiMapping[str], entry: Entry) -> bool:
    """Whether the client says that it has this answer already."""
    return bool(entry.tag) and IF_NONE_MATCH in headers and matches(",".join(headers.getall(IF_NONE_MATCH)), entry.tag)


def demanding(said: Directives) -> bool:
    """Whether the client says how new an answer must be: what others have put by may be too old for it."""
    return said.max_age_s is not None or said.min_fresh_s is not None


def names(variant: Variant, name: bytes) -> bool:
    """Whether a header of that name, in lower case, stands in it already."""
    return b"\r\n%b:" % name in variant.head.lower()


def will_do(entry: Entry, said: Directives, story: Story) -> bool:
    """Whether the client takes it without a look at the exchange."""
    return acceptable(said, story.began_us - entry.stored_us, entry.expires_us - story.began_us)


def of_hit(entry: Entry, now_us: int, done_us: int, detail: str, request_id: bytes) -> bytes:
    """Of an answer that was kept. RFC 9211 for Cache-Status; `detail` says why it is not as usual."""
    ttl_s = (entry.expires_us - now_us) // 1_000_000
    status = b"hit; ttl=%d%b" % (ttl_s, b"; detail=%b" % detail.encode() if detail else b"")
    return b"Age: %d\r\nCache-Status: bybit-gateway; %b\r\nServer-Timing: cache;dur=%.3f\r\nX-Request-Id: %b\r\n" % (
        max(0, now_us - entry.stored_us) // 1_000_000,
        status,
        (done_us - now_us) / 1000,
        request_id,
    )


def of_exchange(story: Story, done_us: int, request_id: bytes) -> bytes:
    """Of an answer of the exchange. An empty request id: it has named it already."""
    line = b"X-Request-Id: %b\r\n" % request_id if request_id else b""
    if not story.cache:
        return line
    waited_us, upstream_us = story.waited_us, story.upstream_us
    own_us = max(0, done_us - story.began_us - waited_us - upstream_us)
    timing = b"queue;dur=%.3f, exchange;dur=%.3f, gateway;dur=%.3f" % (waited_us / 1e3, upstream_us / 1e3, own_us / 1e3)
    return b"%bCache-Status: bybit-gateway; %b\r\nServer-Timing: %b\r\n" % (line, story.cache.encode(), timing)


def unchanged(entry: Entry, lines: bytes, story: Story) -> Whole:
    """The client has it already."""
    story.status = 304
    return Whole(head(304, ((b"ETag", entry.tag.encode()), (b"Vary", b"Accept-Encoding"))) + lines, b"")


def why_stale(error: Exception) -> str:
    """In a word."""
    match error:
        case Banned():
            return "banned"
        case Broken():
            return "breaker"
        case Shed():
            return "overload"
        case _:
            return "stale-if-error"


def _takes_json(accept: str) -> bool:
    return any(each.partition(";")[0].strip().lower() in _JSON for each in accept.split(","))

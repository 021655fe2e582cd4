"""A candle answer of the exchange: read once, then given to everybody who asked, and kept if it may be."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from policies import bybit, caching
from policies.caching import CandleLifetimes, CandleQuery
from proxy import coding, headers
from proxy.cache import Entry, Variant
from proxy.upstream import Reply
from proxy.wire import head


class CandleAnswer(NamedTuple):
    """What came back, in the coding of the exchange and, where that can be undone, in none."""

    status: int
    ret_code: int | None
    rows: int
    plain: Variant | None
    coded: Variant | None
    coding: str
    entry: Entry | None

    def suits(self, accept_encoding: str | None) -> bool:
        """Whether a client that did not cause this fetch can be given it."""
        return self.plain is not None or (accept_encoding is not None and coding.accepted(accept_encoding, self.coding))

    def variant(self, accept_encoding: str | None) -> Variant:
        wants_coded = accept_encoding is not None and coding.accepted(accept_encoding, self.coding)
        if self.coded is not None and (wants_coded or self.plain is None):
            return self.coded
        assert self.plain is not None  # noqa: S101  # one of the two exists
        return self.plain


def read_answer(
    reply: Reply, raw: bytes, query: CandleQuery, key: str, lifetimes: CandleLifetimes, now_us: int
) -> CandleAnswer:
    """Both variants of the answer, and its entry for the cache if it is successful and still good for a while."""
    fresh = headers.to_client(reply.raw_headers, length_known=False)
    fresh.append((b"Content-Length", b"%d" % len(raw)))
    as_sent = Variant(head(reply.status, fresh, reply.reason), raw)
    if reply.encoding in {"", "identity"}:
        text, plain, coded = raw, as_sent, None
    else:
        try:
            text = coding.decode(raw, reply.encoding)
        except coding.Undecodable:
            return CandleAnswer(reply.status, None, 0, None, as_sent, reply.encoding, None)
        plain, coded = _uncoded(reply, text), as_sent
    ret_code = bybit.ret_code(text)
    opens = _open_times(text) if reply.status == 200 and ret_code == bybit.OK else None
    rows = 0 if opens is None else len(opens)
    entry = None
    if opens is not None:
        lifetime_us = caching.lifetime_us(query, opens, lifetimes, now_us)
        if lifetime_us > 0:
            entry = _entry(reply, raw, text, key, rows, now_us, now_us + lifetime_us)
    return CandleAnswer(reply.status, ret_code, rows, plain, coded, reply.encoding, entry)


def _uncoded(reply: Reply, text: bytes) -> Variant:
    pairs = headers.to_client(reply.raw_headers, length_known=False)
    pairs = [pair for pair in pairs if pair[0].lower() != b"content-encoding"]
    return Variant(head(reply.status, [*pairs, (b"Content-Length", b"%d" % len(text))], reply.reason), text)


def _entry(reply: Reply, raw: bytes, text: bytes, key: str, rows: int, now_us: int, expires_us: int) -> Entry:
    pairs = headers.storable(headers.to_client(reply.raw_headers, length_known=False))
    if not any(name.lower() == b"vary" for name, _ in pairs):
        pairs.append((b"Vary", b"Accept-Encoding"))
    plain = Variant(head(200, [*pairs, (b"Content-Length", b"%d" % len(text))], reply.reason), text)
    coded = None
    if reply.encoding not in {"", "identity"}:
        lines = [(b"Content-Encoding", reply.encoding.encode()), (b"Content-Length", b"%d" % len(raw))]
        coded = Variant(head(200, [*pairs, *lines], reply.reason), raw)
    return Entry(key, plain, coded, reply.encoding, rows, now_us, expires_us)


def _open_times(text: bytes) -> list[int] | None:
    """The open times of all rows, newest first; None when the body is not what a candle answer looks like."""
    try:
        listed: Any = orjson.loads(text)["result"]["list"]
        return [int(row[0]) for row in listed]
    except (ValueError, KeyError, TypeError, IndexError):
        return None

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
    """What came back: as it was sent, for the one who caused the fetch, and in a form that may be given to others."""

    status: int
    ret_code: int | None
    rows: int
    own: Variant
    plain: Variant | None
    """For others, in no coding; None when the coding is not known here."""
    coded: Variant | None
    coding: str
    entry: Entry | None

    def suits(self, accept_encoding: str | None) -> bool:
        """Whether a client that did not cause this fetch can be given it.

        What depends on nothing but the query, or on the exchange's own state. Another status (304, 403, a redirect)
        may be the doing of the other's headers.
        """
        shared = self.status == 200 or self.status == 429 or self.status >= 500  # noqa: PLR1714  # a range among them
        return shared and (self.plain is not None or self._takes(accept_encoding))

    def variant(self, accept_encoding: str | None) -> Variant:
        """For a client that did not cause this fetch."""
        if self.coded is not None and (self._takes(accept_encoding) or self.plain is None):
            return self.coded
        assert self.plain is not None  # noqa: S101  # one of the two exists
        return self.plain

    def _takes(self, accept_encoding: str | None) -> bool:
        return accept_encoding is not None and coding.accepted(accept_encoding, self.coding)


class Kept(NamedTuple):
    """Under which key, for how long, by which clocks an answer may be kept."""

    query: CandleQuery
    key: str
    lifetimes: CandleLifetimes
    now_us: int
    exchange_us: int
    """The exchange's own time: its candles end by that."""


def read_answer(reply: Reply, raw: bytes, kept: Kept) -> CandleAnswer:
    """Every variant of the answer, and its entry for the cache if it is successful and still good for a while."""
    lines = headers.to_client(reply.raw_headers, length_known=False)
    own = _variant(reply, lines, raw)
    shareable = headers.storable(lines)
    if not any(name.lower() == b"vary" for name, _ in shareable):
        shareable.append((b"Vary", b"Accept-Encoding"))
    encoded = reply.encoding not in {"", "identity"}
    coded = None
    if encoded:
        coded = _variant(reply, [*shareable, (b"Content-Encoding", reply.encoding.encode())], raw)
    try:
        text = coding.decode(raw, reply.encoding)
    except coding.Undecodable:
        return CandleAnswer(reply.status, None, 0, own, None, coded, reply.encoding, None)
    plain = _variant(reply, shareable, text)
    ret_code = bybit.ret_code(text)
    opens = _open_times(text) if reply.status == 200 and ret_code == bybit.OK else None
    rows, entry = 0, None
    if opens is not None:
        rows = len(opens)
        lifetime_us = caching.lifetime_us(kept.query, opens, kept.lifetimes, kept.exchange_us)
        if lifetime_us > 0 and _varies_by_coding_only(lines):
            entry = Entry(kept.key, plain, coded, reply.encoding, rows, kept.now_us, kept.now_us + lifetime_us)
    return CandleAnswer(reply.status, ret_code, rows, own, plain, coded, reply.encoding, entry)


def _variant(reply: Reply, pairs: list[tuple[bytes, bytes]], body: bytes) -> Variant:
    return Variant(head(reply.status, [*pairs, (b"Content-Length", b"%d" % len(body))], reply.reason), body)


def _varies_by_coding_only(pairs: list[tuple[bytes, bytes]]) -> bool:
    """An answer that differs by anything else in a request is not for everybody."""
    named = b",".join(value for name, value in pairs if name.lower() == b"vary").lower().split(b",")
    return {name.strip() for name in named} <= {b"", b"accept-encoding"}


def _open_times(text: bytes) -> list[int] | None:
    """The open times of all rows, newest first; None when the body is not what a candle answer looks like."""
    try:
        listed: Any = orjson.loads(text)["result"]["list"]
        return [int(row[0]) for row in listed]
    except (ValueError, KeyError, TypeError, IndexError):
        return None

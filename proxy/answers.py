"""An answer of the exchange that is for everybody: read once, given to all who asked, and kept if it may be."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from policies import answer_rules, bybit, caching, kline_text
from policies.answer_rules import AnswerQuery
from policies.caching import CandleLifetimes, CandleQuery, Life
from policies.conditions import tag_of
from policies.kline_text import Told
from policies.segments import Series
from proxy import coding, headers
from proxy.cache import Entry, Variant
from proxy.upstream import Reply
from proxy.wire import head

_TAG_BYTES: Final = 12
_LONGEST_WAY_US: Final = 30_000_000
"""A stamp that is older is not of the exchange's present."""


class SharedAnswer(NamedTuple):
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
    told: Told | None = None
    """What it says of its series, when it is of candles and exactly as documented."""
    for_all: bool = True
    """It says of itself that it differs by nothing but the coding."""

    def suits(self, accept_encoding: str | None) -> bool:
        """Whether a client that did not cause this fetch can be given it.

        What depends on nothing but the query, or on the exchange's own state. Another status (304, 403, a redirect),
        or a page that is none of the exchange's answers, may be the doing of the other's headers.
        """
        answered = self.status == 200 and self.ret_code is not None
        if not self.for_all or not (answered or self.status == 429 or self.status >= 500):
            return False
        return self.plain is not None or self._takes(accept_encoding)

    def variant(self, accept_encoding: str | None) -> Variant:
        """For a client that did not cause this fetch."""
        if self.coded is not None and (self._takes(accept_encoding) or self.plain is None):
            return self.coded
        assert self.plain is not None  # noqa: S101  # one of the two exists
        return self.plain

    @property
    def good(self) -> bool:
        """The exchange has answered what was asked."""
        return self.status == 200 and self.ret_code == bybit.OK

    def _takes(self, accept_encoding: str | None) -> bool:
        return accept_encoding is not None and coding.accepted(accept_encoding, self.coding)


class Kept(NamedTuple):
    """Under which key, for how long, by which clocks an answer may be kept."""

    query: CandleQuery | AnswerQuery
    key: str
    lifetimes: CandleLifetimes
    now_us: int
    exchange_us: int
    """The exchange's own time: its candles end by that."""
    tagged: bool = True


def read_answer(reply: Reply, raw: bytes, kept: Kept) -> SharedAnswer:
    """Every variant of the answer, and its entry for the cache if it is successful and still good for a while."""
    lines = headers.to_client(reply.raw_headers, length_known=False)
    own = _variant(reply, lines, raw)
    shareable = _shareable(lines)
    encoded = reply.encoding not in {"", "identity"}
    coded = None
    if encoded:
        coded = _variant(reply, [*shareable, (b"Content-Encoding", reply.encoding.encode())], raw)
    try:
        text = coding.decode(raw, reply.encoding)
    except coding.Undecodable:
        return SharedAnswer(reply.status, None, 0, own, None, coded, reply.encoding, None)
    plain = _variant(reply, shareable, text)
    ret_code = bybit.ret_code(text)
    for_all = _varies_by_coding_only(lines)
    answer = SharedAnswer(reply.status, ret_code, 0, own, plain, coded, reply.encoding, None, for_all=for_all)
    if not answer.good or not for_all:
        return answer
    told = told_in(kept.query, text)
    opens = _open_times(text) if told is None and isinstance(kept.query, CandleQuery) else None
    if told is not None:
        opens = told.rows.opens
    life = _life(kept, opens, text)
    answer = answer._replace(told=told, rows=len(opens or ()))
    if life is None or life.fresh_us <= 0:
        return answer
    tag = tag_of(digest(text)) if kept.tagged else ""
    entry = Entry.of(kept.key, head(200, shareable, reply.reason), text, answer.rows, kept.now_us, life, tag)
    if encoded:
        entry.coded(reply.encoding, raw)
    return answer._replace(entry=entry)


def lines_of(reply: Reply) -> bytes:
    """Status line and headers for answers that are made of what this one tells."""
    return head(200, _shareable(headers.to_client(reply.raw_headers, length_known=False)))


def digest(text: bytes) -> bytes:
    """Of an answer without its stamp, which changes with every reply."""
    at = kline_text.stamp(text)
    hashed = blake2b(text if at is None else text[: at.start()], digest_size=_TAG_BYTES)
    if at is not None:
        hashed.update(text[at.end() :])
    return hashed.digest()


def _life(kept: Kept, opens: list[int] | None, text: bytes) -> Life | None:
    """How long it is kept; None when it is not what an answer to this query looks like."""
    at_us = _given_us(text, kept.exchange_us)
    if isinstance(kept.query, CandleQuery):
        return None if opens is None else caching.life(kept.query, opens, kept.lifetimes, kept.exchange_us, at_us)
    if not is_object(text):
        return None
    return answer_rules.life(kept.query.rule, kept.exchange_us, kept.lifetimes.revalidate_us, at_us)


def _given_us(text: bytes, received_us: int) -> int:
    """When the exchange gave an answer, by its stamp; when it came, where that is no such stamp."""
    at = kline_text.stamp(text)
    given_us = received_us if at is None else int(at[1]) * 1000
    return given_us if 0 <= received_us - given_us <= _LONGEST_WAY_US else received_us


def told_in(query: CandleQuery | AnswerQuery, text: bytes) -> Told | None:
    """What an answer says of its series, when it is of candles and exactly as documented."""
    if not isinstance(query, CandleQuery) or query.category is None:
        return None
    told = kline_text.read(Series(query.endpoint, query.category, query.symbol, query.interval), text)
    return told if told is not None and is_whole(told) else None


def is_whole(told: Told) -> bool:
    """Around its rows, which have been looked at, stands a successful answer that everybody can read."""
    around = told.envelope.around(b"", told.at_ms)
    return bybit.ret_code(around) == bybit.OK and is_object(around)


def _shareable(lines: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    shareable = headers.storable(lines)
    if not any(name.lower() == b"vary" for name, _ in shareable):
        shareable.append((b"Vary", b"Accept-Encoding"))
    return shareable


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


def is_object(text: bytes) -> bool:
    """Whole, and readable by who gets it."""
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False
